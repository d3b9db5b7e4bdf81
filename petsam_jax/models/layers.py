"""Layers that several components share, and the operations they are made of, by plain names.

The operations are implemented in `fast_matmul.py` and `fast_elementwise.py`, the home of every
speed trick; components import them from here. `python -m benchmarks.layers` times each against its
plain formulation.

Two tricks are for CPUs only; elsewhere XLA gets the plain formulation: `depthwise` stores its
result for the norm that follows, and gradients of bfloat16 products materialise their transposes.
All else is the same on every platform, but was timed on CPUs alone.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from petsam_jax.models.fast_elementwise import (
    depthwise,
    gelu,
    layer_norm,
    max_pool,
    per_channel,
    upsample_nearest,
)
from petsam_jax.models.fast_matmul import attention, conv, dense

__all__ = [
    "Attention",
    "Conv",
    "Depthwise",
    "LayerNorm",
    "Linear",
    "MAP_EPS",
    "Mlp",
    "Projections",
    "TOKEN_EPS",
    "UpConv",
    "attention",
    "conv",
    "dense",
    "depthwise",
    "drop_path",
    "gelu",
    "layer_norm",
    "max_pool",
    "merge_heads",
    "per_channel",
    "split_heads",
    "upsample_nearest",
]

# What norms add to the variance, as in the reference: over maps (the trunk, convolutions), and over
# tokens.
MAP_EPS, TOKEN_EPS = 1e-6, 1e-5
# Numbers drawn at once: a large kernel takes some dozens of pieces, and the surplus for a small one
# costs no time.
PIECE = 1 << 16


class Linear(nnx.Module):
    """`x @ kernel + bias` over the last axis."""

    def __init__(
        self, in_features: int, out_features: int, *, dtype: DTypeLike = "float32", rngs: nnx.Rngs
    ):
        self.kernel = nnx.Param(fresh_kernel(rngs, (in_features, out_features), in_features))
        self.bias = nnx.Param(jnp.zeros(out_features))
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        return dense(x, self.kernel[...], self.bias[...], self.dtype)


class LayerNorm(nnx.Module):
    """Normalise the last axis; `eps`, which is added to the variance, is one of the two above."""

    def __init__(self, features: int, *, eps: float):
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.eps = eps

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        return layer_norm(x, self.scale[...], self.bias[...], self.eps)


class Conv(nnx.Module):
    """A zero-padded convolution, `kernel` h w i o; see `conv` for the sizes it accepts."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        size: int,
        *,
        stride: int,
        padding: int = 0,
        dtype: DTypeLike = "float32",
        rngs: nnx.Rngs,
    ):
        shape = (size, size, in_features, out_features)
        self.kernel = nnx.Param(fresh_kernel(rngs, shape, size * size * in_features))
        self.bias = nnx.Param(jnp.zeros(out_features))
        self.stride, self.padding, self.dtype = stride, padding, jnp.dtype(dtype)

    def __call__(
        self, x: Float[Array, "b h w i"]
    ) -> Float[Array, "b h//{self.stride} w//{self.stride} o"]:
        return conv(x, self.kernel[...], self.bias[...], self.stride, self.padding, self.dtype)


class UpConv(nnx.Module):
    """A transposed convolution 2x2 of stride 2: each pixel becomes four. `kernel` is i h w o."""

    def __init__(
        self, in_features: int, out_features: int, *, dtype: DTypeLike = "float32", rngs: nnx.Rngs
    ):
        self.kernel = nnx.Param(fresh_kernel(rngs, (in_features, 2, 2, out_features), in_features))
        self.bias = nnx.Param(jnp.zeros(out_features))
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b 2*h 2*w o"]:
        kernel = rearrange(self.kernel[...], "i y x o -> i (y x o)")
        four = dense(x, kernel, jnp.tile(self.bias[...], 4), self.dtype)
        return rearrange(four, "b h w (y x o) -> b (h y) (w x) o", y=2, x=2)


