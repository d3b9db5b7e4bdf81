"""Frames to an animated WebP, which unlike H.264 can be transparent, and softly so unlike a GIF.

In: frames, uint8 RGB or RGBA, all of one size. Out: a file that plays at any time while it is being
written, since it holds whole frames and a valid length. It is written by hand because libraries do
not do that (tried with Pillow 12.3 and PyAV 18.1): Pillow needs all durations in advance and writes
everything at the end; FFmpeg's muxer completes the header at the end, loses the last frame's
duration and lays transparent frames over the ones before. Chunks follow libwebp's container
specification.
"""

import io
import struct
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from petsam_jax.files.frame_times import FrameTimes

# Visually lossless; transparency is exactly so.
ENCODING = {"quality": 85, "method": 1}
# The limit of the format.
MAX_SIDE = 16_383
# Units of time per second.
TICKS = 1000
ANIMATED, HAS_ALPHA = 0x02, 0x10
# Frame flags: do not blend with the frame before, and clear the canvas afterwards.
STANDALONE = 0x03
FOREVER = 0
# The chunks of a still WebP that a frame consists of.
PIXEL_CHUNKS = (b"ALPH", b"VP8 ", b"VP8L")


class WebPFile:
    """An open file; `write` appends a frame."""

    def __init__(self, path: Path, size: tuple[int, int]):
        """`size` is (height, width). Raises ValueError for one that WebP cannot have."""
        if max(size) > MAX_SIDE:
            height, width = size
            raise ValueError(
                f"{path}: {width} x {height} pixels; WebP allows up to {MAX_SIDE} a side"
            )
        self._times = FrameTimes(TICKS)
        height, width = size
        self._file = path.open("wb")
        self._file.write(b"RIFF" + bytes(4) + b"WEBP")
        flags = struct.pack("<I", ANIMATED | HAS_ALPHA)
        self._file.write(_chunk(b"VP8X", flags + _three(width - 1) + _three(height - 1)))
        self._file.write(_chunk(b"ANIM", struct.pack("<IH", 0, FOREVER)))
        self._write_length()

    def write(self, frame: UInt8[np.ndarray, "h w c"], seconds: float) -> None:
        top, left, visible = _crop(frame)
        encoded = io.BytesIO()
        Image.fromarray(visible).save(encoded, "WEBP", **ENCODING)
        height, width = visible.shape[:2]
        _, ticks = self._times.next(seconds)
        numbers = left // 2, top // 2, width - 1, height - 1, ticks
        header = b"".join(map(_three, numbers)) + bytes([STANDALONE])
        self._file.write(_chunk(b"ANMF", header + _pixel_chunks(encoded.getvalue())))
        self._write_length()

    def _write_length(self) -> None:
        end = self._file.tell()
        self._file.seek(4)
        self._file.write(struct.pack("<I", end - 8))
        self._file.seek(end)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _crop(frame) -> tuple[int, int, np.ndarray]:
    """Top and left, even as WebP requires, and the pixels around all that is not transparent."""
    if frame.shape[2] == 3:
        return 0, 0, frame
    visible = frame[..., 3] > 0
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    if not len(rows):
        return 0, 0, frame[:1, :1]
    top, left = rows[0] // 2 * 2, columns[0] // 2 * 2
    pixels = frame[top : rows[-1] + 1, left : columns[-1] + 1]
    return int(top), int(left), np.ascontiguousarray(pixels)


def _pixel_chunks(still: bytes) -> bytes:
    """The chunks that hold a still WebP's pixels."""
    chunks, at = [], 12
    while at < len(still):
        name, length = struct.unpack_from("<4sI", still, at)
        end = at + 8 + length + length % 2
        if name in PIXEL_CHUNKS:
            chunks.append(still[at:end])
        at = end
    return b"".join(chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _three(number: int) -> bytes:
    """A 24-bit number."""
    return int(number).to_bytes(3, "little")
