"""Frames to a video file: H.264 in .mp4 or .mov, or an animated .gif or .webp.

In: frames, uint8 RGB, all of one size; also RGBA if the format can be transparent. Out: a file
that is playable at any time while it is being written, up to about the last second, even if the
program is killed.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from jaxtyping import UInt8
from PIL import Image

from petsam_jax.files.frame_times import FrameTimes
from petsam_jax.files.webp import WebPFile

SUFFIXES = (".mp4", ".mov", ".gif", ".webp")
# H.264 has no transparency.
TRANSPARENT = (".gif", ".webp")
# Visually lossless, in about 4 ms for a frame of 854 x 480 pixels.
H264 = {"preset": "veryfast", "crf": "18"}
# Write every packet at once.
UNBUFFERED = {"flush_packets": "1"}
# Fragments that play on their own become an ordinary file at the end.
FRAGMENTS = {"movflags": "hybrid_fragmented+frag_keyframe"}
# Frame times in a GIF are hundredths of a second, and players slow down frames under two.
GIF_TICKS, LEAST_GIF_SECONDS = 100, 0.02
# For H.264: a multiple of all common frame rates.
TICKS = 120_000
# What high-definition players assume for untagged colours; tagged for the others.
BT709 = 1
LIMITED_RANGE = 1
# GIF: size of a frame's palette, its entry for transparent pixels, and the alpha from which on a
# pixel is opaque.
COLOURS, CLEAR, OPAQUE_FROM = 256, 255, 128


class VideoWriter:
    """An open file; `with` closes it in any case."""

    def __init__(self, path: str | Path, size: tuple[int, int], fps: float | int):
        """`size` is (height, width). Raises ValueError for a name without a known suffix."""
        path = Path(path)
        check_name(path)
        self._size, self._path, self._seconds = size, path, 1 / fps
        suffix = path.suffix.lower()
        if suffix == ".webp":
            self._file = WebPFile(path, size)
        else:
            self._file = (_Gif if suffix == ".gif" else _H264)(path, size, fps)

    def write(self, frame: UInt8[np.ndarray, "h w c"], seconds: float | None = None) -> None:
        """Append a frame, RGB or RGBA, shown for `seconds`, or by default for 1 / fps.

        Only GIF and WebP keep the duration of the last frame. A GIF shows a pixel if its alpha is
        at least one half. Raises ValueError for a frame of another size, and for RGBA if the format
        is not one of `TRANSPARENT`.
        """
        if frame.shape[:2] != self._size:
            raise ValueError(f"a frame of {frame.shape[:2]} in a video of {self._size}")
        if frame.shape[2] == 4 and not can_be_transparent(self._path):
            raise ValueError(f"{self._path}: H.264 has no transparency; use .gif or .webp")
        self._file.write(frame, self._seconds if seconds is None else seconds)

    def close(self) -> None:
        """Write the remaining frames and end the file."""
        self._file.close()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class _Encoded:
    """A file that FFmpeg writes. Subclasses define `to_video_frame`."""

    def __init__(
        self,
        path: Path,
        codec: str,
        fps: float | int,
        ticks: int,
        file_options: dict[str, str],
        codec_options: dict[str, str],
    ):
        """Frame times are counted in `ticks` per second."""
        self.container = av.open(str(path), "w", options=UNBUFFERED | file_options)
        rate = Fraction(fps).limit_denominator(1001)
        self.stream = self.container.add_stream(codec, rate=rate, options=codec_options)
        context = self.stream.codec_context
        context.time_base = self._tick = Fraction(1, ticks)
        # Keeps the duration of the last frame.
        context.flags |= Flags.frame_duration
        self._times = FrameTimes(ticks)

    def write(self, frame, seconds: float) -> None:
        video_frame = self.to_video_frame(frame)
        video_frame.pts, video_frame.duration = self._times.next(seconds)
        video_frame.time_base = self._tick
        self.container.mux(self.stream.encode(video_frame))

    def to_video_frame(self, frame) -> av.VideoFrame:
        raise NotImplementedError

    def close(self) -> None:
        self.container.mux(self.stream.encode(None))
        self.container.close()


class _H264(_Encoded):
    def __init__(self, path: Path, size: tuple[int, int], fps: float | int):
        # A key frame per second: a killed program loses at most that.
        options = H264 | {"g": str(max(1, round(fps)))}
        super().__init__(path, "libx264", fps, TICKS, FRAGMENTS, options)
        self.stream.pix_fmt = "yuv420p"
        context = self.stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        # H.264 has one colour per 2 x 2 pixels.
        self.stream.height, self.stream.width = (side + side % 2 for side in size)

    def to_video_frame(self, frame) -> av.VideoFrame:
        height, width = frame.shape[:2]
        even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        rgb = av.VideoFrame.from_ndarray(even, format="rgb24")
        return rgb.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")


class _Gif(_Encoded):
    def __init__(self, path: Path, size: tuple[int, int], fps: float | int):
        super().__init__(path, "gif", fps, GIF_TICKS, {}, {})
        self.stream.pix_fmt = "pal8"
        self.stream.height, self.stream.width = size

    def write(self, frame, seconds: float) -> None:
        super().write(frame, max(seconds, LEAST_GIF_SECONDS))

    def to_video_frame(self, frame) -> av.VideoFrame:
        is_clear = frame.shape[2] == 4
        image = Image.fromarray(np.ascontiguousarray(frame[..., :3]))
        image = image.quantize(CLEAR if is_clear else COLOURS, Image.Quantize.FASTOCTREE)
        numbers = np.asarray(image)
        # Alpha, red, green, blue.
        palette = np.full((COLOURS, 4), 255, np.uint8)
        colours = np.array(image.getpalette(), np.uint8).reshape(-1, 3)[:COLOURS]
        palette[: len(colours), 1:] = colours
        if is_clear:
            numbers = np.where(frame[..., 3] < OPAQUE_FROM, np.uint8(CLEAR), numbers)
            palette[CLEAR] = 0
        return av.VideoFrame.from_ndarray((numbers, palette), format="pal8")


def check_name(path: Path) -> None:
    """Raise ValueError for a name without the suffix of a writable format."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")


def can_be_transparent(path: Path) -> bool:
    """Whether a file of this name can hold frames with alpha."""
    return path.suffix.lower() in TRANSPARENT
