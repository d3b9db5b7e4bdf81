"""What a user gives about an object, and how the model reads it.

`Prompt` holds all kinds of prompts. The command line, the page, its API and saved sessions make
one, and the predictors take it; what each kind means to the model is decided here alone.
`model_prompts` turns prompts into the model's `Prompts`: numpy arrays of few different shapes, so
that a further point or object never triggers compilation. There are slots for 16 points, then for
the next power of two; objects are padded to a power of two.

Coordinates are pixel indices of the image, (0, 0) being the centre of the upper left pixel. The
image reaches from -0.5 to its width - 0.5; a point beyond is refused. A box includes the pixels of
its sides, so one whose corners are equal is one pixel. Its corners come in any order; it is clipped
to the image, and a box that lies entirely outside is refused.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from petsam_jax.models.position import MASK_STRIDE
from petsam_jax.models.prompts import BOTTOM_RIGHT, BOX_SLOTS, CLICK_SLOTS, EMPTY, TOP_LEFT, Prompts
from petsam_jax.predict import prompt_arrays
from petsam_jax.predict.prompt_arrays import Numbers
from petsam_jax.predict.prompt_masks import Coordinate, PackedMask, Point, Stroke, draw, mask_logits


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Everything a user gives about one object on one image or frame, in the image's pixels.

    Plain values only, so that prompts can be compared, hashed and written as JSON; `read` makes one
    from arrays. Whether they fit an image is checked when they are used on it. Without any, the
    predictors find the pet.
    """

    points: tuple[Point, ...] = ()  # clicks (x, y)
    labels: tuple[int, ...] = ()  # one per click: 1 on the object, 0 off it, -1 to ignore it
    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate] | None = None  # x0 y0 x1 y1
    strokes: tuple[Stroke, ...] = ()  # painted over the object
    # As large as the image: a first guess for an image, and the object's own mask in a video.
    mask: PackedMask | None = None
    find: bool = False  # clicks correct the pet that is found without any other prompt

    @classmethod
    def read(
        cls,
        points: Numbers | None = None,
        labels: Numbers | None = None,
        box: Numbers | None = None,
        mask: Numbers | None = None,
    ) -> "Prompt":
        """From points (p, 2), labels (p,), a box (4,), a mask (h, w) of bool or whole numbers.

        Raises ValueError, with what is expected, for anything else.
        """
        fields: dict[str, Any] = {}
        if points is not None or labels is not None:
            points, labels = prompt_arrays.read_points(points, labels)
            if points.ndim > 2:
                raise ValueError("points: several objects; give one at a time, of shape (p, 2)")
            fields |= {"points": _tuples(points.tolist()), "labels": _tuples(labels.tolist())}
        if box is not None:
            box = prompt_arrays.read_boxes(box)
            if box.ndim > 1:
                raise ValueError(f"box: shape {box.shape}; expected (4,), x0 y0 x1 y1")
            fields["box"] = _tuples(box.tolist())
        if mask is not None:
            fields["mask"] = PackedMask.of(prompt_arrays.read_mask(mask))
        return cls(**fields)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was given at all."""
        return self == Prompt()

    @property
    def coordinates(self) -> Float[np.ndarray, "n 2"]:
        """Every (x, y) that was pointed at: clicks, strokes, corners of the box."""
        corners = () if self.box is None else (self.box[:2], self.box[2:])
        painted = [point for stroke in self.strokes for point in stroke.points]
        return np.array([*self.points, *corners, *painted], float).reshape(-1, 2)

    def with_points(self, points: Sequence[Point], labels: Sequence[int]) -> "Prompt":
        """The same with further clicks."""
        points, labels = (*self.points, *points), (*self.labels, *labels)
        return dataclasses.replace(self, points=points, labels=labels)

    def first_points(self, number: int) -> "Prompt":
        """The same with its first clicks only."""
        points, labels = self.points[:number], self.labels[:number]
        return dataclasses.replace(self, points=points, labels=labels)

    def steps(self) -> "list[Prompt]":
        """What to predict one after the other: first without clicks, then one more click each time.

        Each is predicted from the mask of the one before, as in training. The first one is left out
        where there are only clicks.
        """
        start = self.first_points(0)
        skipped = 1 if self.points and start.is_empty else 0
        return [self.first_points(number) for number in range(skipped, len(self.points) + 1)]

    def extends(self, other: "Prompt") -> bool:
        """Whether this is the other prompt, or that with further clicks."""
        return self.first_points(len(other.points)) == other

    def in_crop(self, left: int, top: int) -> "Prompt":
        """The same in the pixels of a crop that begins at (left, top), but for the mask."""

        def moved(points: Sequence[Point]) -> tuple[Point, ...]:
            return tuple((x - left, y - top) for x, y in points)

        box = self.box and (*moved([self.box[:2]])[0], *moved([self.box[2:]])[0])
        strokes = tuple(Stroke(each.radius, moved(each.points)) for each in self.strokes)
        return Prompt(moved(self.points), self.labels, box, strokes, find=self.find)

    def check(self, size: tuple[int, int]) -> None:
        """Raise ValueError for what does not fit an image of this height and width."""
        self._clicks(size)
        self._corners(size)
        self._own_mask(size)

    def _clicks(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        points, labels = prompt_arrays.read_points(
            np.reshape(self.points, (-1, 2)), np.array(self.labels, int)
        )
        prompt_arrays.check_points(points, size)
        return points, labels

    def _corners(self, size: tuple[int, int]) -> tuple[tuple[float, ...], ...] | None:
        return None if self.box is None else prompt_arrays.clip_box(self.box, size)

    def _own_mask(self, size: tuple[int, int]) -> PackedMask | None:
        if self.mask is not None and self.mask.size != size:
            (height, width), (mask_height, mask_width) = size, self.mask.size
            raise ValueError(
                f"the image has {width} x {height} pixels and the mask {mask_width} x "
                f"{mask_height}; they must be equal"
            )
        return self.mask

    def _mask_logits(self, size: tuple[int, int], cells: int) -> np.ndarray | None:
        own = self._own_mask(size)
        if own is not None:
            return mask_logits(own.unpack(), cells)
        return mask_logits(draw(self.strokes, size), cells) if self.strokes else None

    def to_json(self) -> dict[str, Any]:
        """The fields that were given, as JSON takes them."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if value != getattr(Prompt, name)}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> "Prompt":
        """The prompt of `to_json`; raises TypeError for anything else."""
        fields = {name: _tuples(value) for name, value in given.items()}
        if "strokes" in fields:
            fields["strokes"] = tuple(Stroke(*each) for each in fields["strokes"])
        if "mask" in fields:
            fields["mask"] = PackedMask(*fields["mask"])
        return cls(**fields)


