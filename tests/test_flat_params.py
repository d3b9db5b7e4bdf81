"""Packed arrays: the same numbers in fewer arrays, by rule, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from petsam_jax.train import flat_params
from petsam_jax.train.flat_params import UNPACKED, pack_small

SHAPES = {"a.kernel": (3, 4), "a.bias": (4,), "b.kernel": (2, 3), "b.bias": (3,), "scale": ()}
RULES = {name: "decays" if "kernel" in name else "does not" for name in SHAPES}


def arrays(rng):
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def packed_below(size, monkeypatch, shapes=SHAPES, rules=RULES):
    monkeypatch.setattr(flat_params, "SMALL", size)
    return pack_small(shapes, rules)


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].shape == array.shape, name
        np.testing.assert_array_equal(got[name], array, err_msg=name)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("size", [99, 12, 6, 4, 1, 0])
def test_packed_arrays_are_unpacked(size, traced, rng, monkeypatch):
    pack, expected = packed_below(size, monkeypatch), arrays(rng)
    packed = jax.jit(pack.pack)(expected) if traced else pack.pack(expected)
    small = {name for name, shape in SHAPES.items() if np.prod(shape) < size}
    assert set(packed) == set(SHAPES) - small | set(pack.vectors)
    assert sum(array.size for array in packed.values()) == sum(a.size for a in expected.values())
    assert_same(jax.jit(pack.unpack)(packed) if traced else pack.unpack(packed), expected)
    # What is on the host stays there: each cut would be a program.
    if not traced:
        assert all(type(array) is np.ndarray for array in pack.unpack(packed).values())


def test_a_vector_has_one_rule(rng, monkeypatch):
    pack = packed_below(99, monkeypatch)
    assert [set(members) for members in pack.vectors.values()] == [
        {"a.kernel", "b.kernel"},
        {"a.bias", "b.bias", "scale"},
    ]
    assert list(pack.rules(RULES).values()) == ["decays", "does not"]
    assert pack.rules(RULES).keys() == pack.pack(arrays(rng)).keys()


def test_what_is_not_trained_is_not_packed(rng, monkeypatch):
    rules = {name: rule for name, rule in RULES.items() if name != "a.bias"}
    pack = packed_below(99, monkeypatch, rules=rules)
    assert "a.bias" in pack.pack(arrays(rng))


def test_empty_arrays_and_no_arrays_are_packed(monkeypatch):
    pack = packed_below(9, monkeypatch, {"none": (0, 7), "one": (1,)}, {"none": 0, "one": 0})
    expected = {"none": np.zeros((0, 7), np.float32), "one": np.ones(1, np.float32)}
    assert_same(pack.unpack(pack.pack(expected)), expected)
    assert pack_small({}, {}) == UNPACKED and UNPACKED.unpack(UNPACKED.pack({})) == {}


def test_the_gradient_of_packed_arrays_is_the_packed_gradient(rng, monkeypatch):
    pack, x = packed_below(99, monkeypatch), arrays(rng)

    def loss(named):
        # One array has no part in it.
        return sum((jnp.sin(a) * a.size).sum() for name, a in named.items() if name != "b.bias")

    got = jax.jit(jax.grad(lambda packed: loss(pack.unpack(packed))))(pack.pack(x))
    expected = jax.grad(loss)(x)
    for name, array in pack.unpack(got).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-6, err_msg=name)
    # Neither a sum of padded arrays nor one for each.
    text = str(jax.make_jaxpr(jax.grad(lambda packed: loss(pack.unpack(packed))))(pack.pack(x)))
    assert " pad[" not in text and text.count("concatenate[") == len(pack.vectors)


@pytest.mark.parametrize("size", [99, 12, 0])
def test_averages_of_an_optimiser_are_packed_and_unpacked(size, rng, monkeypatch):
    pack, x = packed_below(size, monkeypatch), arrays(rng)
    optimizer = optax.chain(optax.clip(1.0), optax.adam(1e-3))

    def state(like):
        return optimizer.update(like, optimizer.init(like))[1]

    expected, packed = state(x), state(pack.pack(x))
    again = pack.unpack_within(packed)
    assert jax.tree.structure(again) == jax.tree.structure(expected)
    for got, array in zip(jax.tree.leaves(again), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(got, array)
    back = pack.pack_within(again)
    assert jax.tree.structure(back) == jax.tree.structure(packed)
    for got, array in zip(jax.tree.leaves(back), jax.tree.leaves(packed), strict=True):
        np.testing.assert_array_equal(got, array)
