"""The golden model as a video predictor, shared by the files that test one: compiled once."""

from functools import cache
from pathlib import Path

import numpy as np

from petsam_jax.config import load_config
from petsam_jax.video_predictor import VideoPredictor
from tests.golden import golden, tiny_model

SIDE = 128


@cache
def golden_predictor() -> VideoPredictor:
    """As the official code tracks with it, but for binarised memories."""
    config = load_config(Path(__file__).parents[1] / "configs" / "tiny.py")
    with config.unlocked():
        config.prompts.update(painted=False, gated=True, carried=False)
    assert config.data.size == SIDE
    return VideoPredictor(config, tiny_model(), binarise=False)


def golden_frame(number: int) -> np.ndarray:
    """The frames of track_step.npz."""
    return np.roll(golden("track_step")["base_image_uint8_hwc"], (3 * number, 2 * number), (0, 1))
