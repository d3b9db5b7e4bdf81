"""Affine views of an image and its mask: one resampling for crop, scale, flip and rotation.

A `matrix` is 2 x 3 and maps a point (x, y) of the output, in pixels with the first pixel's centre
at 0.5, to a point of the source. Image and mask are sampled with the same matrix and so stay
aligned: the image bilinearly, averaged first where it shrinks, the mask at the nearest pixel.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from petsam_jax.data.sources import Example
from petsam_jax.files.resample import stretch
from petsam_jax.mask_values import IGNORE, PET
from petsam_jax.normalise import MEAN_COLOUR

Matrix = Float[np.ndarray, "2 3"]
Pair = Float[np.ndarray, "2"] | tuple[float, float]  # x, y

# From this many source pixels per output pixel, average by 2 before sampling bilinearly.
AVERAGE_FROM = 1.7
# Enough to estimate the visible share of a pet to within a few per cent.
MAX_POINTS = 400


class Layer(NamedTuple):
    """An image and its mask at their own resolution, as Pillow images of one size."""

    image: Image.Image  # RGB
    mask: Image.Image  # L: 0 background, 1 pet, 2 ignore


def to_layer(example: Example) -> Layer:
    """Raises ValueError, with the example's name, if image and mask differ in size."""
    if example.image.shape[:2] != example.mask.shape or not example.mask.size:
        raise ValueError(
            f"{example.name}: image of {example.image.shape[:2]} and mask of "
            f"{example.mask.shape} (height, width); they must be the same and not empty"
        )
    return Layer(Image.fromarray(example.image), Image.fromarray(example.mask))


def view_matrix(
    source: tuple[int, int],
    size: int,
    centre: Pair = (0.5, 0.5),
    sides: Pair = (1.0, 1.0),
    angle: float = 0.0,
    flip: bool = False,
) -> Matrix:
    """The view of a rectangle of the source, stretched to `size` x `size`.

    `source` is (width, height); `centre` and `sides` are shares of them; `angle`, in radians, turns
    the rectangle clockwise about its centre, so the image turns the other way.
    """
    width, height = source
    across = sides[0] * width / size * (-1 if flip else 1)
    down = sides[1] * height / size
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.array([[cos * across, -sin * down], [sin * across, cos * down]])
    middle = np.array([centre[0] * width, centre[1] * height])
    return np.column_stack([linear, middle - linear @ np.full(2, size / 2)])


def turned_extent(
    source: tuple[int, int], sides: Float[np.ndarray, "2"], angle: float
) -> Float[np.ndarray, "2"]:
    """Width and height, as shares of the source's, of the upright box around a turned rectangle."""
    cos, sin = abs(np.cos(angle)), abs(np.sin(angle))
    width, height = sides * source
    return np.array([cos * width + sin * height, sin * width + cos * height]) / source


def motion(
    about: Float[np.ndarray, "2"],
    shift: Pair = (0.0, 0.0),
    angle: float = 0.0,
    scale: float = 1.0,
    widen: float = 1.0,
) -> Matrix:
    """Widen, turn (clockwise, radians) and scale about a point, then shift, within one plane."""
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]]) * (widen, 1)
    return np.column_stack([linear, about + np.asarray(shift) - linear @ about])


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """The matrix that applies `inner` first, then `outer`."""
    return np.column_stack([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2] + outer[:, 2]])


def inverse(matrix: Matrix) -> Matrix:
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def apply(matrix: Matrix, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    return points @ matrix[:, :2].T + matrix[:, 2]


def warp_image(image: Image.Image, matrix: Matrix, size: int) -> Image.Image:
    """`size` x `size` pixels of an RGB image; outside the source is the mean colour."""
    box = _upright_box(image, matrix, size)
    if box is not None:
        small = stretch(image, size, box)
        flipped = matrix[0, 0] < 0
        return small.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else small
    step = float(np.linalg.norm(matrix[:, :2], axis=0).min())
    factor = int(step + 2 - AVERAGE_FROM)
    if factor > 1:
        image, matrix = image.reduce(factor), matrix / factor
    return image.transform(
        (size, size),
        Image.Transform.AFFINE,
        tuple(matrix.ravel()),
        Image.Resampling.BILINEAR,
        fillcolor=MEAN_COLOUR,
    )


def warp_mask(mask: Image.Image, matrix: Matrix, size: int, outside: int = IGNORE) -> Image.Image:
    """`size` x `size` pixels of a mask, with `outside` beyond the source."""
    return mask.transform(
        (size, size),
        Image.Transform.AFFINE,
        tuple(matrix.ravel()),
        Image.Resampling.NEAREST,
        fillcolor=outside,
    )


def bend(layer: Layer, moved: Float[np.ndarray, "n n 2"]) -> Layer:
    """Bend image and mask like a rubber sheet, by the corners of a grid (rows, columns; x, y).

    Each corner of the output shows the pixel `moved` away from it; in between it is bilinear.
    """
    if not moved.any():
        return layer
    cells = len(moved) - 1
    ends = [np.round(np.linspace(0, side, cells + 1)).astype(int) for side in layer.image.size]
    points = np.stack(np.meshgrid(*ends), axis=-1) + moved
    mesh = [
        (
            (ends[0][x], ends[1][y], ends[0][x + 1], ends[1][y + 1]),
            # Upper left, lower left, lower right, upper right.
            tuple(
                np.concatenate([points[y + b, x + a] for b, a in ((0, 0), (1, 0), (1, 1), (0, 1))])
            ),
        )
        for y in range(cells)
        for x in range(cells)
    ]
    transform = Image.Transform.MESH, mesh
    return Layer(
        layer.image.transform(layer.image.size, *transform, Image.Resampling.BILINEAR),
        layer.mask.transform(layer.mask.size, *transform, Image.Resampling.NEAREST),
    )


def pet_points(mask: UInt8[np.ndarray, "h w"]) -> Float[np.ndarray, "n 2"]:
    """Centres (x, y) of pet pixels, at most `MAX_POINTS`, evenly spread."""
    flat = np.flatnonzero(mask == PET)
    flat = flat[:: max(1, -(-flat.size // MAX_POINTS))]
    y, x = np.divmod(flat, mask.shape[1])
    return np.column_stack([x, y]) + 0.5


def in_view(matrix: Matrix, points: Float[np.ndarray, "n 2"], size: int) -> Bool[np.ndarray, " n"]:
    """Which points of the source are in the output."""
    seen = apply(inverse(matrix), points)
    return ((seen >= 0) & (seen < size)).all(axis=1)


def _upright_box(
    image: Image.Image, matrix: Matrix, size: int
) -> tuple[float, float, float, float] | None:
    """The rectangle of the source in view, if it is upright and inside the image, else None."""
    if abs(matrix[0, 1]) + abs(matrix[1, 0]) > 1e-9 or matrix[1, 1] < 0:
        return None
    corners = apply(matrix, np.array([[0.0, 0.0], [size, size]]))
    # Rounding may leave a corner slightly outside, which Pillow rejects.
    low = np.where(np.abs(corners.min(axis=0)) < 1e-6, 0.0, corners.min(axis=0))
    limit = np.array(image.size, float)
    high = corners.max(axis=0)
    high = np.where(np.abs(high - limit) < 1e-6, limit, high)
    if (low < 0).any() or (high > limit).any():
        return None
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
