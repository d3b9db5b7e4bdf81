"""What the browser says: the prompts of all objects and the settings, read from JSON and checked.

The browser owns all of it and sends it whole, so the newest request is the truth, and nothing of a
visitor is kept between two requests. Coordinates are pixels of the picture, x before y.
"""

import dataclasses
import math
from collections.abc import Collection
from typing import Literal, NamedTuple, get_args

from petsam_jax.ui import limits
from petsam_jax.ui.request_fields import BadRequest, dictionary, listed, number, whole

# What may be said about an object of a picture.
PROMPTS = ("clicks", "box", "strokes", "find", "choices")
# What a click says: what the page reads there, the opposite of that, or what the user insists on.
Say = Literal["auto", "other", "pet", "background"]


class Click(NamedTuple):
    x: int
    y: int
    say: Say


class Stroke(NamedTuple):
    radius: float
    points: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class ObjectPrompts:
    """All that was said about one object."""

    clicks: tuple[Click, ...] = ()
    box: tuple[int, int, int, int] | None = None  # x0 y0 x1 y1, sides included, corners in order
    strokes: tuple[Stroke, ...] = ()
    find: bool = False  # the pet, wherever it is
    # Which of three masks, where a prompt leaves it open: of the start, and of the first click.
    choices: tuple[int | None, int | None] = (None, None)

    @property
    def is_empty(self) -> bool:
        return not (self.clicks or self.box or self.strokes or self.find)


@dataclasses.dataclass(frozen=True)
class Settings:
    patch: int = 5  # side in pixels of what is looked at around a click
    pet_threshold: float = 0.5  # mean of the pet map over the patch from which a click is on a pet
    mask_threshold: float = 0.5  # probability above which a pixel belongs to a mask
    fill_holes: int = 0  # pixels
    remove_islands: int = 0  # pixels
    alone: bool = False  # each click for itself: only the last one counts

    @property
    def mask_logit(self) -> float:
        return math.log(self.mask_threshold / (1 - self.mask_threshold))


class PageState(NamedTuple):
    picture: str  # its id
    objects: tuple[ObjectPrompts, ...]
    active: int
    settings: Settings


@dataclasses.dataclass(frozen=True)
class Style:
    """How a file should look that a visitor takes home."""

    kind: str
    name: str  # of the picture's file
    numbers: tuple[int, ...]  # of the objects, from 1; their colours follow from them
    trim: bool  # the cut-out to what it shows
    soft: float  # pixels over which a cut-out's edge fades
    opacity: float  # of the overlay

    def colour(self, i: int) -> int:
        """Which colour the object at that place has."""
        return self.numbers[i] - 1 if i < len(self.numbers) else i


def read_result(said: object, kinds: Collection[str]) -> tuple[PageState, Style]:
    """What file is wanted, and of what; raises BadRequest."""
    names = {"state", *(field.name for field in dataclasses.fields(Style))}
    said = dictionary("request", said, names)
    if said.get("kind") not in kinds:
        raise BadRequest(f"kind: {said.get('kind')!r:.40}; there are {', '.join(kinds)}")
    numbers = listed("numbers", said.get("numbers", []), limits.MAX_OBJECTS)
    if not isinstance(said.get("name", ""), str) or not isinstance(said.get("trim", True), bool):
        raise BadRequest("name, trim: want text, and true or false")
    style = Style(
        kind=said["kind"],
        name=said.get("name", "")[:200] or "picture",
        numbers=tuple(whole("numbers", one, 1, 10**6) for one in numbers),
        trim=said.get("trim", True),
        soft=number("soft", said.get("soft", 0), 0, 100),
        opacity=number("opacity", said.get("opacity", 0.45), 0, 1),
    )
    return read_state(said.get("state")), style


