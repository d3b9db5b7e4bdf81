"""The golden model as a video predictor, shared by the files that test one: compiled once."""

from functools import cache
from pathlib import Path

import numpy as np

from petsam_jax.config import load_config
from petsam_jax.predict.video_predictor import VideoPredictor
from tests.golden import SHIPPED, folder, golden, golden_model, shipped, shipped_model

SIDE = 128


@cache
def golden_predictor() -> VideoPredictor:
    """As the official code tracks with it, but for binarised memories."""
    # One predictor where both are the same, since each compiles its programs.
    return shipped_predictor() if folder() == SHIPPED else _predictor(golden_model())


@cache
def shipped_predictor() -> VideoPredictor:
    return _predictor(shipped_model())


def _predictor(model):
    config = load_config(Path(__file__).parents[1] / "configs" / "tiny.py")
    with config.unlocked():
        config.prompts.update(painted=False, gated=True, carried=False)
    assert config.data.size == SIDE
    return VideoPredictor(config, model, binarise=False)


def golden_frame(number: int) -> np.ndarray:
    """The frames of track_step.npz."""
    return _rolled(golden("track_step"), number)


def shipped_frame(number: int) -> np.ndarray:
    return _rolled(shipped("track_step"), number)


def _rolled(track_step, number):
    return np.roll(track_step["base_image_uint8_hwc"], (3 * number, 2 * number), (0, 1))
