"""The documents: every command in them works, or is at least understood, and every link leads on.

Commands come from the fenced blocks `sh` of README.md and docs/*.md. `WAYS` says how each is run:
in this process, on small pictures and random weights; what takes hours, downloads or a GPU as far
as its flags and config. A command that no pattern covers is a failure.
"""

import argparse
import importlib
import inspect
import json
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petsam_jax.checkpoint import model_shapes, model_with_weights, save_weights
from petsam_jax.cli.main import main
from petsam_jax.config import load_config
from petsam_jax.data.load import load_train_and_valid
from petsam_jax.predict.image_predictor import ImagePredictor
from petsam_jax.train import loop

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = ("sh", "bash", "shell", "console", "")
SIZE = 64


def blocks(path: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(path.read_text()) if language in languages]


def commands(path: Path) -> list[str]:
    """One a line, comments and continuations gone, `a && b` as two."""
    lines = "\n".join(blocks(path, *SHELL)).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    parts = [shlex.join(part) for line in words for part in _parted(line)]
    return list(dict.fromkeys(filter(None, parts)))


def _parted(words: list[str]) -> list[list[str]]:
    parts = [[]]
    for word in words:
        if word == "&&":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


COMMANDS = list(dict.fromkeys(command for path in DOCUMENTS for command in commands(path)))


# What commands are run on


