"""From a normalised image to what a decoder needs of it, once per image.

In: an image, b h w 3. Out: `image_embed` at stride 16, and finer maps at strides 4 and 8 for the
decoder's upscaling (Ravi et al. 2024, section 4 and appendix D).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from petsam_jax.models.hiera import Hiera
from petsam_jax.models.layers import Linear, upsample_nearest


class ImageFeatures(NamedTuple):
    """What is computed once per image."""

    image_embed: Float[Array, "b h w c"]  # stride 16
    high_res_feats: tuple[Float[Array, "b 4*h 4*w c0"], Float[Array, "b 2*h 2*w c1"]]


class ImageEncoder(nnx.Module):
    """Trunk, neck, and the projections of the finer maps to the decoder's widths."""

    def __init__(
        self,
        trunk: dict,
        d_model: int = 256,
        *,
        top_down_levels: Sequence[int] = (2,),
        dtype: DTypeLike = "float32",
        rngs: nnx.Rngs,
    ):
        """`trunk` holds the arguments of `Hiera`; `top_down_levels` are those of `FpnNeck`."""
        self.trunk = Hiera(**trunk, dtype=dtype, rngs=rngs)
        widths = [trunk["embed_dim"] * 2**stage for stage in range(len(trunk["stages"]))]
        self.neck = FpnNeck(widths, d_model, top_down_levels, dtype=dtype, rngs=rngs)
        self.conv_s0 = Linear(d_model, d_model // 8, dtype=dtype, rngs=rngs)
        self.conv_s1 = Linear(d_model, d_model // 4, dtype=dtype, rngs=rngs)

    def __call__(
        self, image: Float[Array, "b h w 3"], key: PRNGKeyArray | None = None
    ) -> ImageFeatures:
        fine, middle, image_embed = self.neck(self.trunk(image, key))
        return ImageFeatures(image_embed, (self.conv_s0(fine), self.conv_s1(middle)))


class FpnNeck(nnx.Module):
    """A feature pyramid: 1x1 convolutions to one width, and the coarser map added at some levels.

    `top_down_levels` counts from 0 at stride 4; a level in it gets the level above, enlarged. The
    coarsest level serves only for that, and is dropped.
    """

    def __init__(
        self,
        in_features: Sequence[int],
        d_model: int,
        top_down_levels: Sequence[int],
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.convs = nnx.List(
            Linear(width, d_model, dtype=dtype, rngs=rngs) for width in in_features
        )
        self.top_down_levels = tuple(top_down_levels)

    def __call__(
        self, maps: tuple[Float[Array, "b _ _ _"], ...]
    ) -> tuple[Float[Array, "b _ _ c"], ...]:
        """Strides 4, 8, 16."""
        return tuple(self.pyramid(maps)[:-1])

    def pyramid(self, maps: tuple[jax.Array, ...]) -> list[jax.Array]:
        """All levels, the one of stride 32 included."""
        levels = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        for level in reversed(self.top_down_levels):
            levels[level] = levels[level] + upsample_nearest(levels[level + 1])
        return levels
