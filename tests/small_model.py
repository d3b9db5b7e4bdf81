"""A model that compiles quickly, with random weights that make prompts matter."""

import numpy as np
from ml_collections import ConfigDict

from petsam_jax.checkpoint import model_shapes
from petsam_jax.config import load_config

SIZE = 64


def small_config() -> ConfigDict:
    """configs/tiny.py with narrower parts, for images of SIZE pixels."""
    config = load_config("configs/tiny.py").copy_and_resolve_references()
    with config.unlocked():
        config.data.size = SIZE
        config.model.d_model = 32
        config.model.image_encoder.trunk.update(embed_dim=8, stages=(1, 1, 1, 1))
        config.model.image_encoder.trunk.window_sizes = (8, 4, 4, 2)
        config.model.image_encoder.trunk.global_att_blocks = (2,)
        config.model.mask_decoder.update(mlp_dim=32, iou_hidden=16, depth=1)
    return config


def random_arrays(config: ConfigDict) -> dict[str, np.ndarray]:
    """Large enough that every prompt has a different result."""
    rng = np.random.default_rng(3)
    return {
        name: rng.normal(0, 0.15, shape).astype(np.float32) + name.endswith(".scale")
        for name, shape in model_shapes(config).items()
    }