def read_prompts(
    points: Numbers | None,
    labels: Numbers | None,
    boxes: Numbers | None,
    mask_input: Numbers | None,
    cells: int,
    prompt: Prompt | Sequence[Prompt] | None = None,
) -> tuple[list[Prompt], Float32[np.ndarray, "n h w"] | None, int | None]:
    """A prompt per object, their mask inputs, and the number of objects, None without their axis.

    Shapes are points (p, 2), labels (p,), boxes (4,) and mask_input (cells, cells), all or none of
    them with a first axis of objects; or `prompt`, one or several, takes the place of points and
    boxes. Raises ValueError, with what is expected, for anything else.
    """
    if prompt is not None and not points is labels is boxes is None:
        raise ValueError("prompt: holds points and boxes itself; pass one or the other")
    columns, number = prompt_arrays.read_objects(points, labels, boxes, mask_input, cells)
    logits = columns.pop("mask_input", None)
    if prompt is None:
        prompts = [
            Prompt(**{name: _tuples(column[row].tolist()) for name, column in columns.items()})
            for row in range(1 if number is None else number)
        ]
        return prompts, logits, number
    number = None if isinstance(prompt, Prompt) else len(prompt)
    prompts = [prompt] if isinstance(prompt, Prompt) else list(prompt)
    if logits is not None and len(logits) != len(prompts):
        raise ValueError(f"mask_input: of {len(logits)} objects; expected {len(prompts)}")
    return prompts, logits, number


def model_prompts(
    prompts: Sequence[Prompt],
    size: tuple[int, int],
    side: int,
    mask_input: Float32[np.ndarray, "n h w"] | None = None,
) -> Prompts:
    """What the model reads about objects of an image of this height and width; `side` is its own.

    `mask_input` takes the place of masks and strokes. Raises ValueError for prompts that do not fit
    the image.
    """
    cells = side // MASK_STRIDE
    most = max((len(prompt.points) for prompt in prompts), default=0)
    read = _no_prompts(power_of_two(len(prompts)), most, side)
    # From the centres of the image's pixels to those of the model's.
    scale = side / np.array(size[::-1], np.float32)
    for row, prompt in enumerate(prompts):
        if prompt.points or prompt.labels:
            points, labels = prompt._clicks(size)
            read.points[row, : len(points)] = (points.astype(np.float32) + 0.5) * scale - 0.5
            read.labels[row, : len(labels)] = labels
        corners = prompt._corners(size)
        if corners is not None:
            read.points[row, -BOX_SLOTS:] = (np.array(corners, np.float32) + 0.5) * scale - 0.5
            read.labels[row, -BOX_SLOTS:] = TOP_LEFT, BOTTOM_RIGHT
        logits = prompt._mask_logits(size, cells) if mask_input is None else mask_input[row]
        if logits is not None:
            read.mask_input[row, ..., 0], read.has_mask[row] = logits, True
    return read


def power_of_two(number: int) -> int:
    """The smallest one that is at least `number`."""
    return 1 << max(number - 1, 0).bit_length()


def _no_prompts(objects: int, points: int, side: int) -> Prompts:
    slots = max(CLICK_SLOTS, power_of_two(points)) + BOX_SLOTS
    arrays: dict[str, Any] = dict(
        points=np.zeros((objects, slots, 2), np.float32),
        labels=np.full((objects, slots), EMPTY, np.int32),
        mask_input=np.zeros((objects, side // MASK_STRIDE, side // MASK_STRIDE, 1), np.float32),
        has_mask=np.zeros(objects, bool),
    )
    return Prompts(**arrays)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
