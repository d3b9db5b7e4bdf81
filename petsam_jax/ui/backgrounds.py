"""What is put behind a cut-out that cannot be transparent."""

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageFilter

from petsam_jax.files.render import cutout

# "blur" is the picture itself, out of focus.
COLOURS = {"white": (255, 255, 255), "green": (0, 177, 64), "black": (0, 0, 0)}
BLUR = 1 / 60  # of the longer side


def on_background(
    kind: str, picture: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], soft: float
) -> UInt8[np.ndarray, "h w 3"]:
    """What the mask shows on one of `COLOURS` or "blur"; `soft` as in `cutout`."""
    if kind == "blur":
        radius = max(picture.shape) * BLUR
        below = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))
    else:
        below = COLOURS[kind]
    return np.ascontiguousarray(
        cutout(picture, mask, trim=False, soft=soft, background=below)[..., :3]
    )
