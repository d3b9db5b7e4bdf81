"""The page's state: the prompts of all objects and the settings, read from JSON and checked.

The browser owns the state and sends all of it with each request, so the newest request is the truth
and the server keeps no visitor's prompts between requests. Coordinates are image pixels, x before
y.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, NamedTuple, get_args

from petsam_jax.models.prompts import POSITIVE
from petsam_jax.predict.prompt_inputs import Prompt
from petsam_jax.predict.prompt_masks import Stroke
from petsam_jax.ui import limits
from petsam_jax.ui.request_fields import (
    BadRequest,
    read_bool,
    read_choice,
    read_dict,
    read_int,
    read_list,
    read_number,
)

# "auto" is what `label_click` finds at that place.
ClickLabel = Literal["auto", "opposite", "pet", "background"]


class Click(NamedTuple):
    x: int
    y: int
    label: ClickLabel


@dataclasses.dataclass(frozen=True)
class ObjectPrompts:
    """An object's prompts on the page, where clicks may have no label yet."""

    clicks: tuple[Click, ...] = ()
    rest: Prompt = Prompt()  # without clicks; the corners of its box are in order
    # Which of three masks, where they are ambiguous: before any click, and after the first.
    choices: tuple[int | None, int | None] = (None, None)

    @property
    def is_empty(self) -> bool:
        return not self.clicks and self.rest.is_empty

    def labelled(self, labels: Sequence[int]) -> Prompt:
        """All of it as one prompt, with a label for each click."""
        return self.rest.with_points([(click.x, click.y) for click in self.clicks], labels)

    def check_inside(self, size: tuple[int, int]) -> None:
        """Raises BadRequest for prompts outside an image of that height and width."""
        try:
            self.labelled([POSITIVE] * len(self.clicks)).check(size)
        except ValueError as error:
            raise BadRequest(str(error)) from error


@dataclasses.dataclass(frozen=True)
class Settings:
    patch: int = 5  # side in pixels of the area that labels a click
    pet_threshold: float = 0.5  # mean pet probability in that area that makes the label "pet"
    mask_threshold: float = 0.5  # probability from which a pixel is in the mask
    fill_holes: int = 0  # pixels
    remove_islands: int = 0  # pixels
    last_click_only: bool = False

    @property
    def mask_logit(self) -> float:
        return math.log(self.mask_threshold / (1 - self.mask_threshold))


