"""A video file as a clip, decoded with FFmpeg (PyAV) as frames are needed."""

from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from petsam_jax.files.clip import DEFAULT_FPS, KEPT, Clip, ClipError, Frame, drop_oldest


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
                drop_oldest(self._kept)
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
