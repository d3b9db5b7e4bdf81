"""That training learns: eight pictures by heart."""

import jax
import jax.numpy as jnp
import numpy as np

from petsam_jax.checkpoint import build_model
from petsam_jax.config import load_config
from petsam_jax.data.shapes import ShapesSource
from petsam_jax.objective import Objective
from petsam_jax.trainer import make_plan
from petsam_jax.training import create_state, make_train_step, trainable_names
from petsam_jax.validation import answers

GROUPS = ("image_encoder", "prompt_encoder", "mask_decoder", "memory")
# What takes time is compiling.
SHALLOW = ("model.image_encoder.trunk.stages=(1,1,1,1)",)
SHALLOW += ("model.image_encoder.trunk.global_att_blocks=(2,)",)


def start(*overrides):
    """A fresh run of the smallest model: its objective, first state, step and fixed parts."""
    rate = (
        f"optim.groups.{group}.{how}" for group in GROUPS for how in ("lr=2e-3", "warmup=20 steps")
    )
    config = load_config("configs/tiny.py", [*rate, *overrides])
    model = build_model(config, seed=0)
    plan = make_plan(config, trainable_names(model), examples=8)
    state, fixed = create_state(model, plan.rules, plan.optimizer)
    objective = Objective.of(config)
    step = make_train_step(fixed, plan.optimizer, objective, seed=0, ema_decay=0.9)
    return objective, state, jax.jit(step, donate_argnums=0), fixed


def shapes(number, size):
    examples = [ShapesSource(number, size)[index] for index in range(number)]
    image, mask = ([getattr(one, part) for one in examples] for part in ("image", "mask"))
    return jnp.stack(image), jnp.stack(mask)


def test_eight_pictures_are_learnt_by_heart_from_one_click():
    """Clicked as in evaluation, and the answer chosen by the score that the model gives it."""
    steps, (image, mask) = 110, shapes(8, 128)
    objective, state, step, fixed = start(
        f"train.duration={steps} steps",
        *SHALLOW,
        "prompts.rounds=1",
        "prompts.first.click_prob=1.0",
        *(f"prompts.first.{kind}_prob=0.0" for kind in ("box", "mask", "none")),
    )

    @jax.jit
    def ious(weights, image, mask):
        model = fixed.model(weights)
        return answers(model, image, mask, jax.random.key(0), objective, 1, 0.0).ious[2]

    assert ious(state.ema, image, mask).mean() < 0.5
    for _ in range(steps):
        state, metrics = step(state, image, mask)
    assert np.isfinite(metrics.losses.total)
    assert ious(state.ema, image, mask).mean() >= 0.95
