"""Optimiser: AdamW by hand, frozen modules, schedules, averages, the table."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from petsam_jax.models.params import shapes
from petsam_jax.models.sam2 import SAM2
from petsam_jax.train.optimizer import (
    ema_update,
    flatten,
    make_optimizer,
    make_schedule,
    summary,
    unflatten,
)
from petsam_jax.train.param_rules import OptimizerError, ParamRule, make_rules
from tests.golden import shipped_config
from tests.test_param_rules import RECIPE, group


@pytest.fixture(scope="module")
def model_params():
    """The outline of the shipped model's parameters, as training keeps them."""
    model = nnx.eval_shape(lambda: SAM2(**shipped_config(), rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


# Trees


@pytest.mark.slow
def test_names_and_trees_are_inverse(model_params):
    flat = flatten(model_params)
    assert flat["image_encoder.trunk.blocks.0.norm1.scale"].shape == (16,)
    assert jax.tree.structure(unflatten(flat)) == jax.tree.structure(model_params)
    assert flatten(flat) == flat
    model = nnx.eval_shape(lambda: SAM2(**shipped_config(), rngs=nnx.Rngs(0)))
    assert set(shapes(model)) - set(flat) == {"prompt_encoder.gaussian"}


# Steps


def small(rng):
    def array(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    blocks = {i: {"kernel": array(3, 4), "bias": array(4)} for i in range(2)}
    return {"trunk": {"blocks": blocks, "pos_embed": array(5)}, "head": {"kernel": array(4, 2)}}


SMALL = {
    "trunk": group("trunk.*", lr=0.02, weight_decay=0.3, layer_decay=0.5, warmup="4 steps"),
    "head": group("head.*", lr=0.1, weight_decay=0.2),
}


def small_rules(params, **changes):
    groups = {name: options | changes.get(name, {}) for name, options in SMALL.items()}
    return make_rules(flatten(params), groups, ("*bias", "*pos_embed"))


def run(optimizer, params, gradients):
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def by_hand(params, gradients, rules, total, clip):
    """Decoupled AdamW (Loshchilov and Hutter 2019) on flat numpy arrays, in double precision."""
    params = {name: np.float64(array) for name, array in flatten(params).items()}
    first = {name: np.zeros_like(array) for name, array in params.items()}
    second = {name: np.zeros_like(array) for name, array in params.items()}
    for t, gradient in enumerate(gradients):
        gradient = {name: np.float64(array) for name, array in flatten(gradient).items()}
        norm = np.sqrt(sum((array**2).sum() for array in gradient.values()))
        for name, rule in rules.items():
            g = gradient[name] * min(1, clip / norm)
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            m, v = first[name] / (1 - 0.9 ** (t + 1)), second[name] / (1 - 0.999 ** (t + 1))
            passed = max(0, t - rule.warmup) / (total - rule.warmup)
            share = 0.1 + 0.9 * (1 + np.cos(np.pi * passed)) / 2
            share *= min(1, (t + 1) / max(1, rule.warmup))
            step = m / (np.sqrt(v) + 1e-8) + rule.weight_decay * params[name]
            params[name] = params[name] - rule.lr * share * step
    return params


@pytest.mark.parametrize("flat", [False, True])
def test_steps_equal_adamw_by_hand(rng, flat):
    params, gradients = small(rng), [small(rng) for _ in range(10)]
    rules = small_rules(params)
    expected = by_hand(params, gradients, rules, total=12, clip=2.0)
    if flat:
        params, gradients = flatten(params), [flatten(gradient) for gradient in gradients]
    got, _ = run(make_optimizer(rules, 12, clip_norm=2.0), params, gradients)
    for name, array in flatten(got).items():
        # 1 - 0.999**t has four digits in float32.
        np.testing.assert_allclose(array, expected[name], rtol=2e-5, atol=1e-5, err_msg=name)


def state_size(state):
    return sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)


def test_frozen_module_stays_and_costs_nothing(rng):
    """Nor does its gradient count for clipping."""
    params, gradients = small(rng), [small(rng) for _ in range(4)]
    rules = small_rules(params, trunk=dict(lr=0.0))
    optimizer = make_optimizer(rules, 8, clip_norm=0.5)
    got, state = run(optimizer, params, gradients)
    for old, new in zip(*map(jax.tree.leaves, (params["trunk"], got["trunk"])), strict=True):
        np.testing.assert_array_equal(old, new)
    head = params["head"]["kernel"].size
    assert state_size(state) == 2 * head
    alone, _ = run(
        make_optimizer({"head.kernel": rules["head.kernel"]}, 8, clip_norm=0.5),
        {"head": params["head"]},
        [{"head": gradient["head"]} for gradient in gradients],
    )
    np.testing.assert_array_equal(got["head"]["kernel"], alone["head"]["kernel"])
    assert not np.array_equal(got["head"]["kernel"], params["head"]["kernel"])


def test_nothing_to_train_is_an_error():
    with pytest.raises(OptimizerError, match="lr is 0 in every group"):
        make_optimizer({"a": ParamRule("g", 0.0, 0.1, 0)}, 10)


def test_clipping_is_over_all_trained_parameters(rng):
    """A gradient a thousand times as long makes the same step; without clipping, not with eps."""
    params, gradient = small(rng), small(rng)
    longer = jax.tree.map(lambda g: 1000 * g, gradient)
    rules = small_rules(params)
    first, second = (
        run(make_optimizer(rules, 9, clip_norm=0.1, eps=0.1), params, [g])[0]
        for g in (gradient, longer)
    )
    np.testing.assert_allclose(first["head"]["kernel"], second["head"]["kernel"], rtol=1e-5)
    plain, large = (
        run(make_optimizer(rules, 9, clip_norm=0.0, eps=0.1), params, [g])[0]
        for g in (gradient, longer)
    )
    assert np.abs(plain["head"]["kernel"] - large["head"]["kernel"]).max() > 1e-3


# Schedules


def test_cosine_rises_then_falls_to_its_end():
    schedule = make_schedule(100, 10, "cosine", 0.1)
    shares = np.array([schedule(step) for step in range(101)])
    np.testing.assert_allclose(shares[:10], np.arange(1, 11) / 10, rtol=1e-6)
    assert (np.diff(shares[10:]) < 0).all()
    assert shares[55] == pytest.approx(0.55, rel=1e-5) and shares[100] == pytest.approx(0.1)
    assert float(schedule(1000)) == pytest.approx(0.1)


def test_constant_schedule_and_none_of_warmup():
    assert float(make_schedule(10, 0, "constant")(9)) == 1
    assert float(make_schedule(10, 0, "cosine")(0)) == 1
    shares = [float(make_schedule(10, 4, "constant")(step)) for step in range(6)]
    assert shares == [0.25, 0.5, 0.75, 1, 1, 1]


def test_bad_schedules_are_named():
    with pytest.raises(OptimizerError, match="'cos': expected one of cosine, constant"):
        make_schedule(10, 0, "cos")
    with pytest.raises(OptimizerError, match="warm-up of 10 steps takes all of the 10 steps"):
        make_schedule(10, 10)


# Averages, table


def test_ema_is_the_weighted_mean():
    values = [np.float32(x) for x in (1.0, 4.0, -2.0)]
    ema = {"a": jnp.zeros(2)}
    for value in values:
        ema = ema_update(ema, {"a": jnp.full(2, value)}, 0.9)
    expected = 0.1 * (0.81 * 1 + 0.9 * 4 - 2)
    np.testing.assert_allclose(ema["a"], expected, rtol=1e-6)


def test_young_ema_forgets_the_start():
    slow = young = {"a": jnp.full(2, 100.0)}
    for step in range(200):
        slow = ema_update(slow, {"a": jnp.ones(2)}, 0.9999)
        young = ema_update(young, {"a": jnp.ones(2)}, 0.9999, step)
    assert young["a"][0] == pytest.approx(1.0, abs=1e-3) and slow["a"][0] > 90
    late = ema_update({"a": jnp.zeros(2)}, {"a": jnp.ones(2)}, 0.999, 10**6)
    assert late["a"][0] == pytest.approx(0.001, rel=1e-4)


def test_summary_counts_every_parameter(model_params):
    rules = make_rules(flatten(model_params), RECIPE | {"memory": group("memory_*", lr=0.0)})
    table = summary(model_params, rules)
    lines = [re.split(r"\s{2,}", line) for line in table.splitlines()]
    assert lines[0] == ["module", "parameters", "learning rate", "weight decay", "warm-up"]
    rows = {line[0]: line[1:] for line in lines[1:] if len(line) == 5}
    assert rows["image_encoder.trunk"][1:3] == ["1.29e-06 .. 3e-06", "0 .. 0.1"]
    assert rows["memory_attention"][1] == "frozen"
    assert {"image_encoder.neck", "prompt_encoder", "mask_decoder", "obj_ptr_proj"} < set(rows)
    total = sum(leaf.size for leaf in flatten(model_params).values())
    assert sum(int(row[0].replace(",", "")) for row in rows.values()) == total
    assert re.search(rf"^{total:,} parameters: [\d,]+ trained, [\d,]+ frozen; AdamW", lines[-1][0])
