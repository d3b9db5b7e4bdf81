"""The current frame reads the memory bank: self- and cross-attention with rotary positions.

In: the image embedding, memory maps and object pointers as one sequence of keys, and which of them
count. Out: the image embedding, conditioned on them. SAM 2 (Ravi et al. 2024), section 4 and
appendix D; rotary position embedding (Su et al. 2021) in its axial form.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, PRNGKeyArray

from petsam_jax.models.layers import (
    TOKEN_EPS,
    LayerNorm,
    Linear,
    Projections,
    attention,
    dense,
    merge_heads,
    per_channel,
    split_heads,
)
from petsam_jax.models.position import axial_rope

# How much of the position encoding is added to the image embedding before the first layer.
POSITION_SHARE = 0.1


class MemoryAttention(nnx.Module):
    """`num_layers` of self-attention, attention to the memory, and feed-forward."""

    def __init__(
        self,
        d_model: int,
        memory_dim: int,
        *,
        num_layers: int = 4,
        num_heads: int = 1,
        mlp_dim: int = 2048,
        dropout: float = 0.1,
        dtype: DTypeLike = "float32",
        rngs: nnx.Rngs,
    ):
        self.layers = nnx.List(
            MemoryAttentionLayer(
                d_model, memory_dim, num_heads, mlp_dim, dropout, dtype=dtype, rngs=rngs
            )
            for _ in range(num_layers)
        )
        self.norm = LayerNorm(d_model, eps=TOKEN_EPS)

    def __call__(
        self,
        image_embed: Float[Array, "b h w c"],
        position: Float[Array | np.ndarray, "i h w c"],
        memory: Float[Array, "b s e"],
        memory_position: Float[Array, "b s e"],
        memory_mask: Bool[Array, "b s"] | None = None,
        *,
        num_pointers: int,
        key: PRNGKeyArray | None = None,
    ) -> Float32[Array, "b h w c"]:
        """`memory` are maps of h x w tokens, then `num_pointers` tokens without a position.

        `memory_mask` is true for the tokens that count. A key turns dropout on: after each part of
        a layer and inside the feed-forward, not on the attention weights.
        """
        size = image_embed.shape[1], image_embed.shape[2]
        x = image_embed + POSITION_SHARE * jnp.asarray(position)
        x = rearrange(x, "b h w c -> b (h w) c")
        placed = memory + memory_position
        for index, layer in enumerate(self.layers):
            layer_key = None if key is None else jax.random.fold_in(key, index)
            x = layer(x, placed, memory, memory_mask, size, num_pointers, layer_key)
        return rearrange(self.norm(x), "b (h w) c -> b h w c", h=size[0])


class MemoryAttentionLayer(nnx.Module):
    """Norm before each part, and a residual around it; only the memory's keys are placed."""

    def __init__(
        self,
        d_model: int,
        memory_dim: int,
        num_heads: int,
        mlp_dim: int,
        dropout: float,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.self_attn = RopeAttention(d_model, num_heads, **options)
        self.cross_attn_image = RopeAttention(d_model, num_heads, kv_features=memory_dim, **options)
        self.linear1 = Linear(d_model, mlp_dim, **options)
        self.linear2 = Linear(mlp_dim, d_model, **options)
        self.norm1 = LayerNorm(d_model, eps=TOKEN_EPS)
        self.norm2 = LayerNorm(d_model, eps=TOKEN_EPS)
        self.norm3 = LayerNorm(d_model, eps=TOKEN_EPS)
        self.dropout = dropout

    def __call__(
        self,
        x: Float[Array, "b l c"],
        placed_memory: Float[Array, "b s e"],
        memory: Float[Array, "b s e"],
        memory_mask: Bool[Array, "b s"] | None,
        size: tuple[int, int],
        num_pointers: int,
        key: PRNGKeyArray | None,
    ) -> Float32[Array, "b l c"]:
        """`x` is a map of `size`, height and width; `placed_memory` the memory with its position.

        The last three, and `memory_mask`, are as for `MemoryAttention` and `RopeAttention`.
        """
        keys = (None,) * 4 if key is None else jax.random.split(key, 4)
        normed = self.norm1(x)
        x = x + dropout(self.self_attn(normed, normed, normed, size), self.dropout, keys[0])
        read = self.cross_attn_image(
            self.norm2(x), placed_memory, memory, size, num_pointers, memory_mask
        )
        x = x + dropout(read, self.dropout, keys[1])
        hidden = dropout(jax.nn.relu(self.linear1(self.norm3(x))), self.dropout, keys[2])
        return x + dropout(self.linear2(hidden), self.dropout, keys[3])


class RopeAttention(Projections):
    """Attention whose queries and keys are turned by their place on the map.

    Pairs of neighbouring channels (2i, 2i+1) turn, as in SAM 2. To turn them fast, the projections
    put all first members before all second ones; scores are the same in any order of channels.
    Products are of `dtype`, but of float32 where the values of several heads are projected.
    """

    def __call__(
        self,
        q: Float[Array, "b n c"],
        k: Float[Array, "b s e"],
        v: Float[Array, "b s e"],
        size: tuple[int, int],
        num_pointers: int = 0,
        mask: Bool[Array, "b s"] | None = None,
    ) -> Float32[Array, "b n c"]:
        """`size` is the height and width of the map of queries.

        Keys are any number of such maps, and `num_pointers` more that are not turned. Raises
        ValueError for keys that are no whole maps.
        """
        maps, rest = divmod(k.shape[1] - num_pointers, size[0] * size[1])
        if rest:
            raise ValueError(f"keys: {k.shape[1]} - {num_pointers} make no maps of {size}")
        q = self._project(self.q_proj, q, size, 1, 0)
        k = self._project(self.k_proj, k, size, maps, num_pointers)
        # Weights sum to 1, so that values may be mixed before they are projected: memory is narrow.
        v = jnp.broadcast_to(v[:, None], (v.shape[0], self.num_heads) + v.shape[1:])
        return self.out_proj(self._project_values(attention(q, k, v, mask, self.dtype)))

    def _project_values(self, mixed: Float[Array, "b k n e"]) -> Float32[Array, "b n d"]:
        kernel, bias = self.v_proj.kernel[...], self.v_proj.bias[...]
        if self.num_heads == 1:
            return dense(mixed[:, 0], kernel, bias, self.dtype)
        kernel = rearrange(kernel, "e (k d) -> k e d", k=self.num_heads)
        values = merge_heads(jnp.einsum("bkne,ked->bknd", mixed, kernel))
        return values + per_channel(bias, values)

    def _project(self, proj: Linear, x, size, maps, num_pointers):
        kernel, bias = proj.kernel[...], proj.bias[...]
        order = dict(k=self.num_heads, two=2)
        kernel = rearrange(kernel, "i (k f two) -> i (k two f)", **order)
        bias = rearrange(bias, "(k f two) -> (k two f)", **order)
        x = split_heads(dense(x, kernel, bias, self.dtype), self.num_heads)
        cos, sin = axial_rope(size[0], size[1], x.shape[-1])
        still = ((0, num_pointers), (0, 0))
        cos = np.pad(np.tile(cos, (maps, 1)), still, constant_values=1)
        sin = np.pad(np.tile(sin, (maps, 1)), still)
        return rotate_halves(x, cos, sin)


def rotate_halves(
    x: Float[Array, "b k n d"],
    cos: Float[Array | np.ndarray, "n f"],
    sin: Float[Array | np.ndarray, "n f"],
) -> Float32[Array, "b k n d"]:
    """Turn the pairs (i, i + d/2) of channels by the angles of `axial_rope`."""
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.asarray(cos)[None, None], jnp.asarray(sin)[None, None]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def dropout(x: Float[Array, "*b"], rate: float, key: PRNGKeyArray | None) -> Float[Array, "*b"]:
    """Zero each number with probability `rate`, scale up the rest; without a key do nothing."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0.0)
