"""The wheel: it is complete, and segments a photo from a read-only folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from petsam_jax.files.masks import decode_mask
from petsam_jax.predict.image_predictor import SHIPPED

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PARTS = ("petsam_jax", "configs", "pyproject.toml", "README.md", "LICENSE")
# Files besides Python that programs open.
EXPECTED = ("configs/pets256_small.py", "ui/browser/image_tab.html", "ui/examples/dog.webp")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy in a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "a copy"
    source.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, source / part, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / part, source / part)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    try:
        result = subprocess.run(
            [*pip, str(folder / "dist"), str(source)], capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        pytest.skip("pip wheel took more than 120 s: is a package index reachable?")
    offline = ("No matching distribution", "Could not find a version", "NewConnectionError")
    if result.returncode and any(words in result.stderr for words in offline):
        pytest.skip("pip finds no setuptools to build with: no package index is reachable")
    if result.returncode and "No module named pip" in result.stderr:
        pytest.skip("this environment has no pip")
    assert result.returncode == 0, result.stderr
    (built,) = (folder / "dist").glob("*.whl")
    return built


def test_wheel_contains_every_file_that_programs_open(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for expected in EXPECTED:
        assert any(name.endswith(f"petsam_jax/{expected}") for name in names), expected
    weights = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert len(weights) > 5
    for path in weights:
        assert f"petsam_jax/{path.relative_to(SHIPPED.parents[1]).as_posix()}" in names
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in names)


def test_segments_from_a_read_only_folder(wheel, tmp_path):
    site, work = tmp_path / "site packages", tmp_path / "my work"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    work.mkdir()
    shutil.copy(ROOT / "petsam_jax" / "ui" / "examples" / "dog.webp", work / "my dog.webp")
    before = sorted(site.rglob("*"))
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    (tmp_path / "no home").write_text("")
    # As in a plain login: no platform chosen, no cache.
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "no home")}
    environment |= {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    code = "import petsam_jax; print(petsam_jax.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=work, capture_output=True, text=True
    )
    assert Path(found.stdout.strip()).parents[1] == site
    result = subprocess.run(
        [sys.executable, "-m", "petsam_jax", "segment", "my dog.webp", "--point", "500,330"]
        + ["--out", "my masks"],
        env=environment,
        cwd=work,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr and "1 of 1 images" in result.stdout
    mask = decode_mask(work / "my masks" / "my dog_mask.png") == 1
    assert mask[330, 500] and 0.05 < mask.mean() < 0.8
    assert sorted(site.rglob("*")) == before
