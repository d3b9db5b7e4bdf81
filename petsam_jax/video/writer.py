"""Frames to a video file: H.264 in .mp4 or .mov, or an animated .gif.

In: frames, uint8 RGB, all of one size. Out: a file that plays up to about the last second at any
time while it is written, even if the program is killed, and whole once it is closed.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

SUFFIXES = (".mp4", ".mov", ".gif")
# Visually the same as the frames, in about 4 ms for one of 854 x 480 pixels.
H264 = {"preset": "veryfast", "crf": "18"}
# Nothing is held back, and fragments, each playable by itself, become one ordinary file in the end.
PLAYABLE = {"flush_packets": "1", "movflags": "hybrid_fragmented+frag_keyframe"}
# Times of frames in a GIF are hundredths of a second, and players slow down what is under two.
MOST_GIF_FPS = 50
# What high-definition players take untagged colours for; told to the others.
BT709 = 1
LIMITED_RANGE = 1
# Of GIF: colours of each frame's palette.
COLOURS = 256


class VideoWriter:
    """An open file; `with` closes it, whatever happens."""

    def __init__(self, path: str | Path, size: tuple[int, int], fps: float | int):
        """`size` is height and width. Raises ValueError for a name that tells no known format."""
        path = Path(path)
        check_name(path)
        self._size, self._gif = size, path.suffix.lower() == ".gif"
        rate = Fraction(min(fps, MOST_GIF_FPS) if self._gif else fps).limit_denominator(1001)
        self._container = av.open(str(path), "w", options=PLAYABLE)
        if self._gif:
            self._stream = self._container.add_stream("gif", rate=rate)
            self._stream.pix_fmt = "pal8"
        else:
            # A key frame a second, which is what a killed program may lose.
            options = H264 | {"g": str(max(1, round(fps)))}
            self._stream = self._container.add_stream("libx264", rate=rate, options=options)
            self._stream.pix_fmt = "yuv420p"
            context = self._stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = LIMITED_RANGE
        # H.264 has a colour for every four pixels.
        height, width = size if self._gif else (side + side % 2 for side in size)
        self._stream.height, self._stream.width = height, width

    def write(self, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        """Append a frame; raises ValueError for one of another size."""
        if frame.shape[:2] != self._size:
            raise ValueError(f"a frame of {frame.shape[:2]} in a video of {self._size}")
        self._container.mux(self._stream.encode(self._picture(frame)))

    def _picture(self, frame) -> av.VideoFrame:
        if self._gif:
            picture = Image.fromarray(frame).quantize(COLOURS, Image.Quantize.FASTOCTREE)
            palette = np.full((COLOURS, 4), 255, np.uint8)
            colours = np.array(picture.getpalette(), np.uint8).reshape(-1, 3)
            palette[: len(colours), 1:] = colours
            return av.VideoFrame.from_ndarray((np.asarray(picture), palette), format="pal8")
        height, width = self._size
        even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        picture = av.VideoFrame.from_ndarray(even, format="rgb24")
        return picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")

    def close(self) -> None:
        """Write what is still held back, and end the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def check_name(path: Path) -> None:
    """Raises ValueError for a name that tells no format that can be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: want a name that ends in {', '.join(SUFFIXES)}")
