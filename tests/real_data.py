"""The photographs that tests may use where there are any, and what must hold for them."""

import os
from pathlib import Path

import pytest


def real_data(folder: str) -> Path:
    """A folder of the data that `PETSAM_DATA` names; skips the test where it is not set."""
    if "PETSAM_DATA" not in os.environ:
        pytest.skip(f"PETSAM_DATA is not set: no {folder} to read")
    return Path(os.environ["PETSAM_DATA"]) / folder


def listed(root: Path, part: str) -> set[str]:
    """Names in a list of a folder in Oxford-IIIT Pet's layout that have both their files.

    `part` is "trainval" or "test".
    """
    lines = (root / "annotations" / f"{part}.txt").read_text().splitlines()
    names = {line.split()[0] for line in lines if line.strip() and not line.startswith("#")}
    images = {path.stem for path in (root / "images").iterdir()}
    trimaps = {path.stem for path in (root / "annotations" / "trimaps").iterdir()}
    return names & images & trimaps