class PageState(NamedTuple):
    image: str  # its id
    objects: tuple[ObjectPrompts, ...]
    active: int
    settings: Settings


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What to save."""

    kind: str
    name: str  # of the image file
    numbers: tuple[int, ...]  # of the objects, from 1; each has its own colour
    trim: bool  # crop a cut-out to its mask
    soft: float  # pixels over which a cut-out's edge fades
    opacity: float  # of the overlay

    def colour_index(self, i: int) -> int:
        """The colour of the i-th object."""
        return self.numbers[i] - 1 if i < len(self.numbers) else i


def read_export(value: object, kinds: tuple[str, ...]) -> tuple[PageState, ExportOptions]:
    """The state to save, and how; raises BadRequest."""
    names = {"state", *(field.name for field in dataclasses.fields(ExportOptions))}
    fields = read_dict("request", value, names)
    name = fields.get("name", "")
    if not isinstance(name, str):
        raise BadRequest("name: expected text")
    numbers = read_list("numbers", fields.get("numbers", []), limits.MAX_OBJECTS)
    options = ExportOptions(
        kind=read_choice("kind", fields.get("kind"), kinds),
        name=name[:200] or "picture",
        numbers=tuple(read_int("numbers", number, 1, 10**6) for number in numbers),
        trim=read_bool("trim", fields.get("trim", True)),
        soft=read_number("soft", fields.get("soft", 0), 0, 100),
        opacity=read_number("opacity", fields.get("opacity", 0.45), 0, 1),
    )
    return read_state(fields.get("state")), options


def read_state(value: object) -> PageState:
    """Raises BadRequest for anything that the page would not send."""
    fields = read_dict("request", value, {"image", "objects", "active", "settings"})
    image = fields.get("image")
    if not isinstance(image, str):
        raise BadRequest("image: expected the id that `open` returned")
    objects = tuple(
        read_object(f"objects[{i}]", prompts)
        for i, prompts in enumerate(read_list("objects", fields.get("objects"), limits.MAX_OBJECTS))
    )
    active = read_int("active", fields.get("active", 0), 0, max(len(objects) - 1, 0))
    return PageState(image, objects, active, read_settings(fields.get("settings", {})))


def read_settings(value: object) -> Settings:
    """Raises BadRequest for unknown settings and for values out of range."""
    readers = {
        "patch": (read_int, 1, 99),
        "pet_threshold": (read_number, 0.01, 0.99),
        "mask_threshold": (read_number, 0.01, 0.99),
        "fill_holes": (read_int, 0, 10**8),
        "remove_islands": (read_int, 0, 10**8),
        "last_click_only": (read_bool,),
    }
    values = {}
    for name, setting in read_dict("settings", value, set(readers)).items():
        read, *bounds = readers[name]
        values[name] = read(f"settings.{name}", setting, *bounds)
    return Settings(**values)


def _read_click(name: str, value: object) -> Click:
    labels = get_args(ClickLabel)
    if not isinstance(value, list) or len(value) != 3 or value[2] not in labels:
        raise BadRequest(f"{name}: expected [x, y, one of {', '.join(labels)}]")
    return Click(read_int(name, value[0], 0, 10**6), read_int(name, value[1], 0, 10**6), value[2])


def read_box(name: str, value: object) -> tuple[int, int, int, int]:
    """Corners in any order; a box without area is refused."""
    if not isinstance(value, list) or len(value) != 4:
        raise BadRequest(f"{name}: expected [x0, y0, x1, y1]")
    x0, y0, x1, y1 = (read_int(name, number, 0, 10**6) for number in value)
    if x0 == x1 or y0 == y1:
        raise BadRequest(f"{name}: this box has no area; its corners must differ in both x and y")
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _read_strokes(name: str, value: object) -> tuple[Stroke, ...]:
    strokes = read_list(name, value, limits.MAX_STROKES)
    return tuple(_read_stroke(f"{name}[{i}]", stroke) for i, stroke in enumerate(strokes))


def _read_stroke(name: str, value: object) -> Stroke:
    fields = read_dict(name, value, {"radius", "points"})
    flat = read_list(f"{name}.points", fields.get("points"), limits.MAX_STROKE_POINTS)
    if len(flat) < 2 or len(flat) % 2:
        raise BadRequest(f"{name}.points: expected x, y, x, y, ...")
    numbers = [read_number(f"{name}.points", number, -(10.0**6), 10.0**6) for number in flat]
    radius = read_number(f"{name}.radius", fields.get("radius"), 0.5, 10.0**4)
    return Stroke(radius, tuple(zip(numbers[::2], numbers[1::2], strict=True)))


# The kinds of prompts besides clicks, by the field of `Prompt`.
PROMPT_READERS: dict[str, Callable[[str, object], Any]] = {
    "box": read_box,
    "strokes": _read_strokes,
    "find": read_bool,
}
# Those that the video tab has, too.
VIDEO_PROMPTS = ("box", "find")


def read_object(
    name: str, value: object, known: Collection[str] = (*PROMPT_READERS, "choices")
) -> ObjectPrompts:
    """An object's prompts; `known` are the allowed fields beside clicks."""
    fields = read_dict(name, value, {"clicks", *known})
    clicks = read_list(f"{name}.clicks", fields.get("clicks", []), limits.MAX_POINTS)
    choices = read_list(f"{name}.choices", fields.get("choices", [None, None]), 2)
    if len(choices) != 2:
        raise BadRequest(f"{name}.choices: expected two of null, 0, 1 and 2")
    given = {
        field: read(f"{name}.{field}", fields[field])
        for field, read in PROMPT_READERS.items()
        if fields.get(field) is not None
    }
    return ObjectPrompts(
        clicks=tuple(_read_click(f"{name}.clicks[{i}]", c) for i, c in enumerate(clicks)),
        rest=Prompt(**given),
        choices=tuple(c if c is None else read_int(f"{name}.choices", c, 0, 2) for c in choices),
    )
