"""Promptable segmentation in JAX: SAM 2, trainable from scratch.

    from petsam_jax import ImagePredictor, Prompt, VideoPredictor

These are loaded when first used, since JAX takes a second to import.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from petsam_jax.predict.image_predictor import ImagePredictor
    from petsam_jax.predict.prompt_inputs import Prompt
    from petsam_jax.predict.video_predictor import VideoPredictor

__version__ = "0.1.0"
__all__ = ["ImagePredictor", "Prompt", "VideoPredictor"]

_MODULES = {
    "ImagePredictor": "petsam_jax.predict.image_predictor",
    "Prompt": "petsam_jax.predict.prompt_inputs",
    "VideoPredictor": "petsam_jax.predict.video_predictor",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