def read_state(said: object) -> PageState:
    """Raises BadRequest for anything that the page would not send."""
    said = dictionary("request", said, {"picture", "objects", "active", "settings"})
    picture = said.get("picture")
    if not isinstance(picture, str):
        raise BadRequest("picture: want the id that opening it gave")
    objects = tuple(
        read_object(f"objects[{i}]", one)
        for i, one in enumerate(listed("objects", said.get("objects"), limits.MAX_OBJECTS))
    )
    active = whole("active", said.get("active", 0), 0, max(len(objects) - 1, 0))
    return PageState(picture, objects, active, read_settings(said.get("settings", {})))


def read_settings(said: object) -> Settings:
    """Raises BadRequest for unknown settings and for values out of range."""
    known = {field.name for field in dataclasses.fields(Settings)}
    values = dict(dictionary("settings", said, known))
    for name, least, most in (("patch", 1, 99), ("fill_holes", 0, 10**8)):
        if name in values:
            values[name] = whole(f"settings.{name}", values[name], least, most)
    if "remove_islands" in values:
        values["remove_islands"] = whole(
            "settings.remove_islands", values["remove_islands"], 0, 10**8
        )
    for name in ("pet_threshold", "mask_threshold"):
        if name in values:
            values[name] = number(f"settings.{name}", values[name], 0.01, 0.99)
    if not isinstance(values.get("alone", False), bool):
        raise BadRequest("settings.alone: want true or false")
    return Settings(**values)


def read_object(name: str, said: object, known: Collection[str] = PROMPTS) -> ObjectPrompts:
    """What was said about an object; `known` is what may be said."""
    said = dictionary(name, said, set(known))
    clicks = listed(f"{name}.clicks", said.get("clicks", []), limits.MAX_POINTS)
    strokes = listed(f"{name}.strokes", said.get("strokes", []), limits.MAX_STROKES)
    choices = listed(f"{name}.choices", said.get("choices", [None, None]), 2)
    if len(choices) != 2:
        raise BadRequest(f"{name}.choices: want two of null, 0, 1 and 2")
    if not isinstance(said.get("find", False), bool):
        raise BadRequest(f"{name}.find: want true or false")
    return ObjectPrompts(
        clicks=tuple(_read_click(f"{name}.clicks[{i}]", c) for i, c in enumerate(clicks)),
        box=None if said.get("box") is None else read_box(f"{name}.box", said["box"]),
        strokes=tuple(_read_stroke(f"{name}.strokes[{i}]", s) for i, s in enumerate(strokes)),
        find=said.get("find", False),
        choices=tuple(c if c is None else whole(f"{name}.choices", c, 0, 2) for c in choices),
    )


def _read_click(name: str, said: object) -> Click:
    if not isinstance(said, list) or len(said) != 3 or said[2] not in get_args(Say):
        raise BadRequest(f"{name}: want [x, y, one of {', '.join(get_args(Say))}]")
    return Click(whole(name, said[0], 0, 10**6), whole(name, said[1], 0, 10**6), said[2])


def read_box(name: str, said: object) -> tuple[int, int, int, int]:
    """Corners in any order; a box without area is refused."""
    if not isinstance(said, list) or len(said) != 4:
        raise BadRequest(f"{name}: want [x0, y0, x1, y1]")
    x0, y0, x1, y1 = (whole(name, value, 0, 10**6) for value in said)
    if x0 == x1 or y0 == y1:
        raise BadRequest(
            f"{name}: this box has no area; choose a second corner that is neither in the same row "
            "nor in the same column as the first"
        )
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _read_stroke(name: str, said: object) -> Stroke:
    said = dictionary(name, said, {"radius", "points"})
    flat = listed(f"{name}.points", said.get("points"), limits.MAX_STROKE_POINTS)
    if len(flat) < 2 or len(flat) % 2:
        raise BadRequest(f"{name}.points: want x, y, x, y, ...")
    numbers = [number(f"{name}.points", value, -(10.0**6), 10.0**6) for value in flat]
    radius = number(f"{name}.radius", said.get("radius"), 0.5, 10.0**4)
    return Stroke(radius, tuple(zip(numbers[::2], numbers[1::2], strict=True)))
