"""Arrays of points, boxes and masks, checked; each function raises ValueError with what is wrong.

In: anything that numpy makes an array of, for one object or with a first axis of objects.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32
from numpy.typing import ArrayLike

from petsam_jax.models.prompts import EMPTY, NEGATIVE, POSITIVE

# Whatever numpy makes an array of.
Numbers = ArrayLike | Sequence | int | float


def read_points(
    points: Numbers | None, labels: Numbers | None
) -> tuple[Float[np.ndarray, "*n p 2"], Int32[np.ndarray, "*n p"]]:
    """Points with their labels; points that the label -1 ignores are (0, 0)."""
    if points is None or labels is None:
        present, missing = ("labels", "points") if points is None else ("points", "labels")
        raise ValueError(f"{present} without {missing}; give a label for each point: 1 in, 0 out")
    points, labels = _numbers("points", points), _numbers("labels", labels)
    if points.ndim not in (2, 3) or points.shape[-1] != 2:
        raise ValueError(
            f"points: shape {points.shape}; expected (p, 2), x and y of each, or (n, p, 2)"
        )
    if labels.shape != points.shape[:-1]:
        raise ValueError(
            f"labels: shape {labels.shape}; expected one label per point: {points.shape[:-1]}"
        )
    given = labels != EMPTY
    if not np.isin(labels[given], (NEGATIVE, POSITIVE)).all():
        raise ValueError(
            f"labels: {np.unique(labels).tolist()}; expected 1 in, 0 out or -1 for an empty slot "
            "(pass the corners of a box as boxes)"
        )
    points = np.where(given[..., None], points, 0.0)
    _check_finite("points", points)
    return points, labels.astype(np.int32)


def check_points(points: Float[np.ndarray, "p 2"], size: tuple[int, int]) -> None:
    """All points lie in an image of this height and width."""
    height, width = size
    outside = ((points < -0.5) | (points > np.array([width, height]) - 0.5)).any(axis=-1)
    if outside.any():
        x, y = points[outside][0].tolist()
        raise ValueError(f"points: ({x:g}, {y:g}) is outside the image{_extent(size)}")


def read_boxes(boxes: Numbers) -> Float[np.ndarray, "*n 4"]:
    """Boxes as they were given, with corners in any order."""
    boxes = _numbers("boxes", boxes)
    if boxes.ndim not in (1, 2) or boxes.shape[-1] != 4:
        raise ValueError(f"boxes: shape {boxes.shape}; expected (4,), x0 y0 x1 y1, or (n, 4)")
    _check_finite("boxes", boxes)
    return boxes


def clip_box(box: Sequence[float | int], size: tuple[int, int]) -> tuple[tuple[float, ...], ...]:
    """The upper left and the lower right corner inside an image of this height and width."""
    if not all(map(math.isfinite, box)):
        raise ValueError("boxes: NaN or infinity among the numbers")
    # In plain Python, which is faster for four numbers.
    (x0, x1), (y0, y1) = sorted(box[::2]), sorted(box[1::2])
    height, width = size
    if x1 < -0.5 or y1 < -0.5 or x0 > width - 0.5 or y0 > height - 0.5:
        listed = ", ".join(f"{value:g}" for value in box)
        raise ValueError(f"boxes: ({listed}) is entirely outside the image{_extent(size)}")
    last = width - 1.0, height - 1.0
    return tuple(
        tuple(float(min(max(value, 0.0), most)) for value, most in zip(corner, last, strict=True))
        for corner in ((x0, y0), (x1, y1))
    )


def read_mask(mask: Numbers) -> Bool[np.ndarray, "h w"]:
    """A mask of bool or of whole numbers, 0 being background."""
    mask = np.asarray(mask)
    if mask.dtype.kind not in "bui":
        raise ValueError(f"mask: numbers of type {mask.dtype}; expected bool or whole numbers")
    if mask.ndim != 2:
        raise ValueError(f"mask: shape {mask.shape}; expected (h, w)")
    return mask != 0


def read_mask_input(mask_input: Numbers, cells: int) -> Float32[np.ndarray, "*n h w"]:
    """Logits of `cells` x `cells`, as predictions have them."""
    mask_input = _numbers("mask_input", mask_input)
    if mask_input.ndim not in (2, 3) or mask_input.shape[-2:] != (cells, cells):
        raise ValueError(
            f"mask_input: shape {mask_input.shape}; expected one of the low_res_logits of a "
            f"prediction, ({cells}, {cells}), or (n, {cells}, {cells}) for n objects"
        )
    _check_finite("mask_input", mask_input)
    return mask_input.astype(np.float32)


def read_objects(
    points: Numbers | None,
    labels: Numbers | None,
    boxes: Numbers | None,
    mask_input: Numbers | None,
    cells: int,
) -> tuple[dict[str, np.ndarray], int | None]:
    """The arrays that were given, by the fields of a `Prompt`, all with a first axis of objects.

    And how many objects; None if none of the arrays had that axis.
    """
    given = {}
    if points is not None or labels is not None:
        given["points"], given["labels"] = read_points(points, labels)
    if boxes is not None:
        given["boxes"] = read_boxes(boxes)
    if mask_input is not None:
        given["mask_input"] = read_mask_input(mask_input, cells)
    axes = {"points": 2, "labels": 1, "boxes": 1, "mask_input": 2}
    number = _count({name: array.shape[: -axes[name]] for name, array in given.items()})
    rows = 1 if number is None else number
    arrays = {
        name: array.reshape(rows, *array.shape[-axes[name] :]) for name, array in given.items()
    }
    return {"box" if name == "boxes" else name: array for name, array in arrays.items()}, number


def _count(axes: dict[str, tuple[int, ...]]) -> int | None:
    """How many objects there are, from the axis of objects of each array, if it has one."""
    # Labels have as many as their points.
    counts = {name: axis[0] if axis else None for name, axis in axes.items() if name != "labels"}
    # One object with its axis is the same as one without.
    several = {number for number in counts.values() if number is not None}
    if None in counts.values() and several <= {1}:
        return None
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} of {n or 'one'}" for name, n in counts.items())
        raise ValueError(
            f"prompts for different numbers of objects: {listed}; give all of them a first axis of "
            "the same number of objects, or none"
        )
    return next(iter(counts.values()), None)


def _numbers(name: str, values: Numbers) -> np.ndarray:
    try:
        return np.asarray(values).astype(np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: not an array of numbers: {error}") from error


def _check_finite(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: NaN or infinity among the numbers")


def _extent(size: tuple[int, int]) -> str:
    height, width = size
    return f", whose pixels are x 0..{width - 1} and y 0..{height - 1}"
