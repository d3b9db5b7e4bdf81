"""A picture in whatever form it is given, as RGB bytes.

In: the path or the bytes of a file, a Pillow image, or an array. Out: uint8, h w 3, turned as EXIF
says. Files and Pillow images may have any mode: grey, palette, transparency (which is dropped),
CMYK, 16 bits.
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from petsam_jax.files.images import UnfitImage, check_size, open_image, upright_rgb

# More is refused before it is decoded: a small file can hold a very large picture.
MAX_PIXELS = 40_000_000

Picture = np.ndarray | Image.Image | Path | str | bytes


def load_image(image: Picture, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "h w 3"]:
    """Raises UnfitImage, a ValueError, with what is wrong, and TypeError for anything else."""
    if isinstance(image, np.ndarray):
        return _array_rgb(image, max_pixels)
    if isinstance(image, str | Path | bytes):
        image = open_image(Path(image) if isinstance(image, str) else image)
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"a picture of type {type(image).__name__}; want a path, the bytes of a file, a Pillow "
            "image or a numpy array"
        )
    check_size(image, max_pixels)
    return upright_rgb(image)


def _array_rgb(image: np.ndarray, max_pixels: int) -> UInt8[np.ndarray, "h w 3"]:
    if image.dtype != np.uint8:
        advice = "multiply by 255 and round first" if image.dtype.kind == "f" else "convert it"
        raise UnfitImage("picture", f"an array of {image.dtype}; want uint8 0..255: {advice}")
    grey = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1)
    if not grey and (image.ndim != 3 or image.shape[2] not in (3, 4)):
        reason = f"an array of shape {image.shape}; want (h, w), (h, w, 3) or (h, w, 4)"
        raise UnfitImage("picture", reason)
    height, width = image.shape[:2]
    if not 0 < height * width <= max_pixels:
        reason = f"{width} x {height} pixels; want 1 to {max_pixels:,}: make it smaller first"
        raise UnfitImage("picture", reason)
    if grey:
        return np.repeat(image.reshape(height, width, 1), 3, axis=2)
    return image[..., :3]
