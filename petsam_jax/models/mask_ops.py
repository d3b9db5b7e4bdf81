"""The decoder's output, and how masks are resized on their way into and out of the model."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Float32, PyTree, Shaped

from petsam_jax.models.position import MASK_STRIDE

# A mask that was given becomes logits of MASK_SCALE * mask + MASK_BIAS.
MASK_SCALE, MASK_BIAS = 20.0, -10.0


class MaskOutput(NamedTuple):
    """The chosen mask, and all four that it was chosen from."""

    mask_logits: Float32[Array, "b 1 h w"]  # at stride 4
    iou_pred: Float32[Array, "b 1"]
    object_logit: Float32[Array, "b 1"]
    obj_ptr: Float32[Array, "b c"]
    all_logits: Float32[Array, "b 4 h w"]  # the single mask, then the three of an unclear prompt
    all_ious: Float32[Array, "b 4"]
    multimask: Bool[Array, " b"]  # whether the choice was among the three


def mask_to_logits(mask: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """-10 for 0, 10 for 1."""
    return MASK_SCALE * mask + MASK_BIAS


def resize_mask(mask: Float[Array, "b h w 1"], height: int, width: int) -> Float[Array, "b _ _ 1"]:
    """Bilinear, pixel centres kept, with antialias where it shrinks."""
    return jax.image.resize(mask, (mask.shape[0], height, width, 1), "bilinear", antialias=True)


def shrink_mask(mask: Float[Array, "b h w 1"]) -> Float[Array, "b h/4 w/4 1"]:
    """A mask at the image's size as the prompt encoder takes it."""
    return resize_mask(mask, mask.shape[1] // MASK_STRIDE, mask.shape[2] // MASK_STRIDE)


def enlarge(
    mask_logits: Float[Array, "b m _ _"], height: int, width: int
) -> Float32[Array, "b m {height} {width}"]:
    """Bilinear, pixel centres kept, as `jax.image.resize` does it; faster by a whole number."""
    mask_logits = mask_logits.astype(jnp.float32)
    h, w = mask_logits.shape[2:]
    factor = height // h
    if (factor * h, factor * w) != (height, width):
        return jax.image.resize(mask_logits, mask_logits.shape[:2] + (height, width), "bilinear")
    if factor == 1:
        return mask_logits
    # Where the pixels of the result lie, in pixels of the logits; beyond the border is the border.
    at = np.clip((np.arange(factor * w) + 0.5) / factor - 0.5, 0, w - 1)
    weights = np.maximum(1 - np.abs(at - np.arange(w)[:, None]), 0).astype(np.float32)
    wide = jnp.matmul(mask_logits, weights, precision="highest")
    # Every `factor`-th row is the same mix of neighbouring rows.
    padded = jnp.pad(wide, ((0, 0), (0, 0), (1, 1), (0, 0)), "edge")
    above, here, below = padded[:, :, :h], padded[:, :, 1:-1], padded[:, :, 2:]
    offsets = [(row + 0.5) / factor - 0.5 for row in range(factor)]
    rows = [(1 - abs(at)) * here + abs(at) * (above if at < 0 else below) for at in offsets]
    return rearrange(jnp.stack(rows, axis=3), "b m h f w -> b m (h f) w")


def where_object(
    condition: Bool[Array, " b"],
    yes: PyTree[Shaped[Array, "b ..."]],
    no: PyTree[Shaped[Array, "b ..."]],
) -> PyTree[Shaped[Array, "b ..."]]:
    """For each object one or the other, of arrays or equal trees of arrays."""

    def choose(a, b):
        return jnp.where(condition.reshape((-1,) + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, yes, no)
