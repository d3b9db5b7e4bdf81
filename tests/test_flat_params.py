"""Packed arrays: the same numbers in fewer arrays, which know their rule and their way back."""

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


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name, array in want.items():
        assert got[name].shape == array.shape, name
        np.testing.assert_array_equal(got[name], array, err_msg=name)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("size", [99, 12, 6, 4, 1, 0])
def test_arrays_come_back_from_their_packing(size, traced, rng, monkeypatch):
    pack, want = packed_below(size, monkeypatch), arrays(rng)
    whole = jax.jit(pack.pack)(want) if traced else pack.pack(want)
    small = {name for name, shape in SHAPES.items() if np.prod(shape) < size}
    assert set(whole) == set(SHAPES) - small | set(pack.vectors)
    assert sum(array.size for array in whole.values()) == sum(a.size for a in want.values())
    assert_same(jax.jit(pack.unpack)(whole) if traced else pack.unpack(whole), want)
    # What is on the host stays there: each cut would be a program.
    if not traced:
        assert all(type(array) is np.ndarray for array in pack.unpack(whole).values())


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


def test_an_empty_array_and_nothing_at_all_are_packed(monkeypatch):
    pack = packed_below(9, monkeypatch, {"none": (0, 7), "one": (1,)}, {"none": 0, "one": 0})
    want = {"none": np.zeros((0, 7), np.float32), "one": np.ones(1, np.float32)}
    assert_same(pack.unpack(pack.pack(want)), want)
    assert pack_small({}, {}) == UNPACKED and UNPACKED.unpack(UNPACKED.pack({})) == {}


def test_the_gradient_by_packed_arrays_is_the_packed_gradient(rng, monkeypatch):
    pack, x = packed_below(99, monkeypatch), arrays(rng)

    def loss(named):
        # One array has no part in it.
        return sum((jnp.sin(a) * a.size).sum() for name, a in named.items() if name != "b.bias")

    got = jax.jit(jax.grad(lambda whole: loss(pack.unpack(whole))))(pack.pack(x))
    want = jax.grad(loss)(x)
    for name, array in pack.unpack(got).items():
        np.testing.assert_allclose(array, want[name], rtol=1e-6, err_msg=name)
    # Neither a sum of padded arrays nor one for each.
    text = str(jax.make_jaxpr(jax.grad(lambda whole: loss(pack.unpack(whole))))(pack.pack(x)))
    assert " pad[" not in text and text.count("concatenate[") == len(pack.vectors)


@pytest.mark.parametrize("size", [99, 12, 0])
def test_averages_of_an_optimiser_come_back(size, rng, monkeypatch):
    pack, x = packed_below(size, monkeypatch), arrays(rng)
    optimizer = optax.chain(optax.clip(1.0), optax.adam(1e-3))

    def state(like):
        return optimizer.update(like, optimizer.init(like))[1]

    want, whole = state(x), state(pack.pack(x))
    again = pack.unpack_within(whole)
    assert jax.tree.structure(again) == jax.tree.structure(want)
    for got, array in zip(jax.tree.leaves(again), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(got, array)
    back = pack.pack_within(again)
    assert jax.tree.structure(back) == jax.tree.structure(whole)
    for got, array in zip(jax.tree.leaves(back), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(got, array)
