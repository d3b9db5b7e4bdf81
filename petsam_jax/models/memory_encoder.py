"""The memory of a frame: its image embedding and its mask, in few channels.

In: the image embedding as the image encoder made it, and mask probabilities at the size of the
image. Out: a memory map at stride 16. SAM 2 (Ravi et al. 2024), section 4 and appendix D.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from petsam_jax.models.layers import MAP_EPS, Conv, Depthwise, LayerNorm, Linear, gelu, per_channel

# Each of the four convolutions halves the sides and has room for what it gathers.
MASK_WIDTHS = (1, 4, 16, 64, 256)


class MemoryEncoder(nnx.Module):
    """Mask and image embedding, added at stride 16 and fused by convolutions.

    The mask enters as `mask_scale` x probability + `mask_bias`.
    """

    def __init__(
        self,
        d_model: int,
        out_dim: int = 64,
        *,
        num_layers: int = 2,
        layer_scale: float = 1e-6,
        mask_scale: float = 20.0,
        mask_bias: float = -10.0,
        dtype: DTypeLike = "float32",
        rngs: nnx.Rngs,
    ):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.mask_downsampler = MaskDownsampler(d_model, **options)
        self.pix_feat_proj = Linear(d_model, d_model, **options)
        self.fuser = nnx.List(CXBlock(d_model, layer_scale, **options) for _ in range(num_layers))
        self.out_proj = Linear(d_model, out_dim, **options)
        self.mask_scale, self.mask_bias, self.out_dim = mask_scale, mask_bias, out_dim

    def __call__(
        self, image_embed: Float[Array, "i h w c"], mask_prob: Float[Array, "b 16*h 16*w 1"]
    ) -> Float32[Array, "b h w e"]:
        """One image (i = 1) serves any number b of masks; else i = b."""
        mask = self.mask_downsampler(self.mask_scale * mask_prob + self.mask_bias)
        x = self.pix_feat_proj(image_embed) + mask
        for block in self.fuser:
            x = block(x)
        return self.out_proj(x)


class MaskDownsampler(nnx.Module):
    """A mask at the size of the image as a map at stride 16."""

    def __init__(self, d_model: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        widths = zip(MASK_WIDTHS[:-1], MASK_WIDTHS[1:], strict=True)
        self.convs = nnx.List(
            Conv(i, o, 3, stride=2, padding=1, dtype=dtype, rngs=rngs) for i, o in widths
        )
        self.norms = nnx.List(LayerNorm(width, eps=MAP_EPS) for width in MASK_WIDTHS[1:])
        self.proj = Linear(MASK_WIDTHS[-1], d_model, dtype=dtype, rngs=rngs)

    def __call__(self, mask: Float[Array, "b h w 1"]) -> Float32[Array, "b h/16 w/16 c"]:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            mask = gelu(norm(conv(mask)))
        return self.proj(mask)


class CXBlock(nnx.Module):
    """A ConvNeXt block (Liu et al. 2022): depthwise 7x7, norm, two layers, scaled by `gamma`."""

    def __init__(self, features: int, layer_scale: float, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dwconv = Depthwise(features, rngs=rngs)
        self.norm = LayerNorm(features, eps=MAP_EPS)
        self.pwconv1 = Linear(features, 4 * features, dtype=dtype, rngs=rngs)
        self.pwconv2 = Linear(4 * features, features, dtype=dtype, rngs=rngs)
        self.gamma = nnx.Param(jnp.full(features, layer_scale))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float32[Array, "b h w c"]:
        fused = self.pwconv2(gelu(self.pwconv1(self.norm(self.dwconv(x)))))
        return x + per_channel(self.gamma[...], x) * fused
