"""Frames to an animated WebP, which unlike H.264 can be transparent, and softly so unlike a GIF.

In: frames, uint8 RGB or RGBA, all of one size. Out: a file that plays at any time while it is
written, as it holds whole frames and the length of what is there; Pillow would keep all frames
until the last one. Frames stand in chunks as libwebp's container specification has them.
"""

import io
import struct
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from petsam_jax.files.frame_times import FrameTimes

# Visually the same as the frames; transparency itself is without loss.
ENCODING = {"quality": 85, "method": 1}
# What libwebp takes.
MOST_PIXELS_A_SIDE = 16_383
# A second has so many.
TICKS = 1000
ANIMATED, HAS_ALPHA = 0x02, 0x10
# Of a frame: it replaces what is below it, and is gone when the next one comes.
ALONE = 0x03
FOREVER = 0
# Of the file's first chunk, which says what a still picture has; a frame of an animation has none.
PICTURE_CHUNKS = (b"ALPH", b"VP8 ", b"VP8L")


class WebPFile:
    """An open file. `write` appends a frame."""

    def __init__(self, path: Path, size: tuple[int, int]):
        """`size` is height and width. Raises ValueError for one that no WebP can have."""
        if max(size) > MOST_PIXELS_A_SIDE:
            height, width = size
            raise ValueError(
                f"{path}: {width} x {height} pixels; a WebP has up to {MOST_PIXELS_A_SIDE} a side"
            )
        self._times = FrameTimes(TICKS)
        height, width = size
        self._file = path.open("wb")
        self._file.write(b"RIFF" + bytes(4) + b"WEBP")
        flags = struct.pack("<I", ANIMATED | HAS_ALPHA)
        self._file.write(_chunk(b"VP8X", flags + _three(width - 1) + _three(height - 1)))
        self._file.write(_chunk(b"ANIM", struct.pack("<IH", 0, FOREVER)))
        self._tell_length()

    def write(self, frame: UInt8[np.ndarray, "h w c"], seconds: float) -> None:
        top, left, seen = _seen(frame)
        encoded = io.BytesIO()
        Image.fromarray(seen).save(encoded, "WEBP", **ENCODING)
        height, width = seen.shape[:2]
        _, ticks = self._times.next(seconds)
        numbers = left // 2, top // 2, width - 1, height - 1, ticks
        place = b"".join(map(_three, numbers)) + bytes([ALONE])
        self._file.write(_chunk(b"ANMF", place + _picture(encoded.getvalue())))
        self._tell_length()

    def _tell_length(self) -> None:
        end = self._file.tell()
        self._file.seek(4)
        self._file.write(struct.pack("<I", end - 8))
        self._file.seek(end)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _seen(frame) -> tuple[int, int, np.ndarray]:
    """Top, left and pixels of what is not transparent; both are even, as WebP has them."""
    if frame.shape[2] == 3:
        return 0, 0, frame
    seen = frame[..., 3] > 0
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not len(rows):
        return 0, 0, frame[:1, :1]
    top, left = rows[0] // 2 * 2, columns[0] // 2 * 2
    pixels = frame[top : rows[-1] + 1, left : columns[-1] + 1]
    return int(top), int(left), np.ascontiguousarray(pixels)


def _picture(still: bytes) -> bytes:
    """The chunks with a still WebP's pixels."""
    chunks, at = [], 12
    while at < len(still):
        name, length = struct.unpack_from("<4sI", still, at)
        end = at + 8 + length + length % 2
        if name in PICTURE_CHUNKS:
            chunks.append(still[at:end])
        at = end
    return b"".join(chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _three(number: int) -> bytes:
    return int(number).to_bytes(3, "little")
