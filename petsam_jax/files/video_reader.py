"""Clips in any form as RGB frames, read by their number.

In: the path of a video (mp4, mov, webm, GIF: whatever FFmpeg opens) or of a folder of JPEG or PNG
frames, a sequence of arrays, or an iterator of arrays of unknown length. Out: uint8, h w 3, all of
one size. Only a few frames are held in memory, however long the clip.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from petsam_jax.files.images import UnfitImage, load_image

# How many decoded frames of a video or stream are kept: up to KEPT, fewer if they are large.
KEPT, LEAST_KEPT, KEPT_BYTES = 32, 6, 64_000_000
SUFFIXES = (".jpg", ".jpeg", ".png")
# For folders, arrays and streams, which have no frame rate.
DEFAULT_FPS = 24.0

Frame = UInt8[np.ndarray, "h w 3"]
ClipSource = str | Path | np.ndarray | Sequence | Iterator


class ClipError(ValueError):
    """A clip that cannot be used; the message names it and the fault."""


class Clip:
    """Frames by number. Subclasses define `_read`; `count` is None while unknown."""

    # Whether frames arrive in real time.
    live = False

    def __init__(self, name: str, count: int | None, fps: float = DEFAULT_FPS):
        self.name, self.count, self.fps = name, count, fps
        # Set after the first frame; all others must have the same.
        self.size: tuple[int, int] | None = None
        try:
            self.size = self.read(0).shape[:2]
        except IndexError as error:
            raise ClipError(f"{name}: no frames in it") from error

    def check(self, frame: int) -> None:
        """Raise IndexError for a frame that the clip does not have."""
        if frame < 0 or (self.count is not None and frame >= self.count):
            last = "" if self.count is None else self.count - 1
            raise IndexError(f"{self.name}: frame {frame}; it has frames 0..{last}")

    def read(self, frame: int) -> Frame:
        """Raises IndexError for a frame that the clip does not have, ClipError for an unfit one."""
        self.check(frame)
        pixels = self._read(frame)
        if self.size is not None and pixels.shape[:2] != self.size:
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


def open_clip(source: ClipSource | Clip) -> Clip:
    """Raises ClipError, with the path and the fault; TypeError for another type."""
    if isinstance(source, Clip):
        return source
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            return FrameSequence(str(path), frame_files(path))
        if not path.is_file():
            raise ClipError(f"{path}: no such file or folder")
        return Video(path)
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise ClipError(f"clip: an array of shape {source.shape}; expected (t, h, w, 3)")
    if isinstance(source, np.ndarray | Sequence):
        return FrameSequence("clip", source)
    if isinstance(source, Iterator):
        return Stream(source)
    raise TypeError(
        f"a clip of type {type(source).__name__}; expected a path, or a sequence or iterator of "
        "arrays"
    )


def frame_files(folder: Path) -> list[Path]:
    """The images in a folder in the order of their names, hidden files left out."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
    return sorted((path for path in files if not path.name.startswith(".")), key=_natural_key)


def _natural_key(path: Path) -> tuple:
    """Sorts numbers in names as numbers: frame 10 after frame 9."""
    parts = re.split(r"(\d+)", path.name.lower())
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)


class FrameSequence(Clip):
    """Frames as a sequence of files, arrays, or anything else that `load_image` accepts."""

    def __init__(self, name: str, frames: Sequence | np.ndarray):
        self._frames = frames
        super().__init__(name, len(frames))

    def _read(self, frame: int) -> Frame:
        try:
            return load_image(self._frames[frame])
        except UnfitImage as error:
            raise ClipError(f"{self.name}: frame {frame}: {error}") from error


class Stream(Clip):
    """Frames from an iterator, in order; the last ones, up to `KEPT`, can be read again."""

    live = True

    def __init__(self, frames: Iterator):
        self._frames, self._kept, self._next = frames, OrderedDict(), 0
        super().__init__("stream", None)

    def _read(self, frame: int) -> Frame:
        while self._next <= frame:
            try:
                image = next(self._frames)
            except StopIteration:
                self.count = self._next
                raise IndexError(f"{self.name}: ended after {self._next} frames") from None
            try:
                self._kept[self._next] = load_image(image)
            except UnfitImage as error:
                raise ClipError(f"{self.name}: frame {self._next}: {error}") from error
            self._next += 1
            _drop_oldest(self._kept)
        if frame not in self._kept:
            raise ClipError(
                f"{self.name}: frame {frame} has passed; only the last {len(self._kept)} frames of "
                "a stream are kept: use a file or a folder to go back further"
            )
        return self._kept[frame]


