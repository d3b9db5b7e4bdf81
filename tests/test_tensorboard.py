"""Event files: read back by a reader of our own, checksums and all."""

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from petsam_jax.train.tensorboard import EventWriter, crc32c, masked_crc32c


def records(data):
    """The contents of an event file; every length and checksum must be right."""
    at = 0
    while at < len(data):
        length, check = struct.unpack_from("<QI", data, at)
        assert check == masked_crc32c(data[at : at + 8])
        content = data[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", data, at + 12 + length)[0] == masked_crc32c(content)
        assert len(content) == length
        yield content
        at += length + 16


def number(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def fields(data):
    """(field number, value) of one message; nested messages stay bytes."""
    at = 0
    while at < len(data):
        key, at = number(data, at)
        if key & 7 == 0:
            value, at = number(data, at)
        else:
            size, at = {1: (8, at), 5: (4, at)}.get(key & 7) or number(data, at)
            value, at = data[at : at + size], at + size
        yield key >> 3, value


def read_events(path):
    """One dict an event: wall time, step, and what it is about."""
    events = []
    for content in records(path.read_bytes()):
        event = {"step": 0}
        for field, value in fields(content):
            if field == 1:
                event["time"] = struct.unpack("<d", value)[0]
            elif field == 2:
                event["step"] = value
            elif field == 3:
                event["version"] = value.decode()
            elif field == 7:
                event["session"] = dict(fields(value))
            elif field == 5:
                summaries = [dict(fields(summary)) for _, summary in fields(value)]
                event["values"] = {
                    s[1].decode(): struct.unpack("<f", s[2])[0] if 2 in s else dict(fields(s[4]))
                    for s in summaries
                }
        events.append(event)
    return events


@pytest.mark.parametrize(
    "data, want",
    [(b"123456789", 0xE3069283), (b"", 0), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)],
)
def test_checksums_equal_rfc3720(data, want):
    assert crc32c(data) == want


def test_scalars_come_back(tmp_path, rng):
    writer = EventWriter(tmp_path / "new" / "folder")
    values = [
        {f"loss/{name}": float(x) for name, x in zip("abc", rng.normal(size=3), strict=True)}
        for _ in range(5)
    ]
    for step, value in enumerate(values):
        writer.scalars(step * 1000, value)
    # Nothing waits for `close`: a killed run has all it wrote.
    events = read_events(writer.path)
    writer.close()
    assert "tfevents" in writer.path.name
    assert events[0]["version"] == "brain.Event:2"
    assert [event["step"] for event in events[2:]] == [0, 1000, 2000, 3000, 4000]
    for event, want in zip(events[2:], values, strict=True):
        assert event["values"] == {name: np.float32(x) for name, x in want.items()}
    assert all(abs(event["time"] - events[0]["time"]) < 60 for event in events)


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 1e300, 0.0, 1e-300])
def test_extreme_scalars(tmp_path, value):
    writer = EventWriter(tmp_path)
    writer.scalars(2**40, {"größe": value, "nan": float("nan")})
    event = read_events(writer.path)[-1]
    writer.close()
    assert event["step"] == 2**40
    assert event["values"]["größe"] == (float("inf") if value == 1e300 else np.float32(value))
    assert np.isnan(event["values"]["nan"])


@pytest.mark.parametrize("height, width", [(37, 61), (1, 1), (200, 300)])
def test_pictures_come_back(tmp_path, rng, height, width):
    picture = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    writer = EventWriter(tmp_path)
    writer.picture(7, "sheet", picture)
    event = read_events(writer.path)[-1]
    writer.close()
    image = event["values"]["sheet"]
    assert event["step"] == 7 and (image[1], image[2], image[3]) == (height, width, 3)
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(image[4]))), picture)


def test_resumed_run_starts_a_file_that_hides_later_steps(tmp_path):
    first = EventWriter(tmp_path)
    first.scalars(1, {"a": 1.0})
    second = EventWriter(tmp_path, first_step=12)
    first.close(), second.close()
    assert sorted(tmp_path.iterdir()) == [first.path, second.path]
    start = read_events(second.path)[1]
    assert start["step"] == 12 and start["session"] == {1: 1}
