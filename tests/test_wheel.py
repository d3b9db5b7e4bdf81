"""A stranger's path: the wheel, installed where one may not write, cuts a dog out of a photo."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from petsam_jax.files.masks import decode_mask
from petsam_jax.predict.image_predictor import SHIPPED

ROOT = Path(__file__).parents[1]
PARTS = ("petsam_jax", "configs", "pyproject.toml", "README.md", "LICENSE")
# What a program needs besides Python, by the ends of its names.
WANTED = ("configs/pets256_small.py", "ui/browser/image_tab.html", "ui/examples/dog.webp")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy in a folder with a space in its name."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "a copy"
    source.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            unwanted = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, source / part, symlinks=True, ignore=unwanted)
        else:
            shutil.copy(ROOT / part, source / part)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    try:
        said = subprocess.run(
            [*pip, str(place / "dist"), str(source)], capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        pytest.skip("pip wheel did not end in 120 s: is an index of packages within reach?")
    offline = ("No matching distribution", "Could not find a version", "NewConnectionError")
    if said.returncode and any(words in said.stderr for words in offline):
        pytest.skip("pip finds no setuptools to build with: no index of packages within reach")
    if said.returncode and "No module named pip" in said.stderr:
        pytest.skip("this environment has no pip")
    assert said.returncode == 0, said.stderr
    (built,) = (place / "dist").glob("*.whl")
    return built


def test_a_wheel_has_all_that_the_programs_open(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in WANTED:
        assert any(name.endswith(f"petsam_jax/{wanted}") for name in names), wanted
    weights = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert len(weights) > 5
    for path in weights:
        assert f"petsam_jax/{path.relative_to(SHIPPED.parents[1]).as_posix()}" in names
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in names)


def test_it_segments_from_a_folder_that_cannot_be_written_to(wheel, tmp_path):
    site, work = tmp_path / "site packages", tmp_path / "my work"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    work.mkdir()
    shutil.copy(ROOT / "petsam_jax" / "ui" / "examples" / "dog.webp", work / "my dog.webp")
    before = sorted(site.rglob("*"))
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    (tmp_path / "no home").write_text("")
    # Only what a login has: no choice of platform, no cache.
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "no home")}
    environment |= {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    where = "import petsam_jax; print(petsam_jax.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where], env=environment, cwd=work, capture_output=True, text=True
    )
    assert Path(found.stdout.strip()).parents[1] == site
    said = subprocess.run(
        [sys.executable, "-m", "petsam_jax", "segment", "my dog.webp", "--point", "500,330"]
        + ["--out", "my masks"],
        env=environment,
        cwd=work,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    assert "Warning" not in said.stderr and "1 of 1 pictures" in said.stdout
    mask = decode_mask(work / "my masks" / "my dog_mask.png") == 1
    assert mask[330, 500] and 0.05 < mask.mean() < 0.8
    assert sorted(site.rglob("*")) == before
