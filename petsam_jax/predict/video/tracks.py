"""Records of the objects of a clip: their prompts by frame, and where they were tracked.

A prompted frame keeps all that it takes to remember it and to go on from it, about 100 KB; a
tracked one its mask as run lengths and its pointer, about 1 KB. Records are never changed, so an
earlier state is a copy of two dictionaries.
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
Memory = Float32[np.ndarray, "h16 w16 e"]


class PromptedFrame(NamedTuple):
    """A prompt on a frame, and its result."""

    prompt: Prompt
    initial: bool  # predicted without memory, since the frame had not been tracked
    reverse: bool  # the direction of tracking in which memory was read
    counts: str  # run lengths of the mask
    logits: Logits
    object_logit: float
    obj_ptr: Float32[np.ndarray, " c"]
    memory: Memory
    view: View  # the part of the frame that the logits are of
    memory_view: View  # the part that the memory is of


class TrackedFrame(NamedTuple):
    """A frame where memory alone found the object, or did not."""

    counts: str
    object_logit: float
    obj_ptr: Float32[np.ndarray, " c"]
    reverse: bool


@dataclasses.dataclass
class TrackedObject:
    """Frames by number. One with a prompt may have been tracked before, and keeps that."""

    prompted: dict[int, PromptedFrame] = dataclasses.field(default_factory=dict)
    tracked: dict[int, TrackedFrame] = dataclasses.field(default_factory=dict)

    def copy(self) -> "TrackedObject":
        """With the prompts as they are now; further tracked frames are in both."""
        return TrackedObject(dict(self.prompted), self.tracked)


class RecentFrame(NamedTuple):
    """The parts of a tracked frame that are too large to be kept for long."""

    logits: Logits
    memory: Memory
    view: View


# A frame, an object, and what recent frames keep of it there.
RecentEntry = tuple[int, int, RecentFrame]


class RecentFrames:
    """What is kept of the frames near the last tracked one, by object."""

    def __init__(self, reach: int, entries: Iterable[RecentEntry] = ()):
        self._reach = reach
        self._frames: dict[int, dict[int, RecentFrame]] = {}
        for frame, object_id, recent in entries:
            self._frames.setdefault(frame, {})[object_id] = recent

    def put(self, frame: int, object_id: int, recent: RecentFrame) -> None:
        """Add a frame and drop those that are more than `reach` away."""
        for far in [each for each in self._frames if abs(each - frame) > self._reach]:
            del self._frames[far]
        self._frames.setdefault(frame, {})[object_id] = recent

    def get(self, frame: int, object_id: int) -> RecentFrame | None:
        return self._frames.get(frame, {}).get(object_id)

    def entries(self) -> list[RecentEntry]:
        """All that is kept, as the constructor takes it."""
        return [
            (frame, each, recent)
            for frame, objects in self._frames.items()
            for each, recent in objects.items()
        ]

    def drop(self, object_id: int) -> None:
        for objects in self._frames.values():
            objects.pop(object_id, None)


def pack(mask: Mask) -> str:
    """The run lengths of a mask."""
    return encode_rle(mask)["counts"]


def unpack(counts: str, size: tuple[int, int]) -> Mask:
    """The mask, of this height and width."""
    return decode_rle({"size": size, "counts": counts})
