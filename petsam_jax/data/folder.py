"""A user's own images as a source: `images/` and `masks/` with matching stems.

Any format that Pillow reads, EXIF applied. Masks are black and white, 0 and 1, or instance numbers
1..n, each instance an example of its own with the others as background; white beside instance
numbers is ignored (`files.masks.decode_mask`). Folders inside images/ and masks/ become groups.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from petsam_jax.data.oxford_layout import LayoutError
from petsam_jax.data.pets import log_skipped
from petsam_jax.data.sources import INSTANCE_MARK, Example, image_name
from petsam_jax.files.images import UnfitImage, check_decodes, decode_image, open_image
from petsam_jax.files.masks import MAX_INSTANCES, VOID, decode_mask
from petsam_jax.mask_values import IGNORE, PET

# Folder names that stand for a split and so cannot name a group.
SPLIT_NAMES = ("train", "valid", "val", "test")


class Pair(NamedTuple):
    """An image and its mask; `stem` is their path without suffix, such as "tabby/0001"."""

    stem: str
    image: Path
    mask: Path


class FolderSource:
    """The images of one folder in the order of their names, each instance an example.

    Every image and mask is decoded once on opening (JPEGs at an eighth of their size), so that
    training never meets an unfit one; those are logged and listed with the reason in `skipped`.
    """

    def __init__(self, root: Path):
        """Raises `LayoutError` for a folder of another layout or without a usable image."""
        root = Path(root).expanduser()
        pairs, self.skipped = _pairs(root)
        found = len(pairs) + len(self.skipped)
        with ThreadPoolExecutor() as pool:
            instances = list(pool.map(_instances, pairs))
        home = (root.resolve().parent if root.name in SPLIT_NAMES else root.resolve()).name
        self._items: list[tuple[Pair, int]] = []
        names, groups = [], []
        for pair, numbers in zip(pairs, instances, strict=True):
            if isinstance(numbers, UnfitImage):
                self.skipped.append(numbers)
                continue
            # A stem that ends like an instance's name gets a number too, to be distinguishable.
            plain = numbers == [1] and image_name(pair.stem) == pair.stem
            for number in numbers:
                self._items.append((pair, number))
                names.append(pair.stem if plain else f"{pair.stem}{INSTANCE_MARK}{number}")
                groups.append(pair.stem.rpartition("/")[0] or home)
        self.names, self.groups = tuple(names), tuple(groups)
        if not self._items:
            first = f"; the first fault is {self.skipped[0]}" if self.skipped else ""
            raise LayoutError(f"{root}: no image with a mask that can be used{first}")
        log_skipped(str(root), self.skipped, found)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Example:
        pair, number = self._items[index]
        meaning = np.zeros(256, np.uint8)
        meaning[VOID], meaning[number] = IGNORE, PET
        mask = meaning[decode_mask(pair.mask)]
        return Example(decode_image(pair.image), mask, self.names[index], self.groups[index])


def _pairs(root: Path) -> tuple[list[Pair], list[UnfitImage]]:
    """Images with their masks, and the files without exactly one partner."""
    for part in ("images", "masks"):
        if not (root / part).is_dir():
            raise LayoutError(f"{root}: no {part}/ folder; expected images/ and masks/")
    images, masks = _by_stem(root / "images"), _by_stem(root / "masks")
    pairs, skipped = [], []
    for stem in sorted(images.keys() | masks.keys()):
        of_stem = images.get(stem, []), masks.get(stem, [])
        if all(len(paths) == 1 for paths in of_stem):
            pairs.append(Pair(stem, of_stem[0][0], of_stem[1][0]))
            continue
        path = str(next(path for paths in of_stem for path in paths))
        wrong, where = next(
            (paths, f"{part}/{stem}.*")
            for paths, part in zip(of_stem, ("images", "masks"), strict=True)
            if len(paths) != 1
        )
        several = f"{len(wrong)} files {where}; expected one"
        skipped.append(UnfitImage(path, several if wrong else f"has no {where}"))
    return pairs, skipped


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """Files of a folder and its subfolders, without hidden ones, by their path without suffix."""
    found: dict[str, list[Path]] = {}
    for path in sorted(_walk(folder)):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        found.setdefault(stem, []).append(path)
    return found


def _walk(folder: Path) -> Iterable[Path]:
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path


def _instances(pair: Pair) -> list[int] | UnfitImage:
    """The numbers of the instances in a mask, or what is wrong with it or its image."""
    try:
        image = open_image(pair.image)
        size = check_decodes(image)
        mask = decode_mask(pair.mask)
        if mask.shape[::-1] != size:
            reason = f"{mask.shape[1]} x {mask.shape[0]}, but its image {size[0]} x {size[1]}"
            if mask.shape == size:
                reason += " as EXIF turns it; draw the mask on the turned image, or drop the EXIF"
            raise UnfitImage(str(pair.mask), reason)
    except UnfitImage as unfit:
        return unfit
    found = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    numbers = [int(number) for number in found if 1 <= number <= MAX_INSTANCES]
    return numbers or UnfitImage(str(pair.mask), "no pet pixel in the mask")