@pytest.fixture(scope="module")
def weights_of_tiny():
    """Config and arrays of the smallest model."""
    config = load_config("tiny", [f"data.size={SIZE}"])
    rng = np.random.default_rng(0)
    shapes = model_shapes(config)
    return config, {name: rng.normal(0, 0.1, shape).astype("f4") for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def predictor(weights_of_tiny):
    config, arrays = weights_of_tiny
    return ImagePredictor(config, model_with_weights(config, arrays))


@pytest.fixture(scope="module")
def run_folder(weights_of_tiny, tmp_path_factory):
    """A checkpoint, for commands that open a run."""
    folder = tmp_path_factory.mktemp("run") / "pets"
    config, arrays = weights_of_tiny
    save_weights(folder, arrays, config)
    return folder


def picture(path: Path, rng) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # As large as the README's points and boxes.
    Image.fromarray(rng.integers(0, 256, (480, 640, 3), np.uint8)).save(path)


@pytest.fixture
def place(tmp_path, monkeypatch, predictor, run_folder, rng):
    """A working folder with what the README's commands name, and small weights for all of them."""
    for name in ("cat.jpg", "photos/a.jpg", "photos/b.jpg"):
        picture(tmp_path / name, rng)
    mask = np.zeros((40, 50), np.uint8)
    mask[10:30, 10:40] = 255
    for number in range(12):
        for part, pixels in (("images", rng.integers(0, 256, (40, 50, 3))), ("masks", mask)):
            path = tmp_path / "DIR_OF_PICTURES" / part / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    for part in ("petsam_jax", "configs", "docs", "train.py", "demo.py", "benchmarks"):
        (tmp_path / part).symlink_to(ROOT / part)
    (tmp_path / "runs").mkdir()
    for name in ("pets", "small", "mine"):
        (tmp_path / "runs" / name).symlink_to(run_folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ImagePredictor, "from_checkpoint", lambda *_, **__: predictor)
    return tmp_path


# How commands are run: a function gets the words after the pattern, and the fixtures it names


class _Understood(Exception):
    """The flags were, and nothing else is wanted."""


def understood(module: str, argv: list[str], monkeypatch) -> argparse.Namespace:
    """What a program makes of its flags; ends where it would begin to work."""
    parse, seen = argparse.ArgumentParser.parse_args, []

    def parse_only(parser, given=None, namespace=None):
        seen.append(parse(parser, argv if given is None else given, namespace))
        raise _Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    program = importlib.import_module(module)
    # Some benchmarks parse before `main`.
    start = getattr(program, "parse", program.main)
    monkeypatch.setattr("sys.argv", [module, *argv])
    with pytest.raises(_Understood):
        start(argv) if inspect.signature(start).parameters else start()
    return seen[0]


def installs(argv, request):
    """What pip is asked for is in pyproject.toml; `.ci/run` installs it."""
    extras = re.fullmatch(r"\.(?:\[(\w+)\])?", argv[-1])
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extras and argv[:-1] == ["install", "-e"]
    assert extras[1] is None or extras[1] in known["optional-dependencies"]


def asks(argv, request):
    """A page is asked where it has the call, with arguments that it takes; `test_ui_web` asks."""
    from petsam_jax.ui.api import segment_function
    from petsam_jax.ui.image_service import ImageService

    where = next(word for word in argv if word.startswith("http://"))
    assert re.fullmatch(r"http://[\d.:]+/gradio_api/call/(v2/segment|segment/EVENT_ID)", where)
    if "-d" in argv:
        told = json.loads(argv[argv.index("-d") + 1])
        assert set(told) <= set(
            inspect.signature(segment_function(object.__new__(ImageService))).parameters
        )


SUITE = 'pip install -e ".[test]" && pytest'


def in_ci(argv, request):
    """Those are what `.ci/run` runs."""
    text = (ROOT / ".ci" / "run").read_text()
    words = request.node.callspec.params["command"]
    assert (SUITE if words.startswith("pytest") else words) in text
    assert SUITE in (ROOT / "README.md").read_text()


def trains(argv, request):
    """Everything up to the first step: the config and its fields, the rules of the optimiser."""
    monkeypatch = request.getfixturevalue("monkeypatch")
    hosts, described = [], []
    from petsam_jax.cli import train

    monkeypatch.setattr(train, "join_hosts", lambda *given: hosts.append(given))
    monkeypatch.setattr(loop, "summarize", lambda config: described.append(config) or "")
    argv = [word for word in argv if word != "--summary"]
    assert train.main([*argv, "--summary"]) == 0
    (config,) = described
    assert ("--num-processes=2" in argv) == (None not in hosts[0])
    if "runs/large" in " ".join(argv):
        # On machines of eight GPUs.
        sizes = config.train.batch_size, config.train.clip_batch_size
        assert all(size % 8 == 0 for size in sizes)
    if config.data.sources == ("DIR_OF_PICTURES",):
        assert sum(map(len, load_train_and_valid(config.data))) == 12
    if config.train.start_from.startswith("petsam_jax"):
        # Raises ConfigError where the weights that ship are another model's.
        loop.initial_model(config)


def describes(argv, request):
    """`--summary` itself."""
    assert main(["train", *argv]) == 0
    assert "image_encoder" in request.getfixturevalue("capsys").readouterr().out


def segments(argv, request):
    place = request.getfixturevalue("place")
    assert main(["segment", *argv]) == 0
    assert list((place / "masks").rglob("*_*.*")) or list((place / "masks").glob("coco.json"))


def runs(name):
    """The command itself."""

    def run(argv, request):
        assert not main([name, *argv])

    return run


def parses(module):
    """What would take hours, a clip, or a server."""

    def parse(argv, request):
        said = understood(module, argv, request.getfixturevalue("monkeypatch"))
        given = [word for word in argv if not word.startswith("-")]
        values = {str(value) for value in vars(said).values()}
        assert all(any(word.partition(",")[0] in value for value in values) for word in given)

    return parse


def prepares(argv, request):
    """A data set that is there is left alone, so that nothing is downloaded."""
    data_dir = request.getfixturevalue("data_dir")
    argv = [str(request.getfixturevalue("official")) if word == "DIR" else word for word in argv]
    from petsam_jax.cli.prepare import main

    assert main([*argv, "--data-dir", str(data_dir)]) == 0
    assert "train 5, test 2; already there" in request.getfixturevalue("capsys").readouterr().out


def shows(argv, request):
    """All but the drawing, which has its own tests and takes seconds."""
    from petsam_jax.cli.preview import main
    from petsam_jax.train import preview

    data_dir, monkeypatch = (request.getfixturevalue(name) for name in ("data_dir", "monkeypatch"))
    drawn = []

    def draw(source, *numbers):
        drawn.append(len(source))
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(preview, "draw_sheet", draw)
    argv = [f"tfds:{data_dir}" if word == "tfds" else word for word in argv]
    assert main(argv) == 0 and drawn and Path("sheet.png").is_file()


def converts(argv, request):
    """As far as the file, which is the user's."""
    from petsam_jax.cli import convert

    with pytest.raises(SystemExit) as stopped:
        convert.main(argv)
    said = request.getfixturevalue("capsys").readouterr().err
    assert stopped.value.code == 1 and "IN.safetensors: no such file" in said


def films(argv, request):
    program = runpy.run_path(str(ROOT / "docs" / "make_click.py"))
    with pytest.raises(SystemExit) as stopped:
        program["main"]([*argv, "--help"])
    assert stopped.value.code == 0


# The first pattern that a command begins with
WAYS = {
    "pip ": installs,
    "pytest": in_ci,
    "ruff ": in_ci,
    "python train.py .*--summary": describes,
    "python train.py ": trains,
    "python demo.py": parses("petsam_jax.cli.demo"),
    "petsam demo ": parses("petsam_jax.cli.demo"),
    "petsam segment ": segments,
    "petsam track ": parses("petsam_jax.cli.track"),
    "petsam evaluate ": parses("petsam_jax.cli.evaluate"),
    "petsam evaluate-video ": parses("petsam_jax.cli.evaluate_video"),
    "petsam export-config ": runs("export-config"),
    "petsam export ": runs("export"),
    "petsam convert ": converts,
    "petsam prepare ": prepares,
    "petsam preview ": shows,
    r"python -m (benchmarks\.\w+)": None,
    "python docs/make_click.py": films,
    "curl ": asks,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_documents_works(command, place, capsys, request):
    found = [(re.match(pattern, command), way) for pattern, way in WAYS.items()]
    found = [(match, way) for match, way in found if match]
    assert found, f"no way to try `{command}`: add one to WAYS"
    match, way = found[0]
    way = way or parses(match[1])
    words = shlex.split(command)
    way(
        words[3 if words[1:2] == ["-m"] else 1 if words[0] in ("pip", "pytest", "ruff") else 2 :],
        request,
    )


def test_every_way_is_wanted():
    """A pattern that no command has is left over."""
    unused = [
        pattern for pattern in WAYS if not any(re.match(pattern, command) for command in COMMANDS)
    ]
    assert unused in ([], ["python docs/make_click.py"])


def test_a_command_that_does_not_work_is_noticed(place, request):
    for command in ("segment cat.jpg --out masks --fromat mask", "segment no.jpg --out masks"):
        try:
            code = main(shlex.split(command))
        except SystemExit as stopped:
            code = stopped.code
        assert code
    with pytest.raises(SystemExit):
        trains(["--config=configs/tiny.py", "--config.data.sise=64"], request)
    with pytest.raises(SystemExit):
        parses("benchmarks.model")(["--size", "pets512"], request)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_python_of_the_documents_runs(path, place):
    for text in blocks(path, "python"):
        code = compile(text, str(path), "exec")
        # A client wants a running page, a clip takes long to track; both have their own tests.
        if "gradio_client" not in text and "dog.mp4" not in text:
            exec(code, {})


# Links

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors(path: Path) -> set[str]:
    """Of headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_pictures_lead_somewhere(path):
    found = LINK.findall(FENCE.sub("", path.read_text()))
    assert found
    for link in found:
        target, _, anchor = link.partition("#")
        if target.startswith(("http:", "https:")):
            continue
        file = path.parent / target if target else path
        assert file.exists(), f"{path.name}: {link} leads nowhere"
        assert not anchor or anchor in anchors(file), f"{path.name}: {link}: no such heading"


def test_pictures_are_small_and_whole():
    pictures = sorted((ROOT / "docs").glob("*.webp"))
    assert pictures
    for path in pictures:
        assert path.stat().st_size < 400_000, path
        with Image.open(path) as image:
            image.load()
    with Image.open(ROOT / "docs" / "click.webp") as film:
        assert film.is_animated and film.n_frames > 5


def test_the_diagram_names_files_that_are_there():
    (diagram,) = blocks(ROOT / "README.md", "mermaid")
    named = set(re.findall(r"\w+\.py", diagram))
    there = {path.name for path in (ROOT / "petsam_jax" / "models").glob("*.py")}
    assert named <= there
    # A part of the model has a constructor in sam2.py, and a place in the diagram.
    built = (ROOT / "petsam_jax" / "models" / "sam2.py").read_text()
    parts = re.findall(r"self\.(\w+) = \w+\(", built)
    assert {f"{part}.py" for part in parts} & there <= named
    assert len(named) >= 7
