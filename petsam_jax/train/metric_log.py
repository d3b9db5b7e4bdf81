"""What a training run leaves to read: metrics.jsonl, TensorBoard events and a progress line.

In: steps and named numbers on the host. Out: WORKDIR/metrics.jsonl, one JSON object a line with
`step`, `time` and the numbers, WORKDIR/tensorboard for `tensorboard --logdir=WORKDIR`, and a line
on stderr. A run that was killed leaves at most half a last line; the one that resumes at a step
removes that and whatever was logged after the step, so that no step is there twice.
"""

import contextlib
import json
import math
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from io import TextIOBase
from pathlib import Path
from typing import SupportsFloat

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from petsam_jax.train.tensorboard import EventWriter

METRICS = "metrics.jsonl"
EVENTS = "tensorboard"
# Seconds over which the pace is measured, and between two redrawings on a terminal.
PACE_SECONDS, REDRAW_SECONDS = 60.0, 0.2


class MetricLog:
    """The files of one run; use as a context manager, in one process of the run only."""

    def __init__(self, workdir: str | Path, step: int = 0):
        """`step` is the last one done, 0 for a new run. Raises OSError that names the file."""
        workdir = Path(workdir)
        self.path = workdir / METRICS
        drop_after(self.path, step)
        self._lines = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        self._events = EventWriter(workdir / EVENTS, first_step=step + 1)

    def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Log the numbers of a step; what is not finite becomes null in the JSON."""
        values = {name: float(value) for name, value in values.items()}
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
        line = json.dumps({"step": step, "time": round(time.time(), 3), **finite})
        try:
            # In one piece, so that a kill cannot leave half a line but at the very end.
            self._lines.write(line + "\n")
            self._lines.flush()
            self._events.scalars(step, values)
        except OSError as error:
            raise _told(error, self.path) from error

    def picture(self, step: int, name: str, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Show a picture in TensorBoard."""
        try:
            self._events.picture(step, name, picture)
        except OSError as error:
            raise _told(error, self._events.path) from error

    def close(self) -> None:
        self._lines.close()
        self._events.close()

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class NullLog(contextlib.nullcontext):
    """A logbook for all processes of a run but the first: it writes nothing."""

    def __init__(self):
        super().__init__(self)

    def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        pass

    def picture(self, step: int, name: str, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        pass

    def close(self) -> None:
        pass


def _told(error: OSError, path: Path) -> OSError:
    hint = f"the log cannot be written ({error.strerror}); make room, then start again to resume"
    return OSError(error.errno, hint, str(path))


def drop_after(path: Path, step: int) -> None:
    """Remove from a metrics file what is later than `step` or no whole line, all at once."""
    if not path.exists():
        return
    old = path.read_bytes()
    kept = b"".join(line for line in old.splitlines(keepends=True) if _is_upto(line, step))
    if kept != old:
        new = path.with_name(f"{path.name}.new")
        new.write_bytes(kept)
        os.replace(new, path)


def _is_upto(line: bytes, step: int) -> bool:
    try:
        return line.endswith(b"\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False


def read_metrics(workdir: str | Path) -> list[dict]:
    """The lines of a run's metrics.jsonl, half a last line left out."""
    lines = (Path(workdir) / METRICS).read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if _is_upto(line, sys.maxsize)]


# Progress


class Averages:
    """An exponential moving average of each named number, unbiased from the first on."""

    def __init__(self, decay: float = 0.98):
        self.decay = decay
        self._sums: dict[str, tuple[float, float]] = {}

    def update(self, values: Mapping[str, SupportsFloat]) -> None:
        """Numbers that are not finite are left out: they would stay for ever."""
        for name, value in values.items():
            if math.isfinite(value):
                total, weight = self._sums.get(name, (0.0, 0.0))
                keep = self.decay
                self._sums[name] = keep * total + float(value), keep * weight + 1

    def means(self) -> dict[str, float]:
        return {name: total / weight for name, (total, weight) in self._sums.items()}


class Progress:
    """Steps, averaged losses, images a second and time left, on one line.

    A terminal's line is redrawn in place; elsewhere there is a new line every `every` seconds.
    """

    def __init__(
        self,
        total: int,
        step: int = 0,
        *,
        stream: TextIOBase | None = None,
        every: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.step, self.averages = total, step, Averages()
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._wait = REDRAW_SECONDS if self._terminal else every
        self._clock, self._shown, self._drawn = clock, -math.inf, False
        self._pace: deque[tuple[float, int, int]] = deque()
        self._images = 0

    def update(self, step: int, images: int, losses: Mapping[str, SupportsFloat]) -> None:
        """`images` seen since the last update, and the losses of the step just done."""
        self.step, self._images = step, self._images + images
        self.averages.update(losses)
        now = self._clock()
        self._pace.append((now, step, self._images))
        while len(self._pace) > 2 and self._pace[1][0] < now - PACE_SECONDS:
            self._pace.popleft()
        if now - self._shown >= self._wait or step >= self.total:
            self._shown = now
            self._show(self.line())

    def restart_pace(self) -> None:
        """After a pause, such as a validation, measure the pace anew."""
        if self._pace:
            self._pace = deque([(self._clock(), self.step, self._images)])

    def line(self) -> str:
        done = self.step / max(self.total, 1)
        parts = [f"step {self.step:,}/{self.total:,} {done:.0%}"]
        if self._terminal:
            filled = int(20 * min(done, 1.0))
            parts.append(f"[{'#' * filled}{'.' * (20 - filled)}]")
        losses = [f"{name} {mean:.4g}" for name, mean in self.averages.means().items()]
        pace = []
        seconds, steps, images = 0.0, 0, 0
        if self._pace:
            (then, step, before), (now, _, after) = self._pace[0], self._pace[-1]
            seconds, steps, images = now - then, self.step - step, after - before
        if seconds > 0 and steps > 0:
            left = (self.total - self.step) * seconds / steps
            pace = [f"{images / seconds:.3g} images/s", f"{tqdm.format_interval(left)} left"]
        if self._terminal and losses:
            # What is cut off are the last losses, rather than the time left.
            room = shutil.get_terminal_size().columns - 1 - len("  ".join(parts + pace))
            losses = ["  ".join(losses)[: max(room - 2, 0)]]
        return "  ".join(parts + losses + pace)

    def say(self, text: str) -> None:
        """A line of its own, above the progress line."""
        self._end_line()
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        self._end_line()

    def _show(self, line: str) -> None:
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            # Erases what a longer line before this one left.
            self._stream.write(f"\r{line[:width]}\033[K")
            self._drawn = True
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def _end_line(self) -> None:
        if self._drawn:
            self._stream.write("\n")
            self._stream.flush()
            self._drawn = False
