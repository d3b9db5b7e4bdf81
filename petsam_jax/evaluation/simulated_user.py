"""What a simulated user says about one picture, at the picture's own resolution.

In: a mask (0 background, 1 pet, 2 ignored) and a prediction, as numpy arrays. Out: (x, y) pixel
indices and boxes of them. The next click is that of RITM (Sofiiuk et al. 2021), as in
`prompts.evaluation_click`, which is for batches of one size under jit.
"""

import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from scipy import ndimage

from petsam_jax.prompts import BACKGROUND, NEGATIVE, PET, POSITIVE


class Click(NamedTuple):
    """A pixel, and whether the pet is there (1) or not (0)."""

    x: int
    y: int
    label: int


def generator(name: str) -> np.random.Generator:
    """Random numbers that depend on an example's name alone, not on which others there are."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def tight_box(mask: UInt8[np.ndarray, "h w"]) -> Float32[np.ndarray, " 4"]:
    """Least and greatest pixel index of the pet, x0, y0, x1, y1; the mask must have a pet."""
    (top, bottom), (left, right) = _window(mask == PET)
    return np.array([left, top, right, bottom], np.float32)


def move_sides(
    box: Float32[np.ndarray, " 4"],
    directions: Float[np.ndarray, " 4"],
    share: float,
    shape: tuple[int, int],
) -> Float32[np.ndarray, " 4"]:
    """Each side moved by `share` of the box times its direction (-1..1), inside the picture.

    `shape` is the picture's height and width.
    """
    size = np.tile(box[2:] - box[:2], 2)
    last = np.tile([shape[1] - 1, shape[0] - 1], 2)
    return np.clip(box + share * size * directions, 0, last).astype(np.float32)


def next_click(
    mask: UInt8[np.ndarray, "h w"],
    pred_mask: Bool[np.ndarray, "h w"],
    clicked: Bool[np.ndarray, "h w"],
) -> Click | None:
    """The centre of the deeper error: 1 where pet is missed, 0 where background is taken for pet.

    Depth is the exact distance to the error's edge, the picture's border being an edge; among
    equals false pet goes first, then the upper, then the left pixel. Pixels in `clicked` are left
    out. None where no error is left to be clicked.
    """
    missed_depth, missed = _deepest((mask == PET) & ~pred_mask, clicked)
    false_depth, false = _deepest((mask == BACKGROUND) & pred_mask, clicked)
    if max(missed_depth, false_depth) == 0:
        return None
    return Click(*missed, POSITIVE) if missed_depth > false_depth else Click(*false, NEGATIVE)


def _deepest(region, clicked) -> tuple[float, tuple[int, int]]:
    """Depth and (x, y) of the deepest pixel of a region that is not clicked; 0 without any."""
    if not region.any():
        return 0.0, (0, 0)
    # Outside the region's own window nothing belongs to it, so the window's border is an edge just
    # as the picture's is, and most errors are much smaller than the picture.
    (top, bottom), (left, right) = _window(region)
    window = slice(top, bottom + 1), slice(left, right + 1)
    depth = ndimage.distance_transform_edt(np.pad(region[window], 1))[1:-1, 1:-1]
    depth = np.where(clicked[window], 0.0, depth)
    y, x = divmod(int(depth.argmax()), depth.shape[1])
    return float(depth[y, x]), (left + x, top + y)


def _window(region) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last row and column of a region that is not empty."""
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    return (int(rows[0]), int(rows[-1])), (int(columns[0]), int(columns[-1]))
