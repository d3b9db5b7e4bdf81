"""The documents: links, images, paths, modules, commands, config fields and identifiers exist."""

import importlib.util
import re
from pathlib import Path

import pytest
from PIL import Image

from petsam_jax.cli.main import COMMANDS
from petsam_jax.config import load_config
from tests.documents import DOCUMENTS, ROOT, blocks, prose

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings."""
    titles = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_images_exist(path):
    found = ["".join(groups) for groups in LINK.findall(prose(path))]
    assert found
    for link in found:
        target, _, anchor = link.partition("#")
        if target.startswith(("http:", "https:")):
            continue
        file = path.parent / target if target else path
        assert file.exists(), f"{path.name}: {link} leads nowhere"
        assert not anchor or anchor in anchors(file), f"{path.name}: {link}: no such heading"


def test_images_are_small_and_whole():
    images = sorted((ROOT / "docs").glob("*.webp"))
    assert images
    for path in images:
        assert path.stat().st_size < 400_000, path
        with Image.open(path) as image:
            image.load()
    with Image.open(ROOT / "docs" / "click.webp") as animation:
        assert animation.is_animated and animation.n_frames > 5


def test_diagram_shows_every_part_of_the_model():
    (diagram,) = blocks(ROOT / "README.md", "mermaid")
    named = set(re.findall(r"\w+\.py", diagram))
    files = {path.name for path in (ROOT / "petsam_jax" / "models").glob("*.py")}
    assert named <= files
    # A part of the model has a constructor in sam2.py and a node in the diagram.
    built = (ROOT / "petsam_jax" / "models" / "sam2.py").read_text()
    parts = re.findall(r"self\.(\w+) = \w+\(", built)
    assert {f"{part}.py" for part in parts} & files <= named
    assert len(named) >= 7


# Names in `code`

INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
PATH = re.compile(r"[\w.*-]*/[\w./*-]*|[\w*-]+\.(?:py|js|css|html|md|cff|toml|webp|mp4)(?!\w)")
PACKAGES = ("petsam_jax", "configs", "benchmarks", "tests", "docs", ".ci")
# Files of users and of runs, and names of other projects.
NOT_OURS = {"images/", "masks/", "train/", "valid/", "test/", "sheets/", "davis/dog"}
NOT_OURS |= {"davis/dog/frames", "image/iou_first", "image/iou_last", "event_id"}


@pytest.fixture(scope="module")
def our_files():
    files = [path for part in PACKAGES for path in (ROOT / part).rglob("*") if path.is_file()]
    return [path for path in files if "__pycache__" not in path.parts]


@pytest.fixture(scope="module")
def our_words(our_files):
    """Every word of the code, tests excepted."""
    code = [
        path for path in our_files if path.suffix in (".py", ".js") or path.parent.name == ".ci"
    ]
    code = [path for path in code if path.relative_to(ROOT).parts[0] != "tests"]
    code += [ROOT / "pyproject.toml"]
    return set(re.findall(r"\w+", "\n".join(path.read_text() for path in code)))


@pytest.fixture(scope="module")
def fields():
    """Dotted names of all config fields and sections."""

    def names(section, prefix=""):
        for name in section:
            yield prefix + name
            if hasattr(section[name], "keys"):
                yield from names(section[name], f"{prefix}{name}.")

    return set(names(load_config("pets256")))


def path_exists(name: str, document: Path, our_files: list[Path]) -> bool:
    """Whether a path leads somewhere from the root, the package or the document."""
    if name in NOT_OURS or name.startswith("runs/"):
        return True
    bases = (ROOT, ROOT / "petsam_jax", document.parent)
    if "/" in name:
        return any(any(base.glob(name.strip("/"))) for base in bases)
    return any(file.match(name) for file in our_files) or (ROOT / name).exists()


def module_exists(name: str) -> bool:
    """A module, or a module and one of its attributes."""
    package = name.rpartition(".")[0]
    try:
        if importlib.util.find_spec(name):
            return True
    except ModuleNotFoundError:
        return False
    return bool(package) and hasattr(importlib.import_module(package), name.rpartition(".")[2])


def missing_names(code: str, document: Path, our_files, our_words, fields) -> list[str]:
    """What an inline piece of code names that does not exist."""
    missing = []
    # Placeholders are in capitals.
    code = re.sub(r"\S*NAME\S*|=[A-Z_]+$", "", code)
    for name in re.findall(r"(?:petsam_jax|benchmarks)(?:\.\w+)+(?![\w/])", code):
        missing += [] if module_exists(name) else [name]
    if match := re.match(r"petsam ([a-z][\w-]*)", code):
        missing += [] if match[1] in COMMANDS else [match[0]]
    for name in re.findall(r"--config\.([a-z_.]+)", code):
        missing += [] if name in fields else [name]
    for name in PATH.findall(re.sub(r"https?://\S+", "", code)):
        missing += [] if path_exists(name, document, our_files) else [name]
    if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", code) and f"{code.partition('.')[0]}" in fields:
        missing += [] if code in fields else [code]
    words = re.findall(r"[A-Za-z_]\w*", PATH.sub("", code))
    identifiers = [word for word in words if "_" in word or re.search(r"[a-z][A-Z]", word)]
    return missing + [word for word in identifiers if word not in our_words | NOT_OURS]


# A changelog names what is gone.
CURRENT = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]


@pytest.mark.parametrize("path", CURRENT, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_in_code_exist(path, our_files, our_words, fields):
    known = our_files, our_words, fields
    codes = [" ".join(code.split()) for code in INLINE.findall(prose(path))]
    missing = {code: names for code in codes if (names := missing_names(code, path, *known))}
    assert not missing


def test_missing_names_are_found(our_files, our_words, fields):
    known = ROOT / "README.md", our_files, our_words, fields
    good = ("petsam_jax/models/", "`sam2.py`", "python -m benchmarks.demo", "prompts.rounds")
    good += ("petsam track", "ImagePredictor", "--config.train.start_from=X", "weights/README.md")
    assert not any(missing_names(code, *known) for code in good)
    bad = ("petsam_jax/model/", "sam3.py", "python -m benchmarks.speed", "prompts.round")
    bad += ("petsam show", "ImagesPredictor", "--config.train.starts_from=X", "petsam_jax.video")
    assert all(missing_names(code, *known) for code in bad)
