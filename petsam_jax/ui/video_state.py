"""The page's state of a clip: the prompts of all objects on all frames, read and checked.

As in `page_state`, the browser owns the state and sends all of it. Tracked masks are the server's.
"""

import dataclasses
import re
from typing import NamedTuple

from petsam_jax.ui import limits
from petsam_jax.ui.page_state import (
    VIDEO_PROMPTS,
    ObjectPrompts,
    Settings,
    read_object,
    read_settings,
)
from petsam_jax.ui.request_fields import (
    BadRequest,
    read_bool,
    read_choice,
    read_dict,
    read_int,
    read_list,
    read_number,
)

# The browser chooses an id that nobody can guess, and can send the clip again under it.
ID = re.compile("[0-9a-f]{32}")
FORMATS = ("mp4", "gif", "webp")
# Has no background, which an mp4 cannot express.
TRANSPARENT = "cutout"
KINDS = ("overlay", TRANSPARENT, "white", "green", "black", "blur", "mask")


class ClipObject(NamedTuple):
    number: int  # unique; decides its colour
    frames: dict[int, ObjectPrompts]  # only frames with prompts


class ClipState(NamedTuple):
    clip: str  # its id
    frame: int  # the one that the page shows
    objects: tuple[ClipObject, ...]
    active: int
    settings: Settings


@dataclasses.dataclass(frozen=True)
class VideoExportOptions:
    """What to save."""

    kind: str
    format: str
    soft: float  # pixels over which a cut-out's edge fades
    opacity: float  # of the overlay


def read_clip_id(value: object) -> str:
    """Raises BadRequest."""
    if not isinstance(value, str) or not ID.fullmatch(value):
        raise BadRequest("clip: expected an id of 32 hexadecimal digits")
    return value


def read_clip_state(value: object) -> ClipState:
    """Raises BadRequest for anything that the page would not send."""
    fields = read_dict("request", value, {"clip", "frame", "objects", "active", "settings"})
    objects = tuple(
        _read_clip_object(f"objects[{i}]", each)
        for i, each in enumerate(read_list("objects", fields.get("objects"), limits.MAX_OBJECTS))
    )
    if len({each.number for each in objects}) < len(objects):
        raise BadRequest("objects: two of them have the same number")
    return ClipState(
        clip=read_clip_id(fields.get("clip")),
        frame=read_int("frame", fields.get("frame"), 0, 10**6),
        objects=objects,
        active=read_int("active", fields.get("active", 0), 0, max(len(objects) - 1, 0)),
        settings=read_settings(fields.get("settings", {})),
    )


def _read_clip_object(name: str, value: object) -> ClipObject:
    fields = read_dict(name, value, {"number", "frames"})
    frames = fields.get("frames", {})
    if not isinstance(frames, dict) or not all(frame.isdecimal() for frame in frames):
        raise BadRequest(f"{name}.frames: expected a dictionary of prompts by frame")
    if len(frames) > limits.MAX_PROMPTED:
        raise BadRequest(
            f"{name}.frames: prompts on {len(frames)} frames; the limit is {limits.MAX_PROMPTED}"
        )
    read = {
        int(frame): read_object(f"{name}.frames[{frame}]", prompts, VIDEO_PROMPTS)
        for frame, prompts in frames.items()
    }
    prompted = {frame: prompts for frame, prompts in read.items() if not prompts.is_empty}
    return ClipObject(read_int(f"{name}.number", fields.get("number"), 1, 10**6), prompted)


def read_tracking(value: object) -> tuple[ClipState, bool]:
    """A state, and whether to track backward too."""
    fields = read_dict("request", value, {"state", "both"})
    return read_clip_state(fields.get("state")), read_bool("both", fields.get("both", False))


def read_video_export(value: object) -> tuple[ClipState, VideoExportOptions]:
    """The state to save, and how."""
    fields = read_dict("request", value, {"state", "kind", "format", "soft", "opacity"})
    options = VideoExportOptions(
        kind=read_choice("kind", fields.get("kind"), KINDS),
        format=read_choice("format", fields.get("format"), FORMATS),
        soft=read_number("soft", fields.get("soft", 0), 0, 100),
        opacity=read_number("opacity", fields.get("opacity", 0.45), 0, 1),
    )
    if options.kind == TRANSPARENT and options.format == "mp4":
        raise BadRequest("format: mp4 cannot be transparent; choose gif or webp")
    return read_clip_state(fields.get("state")), options
