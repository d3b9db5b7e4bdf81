"""Which frames of a clip were tracked, whether prompts changed since, and what to track next."""

import secrets
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

# States of a frame on the page's timeline; outdated: prompts changed after it was tracked.
UNTRACKED, OUTDATED, TRACKED = 0, 1, 2


class Pass(NamedTuple):
    """Frames to track in one direction, both ends included."""

    start: int
    end: int
    reverse: bool


class Timeline:
    """The tracking history of a clip of `count` frames."""

    def __init__(self, count: int):
        self._count = count
        # Grows with each change of a prompt. A random start lets the page see that a clip which it
        # sent again is not the one it had open before.
        self.version = secrets.randbits(30)
        self._tracked: dict[int, int] = {}  # the version at which each frame was tracked
        self._changed: set[int] = set()  # frames whose prompts changed since tracking began
        self._start = 0  # where tracking began last

    def prompt_changed(self, frame: int) -> None:
        """A prompt on that frame was added, changed or removed."""
        self.version += 1
        self._changed.add(frame)

    def frame_tracked(self, frame: int) -> None:
        """The frame was tracked with the current prompts."""
        self._tracked[frame] = self.version

    def states(self) -> UInt8[np.ndarray, "1 t"]:
        """One of the three states for each frame."""
        states = np.full((1, self._count), UNTRACKED, np.uint8)
        for frame in self._tracked:
            states[0, frame] = TRACKED if self._is_tracked(frame) else OUTDATED
        return states

    def passes(self, prompted: Collection[int], both: bool) -> list[Pass]:
        """What to track next, forward and, if `both`, backward; `prompted` are frames with prompts.

        Tracking starts at the first prompt that is new since the last time, and continues where it
        was stopped. With nothing new, all of it is tracked again.
        """
        if self._changed:
            first = min(self._changed)
            self._start = max((at for at in prompted if at <= first), default=min(prompted))
            self._changed.clear()
        elif self._start not in prompted:
            self._start = min(prompted)
        forward = [at for at in range(self._start, self._count) if not self._is_tracked(at)]
        backward = [at for at in range(self._start, -1, -1) if not self._is_tracked(at)]
        backward = backward if both else []
        if not forward and not backward:
            forward = [self._start]
            backward = [self._start] if both else []
        passes = [Pass(forward[0], self._count - 1, False)] if forward else []
        if backward and self._start > 0:
            passes.append(Pass(backward[0], 0, True))
        return passes

    def _is_tracked(self, frame: int) -> bool:
        return self._tracked.get(frame) == self.version
