"""What the browser says about a clip: the prompts of all objects on all frames, read and checked.

As in `page_state` the browser owns it and sends it whole. What was tracked is the server's.
"""

import dataclasses
import re
from typing import NamedTuple

from petsam_jax.ui import limits
from petsam_jax.ui.page_state import ObjectPrompts, Settings, read_object, read_settings
from petsam_jax.ui.request_fields import BadRequest, dictionary, listed, number, whole

# The browser names its clip, with what nobody guesses, and so can send it again under this name.
ID = re.compile("[0-9a-f]{32}")
FORMATS = ("mp4", "gif", "webp")
# "cutout" is on nothing, which an mp4 cannot hold.
CLEAR = "cutout"
KINDS = ("overlay", CLEAR, "white", "green", "black", "blur", "mask")


class ClipObject(NamedTuple):
    number: int  # never another's; its colour follows from it
    frames: dict[int, ObjectPrompts]  # those where anything was said


class ClipState(NamedTuple):
    clip: str  # its id
    frame: int  # which is shown
    objects: tuple[ClipObject, ...]
    active: int
    settings: Settings


@dataclasses.dataclass(frozen=True)
class FilmStyle:
    """How a video should look that a visitor takes home."""

    kind: str
    format: str
    soft: float  # pixels over which a cut-out's edge fades
    opacity: float  # of the overlay


def read_clip_id(said: object) -> str:
    """Raises BadRequest."""
    if not isinstance(said, str) or not ID.fullmatch(said):
        raise BadRequest("clip: want an id of 32 digits from 0 to f")
    return said


def read_clip_state(said: object) -> ClipState:
    """Raises BadRequest for anything that the page would not send."""
    said = dictionary("request", said, {"clip", "frame", "objects", "active", "settings"})
    objects = tuple(
        _read_clip_object(f"objects[{i}]", one)
        for i, one in enumerate(listed("objects", said.get("objects"), limits.MAX_OBJECTS))
    )
    if len({one.number for one in objects}) < len(objects):
        raise BadRequest("objects: two of them have one number")
    return ClipState(
        clip=read_clip_id(said.get("clip")),
        frame=whole("frame", said.get("frame"), 0, 10**6),
        objects=objects,
        active=whole("active", said.get("active", 0), 0, max(len(objects) - 1, 0)),
        settings=read_settings(said.get("settings", {})),
    )


def _read_clip_object(name: str, said: object) -> ClipObject:
    said = dictionary(name, said, {"number", "frames"})
    frames = said.get("frames", {})
    if not isinstance(frames, dict) or not all(at.isdecimal() for at in frames):
        raise BadRequest(f"{name}.frames: want a dictionary of prompts by frame")
    if len(frames) > limits.MAX_PROMPTED:
        raise BadRequest(
            f"{name}.frames: prompts on {len(frames)}; at most {limits.MAX_PROMPTED} are taken"
        )
    read = {
        int(at): read_object(f"{name}.frames[{at}]", one, {"clicks", "box", "find"})
        for at, one in frames.items()
    }
    own = {at: one for at, one in read.items() if not one.is_empty}
    return ClipObject(whole(f"{name}.number", said.get("number"), 1, 10**6), own)


def read_tracking(said: object) -> tuple[ClipState, bool]:
    """A state, and whether to track backwards too."""
    said = dictionary("request", said, {"state", "both"})
    if not isinstance(said.get("both", False), bool):
        raise BadRequest("both: want true or false")
    return read_clip_state(said.get("state")), said.get("both", False)


def read_film(said: object) -> tuple[ClipState, FilmStyle]:
    """A state, and which file is wanted of it."""
    said = dictionary("request", said, {"state", "kind", "format", "soft", "opacity"})
    for name, known in (("kind", KINDS), ("format", FORMATS)):
        if said.get(name) not in known:
            raise BadRequest(f"{name}: {said.get(name)!r:.40}; there are {', '.join(known)}")
    if said["kind"] == CLEAR and said["format"] == "mp4":
        raise BadRequest("format: an mp4 cannot be transparent; take gif or webp")
    style = FilmStyle(
        kind=said["kind"],
        format=said["format"],
        soft=number("soft", said.get("soft", 0), 0, 100),
        opacity=number("opacity", said.get("opacity", 0.45), 0, 1),
    )
    return read_clip_state(said.get("state")), style