def _drop_oldest(kept: OrderedDict[int, Frame]) -> None:
    size = next(iter(kept.values())).nbytes
    while len(kept) > max(LEAST_KEPT, min(KEPT, KEPT_BYTES // size)):
        kept.popitem(last=False)


class Video(Clip):
    """A video file. Reading on is fast; going back decodes from the previous key frame."""

    def __init__(self, path: Path):
        self.path = path
        self._kept: OrderedDict[int, Frame] = OrderedDict()
        try:
            self._open()
            packets = self._container.demux(self._stream)
            shown = [(p.pts, p.duration or 0) for p in packets if _is_shown(p)]
            rate, tick = self._stream.average_rate, self._stream.time_base
        except (av.FFmpegError, OSError) as error:
            raise ClipError(f"{path}: not a readable video: {_reason(error)}") from error
        times = [time for time, _ in shown]
        self._seconds = None if None in times else _durations(shown, _fraction(tick))
        # GIF frames depend on all frames before, and some containers have no times.
        self._seekable = None not in times and "gif" not in self._container.format.name
        self._times = sorted(times) if self._seekable else []
        self._number = {time: number for number, time in enumerate(self._times)}
        self._rewind(0)
        super().__init__(str(path), len(times), float(rate or DEFAULT_FPS))

    def _open(self) -> None:
        self._container = av.open(str(self.path))
        if not self._container.streams.video:
            raise ClipError(f"{self.path}: no video stream; it is damaged or has only sound")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"

    def seconds(self, frame: int) -> float:
        """Videos from phones, and GIFs, have frames of different durations."""
        default = super().seconds(frame)
        return default if self._seconds is None else self._seconds[frame] or default

    def _rewind(self, frame: int) -> None:
        """Restart decoding at a key frame at or before this frame."""
        if self._seekable and frame > 0:
            self._container.seek(self._times[frame], stream=self._stream)
        else:
            self._container.close()
            self._open()
        self._decoded = self._container.decode(self._stream)
        self._position = None if self._seekable and frame > 0 else -1

    def _read(self, frame: int) -> Frame:
        if frame in self._kept:
            return self._kept[frame]
        behind = self._position is None or not self._position < frame
        if behind or (self._seekable and frame > self._position + KEPT):
            self._rewind(frame)
        try:
            for image in self._decoded:
                self._position = self._frame_number(image)
                self._kept[self._position] = _upright(image)
                self._kept.move_to_end(self._position)
                _drop_oldest(self._kept)
                if self._position >= frame:
                    break
        except (av.FFmpegError, OSError) as error:
            self._position = None
            reason = _reason(error)
            raise ClipError(f"{self.path}: damaged at frame {frame}: {reason}") from error
        if frame not in self._kept:
            raise ClipError(f"{self.path}: frame {frame} is missing; the file may be damaged")
        return self._kept[frame]

    def _frame_number(self, image: av.VideoFrame) -> int:
        if self._seekable:
            return self._number.get(image.pts, -1)
        return self._position + 1

    def close(self) -> None:
        self._container.close()


def _reason(error: OSError | av.FFmpegError) -> str:
    """The message alone, without error number, path and function."""
    return error.strerror or str(error)


def _is_shown(packet: av.Packet) -> bool:
    return packet.size > 0 and not packet.is_discard


def _fraction(rational) -> Fraction:
    """PyAV's rationals have a type of their own from version 19 on."""
    return Fraction(rational.numerator, rational.denominator)


def _durations(shown: list[tuple[int, int]], tick: Fraction) -> list[float]:
    """Seconds until the next frame, in display order, from (time, own duration) in ticks.

    0 where it is unknown.
    """
    shown = sorted(shown)
    starts = [time for time, _ in shown]
    ends = [*starts[1:], *(time + own for time, own in shown[-1:])]
    return [float((end - start) * tick) for start, end in zip(starts, ends, strict=True)]


def _upright(image: av.VideoFrame) -> Frame:
    """The frame turned upright: phones film sideways and record the rotation."""
    turned = np.rot90(image.to_ndarray(format="rgb24"), round(image.rotation / 90))
    return np.ascontiguousarray(turned)
