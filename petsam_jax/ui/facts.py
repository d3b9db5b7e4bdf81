"""The weights that the page runs on, and what there is to say about them."""

import json
from pathlib import Path

import jax
from flax import nnx

from petsam_jax.checkpoint import load_model, step_path
from petsam_jax.image_predictor import SHIPPED, ImagePredictor


def weights_facts(
    directory: str | None, step: int | None = None
) -> tuple[ImagePredictor, dict[str, str]]:
    """Predictor, and a few facts in words by name."""
    path = step_path(directory or SHIPPED, step)
    predictor = ImagePredictor.from_checkpoint(directory, step=step)
    return predictor, {"checkpoint": str(path)}
