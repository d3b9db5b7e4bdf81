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
from tests.golden import (
    assert_close,
    b_hw_c,
    golden,
    golden_params,
    hw_b_c,
    load_part,
    outputs,
    run,
    shipped,
    shipped_params,
)

CHANNELS, MEMORY = 32, 8
SIZE = (8, 8)


def rope(heads=1, seed=0, **options):
    return RopeAttention(CHANNELS, heads, rngs=nnx.Rngs(seed), **options)


def memory_attention(params, dtype="float32", drop=0.0):
    model = MemoryAttention(
        CHANNELS, MEMORY, num_layers=2, mlp_dim=64, dropout=drop, dtype=dtype, rngs=nnx.Rngs(0)
    )
    return load_part(model, params, "memory_attention")


def shipped_attention(dtype="float32", drop=0.0):
    return memory_attention(shipped_params(), dtype, drop)


@pytest.fixture(scope="module")
def g():
    return shipped("memory_attention")


def attend(model, q, k, v, size=SIZE, num_pointers=0):
    return run(model, q, k, v, size=size, num_pointers=num_pointers)


def inputs(g):
    image, position = (
        rearrange(g[name], "(h w) b c -> b h w c", h=8) for name in ("curr", "curr_pos")
    )
    arrays = image, position, b_hw_c(g["memory"]), b_hw_c(g["memory_pos"])
    return tuple(jnp.asarray(array) for array in arrays)


# Parity

ROPE_INPUTS = {"self.q", "self.k", "self.v", "cross.k", "cross.v"}
ROPE_INPUTS |= {"twohead.q", "twohead.k", "twohead.v"}
ROPE_INPUTS |= {
    f"twohead.param.{part}_proj.{name}" for part in "qkv" for name in ("weight", "bias")
}
ROPE_INPUTS |= {"twohead.param.out_proj.weight", "twohead.param.out_proj.bias"}


@pytest.fixture(scope="module")
def rope_found():
    """What ours computes, under the names of the golden arrays."""
    r, params = golden("rope_attention"), golden_params()
    alone = load_part(rope(), params, "memory_attention.layers.0.self_attn")
    cross = rope(kv_features=MEMORY)
    load_part(cross, params, "memory_attention.layers.0.cross_attn_image")
    q, k, v = r["self.q"], r["cross.k"], r["cross.v"]
    return rotations() | {
        "self.out": attend(alone, q, r["self.k"], r["self.v"]),
        "cross.out_3frames_plus_8_excluded": attend(cross, q, k, v, num_pointers=8),
        "cross.out_first_2frames_none_excluded": attend(cross, q, k[:, :128], v[:, :128]),
        "twohead.out_3_excluded": two_heads(r),
    }


def rotations():
    found = {}
    for name, size, features in (("cis32_8x8", (8, 8), 32), ("cis8_endx4_endy3", (3, 4), 8)):
        found[f"{name}_real"], found[f"{name}_imag"] = axial_rope(*size, features)
    return found


def two_heads(r):
    """An attention with parameters of its own, on a map of 4 x 4."""
    names = [name for name in r if name.startswith("twohead.param.")]
    arrays = {
        name.removeprefix("twohead.param.").replace("weight", "kernel"): r[name].T for name in names
    }
    model = load_part(rope(2, inner=16, kv_features=MEMORY), arrays)
    return attend(model, *(r[f"twohead.{name}"] for name in "qkv"), size=(4, 4), num_pointers=3)


@pytest.mark.parametrize("name", outputs("rope_attention", ROPE_INPUTS))
def test_every_array_of_one_attention_equals_the_reference(rope_found, name):
    assert_close("rope_attention", rope_found[name], golden("rope_attention")[name], name)


@pytest.fixture(scope="module")
def found():
    g, model = golden("memory_attention"), memory_attention(golden_params())
    out = run(model, *inputs(g), num_pointers=8)
    out = hw_b_c(rearrange(out, "b h w c -> b (h w) c"))
    return {"out_8_ptr_tokens": out} | layer_steps(model.layers[0], *inputs(g))


def layer_steps(layer, image, position, memory, memory_position):
    x = rearrange(image + 0.1 * position, "b h w c -> b (h w) c")
    normed = layer.norm1(x)
    after_self = x + attend(layer.self_attn, normed, normed, normed)
    q, placed = layer.norm2(after_self), memory + memory_position
    after_cross = after_self + attend(layer.cross_attn_image, q, placed, memory, num_pointers=8)
    hidden = jax.nn.relu(layer.linear1(layer.norm3(after_cross)))
    return {
        "layer0.after_self_attn_batch_first": after_self,
        "layer0.after_cross_attn_batch_first": after_cross,
        "layer0.out_batch_first": after_cross + layer.linear2(hidden),
    }


@pytest.mark.parametrize(
    "name", outputs("memory_attention", {"curr", "curr_pos", "memory", "memory_pos"})
)
def test_every_array_of_the_whole_equals_the_reference(found, name):
    assert_close("memory_attention", found[name], golden("memory_attention")[name], name)


# Behaviour


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


def test_masked_keys_are_as_good_as_none(rng, g):
    model = shipped_attention()
    image, position, memory, memory_position = inputs(g)
    junk = 50 * rng.normal(size=(2, 64, MEMORY)).astype(np.float32)
    more, more_position = (
        np.concatenate([x[:, :64], junk, x[:, 64:]], axis=1) for x in (memory, memory_position)
    )
    mask = np.ones((2, more.shape[1]), bool)
    mask[:, 64:128] = False
    got = run(model, image, position, more, more_position, mask, num_pointers=8)
    want = run(model, image, position, memory, memory_position, num_pointers=8)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_rectangle_and_keys_that_make_no_map(rng):
    model = rope(kv_features=MEMORY)
    q = rng.normal(size=(1, 24, CHANNELS)).astype(np.float32)
    k = rng.normal(size=(1, 24 * 2 + 5, MEMORY)).astype(np.float32)
    assert attend(model, q, k, k, size=(4, 6), num_pointers=5).shape == q.shape
    with pytest.raises(ValueError, match="53 - 4 make no maps of"):
        attend(model, q, k, k, size=(4, 6), num_pointers=4)


@pytest.mark.slow
def test_dropout_by_key(g):
    model = shipped_attention(drop=0.1)
    still = run(model, *inputs(g), num_pointers=8)
    keys = jax.random.split(jax.random.key(0))
    dropping = jax.jit(lambda key, *given: model(*given, num_pointers=8, key=key))
    one, same, other = (dropping(key, *inputs(g)) for key in (keys[0], keys[0], keys[1]))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - still).mean() > 0.01 and np.abs(one - other).mean() > 0.01
    x = dropout(jnp.ones((100, 100)), 0.1, keys[0])
    assert abs(float((x == 0).mean()) - 0.1) < 0.02
    np.testing.assert_allclose(x.max(), 1 / 0.9, rtol=1e-6)


def test_gradients_reach_every_parameter(g):
    graph, params = nnx.split(shipped_attention())

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
    full, half = (
        run(shipped_attention(dtype), *inputs(g), num_pointers=8)
        for dtype in ("float32", "bfloat16")
    )
    assert half.dtype == jnp.float32
    assert float(jnp.abs(half - full).mean() / jnp.abs(full).mean()) < 0.05
