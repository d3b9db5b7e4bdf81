"""Hiera (Ryali et al. 2023) as SAM 2 uses it (Ravi et al. 2024, appendix D): the image trunk.

In: a normalised image, b h w 3, with sides that are multiples of 32. Out: maps at strides 4, 8, 16
and 32, twice the channels at each. Attention is within windows, but for a few global blocks; the
first block of a stage halves the map by pooling its queries, within windows of the stage before.
"""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from petsam_jax.models.layers import (
    MAP_EPS,
    Conv,
    LayerNorm,
    Linear,
    Mlp,
    attention,
    drop_path,
    gelu,
    max_pool,
)
from petsam_jax.models.position import resize_bicubic

# Stride of the patch embedding; three poolings follow.
PATCH_STRIDE = 4
WHOLE_MAP = 0


class Hiera(nnx.Module):
    """The trunk; all its sizes are plain numbers, one a stage where there are several."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        stages: Sequence[int],
        window_sizes: Sequence[int],
        global_att_blocks: Sequence[int],
        *,
        drop_path_rate: float = 0.0,
        mlp_ratio: float = 4.0,
        pos_embed_size: Sequence[int] = (7, 7),
        dtype: DTypeLike = "float32",
        rngs: nnx.Rngs,
    ):
        """`global_att_blocks` are indices of blocks that attend over the whole map.

        Raises ValueError for stages and windows that do not match, or a window of odd size where
        queries are pooled.
        """
        depth = sum(stages)
        _check(stages, window_sizes, global_att_blocks)
        self.patch_embed = Conv(
            3, embed_dim, 7, stride=PATCH_STRIDE, padding=3, dtype=dtype, rngs=rngs
        )
        init = nnx.initializers.truncated_normal(0.02)
        window = window_sizes[0]
        self.pos_embed = nnx.Param(init(rngs.params(), (*pos_embed_size, embed_dim)))
        self.pos_embed_window = nnx.Param(init(rngs.params(), (window, window, embed_dim)))
        self.stages = tuple(stages)
        starts = list(accumulate(stages, initial=0))
        blocks, features, heads = [], embed_dim, num_heads
        for index in range(depth):
            stage = sum(index >= start for start in starts) - 1
            pool = stage > 0 and index == starts[stage]
            window = window_sizes[stage - 1 if pool else stage]
            out = features * 2 if pool else features
            heads = heads * 2 if pool else heads
            blocks.append(
                MultiScaleBlock(
                    features,
                    out,
                    heads,
                    pool=pool,
                    window=WHOLE_MAP if index in global_att_blocks else window,
                    drop_path_rate=drop_path_rate * index / max(depth - 1, 1),
                    mlp_ratio=mlp_ratio,
                    dtype=dtype,
                    rngs=rngs,
                )
            )
            features = out
        self.blocks = nnx.List(blocks)

    def __call__(
        self, image: Float[Array, "b h w 3"], key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Maps at strides 4, 8, 16, 32; a key turns drop path on.

        Raises ValueError for sides that are not multiples of 32.
        """
        if image.shape[1] % 32 or image.shape[2] % 32:
            raise ValueError(f"image: sides must be multiples of 32, got {image.shape[1:3]}")
        x = self.patch_embed(image)
        x = x + self.position(x.shape[1], x.shape[2])[None]
        ends = list(accumulate(self.stages))
        shape = len(self.blocks), 2, len(x)
        chances = None if key is None else jax.random.uniform(key, shape)
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x, None if chances is None else chances[index])
            if index + 1 in ends:
                maps.append(x)
        return tuple(maps)

    def position(self, height: int, width: int) -> Float[Array, "h w c"]:
        """The background embedding, resized, plus the window embedding, repeated."""
        window = self.pos_embed_window[...]
        repeats = (-(-height // window.shape[0]), -(-width // window.shape[1]), 1)
        tiled = jnp.tile(window, repeats)[:height, :width]
        return resize_bicubic(self.pos_embed[...], height, width) + tiled


class MultiScaleBlock(nnx.Module):
    """A transformer block on a map; with `pool` it halves the map and doubles the channels."""

    def __init__(
        self,
        features: int,
        out_features: int,
        num_heads: int,
        *,
        pool: bool,
        window: int,
        drop_path_rate: float,
        mlp_ratio: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        hidden = int(out_features * mlp_ratio)
        self.norm1 = LayerNorm(features, eps=MAP_EPS)
        self.attn = WindowAttention(
            features, out_features, num_heads, pool=pool, window=window, dtype=dtype, rngs=rngs
        )
        self.norm2 = LayerNorm(out_features, eps=MAP_EPS)
        self.mlp = Mlp(out_features, hidden, out_features, activation=gelu, dtype=dtype, rngs=rngs)
        if pool:
            self.proj = Linear(features, out_features, dtype=dtype, rngs=rngs)
        self.pool, self.drop_path_rate = pool, drop_path_rate

    def __call__(
        self, x: Float[Array, "b h w c"], chances: Float[Array, "2 b"] | None = None
    ) -> Float[Array, "b h2 w2 c2"]:
        """`chances` of each branch and sample turn drop path on."""
        attended, fed = (None, None) if chances is None else chances
        normed = self.norm1(x)
        # Where the map changes, the shortcut starts from the normalised input.
        shortcut = max_pool(self.proj(normed)) if self.pool else x
        x = shortcut + drop_path(self.attn(normed), self.drop_path_rate, attended)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path_rate, fed)


class WindowAttention(nnx.Module):
    """Self-attention within windows, or over the whole map; `pool` takes the largest query of 2x2.

    A map that windows do not tile is padded bottom and right by zeros, which count as tokens.
    """

    def __init__(
        self,
        features: int,
        out_features: int,
        num_heads: int,
        *,
        pool: bool,
        window: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.qkv = Linear(features, 3 * out_features, dtype=dtype, rngs=rngs)
        self.proj = Linear(out_features, out_features, dtype=dtype, rngs=rngs)
        self.num_heads, self.pool, self.window = num_heads, pool, window
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        b, h, w, _ = x.shape
        window = (self.window, self.window) if self.window else (h, w)
        qkv = self.qkv(pad_to_windows(x, window))
        grid, query_window = (qkv.shape[1] // window[0], qkv.shape[2] // window[1]), window
        if self.pool:
            q, k, v = jnp.split(qkv, 3, axis=-1)
            q, h, w = max_pool(q), h // 2, w // 2
            query_window = (window[0] // 2, window[1] // 2)
            q = split_windows(q, query_window, self.num_heads)
            k, v = (split_windows(z, window, self.num_heads) for z in (k, v))
        else:
            q, k, v = split_qkv(qkv, window, grid, self.num_heads, self.dtype)
        out = attention(q, k, v, None, self.dtype)
        return self.proj(merge_windows(out, query_window, grid)[:, :h, :w])


def pad_to_windows(
    x: Float[Array, "b h w c"], window: tuple[int, int]
) -> Float[Array, "b hp wp c"]:
    """Zeros at the bottom and the right until windows tile the map."""
    below, right = -x.shape[1] % window[0], -x.shape[2] % window[1]
    return jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0))) if below or right else x


def split_windows(
    x: Float[Array, "b h w c"], window: tuple[int, int], num_heads: int = 1
) -> Float[Array, "n k l d"]:
    """A map as windows (b, then reading order) of heads of tokens; windows must tile the map."""
    pattern = "b (gy y) (gx x) (k d) -> (b gy gx) k (y x) d"
    return rearrange(x, pattern, y=window[0], x=window[1], k=num_heads)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def split_qkv(
    qkv: Float[Array, "b h w c"],
    window: tuple[int, int],
    grid: tuple[int, int],
    num_heads: int,
    dtype: DTypeLike,
) -> tuple[Float[Array, "n k l d"], Float[Array, "n k l d"], Float[Array, "n k l d"]]:
    """Queries, keys and values as windows of heads; `grid` counts the windows of a map.

    Gradients are rounded to `dtype`, as the projection before would do, while they are still in
    windows: two copies then move half as much.
    """
    q, k, v = (split_windows(z, window, num_heads) for z in jnp.split(qkv, 3, axis=-1))
    return q, k, v


def _split_qkv_forward(qkv, *static):
    return split_qkv(qkv, *static), None


def _split_qkv_backward(window, grid, num_heads, dtype, _, grads):
    maps = [merge_windows(grad.astype(dtype), window, grid) for grad in grads]
    return (jnp.concatenate(maps, axis=-1).astype(jnp.float32),)


split_qkv.defvjp(_split_qkv_forward, _split_qkv_backward)


def merge_windows(
    x: Float[Array, "n k l d"], window: tuple[int, int], grid: tuple[int, int]
) -> Float[Array, "b h w c"]:
    """The map that `split_windows` cut into `grid` windows."""
    pattern = "(b gy gx) k (y x) d -> b (gy y) (gx x) (k d)"
    return rearrange(x, pattern, gy=grid[0], gx=grid[1], y=window[0], x=window[1])


def _check(stages, window_sizes, global_att_blocks):
    if len(stages) != 4 or len(window_sizes) != 4 or min(stages) < 1:
        raise ValueError(
            f"stages, window_sizes: expected four numbers of at least 1, one a stage; got "
            f"stages={tuple(stages)}, window_sizes={tuple(window_sizes)}"
        )
    odd = [size for size in window_sizes[:3] if size % 2]
    if odd or min(window_sizes) < 1:
        raise ValueError(
            f"window_sizes: the first three must be even, as queries are pooled in them; "
            f"got {tuple(window_sizes)}"
        )
    outside = [index for index in global_att_blocks if not 0 <= index < sum(stages)]
    if outside:
        raise ValueError(
            f"global_att_blocks: {outside} are no blocks; there are {sum(stages)}, counted from 0"
        )
