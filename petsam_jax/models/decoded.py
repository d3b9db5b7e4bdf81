"""The answer to a prompt, and what is done to masks on their way into and out of the model."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from petsam_jax.models.prompt_encoder import MASK_STRIDE

# A mask that was given becomes logits of MASK_SCALE * mask + MASK_BIAS.
MASK_SCALE, MASK_BIAS = 20.0, -10.0


class Decoded(NamedTuple):
    """The answer to a prompt: the chosen mask, and all four that it was chosen from."""

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


def where_object(condition: Bool[Array, " b"], yes, no):
    """For each object one or the other, of arrays or trees of arrays."""

    def choose(a, b):
        return jnp.where(condition.reshape((-1,) + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, yes, no)
