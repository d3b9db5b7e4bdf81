"""TensorBoard event files without TensorFlow: scalars and pictures.

An event file is a row of records, each an `Event` message in protocol-buffer encoding between its
length and checksums. Only the fields needed here are written; their numbers are those of
TensorFlow's `event.proto` and `summary.proto`.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import SupportsFloat

import numpy as np
from jaxtyping import UInt8
from PIL import Image

# Wire types of protocol buffers.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
SESSION_START = 1
RGB = 3


class EventWriter:
    """One event file in a directory; events are on disk when a method returns."""

    def __init__(self, directory: str | Path, first_step: int = 0):
        """TensorBoard hides what earlier files in the directory say of `first_step` and later."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads a directory's files in the order of their names.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.path = directory / name
        self._file = open(self.path, "xb")  # noqa: SIM115
        self._write(_text(3, "brain.Event:2"))
        self._write(_varint(2, first_step) + _message(7, _varint(1, SESSION_START)))

    def scalars(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """All values of a step, in one event."""
        summaries = [
            _message(1, _text(1, tag) + _tag(2, FIXED32) + _float32(value))
            for tag, value in values.items()
        ]
        self._write(_varint(2, step) + _message(5, b"".join(summaries)))

    def picture(self, step: int, tag: str, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        png = BytesIO()
        Image.fromarray(picture).save(png, "PNG")
        height, width, _ = picture.shape
        image = _varint(1, height) + _varint(2, width) + _varint(3, RGB)
        image += _message(4, png.getvalue())
        summary = _message(1, _text(1, tag) + _message(4, image))
        self._write(_varint(2, step) + _message(5, summary))

    def close(self) -> None:
        self._file.close()

    def _write(self, fields: bytes) -> None:
        event = _tag(1, FIXED64) + struct.pack("<d", time.time()) + fields
        self._file.write(record(event))
        self._file.flush()


# Protocol buffers


def _number(value: int) -> bytes:
    """Seven bits a byte, lowest first; the top bit says that more follow."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _tag(field: int, wire_type: int) -> bytes:
    return _number(field << 3 | wire_type)


def _varint(field: int, value: int) -> bytes:
    return _tag(field, VARINT) + _number(value)


def _message(field: int, content: bytes) -> bytes:
    return _tag(field, BYTES) + _number(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())


def _float32(value: SupportsFloat) -> bytes:
    """Too large a number becomes infinite, where `struct` would raise."""
    with np.errstate(over="ignore"):
        return np.asarray(float(value), "<f4").tobytes()


# Records


def record(content: bytes) -> bytes:
    """Length and content, each followed by its masked checksum."""
    length = struct.pack("<Q", len(content))
    checks = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return length + next(checks) + content + next(checks)


def masked_crc32c(content: bytes) -> int:
    """CRC-32C, rotated and shifted so that a checksum of data with checksums stays good."""
    crc = crc32c(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(content: bytes) -> int:
    """The Castagnoli checksum; zlib has another polynomial."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _table_entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = tuple(_table_entry(byte) for byte in range(256))
