"""What a user says about a picture, in its own pixels, as the model takes it.

In: points, labels, boxes and fed-back logits as anything that numpy makes an array of. Out: the
model's `Prompts` as numpy arrays of few different shapes, so that a point or an object more
compiles nothing anew: slots for 16 points, then for the next power of two; objects filled up to a
power of two.

Coordinates are pixel indices, (0, 0) being the middle of the upper left pixel. The picture reaches
from -0.5 to its width - 0.5; a point beyond is refused. A box includes the pixels of its sides, so
one whose corners are equal is one pixel. Its corners come in any order; what of it is outside the
picture is cut off, and a box that is all outside is refused.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int32
from numpy.typing import ArrayLike

from petsam_jax.train.prompt_sampling import (
    BOTTOM_RIGHT,
    BOX_SLOTS,
    CLICK_SLOTS,
    EMPTY,
    NEGATIVE,
    POSITIVE,
    STRIDE,
    TOP_LEFT,
    Prompts,
)

# Whatever numpy makes an array of.
Numbers = ArrayLike | Sequence | int | float


def picture_prompts(
    points: Numbers | None,
    labels: Numbers | None,
    boxes: Numbers | None,
    mask_input: Numbers | None,
    picture: tuple[int, int],
    side: int,
) -> tuple[Prompts, int | None]:
    """The prompts, and how many objects they are about; None if they have no axis of objects.

    Shapes are points (p, 2), labels (p,), boxes (4,) and mask_input (side/4, side/4), all or none
    of them with a first axis of objects. `picture` is height and width, `side` that of the model's
    input. Raises ValueError, with what to do, for anything that is no such prompt.
    """
    points, labels = _read_points(points, labels, picture)
    boxes = None if boxes is None else _read_boxes(boxes, picture)
    mask_input = None if mask_input is None else _read_mask(mask_input, side // STRIDE)
    number = _objects({"points": (points, 3), "boxes": (boxes, 2), "mask_input": (mask_input, 3)})
    objects = 1 if number is None else number
    prompts = _nothing(power_of_two(objects), 0 if points is None else points.shape[-2], side)
    # From the centres of the picture's pixels to those of the model's.
    scale = side / np.array(picture[::-1], np.float32)
    if points is not None:
        slots = slice(points.shape[-2])
        prompts.points[:objects, slots] = (points + 0.5) * scale - 0.5
        prompts.labels[:objects, slots] = labels
    if boxes is not None:
        corners = boxes.reshape(-1, BOX_SLOTS, 2)
        prompts.points[:objects, -BOX_SLOTS:] = (corners + 0.5) * scale - 0.5
        prompts.labels[:objects, -BOX_SLOTS:] = TOP_LEFT, BOTTOM_RIGHT
    if mask_input is not None:
        prompts.mask_input[:objects] = mask_input[..., None]
        prompts.has_mask[:objects] = True
    return prompts, number


def power_of_two(number: int) -> int:
    """The least one that is not below `number`."""
    return 1 << max(number - 1, 0).bit_length()


def _nothing(objects: int, points: int, side: int) -> Prompts:
    slots = max(CLICK_SLOTS, power_of_two(points)) + BOX_SLOTS
    return Prompts(
        points=np.zeros((objects, slots, 2), np.float32),
        labels=np.full((objects, slots), EMPTY, np.int32),
        mask_input=np.zeros((objects, side // STRIDE, side // STRIDE, 1), np.float32),
        has_mask=np.zeros(objects, bool),
    )


def _objects(given: dict[str, tuple[np.ndarray | None, int]]) -> int | None:
    """How many objects; `given` has arrays and the number of axes that they have with objects."""
    said = {
        name: len(array) if array.ndim == axes else None
        for name, (array, axes) in given.items()
        if array is not None
    }
    # One object with its axis is the same as one without.
    several = {name: number for name, number in said.items() if number is not None}
    if None in said.values() and set(several.values()) <= {1}:
        return None
    if len(set(said.values())) > 1:
        listed = ", ".join(f"{name} of {n or 'one'}" for name, n in said.items())
        raise ValueError(
            f"prompts of different numbers of objects: {listed}; give all of them a first axis of "
            "the same number of objects, or none"
        )
    return next(iter(said.values()), None)


def _read_points(
    points: Numbers | None, labels: Numbers | None, picture: tuple[int, int]
) -> tuple[Float32[np.ndarray, "*n p 2"] | None, Int32[np.ndarray, "*n p"] | None]:
    if points is None and labels is None:
        return None, None
    if points is None or labels is None:
        present, missing = ("labels", "points") if points is None else ("points", "labels")
        raise ValueError(f"{present} without {missing}; give a label for each point: 1 in, 0 out")
    points, labels = _numbers("points", points), _numbers("labels", labels)
    if points.ndim not in (2, 3) or points.shape[-1] != 2:
        raise ValueError(
            f"points: shape {points.shape}; want (p, 2), x and y of each, or (n, p, 2)"
        )
    if labels.shape != points.shape[:-1]:
        raise ValueError(f"labels: shape {labels.shape}; want a label a point: {points.shape[:-1]}")
    given = labels != EMPTY
    if not np.isin(labels[given], (NEGATIVE, POSITIVE)).all():
        raise ValueError(
            f"labels: {np.unique(labels).tolist()}; want 1 in, 0 out or -1 for an empty slot "
            "(corners of a box are given as boxes)"
        )
    points = np.where(given[..., None], points, 0.0)
    _check_finite("points", points)
    height, width = picture
    outside = (points < -0.5) | (points > np.array([width, height]) - 0.5)
    if outside.any():
        x, y = points[outside.any(axis=-1)][0].tolist()
        raise ValueError(
            f"points: ({x:g}, {y:g}) is outside the picture, whose pixels are x 0..{width - 1} and "
            f"y 0..{height - 1}"
        )
    return points.astype(np.float32), labels.astype(np.int32)


def _read_boxes(boxes: Numbers, picture: tuple[int, int]) -> Float32[np.ndarray, "*n 4"]:
    boxes = _numbers("boxes", boxes)
    if boxes.ndim not in (1, 2) or boxes.shape[-1] != 4:
        raise ValueError(f"boxes: shape {boxes.shape}; want (4,), x0 y0 x1 y1, or (n, 4)")
    _check_finite("boxes", boxes)
    corners = np.sort(boxes.reshape(boxes.shape[:-1] + (2, 2)), axis=-2)
    height, width = picture
    last = np.array([width, height]) - 1.0
    outside = ((corners[..., 1, :] < -0.5) | (corners[..., 0, :] > last + 0.5)).any(axis=-1)
    if outside.any():
        box = ", ".join(f"{value:g}" for value in boxes.reshape(-1, 4)[outside.ravel()][0])
        raise ValueError(
            f"boxes: ({box}) is all outside the picture, whose pixels are x 0..{width - 1} and "
            f"y 0..{height - 1}"
        )
    return np.clip(corners, 0.0, last).reshape(boxes.shape).astype(np.float32)


def _read_mask(mask_input: Numbers, cells: int) -> Float32[np.ndarray, "*n h w"]:
    mask_input = _numbers("mask_input", mask_input)
    if mask_input.ndim not in (2, 3) or mask_input.shape[-2:] != (cells, cells):
        raise ValueError(
            f"mask_input: shape {mask_input.shape}; want one of the low_res_logits of an answer, "
            f"({cells}, {cells}), or (n, {cells}, {cells}) for n objects"
        )
    _check_finite("mask_input", mask_input)
    return mask_input.astype(np.float32)


def _numbers(name: str, values: Numbers) -> np.ndarray:
    try:
        return np.asarray(values).astype(np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: not an array of numbers: {error}") from error


def _check_finite(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: NaN or infinity among the numbers")
