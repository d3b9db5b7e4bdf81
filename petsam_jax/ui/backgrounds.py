"""Opaque backgrounds for cut-outs."""

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageFilter

from petsam_jax.files.render import cutout

# There is also "blur": the image itself, out of focus.
COLOURS = {"white": (255, 255, 255), "green": (0, 177, 64), "black": (0, 0, 0)}
BLUR_RADIUS = 1 / 60  # of the longer side


def on_background(
    kind: str, image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], soft: float
) -> UInt8[np.ndarray, "h w 3"]:
    """The masked part on one of `COLOURS` or "blur"; `soft` as in `cutout`."""
    if kind == "blur":
        radius = max(image.shape) * BLUR_RADIUS
        background = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
    else:
        background = COLOURS[kind]
    return np.ascontiguousarray(
        cutout(image, mask, trim=False, soft=soft, background=background)[..., :3]
    )
