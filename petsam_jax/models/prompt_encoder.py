"""Prompts as the decoder reads them: points and boxes become tokens, a mask becomes a map.

In: slots of points with labels, where an empty slot has label -1, and mask logits at stride 4. Out:
a token for each slot and one more, which tokens count, and a map at stride 16. The shapes depend
on the number of slots and the size of the image only, so a further click never recompiles.
SAM 2 (Ravi et al. 2024), appendix D; Fourier features after Tancik et al. 2020.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int

from petsam_jax.models.layers import MAP_EPS, Conv, LayerNorm, Linear, gelu, per_channel
from petsam_jax.models.position import EMBED_STRIDE, MASK_STRIDE, fourier, fourier_map
from petsam_jax.models.prompts import BOTTOM_RIGHT, EMPTY

# Every label but EMPTY has an embedding of its own.
LABELS = BOTTOM_RIGHT + 1


class Constant(nnx.Variable):
    """A fixed array: not trained, but saved with the parameters."""


class PromptEmbed(NamedTuple):
    """A prompt as the decoder reads it."""

    sparse_embed: Float32[Array, "b n c"]  # a token a slot, then SAM 2's own not-a-point token
    sparse_mask: Bool[Array, "b n"]  # true for the tokens that count
    dense_embed: Float32[Array, "b h w c"]  # at stride 16


class PromptEncoder(nnx.Module):
    """Tokens from points and box corners, a map from a mask.

    Tokens as in SAM 2's training, tracking and predictors, which all give a box as two points: a
    not-a-point token is always there, and an image without any point has two of them. Every further
    empty slot is masked, so neither the place nor the number of empty slots changes a result.
    """

    def __init__(
        self,
        d_model: int,
        mask_channels: int = 16,
        *,
        mask_gain: float = 1.0,
        dtype: DTypeLike = "float32",
        rngs: nnx.Rngs,
    ):
        """`mask_gain`: how much larger than usual the last weights of a mask prompt start."""
        normal = nnx.initializers.normal(1.0)
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.gaussian = Constant(normal(rngs.params(), (2, d_model // 2)))
        self.point_embed = nnx.Param(normal(rngs.params(), (LABELS, d_model)))
        self.not_a_point_embed = nnx.Param(normal(rngs.params(), (d_model,)))
        self.no_mask_embed = nnx.Param(normal(rngs.params(), (d_model,)))
        narrow = mask_channels // 4
        self.mask_conv1 = Conv(1, narrow, 2, stride=2, **options)
        # With biases of 0 a mask of zeros leaves nothing to normalise, and the norm multiplies
        # gradients by a thousand: that one bias then has all of the clipped gradient to itself.
        self.mask_conv1.bias[...] = jax.random.uniform(
            rngs.params(), (narrow,), minval=-0.5, maxval=0.5
        )
        self.mask_norm1 = LayerNorm(narrow, eps=MAP_EPS)
        self.mask_conv2 = Conv(narrow, mask_channels, 2, stride=2, **options)
        self.mask_norm2 = LayerNorm(mask_channels, eps=MAP_EPS)
        self.mask_conv3 = Linear(mask_channels, d_model, **options)
        self.mask_conv3.kernel[...] = mask_gain * self.mask_conv3.kernel[...]

    def __call__(
        self,
        points: Float[Array, "b n 2"],
        labels: Int[Array, "b n"],
        mask_input: Float[Array, "b h w 1"],
        has_mask: Bool[Array, " b"],
    ) -> PromptEmbed:
        """`points` are (x, y) pixel indices of the image, which is 4 h x 4 w pixels large.

        Labels: 1 in, 0 out, 2 and 3 corners of a box, -1 empty. What an empty slot's point is, and
        what `mask_input` is where `has_mask` is false, does not matter.
        """
        height, width = (MASK_STRIDE * side for side in mask_input.shape[1:3])
        sparse_embed, sparse_mask = self.embed_points(points, labels, height, width)
        mask_embed = self.embed_mask(mask_input)
        no_mask = per_channel(self.no_mask_embed[...], mask_embed)
        dense_embed = jnp.where(has_mask[:, None, None, None], mask_embed, no_mask)
        return PromptEmbed(sparse_embed, sparse_mask, dense_embed)

    def embed_points(
        self, points: Float[Array, "b n 2"], labels: Int[Array, "b n"], height: int, width: int
    ) -> tuple[Float32[Array, "b n+1 c"], Bool[Array, "b n+1"]]:
        """Tokens, and which of them count."""
        # Pixel (0, 0) has its centre at (0.5, 0.5).
        code = fourier(points + 0.5, self.gaussian[...], height, width)
        table = jnp.concatenate([self.point_embed[...], self.not_a_point_embed[...][None]])
        labels = jnp.pad(labels, ((0, 0), (0, 1)), constant_values=EMPTY)
        code = jnp.pad(code, ((0, 0), (0, 1), (0, 0)))
        given = labels != EMPTY
        tokens = jnp.where(given[..., None], code, 0.0) + table[jnp.where(given, labels, LABELS)]
        # SAM 2 encodes "no point" as an empty point besides the token that it always appends. The
        # same token twice is not the same as once: it draws twice the attention.
        no_point = ~given.any(axis=1, keepdims=True)
        slot = jnp.arange(labels.shape[1])[None]
        return tokens, given | (no_point & (slot == 0)) | (slot == labels.shape[1] - 1)

    def embed_mask(self, mask_input: Float[Array, "b h w 1"]) -> Float32[Array, "b h/4 w/4 c"]:
        """Mask logits at stride 4 as a map at stride 16."""
        x = gelu(self.mask_norm1(self.mask_conv1(mask_input)))
        x = gelu(self.mask_norm2(self.mask_conv2(x)))
        return self.mask_conv3(x)

    def dense_pe(self, height: int, width: int) -> Float32[Array, "h w c"]:
        """The code of the centres of the image embedding's cells; the sides are in pixels."""
        return fourier_map(self.gaussian[...], height // EMBED_STRIDE, width // EMBED_STRIDE)
