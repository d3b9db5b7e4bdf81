"""From a model's small logits to masks as they are wanted, in numpy alone.

In: logits or masks. Out: masks at a picture's own size; without holes or islands; that do not
overlap; the one of three that is best. Nothing is compiled, so every size costs only its pixels.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped
from scipy import ndimage

# Rows that are enlarged at once: few enough to stay in the processor's cache.
ROWS = 64
# Pixels whose corners touch belong together, as in SAM 2.
TOUCHING = np.ones((3, 3), bool)
# What a logit is at most where another object is more likely, as in SAM 2.
ELSEWHERE = -10.0


# Size


def masks_at_size(
    logits: Float32[np.ndarray, "*b h w"], height: int, width: int, threshold: float = 0.0
) -> Bool[np.ndarray, "*b {height} {width}"]:
    """Where `logits_at_size` is above the threshold, in a quarter of the memory."""
    masks = np.empty((*logits.shape[:-2], height, width), bool)
    buffer = np.empty((min(ROWS, height), width), np.float32)
    for place in np.ndindex(logits.shape[:-2]):
        for rows, large in _bands(logits[place], height, width, buffer):
            np.greater(large, threshold, out=masks[place][rows])
    return masks


def logits_at_size(
    logits: Float32[np.ndarray, "*b h w"], height: int, width: int
) -> Float32[np.ndarray, "*b {height} {width}"]:
    """Bilinear, pixel centres kept, with antialias where it shrinks."""
    resized = np.empty((*logits.shape[:-2], height, width), np.float32)
    buffer = np.empty((min(ROWS, height), width), np.float32)
    for place in np.ndindex(logits.shape[:-2]):
        for rows, large in _bands(logits[place], height, width, buffer):
            resized[place][rows] = large
    return resized


def _bands(logits: Float32[np.ndarray, "h w"], height: int, width: int, buffer: np.ndarray):
    """Slices of rows with their logits at full size, which the next slice overwrites."""
    wide = logits @ _bilinear(logits.shape[1], width).matrix.T
    down = _bilinear(logits.shape[0], height)
    for rows, read in down.bands:
        large = buffer[: rows.stop - rows.start]
        yield rows, np.matmul(down.matrix[rows, read], wide[read], out=large)


class _Bilinear(NamedTuple):
    matrix: Float32[np.ndarray, "new old"]
    bands: list[tuple[slice, slice]]  # of new samples, and of the old ones that they read


@lru_cache(maxsize=16)
def _bilinear(old: int, new: int) -> _Bilinear:
    """The product that resizes an axis."""
    stretch = max(1.0, old / new)
    centres = (np.arange(new) + 0.5) * old / new
    distance = np.abs(np.arange(old) + 0.5 - centres[:, None]) / stretch
    matrix = np.maximum(0, 1 - distance)
    # At the border the samples that there are count for those that are missing.
    matrix = (matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32)
    bands = []
    for start in range(0, new, ROWS):
        rows = slice(start, min(start + ROWS, new))
        read = np.flatnonzero(matrix[rows].any(axis=0))
        bands.append((rows, slice(read[0], read[-1] + 1)))
    return _Bilinear(matrix, bands)


# Holes and islands


def fill_holes(mask: Bool[np.ndarray, "*b h w"], area: int) -> Bool[np.ndarray, "*b h w"]:
    """Without holes of at most `area` pixels: background that touches no side of the picture."""
    return _each(mask, lambda one: _filled(one, area)) if area > 0 else mask


def remove_islands(mask: Bool[np.ndarray, "*b h w"], area: int) -> Bool[np.ndarray, "*b h w"]:
    """Without parts of at most `area` pixels, but for the largest part."""
    return _each(mask, lambda one: _without_islands(one, area)) if area > 0 else mask


def _each(mask, change):
    """A copy with each picture changed, within the window that holds all of its mask."""
    changed = mask.copy()
    for place in np.ndindex(mask.shape[:-2]):
        window = ndimage.find_objects(mask[place].astype(np.uint8))
        if window:
            changed[place][window[0]] = change(mask[place][window[0]])
    return changed


def _filled(mask, area):
    # Background at the window's sides goes on outside of it, or is at the picture's side.
    labels, number = ndimage.label(~mask, TOUCHING)
    small = np.bincount(labels.ravel(), minlength=number + 1) <= area
    sides = labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()
    small[np.concatenate(sides)] = False
    small[0] = False
    return mask | small[labels]


def _without_islands(mask, area):
    labels, number = ndimage.label(mask, TOUCHING)
    areas = np.bincount(labels.ravel(), minlength=number + 1)
    areas[0] = 0
    kept = areas > area
    kept[areas.argmax()] = True
    return mask & kept[labels]


# Several objects, several masks


def no_overlap(
    masks: Shaped[np.ndarray, "n h w"], scores: Float[np.ndarray, " n"] | None = None
) -> Shaped[np.ndarray, "n h w"]:
    """Each pixel to one object at most.

    Of logits, to the one whose logit is highest; those of the others become -10 at most, as in
    SAM 2. Of masks, to the one of the highest score; without scores, and among equals, to the
    first. Raises ValueError for scores beside logits, which have no use for them.
    """
    if masks.dtype != bool:
        if scores is not None:
            raise ValueError("scores: only for masks; logits say themselves which object is ahead")
        ahead = np.arange(len(masks))[:, None, None] == masks.argmax(axis=0) if len(masks) else True
        return np.where(ahead, masks, np.minimum(masks, np.asarray(ELSEWHERE, masks.dtype)))
    order = range(len(masks)) if scores is None else np.argsort(-scores, kind="stable")
    apart, taken = np.zeros_like(masks), np.zeros(masks.shape[1:], bool)
    for number in order:
        apart[number] = masks[number] & ~taken
        taken |= masks[number]
    return apart


def choose_mask(
    logits: Float[np.ndarray, "m h w"], iou_pred: Float[np.ndarray, " m"], delta: float = 1.0
) -> int:
    """Which of several masks for one prompt: the greatest predicted IoU times stability.

    A predicted IoU alone may favour a mask that is only vaguely there.
    """
    return int(np.argmax(iou_pred * stability(logits, delta)))


def stability(
    logits: Float[np.ndarray, "*b h w"], delta: float = 1.0, threshold: float = 0.0
) -> Float32[np.ndarray, "*b"]:
    """IoU of the masks at `threshold` + and - `delta`; 1 where both are empty."""
    inner = (logits > threshold + delta).sum(axis=(-2, -1))
    outer = (logits > threshold - delta).sum(axis=(-2, -1))
    return np.where(outer > 0, inner / np.maximum(outer, 1), 1.0).astype(np.float32)
