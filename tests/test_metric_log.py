"""Logs survive a kill and have each step of a resumed run once; the progress line is right."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tqdm.std

from petsam_jax.train.metric_log import (
    MetricLog,
    Progress,
    drop_after,
    read_metrics,
)
from tests.test_tensorboard import event_files, read_events, scalars

# Files


def test_lines_and_events_hold_the_same(tmp_path, rng):
    values = [
        {"loss/total": float(x), "grad_norm": 2.0 * step}
        for step, x in enumerate(rng.normal(size=3))
    ]
    with MetricLog(tmp_path) as log:
        for step, value in enumerate(values, 1):
            log.write(step, value)
        log.image(3, "sheet", rng.integers(0, 256, (8, 8, 3)).astype(np.uint8))
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [{name: line[name] for name in values[0]} for line in lines] == values
    assert abs(lines[0]["time"] - time.time()) < 60
    (path,) = event_files(tmp_path)
    events = [event for event in read_events(path) if event.summary.value]
    assert [event.step for event in events] == [1, 2, 3, 3]
    assert scalars(events[1]) == {name: np.float32(x) for name, x in values[1].items()}
    assert events[3].summary.value[0].tag == "sheet"


def test_numbers_of_any_kind_make_strict_json(tmp_path):
    with MetricLog(tmp_path) as log:
        log.write(1, {"a": np.float32(0.5), "b": float("nan"), "c": -np.inf, "d": 3})
    text = (tmp_path / "metrics.jsonl").read_text()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    line = json.loads(text, parse_constant=refuse)
    assert (line["a"], line["b"], line["c"], line["d"]) == (0.5, None, None, 3.0)


def test_resumed_run_drops_lines_beyond_its_step(tmp_path):
    with MetricLog(tmp_path) as log:
        for step in range(1, 11):
            log.write(step, {"loss": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    with MetricLog(tmp_path, step=6) as log:
        log.write(7, {"loss": 2.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]
    assert read_metrics(tmp_path)[-1]["loss"] == 2.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_new_run_drops_what_one_killed_early_left(tmp_path):
    with MetricLog(tmp_path) as log:
        log.write(1, {"loss": 1.0})
    with MetricLog(tmp_path):
        assert read_metrics(tmp_path) == []


@pytest.mark.parametrize("junk", [b"\xff\xfe\n", b"[1]\n", b"{}\n", b"\n", b'{"step": "x"}\n'])
def test_damaged_lines_go(tmp_path, junk):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + junk + b'{"step": 2}\n{"step": 3}')
    drop_after(path, 5)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_intact_file_is_not_rewritten(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n')
    before = path.stat()
    drop_after(path, 1)
    drop_after(tmp_path / "none", 1)
    assert path.stat().st_mtime_ns == before.st_mtime_ns and path.stat().st_ino == before.st_ino


KILLED = """
import sys
from petsam_jax.train.metric_log import MetricLog
log = MetricLog(sys.argv[1])
step = 0
while True:
    step += 1
    log.write(step, {f"loss/{i}": step + i / 7 for i in range(30)})
    print(step, flush=True)
"""


def test_killed_run_loses_no_line_it_finished(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(50):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        printed = [50, *(int(line) for line in process.stdout.read().split())]
    steps = [line["step"] for line in read_metrics(tmp_path)]
    assert steps == list(range(1, len(steps) + 1)) and printed[-1] <= len(steps) <= printed[-1] + 1
    (path,) = event_files(tmp_path)
    assert len(read_events(path)) - 2 in (printed[-1], printed[-1] + 1)


def test_full_disk_names_the_file(tmp_path):
    """/dev/full is a disk without room."""
    with MetricLog(tmp_path) as log, open("/dev/full", "a", buffering=1) as full:
        log._lines, lines = full, log._lines
        with pytest.raises(OSError, match="log cannot be written .No space.*metrics.jsonl"):
            log.write(1, {"loss": 1.0})
        with pytest.raises(OSError):
            full.close()
        log._lines = lines


# Progress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def fileno(self):
        return -1


@pytest.fixture
def clock(monkeypatch):
    """The time as tqdm sees it."""
    clock = Clock()
    monkeypatch.setattr(tqdm.std, "time", clock)
    return clock


def test_averages_are_unbiased_forget_and_skip_what_is_not_finite():
    stream = io.StringIO()
    progress = Progress(1000, stream=stream, every=0.0)
    progress.update(1, 1, {"a": 4.0})
    progress.update(2, 1, {"a": 2.0, "b": float("nan")})
    for step in range(3, 1000):
        progress.update(step, 1, {"a": 1.0})
    lines = stream.getvalue().splitlines()
    assert "  a 4" in lines[0]
    assert f"  a {(0.98 * 4 + 2) / 1.98:.4g}" in lines[1]
    assert "  a 1" in lines[-1] and "b" not in lines[-1]


def test_a_file_gets_a_line_every_so_often(clock):
    stream = io.StringIO()
    progress = Progress(1000, stream=stream, every=30.0)
    for step in range(1, 101):
        clock.now += 1.0
        progress.update(step, 8, {"loss": 0.25, "dice": 0.5})
    progress.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4 and "\r" not in stream.getvalue()
    assert lines[-1] == "step 90/1,000 9%  loss 0.25  dice 0.5  8 images/s  15:10 left"


def test_a_terminal_gets_one_line_redrawn(clock):
    stream = Terminal()
    progress = Progress(10, stream=stream)
    for step in range(1, 6):
        clock.now += 1.0
        progress.update(step, 2, {"loss": 1.0})
    progress.print("validation: IoU 0.5")
    progress.close()
    above, last, end = stream.getvalue().split("\n")
    assert above.split("\r")[-1] == "validation: IoU 0.5" and not end
    last = last.split("\r")[-1]
    assert "[##########..........]" in last and "2 images/s" in last and "00:05 left" in last


def test_a_line_fits_a_narrow_terminal(clock, monkeypatch):
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((80, 20)))
    stream = Terminal()
    progress = Progress(10, stream=stream)
    for step in (1, 2):
        clock.now += 1.0
        progress.update(step, 1, {f"part{i}": 1.0 for i in range(20)})
    line = stream.getvalue().split("\r")[-1]
    # Rather losses are cut than the time left.
    assert len(line) == 79 and "00:08 left" in line


def test_the_pace_is_recent_and_leaves_out_pauses(clock):
    stream = io.StringIO()
    progress = Progress(1000, step=100, stream=stream)
    for step in range(101, 111):
        clock.now += 10.0
        progress.update(step, 1, {})
    clock.now += 600.0
    progress.restart_pace()
    for step in range(111, 231):
        clock.now += 1.0
        progress.update(step, 4, {})
    assert stream.getvalue().splitlines()[-1] == "step 230/1,000 23%  4 images/s  12:50 left"


def test_the_first_and_the_last_step_are_always_shown():
    stream = io.StringIO()
    progress = Progress(3, stream=stream, every=1e9)
    for step in (1, 2, 3):
        progress.update(step, 1, {})
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["1/3", "3/3"]