class Depthwise(nnx.Module):
    """A 7x7 convolution of each channel with its own kernel, zero padded to the same size."""

    def __init__(self, features: int, size: int = 7, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(fresh_kernel(rngs, (size, size, features), size * size))
        self.bias = nnx.Param(jnp.zeros(features))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return depthwise(x, self.kernel[...]) + per_channel(self.bias[...], x)


class Mlp(nnx.Module):
    """`depth` linear layers with an activation between them."""

    def __init__(
        self,
        in_features: int,
        hidden: int,
        out_features: int,
        depth: int = 2,
        *,
        activation: Callable = jax.nn.relu,
        dtype: DTypeLike = "float32",
        rngs: nnx.Rngs,
    ):
        sizes = [in_features, *[hidden] * (depth - 1), out_features]
        self.layers = nnx.List(
            Linear(i, o, dtype=dtype, rngs=rngs) for i, o in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.activation = activation

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class Projections(nnx.Module):
    """The projections of multi-head attention, `inner` channels wide over all heads."""

    def __init__(
        self,
        features: int,
        num_heads: int,
        *,
        inner: int | None = None,
        kv_features: int | None = None,
        dtype: DTypeLike = "float32",
        rngs: nnx.Rngs,
    ):
        """Raises ValueError if the heads do not divide `inner` (default `features`)."""
        inner, kv_features = inner or features, kv_features or features
        if inner % num_heads:
            raise ValueError(f"num_heads: {num_heads} heads do not divide {inner} channels")
        self.q_proj = Linear(features, inner, dtype=dtype, rngs=rngs)
        self.k_proj = Linear(kv_features, inner, dtype=dtype, rngs=rngs)
        self.v_proj = Linear(kv_features, inner, dtype=dtype, rngs=rngs)
        self.out_proj = Linear(inner, features, dtype=dtype, rngs=rngs)
        self.num_heads, self.dtype = num_heads, jnp.dtype(dtype)


class Attention(Projections):
    """Multi-head attention.

    Projections round to `dtype`; the attention itself is of dtype float32. It is for few queries or
    few keys, whose products are so small that rounding their inputs would take longer than it
    saves.
    """

    def __call__(
        self,
        q: Float[Array, "b n c"],
        k: Float[Array, "b s e"],
        v: Float[Array, "b s e"],
        mask: Bool[Array, "b s"] | None = None,
    ) -> Float[Array, "b n c"]:
        """`mask` is true for the keys that count."""
        projected = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        q, k, v = (split_heads(x, self.num_heads) for x in projected)
        return self.out_proj(merge_heads(attention(q, k, v, mask, jnp.dtype("float32"))))


def fresh_kernel(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> Float[Array, "*shape"]:
    """Normal numbers cut off at two standard deviations, of variance 1 / (3 fan_in).

    That is the variance that the reference starts from. With three times as much the trunk, which
    has no final norm, passes on maps so large that the prompts added to them have no effect.

    Drawn in pieces of one size, since the program that draws is compiled for each size: a model of
    a hundred shapes then starts in two seconds and not in twenty.
    """
    key, size = rngs.params(), math.prod(shape)
    pieces = [_draw(jax.random.fold_in(key, i)) for i in range(math.ceil(size / PIECE))]
    numbers = pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces)
    # Truncation reduces a standard deviation of 1 to 0.8796.
    return numbers[:size].reshape(shape) / (0.87962566 * math.sqrt(3 * fan_in))


@jax.jit
def _draw(key):
    return jax.random.truncated_normal(key, -2.0, 2.0, (PIECE,))


def split_heads(x: Float[Array, "b n c"], num_heads: int) -> Float[Array, "b k n d"]:
    """Channels as k heads of d each, heads before tokens."""
    return rearrange(x, "b n (k d) -> b k n d", k=num_heads)


def merge_heads(x: Float[Array, "b k n d"]) -> Float[Array, "b n c"]:
    """The inverse of `split_heads`."""
    return rearrange(x, "b k n d -> b n (k d)")


def drop_path(
    x: Float[Array, "b *rest"], rate: float, chance: Float[Array, " b"] | None
) -> Float[Array, "b *rest"]:
    """Zero the samples whose chance is below `rate`, scale up the rest; without chances do nothing.

    Stochastic depth (Huang et al. 2016). Chances are uniform in [0, 1), drawn by the caller for all
    of its branches at once: for each draw XLA compiles a dozen kernels.
    """
    if chance is None or rate == 0:
        return x
    kept = (chance >= rate).reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(kept, x / (1 - rate), 0.0)
