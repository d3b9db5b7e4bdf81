"""The images of a command's arguments, and the names of the result files of each.

In: files and folders as given by the user. Out: `ImageFile`s in a fixed order. A folder stands for
all files in it and its subfolders that have the suffix of an image, hidden ones and the output
folder left out. A file given by name is used whatever its suffix, and only once.
"""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
SUFFIXES += (".pgm", ".avif", ".jp2")


class FilesError(ValueError):
    """A path that cannot be read or written; the message says what to do."""


class ImageFile(NamedTuple):
    """An image's path, its name in annotations, and the stem of its result files."""

    path: Path
    label: str  # relative to the folder that holds all inputs, with slashes
    stem: str  # relative to the output folder, such as "tabby/0001"


def find_images(inputs: Iterable[Path], out: Path) -> list[ImageFile]:
    """Raises FilesError if an input does not exist or no image is found.

    After the first of several images with one stem, such as a.jpg and a.png, stems get a number.
    """
    inputs = [Path(path) for path in inputs]
    top = _common_folder(inputs)
    found, seen, taken = [], set(), set()
    for given in inputs:
        for path in _files(given, out):
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            inside = path.relative_to(given) if given.is_dir() else Path(path.name)
            stem = _free(inside.with_suffix("").as_posix(), taken)
            label = Path(os.path.relpath(path, top)).as_posix()
            found.append(ImageFile(path, label, stem))
    if not found:
        where = ", ".join(map(str, inputs))
        raise FilesError(f"{where}: no images found ({' '.join(SUFFIXES)})")
    return found


def _files(given: Path, out: Path) -> list[Path]:
    if not given.exists():
        raise FilesError(f"{given}: no such file or folder")
    if not given.is_dir():
        return [given]
    found = []
    for folder, folders, names in os.walk(given):
        here = Path(folder)
        # Results of an earlier run are not input.
        folders[:] = [
            name
            for name in sorted(folders)
            if not name.startswith(".") and (here / name).resolve() != out.resolve()
        ]
        found += [here / name for name in sorted(names) if _is_image(name)]
    return found


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def _free(stem: str, taken: set[str]) -> str:
    """The stem, with a number if it is taken; some file systems ignore case."""
    number, free = 1, stem
    while free.lower() in taken:
        number += 1
        free = f"{stem}-{number}"
    taken.add(free.lower())
    return free


def _common_folder(inputs: list[Path]) -> Path:
    folders = [given if given.is_dir() else given.parent for given in inputs]
    return Path(os.path.commonpath([folder.absolute() for folder in folders]))


def check_writable(out: Path) -> None:
    """Make the folder and check that files can be written to it; raises FilesError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise FilesError(
            f"--out {out}: not writable ({error.strerror or error}); choose another folder"
        ) from error


def replace_file(path: Path, data: bytes) -> None:
    """Write a file atomically, making its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_bytes(data)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
