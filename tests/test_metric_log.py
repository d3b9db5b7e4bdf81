"""MetricLog: lines survive a kill, a resumed run says each step once, the pace is right."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from petsam_jax.train.metric_log import (
    Averages,
    MetricLog,
    Progress,
    drop_after,
    read_metrics,
)
from tests.test_tensorboard import read_events

# Files


def test_lines_and_events_hold_the_same(tmp_path, rng):
    values = [
        {"loss/total": float(x), "grad_norm": 2.0 * step}
        for step, x in enumerate(rng.normal(size=3))
    ]
    with MetricLog(tmp_path) as log:
        for step, value in enumerate(values, 1):
            log.write(step, value)
        log.picture(3, "sheet", rng.integers(0, 256, (8, 8, 3)).astype(np.uint8))
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [{name: line[name] for name in values[0]} for line in lines] == values
    assert abs(lines[0]["time"] - time.time()) < 60
    (path,) = (tmp_path / "tensorboard").iterdir()
    events = [event for event in read_events(path) if "values" in event]
    assert [event["step"] for event in events] == [1, 2, 3, 3]
    assert events[1]["values"] == {name: np.float32(x) for name, x in values[1].items()}
    assert "sheet" in events[3]["values"]


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
        told = [50, *(int(line) for line in process.stdout.read().split())]
    steps = [line["step"] for line in read_metrics(tmp_path)]
    assert steps == list(range(1, len(steps) + 1)) and told[-1] <= len(steps) <= told[-1] + 1
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert len(read_events(path)) - 2 in (told[-1], told[-1] + 1)


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


def test_averages_are_unbiased_and_forget():
    averages = Averages(0.9)
    averages.update({"a": 4.0})
    assert averages.means() == {"a": 4.0}
    averages.update({"a": 2.0, "b": float("nan")})
    assert averages.means() == {"a": pytest.approx((0.9 * 4 + 2) / 1.9)}
    for _ in range(200):
        averages.update({"a": 1.0})
    assert averages.means()["a"] == pytest.approx(1.0, abs=1e-6)


def test_file_gets_a_line_every_so_often():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(1000, stream=stream, every=30.0, clock=clock)
    for step in range(1, 101):
        clock.now += 1.0
        progress.update(step, 8, {"loss": 0.25, "dice": 0.5})
    progress.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4 and "\r" not in stream.getvalue()
    assert lines[-1] == "step 91/1,000 9%  loss 0.25  dice 0.5  8 images/s  15:09 left"


def test_terminal_gets_one_line_redrawn():
    clock, stream = Clock(), Terminal()
    progress = Progress(10, stream=stream, clock=clock)
    for step in range(1, 6):
        clock.now += 1.0
        progress.update(step, 2, {"loss": 1.0})
    progress.say("validation: IoU 0.5")
    progress.close()
    text = stream.getvalue()
    assert text.count("\n") == 2 and text.count("\r") == 5
    last = text.split("\r")[-1]
    assert "[##########..........]" in last and "2 images/s" in last and "00:05 left" in last
    assert last.endswith("\nvalidation: IoU 0.5\n")


def test_line_fits_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    clock, stream = Clock(), Terminal()
    Progress(10, stream=stream, clock=clock).update(1, 1, {f"part{i}": 1.0 for i in range(20)})
    assert len(stream.getvalue().strip("\r").removesuffix("\033[K")) == 39


def test_pace_is_recent_and_leaves_out_pauses():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(1000, step=100, stream=stream, clock=clock)
    for step in range(101, 111):
        clock.now += 10.0
        progress.update(step, 1, {})
    clock.now += 600.0
    progress.restart_pace()
    for step in range(111, 211):
        clock.now += 1.0
        progress.update(step, 4, {})
    assert "4 images/s  13:10 left" in progress.line()


def test_last_step_is_always_shown():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(3, stream=stream, every=1e9, clock=clock)
    for step in (1, 2, 3):
        progress.update(step, 1, {})
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["1/3", "3/3"]
