"""Inpainting of the background behind a pet: the colours around the hole, smoothly continued.

Averages of the known pixels on ever coarser grids fill the gaps of the finer ones (the push-pull
scheme of Gortler et al. 1996). Done on a small grid, since the fill has no detail anyway.
"""

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageFilter

from petsam_jax.data.warp import Layer
from petsam_jax.mask_values import BACKGROUND
from petsam_jax.normalise import MEAN_COLOUR

GRID = 64
_IS_HOLE = [0 if value == BACKGROUND else 255 for value in range(256)]


def fill_in(layer: Layer) -> Image.Image:
    """The image without its pet and ignored rim; one that is all pet becomes the mean colour."""
    hole = layer.mask.point(_IS_HOLE).resize((GRID, GRID), Image.Resampling.BOX)
    # In cells of the grid, wide enough for the fur beyond a hand-drawn mask.
    hole = hole.filter(ImageFilter.MaxFilter(5))
    small = layer.image.resize((GRID, GRID), Image.Resampling.BOX, reducing_gap=2.0)
    known = (np.asarray(hole) == 0).astype(np.float32)[..., None]
    filled = _push_pull(np.asarray(small).astype(np.float32), known)
    smooth = Image.fromarray(np.clip(filled + 0.5, 0, 255).astype(np.uint8))
    smooth = smooth.resize(layer.image.size, Image.Resampling.BILINEAR)
    blend = hole.filter(ImageFilter.BoxBlur(1)).resize(layer.image.size, Image.Resampling.BILINEAR)
    return Image.composite(smooth, layer.image, blend)


def _push_pull(
    value: Float[np.ndarray, "n n 3"], known: Float[np.ndarray, "n n 1"]
) -> Float[np.ndarray, "n n 3"]:
    """Keep the known pixels (weight 1) and fill the rest from the next coarser grid."""
    side = len(value)
    if side == 1:
        return np.where(known > 0, value, np.array(MEAN_COLOUR, np.float32))
    cells = (side // 2, 2, side // 2, 2, -1)
    weight = known.reshape(cells).sum(axis=(1, 3))
    total = (value * known).reshape(cells).sum(axis=(1, 3))
    coarse = _push_pull(total / np.maximum(weight, 1e-6), np.minimum(weight, 1))
    return known * value + (1 - known) * _doubled(coarse)


def _doubled(value: Float[np.ndarray, "n n 3"]) -> Float[np.ndarray, "m m 3"]:
    """Twice the size, bilinearly: each pixel is 3/4 its parent and 1/4 the parent's neighbour."""
    for axis in (0, 1):
        padded = np.pad(value, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        before, after = (np.take(padded, range(s, s + value.shape[axis]), axis) for s in (0, 2))
        pair = np.stack([0.75 * value + 0.25 * before, 0.75 * value + 0.25 * after], axis + 1)
        shape = list(value.shape)
        shape[axis] *= 2
        value = pair.reshape(shape)
    return value
