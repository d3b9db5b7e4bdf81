"""From a model's small logits to masks at an image's own size, without holes or islands.

In numpy alone: nothing is compiled, so a new size costs only its pixels.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int
from scipy import ndimage

# Pixels whose corners touch belong together, as in SAM 2.
TOUCHING = np.ones((3, 3), bool)


# Size


def masks_at_size(
    logits: Float32[np.ndarray, "*b h w"], height: int, width: int, threshold: float = 0.0
) -> Bool[np.ndarray, "*b {height} {width}"]:
    """Where `logits_at_size` is above the threshold, in less memory and time."""
    masks = np.zeros((*logits.shape[:-2], height, width), bool)
    for index in np.ndindex(logits.shape[:-2]):
        wide = _wide(logits[index], height, width)
        for window, values in _strips(wide, height, *_extent(wide > threshold)):
            np.greater(values, threshold, out=masks[index][window])
    return masks


def logits_at_size(
    logits: Float32[np.ndarray, "*b h w"], height: int, width: int
) -> Float32[np.ndarray, "*b {height} {width}"]:
    """Bilinear, with aligned pixel centres, antialiased where it shrinks."""
    resized = np.empty((*logits.shape[:-2], height, width), np.float32)
    for index in np.ndindex(logits.shape[:-2]):
        wide = _wide(logits[index], height, width)
        everywhere = np.zeros(len(wide), int), np.full(len(wide), width)
        for window, values in _strips(wide, height, *everywhere):
            resized[index][window] = values
    return resized


def _wide(logits: Float32[np.ndarray, "h w"], height: int, width: int):
    """The logits at the full width, and at `height` if that has fewer rows."""
    for axis, new in enumerate((height, width)):
        old = logits.shape[axis]
        if new < old:
            logits = np.moveaxis(np.tensordot(_shrinking(old, new), logits, (1, axis)), 0, axis)
    between = _between(logits.shape[1], width)
    left, right = logits[:, between.low], logits[:, between.high]
    return left + between.share * (right - left)


def _extent(found: Bool[np.ndarray, "h w"]) -> tuple[Int[np.ndarray, " h"], Int[np.ndarray, " h"]]:
    """First true column of each row, and the one after the last."""
    width, some = found.shape[1], found.any(axis=1)
    first = np.where(some, found.argmax(axis=1), width)
    return first, np.where(some, width - found[:, ::-1].argmax(axis=1), 0)


def _strips(wide: Float32[np.ndarray, "h w"], height: int, first, last):
    """The rows between two rows of `wide`: a window and its values, overwritten by the next.

    Each is only as wide as the extents, `first` to `last`, of its two rows: where both are below
    the threshold, so is everything between them. There is no matrix product, for which numpy's
    library would start threads that compete with those of other calls.
    """
    between = _between(len(wide), height)
    ends = np.append(between.starts[1:], height)
    buffer = np.empty((int((ends - between.starts).max()), wide.shape[1]), np.float32)
    for low, (start, end) in enumerate(zip(between.starts, ends, strict=True)):
        high = min(low + 1, len(wide) - 1)
        window = slice(start, end), slice(min(first[low], first[high]), max(last[low], last[high]))
        above, below = wide[low, window[1]], wide[high, window[1]]
        if start < end and above.size:
            values = buffer[: end - start, : above.size]
            np.multiply(between.share[start:end, None], below - above, out=values)
            values += above
            yield window, values


class _Between(NamedTuple):
    """The old samples that each new one lies between, and its distance to the lower one."""

    low: Int[np.ndarray, " new"]
    high: Int[np.ndarray, " new"]
    share: Float32[np.ndarray, " new"]
    starts: Int[np.ndarray, " old"]  # the first new sample that has at least this as `low`


@lru_cache(maxsize=32)
def _between(old: int, new: int) -> _Between:
    # Beyond the centres of the outermost samples these are repeated.
    positions = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(positions.astype(int), max(old - 2, 0))
    share = (positions - low).astype(np.float32)
    return _Between(low, np.minimum(low + 1, old - 1), share, np.searchsorted(low, np.arange(old)))


@lru_cache(maxsize=32)
def _shrinking(old: int, new: int) -> Float32[np.ndarray, "new old"]:
    """Weights of the old samples around each new one: a triangle filter."""
    centres = (np.arange(new) + 0.5) * old / new
    distance = np.abs(np.arange(old) + 0.5 - centres[:, None]) * new / old
    matrix = np.maximum(0, 1 - distance)
    return (matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32)


# Holes and islands


def fill_holes(mask: Bool[np.ndarray, "*b h w"], area: int) -> Bool[np.ndarray, "*b h w"]:
    """Without holes of at most `area` pixels: background that touches no side of the image."""
    return _each(mask, lambda one: _filled(one, area)) if area > 0 else mask


def remove_islands(mask: Bool[np.ndarray, "*b h w"], area: int) -> Bool[np.ndarray, "*b h w"]:
    """Without parts of at most `area` pixels; the largest part stays."""
    return _each(mask, lambda one: _without_islands(one, area)) if area > 0 else mask


def _each(mask, change):
    """A copy with each mask changed inside its bounding box."""
    changed = mask.copy()
    for index in np.ndindex(mask.shape[:-2]):
        window = ndimage.find_objects(mask[index].astype(np.uint8))
        if window:
            changed[index][window[0]] = change(mask[index][window[0]])
    return changed


def _filled(mask, area):
    labels, areas = _parts(~mask)
    small = areas <= area
    # Background at the window's sides continues outside, or touches the image's side.
    sides = labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()
    small[np.concatenate(sides)] = False
    small[0] = False
    return mask | small[labels]


def _without_islands(mask, area):
    labels, areas = _parts(mask)
    areas[0] = 0
    kept = areas > area
    kept[areas.argmax()] = True
    return mask & kept[labels]


def _parts(mask):
    """The number of each pixel's connected part, from 1, and the area of each."""
    labels, number = ndimage.label(mask, TOUCHING)
    return labels, np.bincount(labels.ravel(), minlength=number + 1)
