"""Random changes of colour and light, all linear in RGB and combined into one 3 x 4 matrix.

Brightness, contrast, saturation, hue and greyness are each a matrix, so an image is recoloured in
one pass, and the frames of a clip share their matrix. Hue is a rotation of the colour plane of YIQ,
which keeps the luma and, unlike a rotation in HSV, is linear.
"""

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageFilter

# ITU-R BT.601, the weights of Pillow and torchvision for grey.
LUMA = np.array([0.299, 0.587, 0.114])
YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])

ColourMatrix = Float[np.ndarray, "3 4"]


def random_colour(
    rng: np.random.Generator,
    grey: float,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    grayscale_prob: float,
) -> ColourMatrix:
    """Random factors within 1 +- the given numbers, and a hue within +- a share of the circle.

    `grey` is the image's mean luma in 0..255, the fixed point of the contrast.
    """
    light, stretch, tint = 1 + rng.uniform(-1, 1, 3) * (brightness, contrast, saturation)
    turn = 2 * np.pi * rng.uniform(-hue, hue)
    tint = 0.0 if rng.random() < grayscale_prob else tint
    cos, sin = tint * np.cos(turn), tint * np.sin(turn)
    plane = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    linear = light * stretch * (np.linalg.inv(YIQ) @ plane @ YIQ)
    return np.column_stack([linear, np.full(3, light * (1 - stretch) * grey)])


def mean_grey(image: Image.Image) -> float:
    """Mean luma in 0..255, of every fourth pixel each way."""
    thin = np.asarray(image)[::4, ::4]
    return float(thin.reshape(-1, 3).mean(axis=0) @ LUMA)


def recolour(image: Image.Image, matrix: ColourMatrix) -> Image.Image:
    """Apply a colour matrix, clipped to 0..255; the identity returns the image itself."""
    if np.allclose(matrix, np.eye(3, 4), atol=1e-6):
        return image
    return image.convert("RGB", tuple(matrix.ravel()))


def blur(image: Image.Image, sigma: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(sigma)) if sigma > 0 else image
