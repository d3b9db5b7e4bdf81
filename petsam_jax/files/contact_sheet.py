"""Cells of the sheets that training and evaluation write: an image with its mask or its errors.

In: an image, its ground-truth mask (values of `mask_values`) and a prediction. Out: Pillow images.
"""

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from petsam_jax.files.render import core
from petsam_jax.mask_values import BACKGROUND, IGNORE, PET

TINT, GREEN, MAGENTA = 0.35, (40, 230, 80), (255, 0, 255)
YELLOW, RED, BLUE = (255, 225, 0), (255, 40, 40), (40, 90, 255)


def draw_mask(
    image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"], tint: float = TINT
) -> Image.Image:
    """The image with its pet tinted green and outlined, ignored pixels tinted magenta."""
    drawn = image.astype(np.float32)
    for value, colour in ((PET, GREEN), (IGNORE, MAGENTA)):
        drawn[mask == value] += tint * (np.array(colour) - drawn[mask == value])
    drawn[edge(mask == PET)] = GREEN
    return Image.fromarray(drawn.astype(np.uint8))


def draw_errors(
    image: UInt8[np.ndarray, "h w 3"],
    mask: UInt8[np.ndarray, "h w"],
    found: Bool[np.ndarray, "h w"],
) -> Image.Image:
    """The image: green where the pet was found, red where it was missed, blue where there is none.

    Ignored pixels keep their colours.
    """
    drawn = image.astype(np.float32)
    pet, background = mask == PET, mask == BACKGROUND
    for where, colour in ((pet & found, GREEN), (pet & ~found, RED), (background & found, BLUE)):
        drawn[where] += 0.5 * (np.array(colour) - drawn[where])
    return Image.fromarray(drawn.astype(np.uint8))


def edge(inside):
    """Pixels of a region with a neighbour above, below, left or right outside it."""
    return inside & ~core(inside, 1)
