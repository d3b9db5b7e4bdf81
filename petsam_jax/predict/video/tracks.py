"""What is known of each object of a clip: what was said of it where, and where it was found.

A prompted frame is kept with all that it takes to remember it and to go on from it, about 100 KB; a
tracked one with its mask as run lengths and its pointer, about 1 KB. Records are never changed, so
that an earlier state is a copy of two dictionaries.
"""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

from petsam_jax.files.rle import decode_rle, encode_rle
from petsam_jax.predict.prompt_inputs import Prompt
from petsam_jax.predict.video.crops import View

Mask = Bool[np.ndarray, "h w"]
Logits = Float32[np.ndarray, "h4 w4"]
Map = Float32[np.ndarray, "h16 w16 e"]


class PromptedFrame(NamedTuple):
    """A frame with prompts, and their answer."""

    prompt: Prompt
    initial: bool  # no memory was read, since the frame had not been tracked
    reverse: bool  # the direction of tracking in which memory was read
    counts: str  # run lengths of the mask
    logits: Logits
    object_logit: float
    obj_ptr: Float32[np.ndarray, " c"]
    memory: Map
    view: View  # what the answer was shown, and its logits are of
    memory_view: View


class TrackedFrame(NamedTuple):
    """A frame where memory alone found the object, or did not."""

    counts: str
    object_logit: float
    obj_ptr: Float32[np.ndarray, " c"]
    reverse: bool


@dataclasses.dataclass
class TrackedObject:
    """Frames by number. A frame with prompts may have been tracked before, and keeps that."""

    prompted: dict[int, PromptedFrame] = dataclasses.field(default_factory=dict)
    tracked: dict[int, TrackedFrame] = dataclasses.field(default_factory=dict)

    def copy(self) -> "TrackedObject":
        """The prompts as they are now; what is tracked from now on is in both."""
        return TrackedObject(dict(self.prompted), self.tracked)

    def at(self, frame: int) -> PromptedFrame | TrackedFrame | None:
        """What counts on a frame."""
        return self.prompted.get(frame) or self.tracked.get(frame)


class RecentFrame(NamedTuple):
    """What of a tracked frame is too large to be kept for long."""

    logits: Logits
    memory: Map
    view: View


# A frame, an object, and what is kept of it there.
Kept = tuple[int, int, RecentFrame]


class RecentFrames:
    """The fresh parts of the frames nearest to the one that was tracked last, by object."""

    def __init__(self, reach: int, kept: Iterable[Kept] = ()):
        self._reach = reach
        self._frames: dict[int, dict[int, RecentFrame]] = {}
        for frame, object_id, fresh in kept:
            self._frames.setdefault(frame, {})[object_id] = fresh

    def put(self, frame: int, object_id: int, fresh: RecentFrame) -> None:
        for far in [each for each in self._frames if abs(each - frame) > self._reach]:
            del self._frames[far]
        self._frames.setdefault(frame, {})[object_id] = fresh

    def get(self, frame: int, object_id: int) -> RecentFrame | None:
        return self._frames.get(frame, {}).get(object_id)

    def kept(self) -> list[Kept]:
        """All that is in it, for another one to start from."""
        return [
            (frame, each, fresh)
            for frame, objects in self._frames.items()
            for each, fresh in objects.items()
        ]

    def drop(self, object_id: int) -> None:
        for objects in self._frames.values():
            objects.pop(object_id, None)


def pack(mask: Mask) -> str:
    return encode_rle(mask)["counts"]


def unpack(counts: str, size: tuple[int, int]) -> Mask:
    return decode_rle({"size": size, "counts": counts})
