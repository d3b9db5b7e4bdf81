"""TensorBoard's event files of a run: read back record by record, checksums and all."""

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from petsam_jax.train.metric_log import EVENTS, MetricLog


def event_files(workdir):
    return sorted((workdir / EVENTS).iterdir())


def read_events(path):
    """The events of a file; every length and checksum must be right."""
    data, at, events = path.read_bytes(), 0, []
    while at < len(data):
        length, check = struct.unpack_from("<QI", data, at)
        assert check == masked_crc32c(data[at : at + 8])
        content = data[at + 12 : at + 12 + length]
        assert len(content) == length
        assert struct.unpack_from("<I", data, at + 12 + length)[0] == masked_crc32c(content)
        events.append(Event.FromString(content))
        at += length + 16
    return events


def scalars(event):
    return {value.tag: value.simple_value for value in event.summary.value}


def test_scalars_come_back_in_one_event_a_step(tmp_path, rng):
    values = [
        {f"loss/{name}": float(x) for name, x in zip("abc", rng.normal(size=3), strict=True)}
        for _ in range(5)
    ]
    with MetricLog(tmp_path) as log:
        for step, value in enumerate(values):
            log.write(step * 1000, value)
        # Nothing waits for `close`: a killed run has all it wrote.
        (path,) = event_files(tmp_path)
        events = read_events(path)
    assert "tfevents" in path.name
    assert events[0].file_version == "brain.Event:2"
    assert [event.step for event in events[2:]] == [0, 1000, 2000, 3000, 4000]
    for event, expected in zip(events[2:], values, strict=True):
        assert scalars(event) == {name: np.float32(x) for name, x in expected.items()}
    assert all(abs(event.wall_time - events[0].wall_time) < 60 for event in events)


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 1e300, 0.0, 1e-300])
def test_extreme_scalars(tmp_path, value):
    with MetricLog(tmp_path) as log:
        log.write(2**40, {"größe": value, "nan": float("nan")})
    event = read_events(event_files(tmp_path)[0])[-1]
    assert event.step == 2**40
    assert scalars(event)["größe"] == (float("inf") if value == 1e300 else np.float32(value))
    assert np.isnan(scalars(event)["nan"])


@pytest.mark.parametrize("height, width", [(37, 61), (1, 1), (200, 300)])
def test_images_come_back(tmp_path, rng, height, width):
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    with MetricLog(tmp_path) as log:
        log.image(7, "sheet", image)
    event = read_events(event_files(tmp_path)[0])[-1]
    (value,) = event.summary.value
    assert event.step == 7 and value.tag == "sheet"
    shown = value.image
    assert (shown.height, shown.width, shown.colorspace) == (height, width, 3)
    np.testing.assert_array_equal(Image.open(BytesIO(shown.encoded_image_string)), image)


def test_a_resumed_run_starts_a_file_that_hides_later_steps(tmp_path):
    """Both within a second, to which names of event files are accurate."""
    first = MetricLog(tmp_path)
    first.write(1, {"a": 1.0})
    (older,) = event_files(tmp_path)
    second = MetricLog(tmp_path, step=11)
    first.close(), second.close()
    assert len(event_files(tmp_path)) == 2 and event_files(tmp_path)[0] == older
    assert scalars(read_events(older)[-1]) == {"a": 1.0}
    start = read_events(event_files(tmp_path)[1])[1]
    assert start.step == 12 and start.session_log.status == SessionLog.START
