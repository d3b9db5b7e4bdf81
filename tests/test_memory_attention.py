"""Rotary and memory attention equal the reference's, and depend on places as they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx

from petsam_jax.models.memory_attention import (
    MemoryAttention,
    RopeAttention,
    dropout,
    rotate_halves,
)
from petsam_jax.models.position import axial_rope
from tests.golden import assert_close, b_hw_c, golden, load_part

CHANNELS, MEMORY = 32, 8
SIZE = (8, 8)


def rope(heads=1, seed=0, **options):
    return RopeAttention(CHANNELS, heads, rngs=nnx.Rngs(seed), **options)


def memory_attention(dtype="float32", drop=0.0):
    model = MemoryAttention(
        CHANNELS, MEMORY, num_layers=2, mlp_dim=64, dropout=drop, dtype=dtype, rngs=nnx.Rngs(0)
    )
    return load_part(model, "memory_attention")


@pytest.fixture(scope="module")
def g():
    return golden("memory_attention")


@pytest.fixture(scope="module")
def r():
    return golden("rope_attention")


@nnx.jit(static_argnames=("num_pointers",))
def run(model, image_embed, position, memory, memory_position, mask=None, num_pointers=8, key=None):
    return model(
        image_embed, position, memory, memory_position, mask, num_pointers=num_pointers, key=key
    )


@nnx.jit(static_argnames=("size", "num_pointers"))
def attend(model, q, k, v, size=SIZE, num_pointers=0, mask=None):
    return model(q, k, v, size, num_pointers, mask)


def inputs(g):
    image, position = (
        rearrange(g[name], "(h w) b c -> b h w c", h=8) for name in ("curr", "curr_pos")
    )
    arrays = image, position, b_hw_c(g["memory"]), b_hw_c(g["memory_pos"])
    return tuple(jnp.asarray(array) for array in arrays)


def test_rotation_factors_equal_reference(r):
    for name, size, features in (("cis32_8x8", (8, 8), 32), ("cis8_endx4_endy3", (3, 4), 8)):
        cos, sin = axial_rope(*size, features)
        assert_close("rope_attention", cos, r[f"{name}_real"], name)
        assert_close("rope_attention", sin, r[f"{name}_imag"], name)


def test_self_attention_equals_reference(r):
    model = load_part(rope(), "memory_attention.layers.0.self_attn")
    got = attend(model, r["self.q"], r["self.k"], r["self.v"])
    assert_close("rope_attention", got, r["self.out"])


@pytest.mark.parametrize(
    "array, keys, num_pointers",
    [
        ("cross.out_3frames_plus_8_excluded", 200, 8),
        ("cross.out_first_2frames_none_excluded", 128, 0),
    ],
)
def test_cross_attention_equals_reference(r, array, keys, num_pointers):
    model = load_part(rope(kv_features=MEMORY), "memory_attention.layers.0.cross_attn_image")
    k, v = r["cross.k"][:, :keys], r["cross.v"][:, :keys]
    got = attend(model, r["self.q"], k, v, num_pointers=num_pointers)
    assert_close("rope_attention", got, r[array], array)


def test_several_heads_equal_reference(r):
    names = [name for name in r if name.startswith("twohead.param.")]
    arrays = {
        name.removeprefix("twohead.param.").replace("weight", "kernel"): r[name].T for name in names
    }
    model = load_part(rope(2, inner=16, kv_features=MEMORY), arrays=arrays)
    q, k, v = (r[f"twohead.{name}"] for name in "qkv")
    got = attend(model, q, k, v, size=(4, 4), num_pointers=3)
    assert_close("rope_attention", got, r["twohead.out_3_excluded"])


def test_memory_attention_equals_reference(g):
    got = run(memory_attention(), *inputs(g))
    want = b_hw_c(g["out_8_ptr_tokens"])
    assert_close("memory_attention", rearrange(got, "b h w c -> b (h w) c"), want)


def test_parts_of_a_layer_equal_reference(g):
    layer = memory_attention().layers[0]
    image, position, memory, memory_position = inputs(g)
    x = rearrange(image + 0.1 * position, "b h w c -> b (h w) c")
    normed = layer.norm1(x)
    x = x + attend(layer.self_attn, normed, normed, normed)
    assert_close("memory_attention", x, g["layer0.after_self_attn_batch_first"])
    placed = memory + memory_position
    x = x + attend(layer.cross_attn_image, layer.norm2(x), placed, memory, num_pointers=8)
    assert_close("memory_attention", x, g["layer0.after_cross_attn_batch_first"])
    x = x + layer.linear2(jax.nn.relu(layer.linear1(layer.norm3(x))))
    assert_close("memory_attention", x, g["layer0.out_batch_first"])


def rotate(x, cos, sin):
    """The plain formula: pairs of neighbouring channels (2i, 2i+1) turn."""
    first, second = rearrange(x, "b k n (f two) -> two b k n f", two=2)
    turned = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis=-1)
    return rearrange(turned, "b k n f two -> b k n (f two)")


def test_halves_turn_as_neighbours_do(rng):
    x = jnp.asarray(rng.normal(size=(2, 3, 12, 8)), jnp.float32)
    cos, sin = axial_rope(3, 4, 8)
    halves = rotate_halves(rearrange(x, "b k n (f two) -> b k n (two f)", two=2), cos, sin)
    got = rearrange(halves, "b k n (two f) -> b k n (f two)", two=2)
    np.testing.assert_allclose(got, rotate(x, cos[None, None], sin[None, None]), atol=1e-6)


def test_rope_breaks_permutation_symmetry(rng):
    """Without positions, keys in another order would give the same answer."""
    model = rope()
    q, k = rng.normal(size=(2, 1, 64, CHANNELS)).astype(np.float32) * 3
    order = rng.permutation(64)
    out, permuted = attend(model, q, k, k), attend(model, q, k[:, order], k[:, order])
    assert np.abs(out - permuted).max() > 0.02
    # Pointers have no place: they may change places among each other, and nobody notices.
    loose = attend(model, q, k, k, num_pointers=64)
    np.testing.assert_allclose(
        attend(model, q, k[:, order], k[:, order], num_pointers=64), loose, atol=1e-5
    )


def test_scores_depend_on_offsets_only(rng):
    """A query and a key moved by the same way score the same, in x and in y."""
    height, width, channels = 6, 9, 16
    cos, sin = axial_rope(height, width, channels)
    q, k = rng.normal(size=(2, channels)).astype(np.float32)
    everywhere = np.broadcast_to(q, (1, 1, height * width, channels))
    placed_q = rotate_halves(jnp.asarray(everywhere), cos, sin)[0, 0]
    placed_k = rotate_halves(jnp.broadcast_to(k, everywhere.shape), cos, sin)[0, 0]
    scores = np.asarray(placed_q @ placed_k.T).reshape(height, width, height, width)
    np.testing.assert_allclose(scores[1:, 2:, 1:, 2:], scores[:-1, :-2, :-1, :-2], atol=1e-4)
    assert scores[0, 0].std() > 0.1 and abs(scores[0, 0, 0, 3] - scores[0, 0, 3, 0]) > 0.01


def test_masked_keys_are_as_good_as_none(rng, g):
    model = memory_attention()
    image, position, memory, memory_position = inputs(g)
    junk = 50 * rng.normal(size=(2, 64, MEMORY)).astype(np.float32)
    more, more_position = (
        np.concatenate([x[:, :64], junk, x[:, 64:]], axis=1) for x in (memory, memory_position)
    )
    mask = np.ones((2, more.shape[1]), bool)
    mask[:, 64:128] = False
    got = run(model, image, position, more, more_position, mask)
    want = run(model, image, position, memory, memory_position)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_rectangle_and_keys_that_make_no_map(rng):
    model = rope(kv_features=MEMORY)
    q = rng.normal(size=(1, 24, CHANNELS)).astype(np.float32)
    k = rng.normal(size=(1, 24 * 2 + 5, MEMORY)).astype(np.float32)
    assert attend(model, q, k, k, size=(4, 6), num_pointers=5).shape == q.shape
    with pytest.raises(ValueError, match="53 - 4 make no maps of"):
        attend(model, q, k, k, size=(4, 6), num_pointers=4)


def test_dropout_by_key(g):
    model = memory_attention(drop=0.1)
    still = run(model, *inputs(g))
    keys = jax.random.split(jax.random.key(0))
    one, same, other = (run(model, *inputs(g), key=key) for key in (keys[0], keys[0], keys[1]))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - still).mean() > 0.01 and np.abs(one - other).mean() > 0.01
    x = dropout(jnp.ones((100, 100)), 0.1, keys[0])
    assert abs(float((x == 0).mean()) - 0.1) < 0.02
    np.testing.assert_allclose(x.max(), 1 / 0.9, rtol=1e-6)


def test_gradients_reach_every_parameter(g):
    graph, params = nnx.split(memory_attention())

    @jax.jit
    def gradients(params):
        def loss(params):
            out = nnx.merge(graph, params)(*inputs(g), num_pointers=8)
            return (out * jnp.sin(jnp.arange(out.size)).reshape(out.shape)).sum()

        return jax.grad(loss)(params)

    norms = {
        ".".join(map(str, path)): float(jnp.abs(grad[...]).max())
        for path, grad in nnx.to_flat_state(gradients(params))
    }
    # A bias of the keys turns with them only in part, and softmax undoes the rest: no zero here.
    assert len(norms) == 54
    assert min(norms.values()) > 1e-4, norms


def test_bfloat16_is_close(g):
    full, half = (run(memory_attention(dtype), *inputs(g)) for dtype in ("float32", "bfloat16"))
    assert half.dtype == jnp.float32
    assert float(jnp.abs(half - full).mean() / jnp.abs(full).mean()) < 0.05
