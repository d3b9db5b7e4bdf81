"""Rules by patterns of names: the official groups, the most specific pattern, all faults named."""

import re

import pytest
from flax import nnx

from petsam_jax.config import load_config
from petsam_jax.models.sam2 import SAM2
from petsam_jax.models.sam2_weights import DROPPED, our_name
from petsam_jax.train.optimizer import flatten
from petsam_jax.train.param_rules import (
    NO_DECAY,
    OptimizerError,
    layer_scales,
    make_rules,
    to_steps,
)
from tests.golden import golden_json, shipped_config

VISION = dict(lr=3e-6, weight_decay=0.1, layer_decay=0.9, warmup="0 steps")
BASE = dict(lr=5e-6, weight_decay=0.1, layer_decay=1.0, warmup="0 steps")
RECIPE = {
    "trunk": VISION | dict(pattern="image_encoder.trunk.*"),
    "neck": VISION | dict(pattern="image_encoder.neck.*", layer_decay=1.0),
    "rest": BASE | dict(pattern="*"),
}


@pytest.fixture(scope="module")
def model_params():
    """The outline of the shipped model's parameters, as training keeps them."""
    model = nnx.eval_shape(lambda: SAM2(**shipped_config(), rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def test_groups_equal_reference(model_params):
    """Learning rate and decay of every parameter of the official recipe, exempt as in `:seed`."""
    official = golden_json("optim_groups")["params"]
    exempt = load_config("configs/pets256.py:seed").optim.no_decay
    rules = make_rules(flatten(model_params), RECIPE, exempt)
    seen = set()
    for reference, expected in official.items():
        if reference in DROPPED:
            continue
        name = re.sub(r"\[\d+\]$", "", our_name(reference)[0])
        base = {"base_lr": 5e-6, "vision_lr": 3e-6}[expected["lr_multiple_of"]]
        assert rules[name].lr == pytest.approx(base * expected["lr_scale"], rel=1e-9), name
        assert rules[name].weight_decay == expected["weight_decay"], name
        seen.add(name)
    assert seen == set(rules) == set(flatten(model_params))


def test_no_decay_on_biases_norms_and_embeddings(model_params):
    """By default exactly the kernels decay."""
    rules = make_rules(flatten(model_params), RECIPE)
    kernels = {name for name in rules if "kernel" in name}
    assert {name for name, rule in rules.items() if rule.weight_decay} == kernels
    assert 100 < len(kernels) < len(rules)


def test_layer_decay_goes_down_the_trunk():
    names = ["patch_embed.kernel", "pos_embed", "blocks.0.x", "blocks.1.x", "blocks.10.x", "neck"]
    scales = layer_scales([f"trunk.{name}" for name in names], 0.5)
    assert list(scales.values()) == [0.5**12, 1.0, 0.5**11, 0.5**10, 0.5, 1.0]
    assert set(layer_scales(["a", "blocks.0.x"], 1.0).values()) == {1.0}


def group(pattern, lr=1e-3, weight_decay=0.0, **others):
    return dict(pattern=pattern, lr=lr, weight_decay=weight_decay) | others


def test_the_most_specific_pattern_wins_in_any_order():
    names = ["a.b.c", "a.d", "e"]
    groups = {"all": group("*"), "a": group("a.*"), "ab": group(("a.b.*", "unlikely*", "e*"))}
    for order in (groups, dict(reversed(groups.items()))):
        with pytest.raises(OptimizerError, match="optim.groups.ab.pattern: unlikely"):
            make_rules(names, order, ())
    groups["ab"] = group(("a.b.*", "e*"))
    for order in (groups, dict(reversed(groups.items()))):
        rules = make_rules(names, order | {"all": group("*d")}, ())
        assert [rule.group for rule in rules.values()] == ["ab", "a", "ab"]


def test_unmatched_parameters_are_all_listed(model_params):
    groups = {name: options for name, options in RECIPE.items() if name != "rest"}
    with pytest.raises(OptimizerError, match="matches these 2[0-9][0-9] parameters") as error:
        make_rules(flatten(model_params), groups)
    listed = {line.strip() for line in str(error.value).splitlines()[1:]}
    assert {name for name in flatten(model_params) if not re.match(r".*(trunk|neck)\.", name)} == (
        listed
    )


@pytest.mark.parametrize(
    "names, groups, no_decay, message",
    [
        (["a"], {"g": group("a"), "h": group("b.*")}, (), "optim.groups.h.pattern: b.\\*"),
        (["a"], {"g": group("a")}, ("*.bais",), "optim.no_decay: \\*.bais matches no"),
        (["a.b"], {"g": group("a*"), "h": group("*b")}, (), "a.b matches .* g, h equally"),
        (["a"], {"g": group("a", warmup="5")}, (), "'5': write a duration as '500 steps'"),
    ],
)
def test_bad_groups_are_named(names, groups, no_decay, message):
    with pytest.raises(OptimizerError, match=message):
        make_rules(names, groups, no_decay)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("500 steps", 500),
        ("1 epoch", 31),
        ("1.5 epochs", 46),
        (" 0 steps ", 0),
        ("40 epochs", 1220),
    ],
)
def test_durations(text, expected):
    assert to_steps(text, 30.5) == expected


def test_every_default_pattern_matches_something(model_params):
    assert len(make_rules(flatten(model_params), RECIPE, NO_DECAY)) == len(flatten(model_params))
