"""The clicks and boxes of a simulated user, at the image's own resolution.

In: a mask (0 background, 1 pet, 2 ignored) and a prediction, as numpy arrays. Out: (x, y) pixel
indices and boxes of them. The next click is that of RITM (Sofiiuk et al. 2021), as in
`prompt_sampling.evaluation_click`, which is for batches of one size under jit.
"""

import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from scipy import ndimage

from petsam_jax.mask_values import BACKGROUND, PET
from petsam_jax.models.prompts import NEGATIVE, POSITIVE


class Click(NamedTuple):
    """A pixel, and whether the pet is there (1) or not (0)."""

    x: int
    y: int
    label: int


def generator(name: str) -> np.random.Generator:
    """Random numbers that depend on an example's name alone, not on the other examples."""
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
    """Each side moved by `share` of the box times its direction (-1..1), inside the image.

    `shape` is the image's height and width.
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

    Depth is the exact distance to the error's edge, the image's border being an edge; ties go to
    false pet, then to the upper, then to the left pixel. Pixels in `clicked` are left out. None if
    no error is left to click.
    """
    missed = _Depths((mask == PET) & ~pred_mask, clicked)
    false = _Depths((mask == BACKGROUND) & pred_mask, clicked)
    # Both are measured exactly only where either may hold the deepest pixel.
    if missed.least > false.most:
        return Click(*missed.deepest()[1], POSITIVE)
    if false.most == 0:
        return None
    if false.least > missed.most:
        return Click(*false.deepest()[1], NEGATIVE)
    (missed_depth, at_missed), (false_depth, at_false) = missed.deepest(), false.deepest()
    if missed_depth > false_depth:
        return Click(*at_missed, POSITIVE)
    return Click(*at_false, NEGATIVE)


class _Depths:
    """How deep the unclicked pixels of one kind of error are.

    An exact transform takes several times as long as one by chessboard moves, c, and the exact
    depth is at least c and at most sqrt(2) c. So only pixels with a large c and their surroundings
    need the exact one.
    """

    def __init__(self, region, clicked):
        self.least = self.most = 0.0
        if not region.any():
            return
        # Nothing outside the region's own window belongs to it, so the window's border is an edge
        # just as the image's is.
        (top, bottom), (left, right) = _window(region)
        window = slice(top, bottom + 1), slice(left, right + 1)
        self._region, self._corner = np.pad(region[window], 1), (top - 1, left - 1)
        chess = ndimage.distance_transform_cdt(self._region, "chessboard")
        self._chess = np.where(np.pad(clicked[window], 1), 0, chess)
        self.least = float(self._chess.max())
        self.most = self.least * 2**0.5

    def deepest(self) -> tuple[float, tuple[int, int]]:
        """Exact depth and (x, y) of the deepest pixel; ties go to the upper, then the left one."""
        candidates = self._chess * 2**0.5 >= self.least
        reach = int(self.most) + 2
        (top, bottom), (left, right) = _window(candidates)
        top, left = max(top - reach, 0), max(left - reach, 0)
        window = slice(top, bottom + reach + 1), slice(left, right + reach + 1)
        depth = ndimage.distance_transform_edt(np.pad(self._region[window], 1))[1:-1, 1:-1]
        depth = np.where(candidates[window], depth, 0.0)
        y, x = divmod(int(depth.argmax()), depth.shape[1])
        return float(depth[y, x]), (self._corner[1] + left + x, self._corner[0] + top + y)


def _window(region) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last row and column of a region that is not empty."""
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    return (int(rows[0]), int(rows[-1])), (int(columns[0]), int(columns[-1]))
