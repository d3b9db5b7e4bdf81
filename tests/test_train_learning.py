"""Training overfits eight images, in bfloat16 as in float32."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from petsam_jax.checkpoint import build_model
from petsam_jax.config import load_config
from petsam_jax.data.shapes import ShapesSource
from petsam_jax.train.compiled_step import TrainStep
from petsam_jax.train.objective import Objective
from petsam_jax.train.plan import make_plan
from petsam_jax.train.step import ModelTemplate, TrainState, create_state, trainable
from petsam_jax.train.validation import predict_all

pytestmark = pytest.mark.slow

GROUPS = ("image_encoder", "prompt_encoder", "mask_decoder", "memory")
STEPS = 110
RECIPE = (
    # What takes time is compiling.
    "model.image_encoder.trunk.stages=(1,1,1,1)",
    "model.image_encoder.trunk.global_att_blocks=(2,)",
    *(f"optim.groups.{g}.warmup=20 steps" for g in GROUPS),
    f"train.duration={STEPS} steps",
    "prompts.rounds=1",
    "prompts.first.click_prob=1.0",
    *(f"prompts.first.{kind}_prob=0.0" for kind in ("box", "mask", "none")),
)


class Learned(NamedTuple):
    first: TrainState
    last: TrainState
    losses: np.ndarray
    template: ModelTemplate
    objective: Objective


def images():
    examples = [ShapesSource(8, 128)[index] for index in range(8)]
    image, mask = ([getattr(one, part) for one in examples] for part in ("image", "mask"))
    return jnp.stack(image), jnp.stack(mask)


def learn(dtype, steps, lr="2e-3"):
    """The first steps of training, all on the same images."""
    rates = [f"optim.groups.{g}.lr={lr}" for g in GROUPS]
    config = load_config("configs/tiny.py", [*RECIPE, *rates, f"model.dtype={dtype}"])
    model = build_model(config, seed=0)
    plan = make_plan(config, trainable(model), examples=8)
    first, template = create_state(model, plan.rules, plan.packing, plan.optimizer)
    objective = Objective.of(config.prompts, config.loss)
    step = TrainStep(template, plan.optimizer, objective, seed=0, ema_decay=0.9)
    # The step takes over what it is given.
    state, losses = jax.tree.map(jnp.copy, first), []
    batch = images()
    for _ in range(steps):
        state, metrics = step(state, *batch)
        losses.append(float(metrics.losses.total))
    return Learned(first, state, np.array(losses), template, objective)


@pytest.fixture(scope="module")
def exact():
    return learn("float32", STEPS)


def test_eight_images_are_overfitted_from_one_click(exact):
    """Clicked as in evaluation, with the mask selected by its predicted IoU."""

    @jax.jit
    def iou(weights, image, mask):
        model, key = exact.template.model(weights), jax.random.key(0)
        return predict_all(model, image, mask, key, exact.objective, 1, 0.0).ious[2].mean()

    assert np.isfinite(exact.losses).all()
    assert iou(exact.first.ema, *images()) < 0.5
    assert iou(exact.last.ema, *images()) >= 0.95


def test_bfloat16_learns_as_float32_does():
    """From the same weights and images, and with the same clicks until rounding moves one.

    Steps twice as large, as above, part runs that differ in any rounding: by up to 0.05, whatever
    the weights begin with, where these stay within 0.025.
    """
    rounded, exact = (learn(dtype, 30, lr="1e-3").losses for dtype in ("bfloat16", "float32"))
    off = np.abs(rounded - exact) / exact[0]
    assert exact[-5:].mean() < exact[0] / 3
    assert off.max() <= 0.03 and off.mean() <= 0.01
