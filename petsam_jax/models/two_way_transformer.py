"""The two-way transformer: tokens read the image, and the image reads the tokens.

In: tokens and which of them count, an image map as rows of a sequence, and its positions. Out:
tokens and image, updated. Segment Anything (Kirillov et al. 2023), appendix A, as SAM 2 has it.
"""

from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from petsam_jax.models.layers import TOKEN_EPS, Attention, LayerNorm, Mlp

# How much narrower than the tokens attention between tokens and image is.
DOWNSAMPLE = 2


class TwoWayLayer(nnx.Module):
    """Self-attention of tokens, tokens to image, MLP, image to tokens; a norm after each."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        mlp_dim: int,
        inner: int,
        *,
        first: bool,
        dtype: DTypeLike = "float32",
        rngs: nnx.Rngs,
    ):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.self_attn = Attention(d_model, num_heads, **options)
        self.norm1 = LayerNorm(d_model, eps=TOKEN_EPS)
        self.cross_attn_token_to_image = Attention(d_model, num_heads, inner=inner, **options)
        self.norm2 = LayerNorm(d_model, eps=TOKEN_EPS)
        self.mlp = Mlp(d_model, mlp_dim, d_model, activation=jax.nn.relu, **options)
        self.norm3 = LayerNorm(d_model, eps=TOKEN_EPS)
        self.cross_attn_image_to_token = Attention(d_model, num_heads, inner=inner, **options)
        self.norm4 = LayerNorm(d_model, eps=TOKEN_EPS)
        self.first = first

    def __call__(
        self,
        tokens: Float[Array, "b n c"],
        token_pe: Float[Array, "b n c"],
        token_mask: Bool[Array, "b n"],
        image: Float[Array, "b l c"],
        image_pe: Float[Array, "1 l c"],
    ) -> tuple[Float[Array, "b n c"], Float[Array, "b l c"]]:
        """`token_pe` are the tokens as they were before the first layer."""
        if self.first:
            # Tokens are their own position still: SAM adds none, and no residual either.
            tokens = self.self_attn(tokens, tokens, tokens, token_mask)
        else:
            placed = tokens + token_pe
            tokens = tokens + self.self_attn(placed, placed, tokens, token_mask)
        tokens = self.norm1(tokens)

        placed_image = image + image_pe
        read = self.cross_attn_token_to_image(tokens + token_pe, placed_image, image)
        tokens = self.norm2(tokens + read)
        tokens = self.norm3(tokens + self.mlp(tokens))

        read = self.cross_attn_image_to_token(placed_image, tokens + token_pe, tokens, token_mask)
        return tokens, self.norm4(image + read)


class TwoWayTransformer(nnx.Module):
    """`depth` layers, then the tokens read the image once more."""

    def __init__(
        self,
        d_model: int,
        depth: int,
        num_heads: int,
        mlp_dim: int,
        *,
        dtype: DTypeLike = "float32",
        rngs: nnx.Rngs,
    ):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        inner = d_model // DOWNSAMPLE
        self.layers = nnx.List(
            TwoWayLayer(d_model, num_heads, mlp_dim, inner, first=index == 0, **options)
            for index in range(depth)
        )
        self.final_attn_token_to_image = Attention(d_model, num_heads, inner=inner, **options)
        self.norm_final_attn = LayerNorm(d_model, eps=TOKEN_EPS)

    def __call__(
        self,
        tokens: Float[Array, "b n c"],
        token_mask: Bool[Array, "b n"],
        image: Float[Array, "b l c"],
        image_pe: Float[Array, "1 l c"],
    ) -> tuple[Float[Array, "b n c"], Float[Array, "b l c"]]:
        """`token_mask` is true for the tokens that count; the others are never read."""
        token_pe = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, token_pe, token_mask, image, image_pe)
        read = self.final_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        return self.norm_final_attn(tokens + read), image
