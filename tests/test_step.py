"""The training step: gradients by loss part, microbatches, packed arrays, on a tiny model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from einops import rearrange
from flax import nnx

from petsam_jax.models.mask_ops import MaskOutput
from petsam_jax.models.prompting import Prompting
from petsam_jax.train import step as training
from petsam_jax.train.compiled_step import PARTS, TrainStep
from petsam_jax.train.flat_params import UNPACKED, pack_small
from petsam_jax.train.losses import Losses
from petsam_jax.train.objective import Objective, Outcome
from petsam_jax.train.optimizer import make_optimizer
from petsam_jax.train.param_rules import ParamRule
from petsam_jax.train.step import (
    WHOLE_BATCH,
    Microbatching,
    create_state,
    mean_gradient,
    trainable,
)
from tests.test_validation import Echo

ROUNDS = 2


class Toy(Echo):
    """One parameter for each output: what is painted plus `mask`, `iou` and `object`."""

    def __init__(self):
        self.mask, self.iou, self.object = (nnx.Param(jnp.array([x])) for x in (0.3, 0.9, 0.5))

    def decode(self, pix_feat, fine, points, labels, mask_input, has_mask, **_):
        one = jnp.ones((len(labels), 1))
        logits = rearrange(mask_input, "b h w 1 -> b 1 h w") + self.mask[0]
        iou, logit = one * self.iou[0], one * self.object[0]
        every = jnp.repeat(logits, 4, 1), jnp.repeat(iou, 4, 1)
        return MaskOutput(logits, iou, logit, one, *every, jnp.zeros(len(labels), bool))


def objective(**weights):
    prompting = Prompting(paint=dict(inside=3.0, outside=-8.0, click=10.0, radius=0.045))
    return Objective(first={}, correction={}, loss=weights, prompting=prompting, rounds=ROUNDS - 1)


def run(method, optimizer, microbatching=WHOLE_BATCH, **weights):
    """What `method` returns for the first step on four squares."""
    rules = {name: ParamRule("all", 1.0, 0.0, 0) for name in ("mask", "iou", "object")}
    packing = pack_small(trainable(Toy()), rules)
    state, template = create_state(Toy(), rules, packing, optimizer)
    mask = np.zeros((4, 64, 64), np.uint8)
    mask[:, 20:44, 12:50] = 1
    image = jnp.zeros((4, 64, 64, 3), jnp.uint8)
    step = TrainStep(
        template,
        optimizer,
        objective(**weights),
        seed=3,
        ema_decay=0.9,
        microbatching=microbatching,
    )
    return method(step, state, image, jnp.asarray(mask))


@pytest.fixture(scope="module")
def norms():
    return run(TrainStep.part_norms, optax.sgd(1.0))


@pytest.mark.slow
def test_object_and_iou_losses_have_their_known_gradients(norms):
    # Cross-entropy of a logit of 0.5 with 1, in each round; an L1 error has a slope of one.
    assert norms["object"] == pytest.approx(ROUNDS * (1 - 1 / (1 + np.exp(-0.5))), rel=1e-5)
    assert norms["iou"] == pytest.approx(ROUNDS, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["mask", "dice"])
def test_a_part_has_the_gradient_of_a_step_with_that_loss_alone(part, norms):
    alone = {f"{name}_weight": float(name == part) for name in PARTS}
    whole = run(TrainStep.__call__, optax.sgd(1.0), **alone)[1].grad_norm
    assert whole == pytest.approx(float(norms[part]), rel=1e-5) and whole > 0


# A batch in parts


def loss(trained, x, y, key):
    """The mean of a nonlinear function of each example, and an auxiliary output."""
    error = jnp.tanh(x @ trained["w"]) - y
    return jnp.mean(error**2), (error.mean(), jax.random.uniform(key))


@pytest.mark.parametrize("number", [1, 2, 3, 6])
def test_microbatches_have_the_gradient_of_the_whole_batch(rng, number):
    x, y, w = (jnp.asarray(rng.normal(size=n), jnp.float32) for n in ((6, 5), 6, 5))
    key, microbatching = jax.random.key(4), Microbatching(number)
    assert microbatching.count_for(6) == number
    (error, drawn), grads = jax.jit(
        lambda *batch: mean_gradient(loss, {"w": w}, batch, key, microbatching)
    )(x, y)
    expected, (whole, _) = jax.grad(loss, has_aux=True)({"w": w}, x, y, key)
    np.testing.assert_allclose(grads["w"], expected["w"], rtol=1e-5, atol=1e-7)
    assert error == pytest.approx(float(whole), rel=1e-5)
    keys = [key] if number == 1 else jax.random.split(key, number)
    assert drawn == pytest.approx(np.mean([jax.random.uniform(key) for key in keys]), rel=1e-6)


def test_each_microbatch_has_examples_of_every_device():
    """Of eight examples on four devices, two each, a part has one of each."""
    seen = []

    def loss(trained, x, key):
        jax.debug.callback(lambda x: seen.append(x.tolist()), x)
        return (trained["w"] * x).sum(), ()

    batch = (jnp.arange(8.0),)
    mean_gradient(loss, {"w": jnp.ones(8 // 2)}, batch, jax.random.key(0), Microbatching(2, 4))
    jax.effects_barrier()
    assert seen == [[0, 2, 4, 6], [1, 3, 5, 7]]


@pytest.mark.parametrize(
    ("microbatching", "examples", "parts"),
    [
        (Microbatching(2, 1), 8, 2),
        (Microbatching(2, 8), 8, 1),
        (Microbatching(4, 2), 12, 2),
        (Microbatching(3), 8, 1),
    ],
)
def test_there_are_fewer_microbatches_if_a_share_does_not_divide(microbatching, examples, parts):
    assert microbatching.count_for(examples) == parts


@pytest.mark.slow
def test_norms_of_loss_parts_agree_with_a_step_in_microbatches():
    """On equal squares, where random numbers do not make parts differ from the whole."""
    norms = run(TrainStep.part_norms, optax.sgd(1.0), Microbatching(2))
    _, whole = run(
        TrainStep.__call__,
        optax.sgd(1.0),
        Microbatching(2),
        mask_weight=1.0,
        dice_weight=0.0,
        iou_weight=0.0,
        object_weight=0.0,
    )
    assert whole.grad_norm == pytest.approx(float(norms["mask"]), rel=1e-5) and whole.grad_norm > 0
    assert norms["object"] == pytest.approx(ROUNDS * (1 - 1 / (1 + np.exp(-0.5))), rel=1e-5)


# Packed arrays


@pytest.mark.slow
def test_a_packed_state_takes_the_steps_of_an_unpacked_one():
    fast, slow = ParamRule("fast", 0.02, 0.1, 0), ParamRule("slow", 0.01, 0.0, 2)
    rules = {"mask": fast, "iou": slow, "object": slow}
    mask = np.zeros((4, 64, 64), np.uint8)
    mask[:, 20:44, 12:50] = 1
    states = []
    for packing in (UNPACKED, pack_small(trainable(Toy()), rules)):
        optimizer = make_optimizer(packing.rules(rules), 9, clip_norm=0.5)
        state, template = create_state(Toy(), rules, packing, optimizer)
        options = dict(seed=3, ema_decay=0.9, microbatching=Microbatching(2))
        step = TrainStep(template, optimizer, objective(), **options)
        norms = []
        for _ in range(3):
            state, metrics = step(state, jnp.zeros((4, 64, 64, 3), jnp.uint8), jnp.asarray(mask))
            norms.append(metrics.grad_norm)
        states.append((packing.unpack_within(state), norms))
    assert len(state.trained) == 2
    unpacked, packed = states
    assert jax.tree.structure(packed) == jax.tree.structure(unpacked)
    for got, expected in zip(jax.tree.leaves(packed), jax.tree.leaves(unpacked), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_a_gradient_is_compiled_once_for_images_and_once_for_clips(monkeypatch):
    traced = []

    def outcome(model, image, mask, key, objective):
        traced.append(image.ndim)
        one = jnp.ones((1, len(image)))
        return Outcome(Losses(*(one * model.iou[0] for _ in Losses._fields)), one > 0, one)

    monkeypatch.setattr(training, "outcome_of", outcome)
    rules = {name: ParamRule("all", 1.0, 0.0, 0) for name in ("mask", "iou", "object")}
    optimizer = optax.sgd(0.125)
    state, template = create_state(Toy(), rules, UNPACKED, optimizer)
    step = TrainStep(template, optimizer, objective(), seed=3, ema_decay=0.5)
    single, clip = (jnp.zeros((2, *t, 4, 4, 3), jnp.uint8) for t in ((), (5,)))
    for image in (single, clip, single, clip, clip):
        state, metrics = step(state, image, image[..., 0])
        assert metrics.grad_norm == 1
        assert step.part_norms(state, image, image[..., 0])["dice"] == 1
    assert traced == [4, 5] and int(state.step) == 5
    assert state.trained["iou"] == pytest.approx(0.9 - 5 * 0.125)


# IoUs of those that count


@pytest.mark.parametrize("number", [1, 2])
def test_ious_are_means_of_the_examples_that_count_in_any_microbatch(number, monkeypatch):
    """Of four: all count at first, then the two of one part, and none on the last frame."""
    found = jnp.array([[0.1, 0.2, 0.3, 0.8], [0.5, 9.0, 0.7, jnp.nan], [jnp.nan, 0.0, 1.0, 0.5]])
    counted = jnp.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]], bool)

    def outcome(model, image, mask, key, objective):
        places = image[:, 0, 0, 0]
        zero = jnp.zeros((3, len(places)))
        losses = Losses(*(zero + model.iou[0] for _ in Losses._fields))
        return Outcome(losses, counted[:, places], found[:, places])

    monkeypatch.setattr(training, "outcome_of", outcome)
    state, template = create_state(Toy(), ("mask", "iou", "object"), UNPACKED, optax.sgd(1.0))
    options = dict(seed=3, ema_decay=0.9, microbatching=Microbatching(number))
    step = TrainStep(template, optax.sgd(1.0), objective(), **options)
    image = jnp.zeros((4, 8, 8, 3), jnp.uint8) + jnp.arange(4, dtype=jnp.uint8)[:, None, None, None]
    _, metrics = step(state, image, image[..., 0])
    assert [metrics.ious.mean(place) for place in range(2)] == pytest.approx([0.35, 0.6])
    assert metrics.ious.mean(-1) is None
