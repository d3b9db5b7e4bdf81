"""The interface of a clip: frames by number, all of one size."""

from collections import OrderedDict

import numpy as np
from jaxtyping import UInt8

# For folders, arrays and streams, which have no frame rate.
DEFAULT_FPS = 24.0
# How many decoded frames of a video or stream are kept: up to KEPT, fewer if they are large.
KEPT, LEAST_KEPT, KEPT_BYTES = 32, 6, 64_000_000

Frame = UInt8[np.ndarray, "h w 3"]


class ClipError(ValueError):
    """A clip that cannot be used; the message names it and the fault."""


class Clip:
    """Frames by number. Subclasses define `_read`; `count` is None while unknown."""

    # Whether frames arrive in real time.
    live = False

    def __init__(self, name: str, count: int | None, fps: float = DEFAULT_FPS):
        self.name, self.count, self.fps = name, count, fps
        try:
            self.check(0)
            height, width, _ = self._read(0).shape
        except IndexError as error:
            raise ClipError(f"{name}: no frames in it") from error
        # Of the first frame; all others must have the same.
        self.size = height, width

    def check(self, frame: int) -> None:
        """Raise IndexError for a frame that the clip does not have."""
        if frame < 0 or (self.count is not None and frame >= self.count):
            last = "" if self.count is None else self.count - 1
            raise IndexError(f"{self.name}: frame {frame}; it has frames 0..{last}")

    def read(self, frame: int) -> Frame:
        """Raises IndexError for a frame that the clip does not have, ClipError for an unfit one."""
        self.check(frame)
        pixels = self._read(frame)
        if pixels.shape[:2] != self.size:
            (height, width), (h, w) = self.size, pixels.shape[:2]
            raise ClipError(
                f"{self.name}: frame {frame} is {w} x {h} pixels and the first {width} x {height}; "
                "resize all frames to one size"
            )
        return pixels

    def _read(self, frame: int) -> Frame:
        raise NotImplementedError

    def seconds(self, frame: int) -> float:
        """The duration of a frame; raises IndexError for one that the clip does not have."""
        self.check(frame)
        return 1 / self.fps

    def close(self) -> None:
        """Close the file."""


def frames_to_keep(frame: Frame) -> int:
    """How many decoded frames of this size to keep."""
    return max(LEAST_KEPT, min(KEPT, KEPT_BYTES // frame.nbytes))


def drop_oldest(kept: OrderedDict[int, Frame]) -> None:
    """Drop the oldest of the frames beyond `frames_to_keep`."""
    limit = frames_to_keep(next(iter(kept.values())))
    while len(kept) > limit:
        kept.popitem(last=False)
