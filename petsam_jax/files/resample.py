"""How an image becomes the model's square: the same in training and in prediction."""

from PIL import Image


def stretch(
    image: Image.Image, side: int, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """`side` x `side` pixels of a box x0 y0 x1 y1 (default: all of the image).

    Bilinear, averaging over all that it shrinks; an affine transform would only read 2 x 2 pixels.
    """
    return image.resize((side, side), Image.Resampling.BILINEAR, box, reducing_gap=3.0)
