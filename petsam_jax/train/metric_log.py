"""What a training run leaves to read: metrics.jsonl, TensorBoard events and a progress line.

In: steps and named numbers on the host. Out: WORKDIR/metrics.jsonl, one JSON object a line with
`step`, `time` and the numbers, WORKDIR/tensorboard for `tensorboard --logdir=WORKDIR`, and a line
on stderr. A killed run leaves at most a partial last line; the run that resumes at a step removes
that and everything logged after the step, so that no step is there twice.

Events are written with tensorboardX's EventsWriter and not its SummaryWriter, whose thread would
hide a full disk, write the numbers of one step as one event each, and lose the last ones in a kill.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from io import TextIOBase
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm
from tqdm.std import EMA

from petsam_jax.checkpoint import METRICS

EVENTS = "tensorboard"
# Weight of the newest step in the losses of the progress line.
SMOOTHING = 0.02
# Seconds between two redrawings of the progress line on a terminal, and its first parts.
REDRAW_SECONDS = 0.2
STEPS, BAR = "step {n:,}/{total:,} {percentage:.0f}%", "[{bar:20}]"


class MetricLog:
    """The files of one run; use as a context manager, in one process of the run only."""

    def __init__(self, workdir: str | Path, step: int = 0):
        """`step` is the last one done, 0 for a new run. Raises OSError that names the file."""
        workdir = Path(workdir)
        self.path, self._folder = workdir / METRICS, workdir / EVENTS
        drop_after(self.path, step)
        self._lines = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        self._folder.mkdir(exist_ok=True)
        # TensorBoard reads files in the order of their names, which end in whole seconds without
        # the suffix. A session's start hides what earlier files have of its step and later ones.
        self._events = EventsWriter(str(self._folder / "events"), f".{time.time_ns()}")
        self._write_event(step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Log the numbers of a step; numbers that are not finite become null in the JSON."""
        values = {name: float(value) for name, value in values.items()}
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
        line = json.dumps({"step": step, "time": round(time.time(), 3), **finite})
        scalars = [Summary.Value(tag=name, simple_value=x) for name, x in values.items()]
        try:
            # In one piece, so that a kill can leave a partial line only at the very end.
            self._lines.write(line + "\n")
            self._lines.flush()
            self._write_event(step, summary=Summary(value=scalars))
        except OSError as error:
            raise _with_advice(error, self.path) from error

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Show an image in TensorBoard."""
        try:
            self._write_event(step, summary=summary.image(name, image, dataformats="HWC"))
        except OSError as error:
            raise _with_advice(error, self._folder) from error

    def _write_event(self, step: int, **content: Any) -> None:
        """The event is on disk when this returns."""
        self._events.write_event(Event(wall_time=time.time(), step=step, **content))
        self._events.flush()

    def close(self) -> None:
        self._lines.close()
        self._events.close()

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class NullLog(contextlib.nullcontext):
    """The log of all processes of a run but the first: it writes nothing."""

    def __init__(self):
        super().__init__(self)

    def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        pass

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        pass

    def close(self) -> None:
        pass


def _with_advice(error: OSError, path: Path) -> OSError:
    hint = "free up space, then start again to resume"
    text = f"the log cannot be written ({error.strerror}); {hint}"
    return OSError(error.errno, text, str(path))


def drop_after(path: Path, step: int) -> None:
    """Remove the lines of a metrics file that are later than `step` or incomplete, atomically."""
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
    """The lines of a run's metrics.jsonl, without a partial last line."""
    lines = (Path(workdir) / METRICS).read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if _is_upto(line, sys.maxsize)]


class Progress:
    """Steps, averaged losses, images a second and time left, on one line.

    A terminal's line is redrawn in place; elsewhere there is a line for the first and the last step
    and one every `every` seconds.
    """

    def __init__(
        self, total: int, step: int = 0, *, stream: TextIOBase | None = None, every: float = 60.0
    ):
        self._stream = sys.stderr if stream is None else stream
        self._first, self._terminal = step + 1, self._stream.isatty()
        # Elsewhere tqdm draws to nowhere, and its `update` tells when a line is due.
        self._nowhere = None if self._terminal else open(os.devnull, "w")  # noqa: SIM115
        self._bar = tqdm(
            total=total,
            initial=step,
            file=self._nowhere or self._stream,
            bar_format=STEPS,
            ascii=".#",
            dynamic_ncols=self._terminal,
            miniters=1,
            mininterval=REDRAW_SECONDS if self._terminal else every,
            # Elsewhere the pace is that since the last line.
            smoothing=0.05 if self._terminal else 1.0,
        )
        self._images: EMA = EMA()
        self._losses: dict[str, EMA] = {}

    def update(self, step: int, images: int, losses: Mapping[str, SupportsFloat]) -> None:
        """`images` seen since the last update, and the losses of the step just done."""
        self._images(images / max(step - self._bar.n, 1))
        for name, value in losses.items():
            # One that is not finite would stay in the average for ever.
            if math.isfinite(value):
                self._losses.setdefault(name, EMA(SMOOTHING))(float(value))
        self._bar.bar_format = self._format()
        due = self._bar.update(step - self._bar.n)
        if self._terminal and not due and step >= self._bar.total:
            self._bar.refresh()
        if not self._terminal and (due or step == self._first or step >= self._bar.total):
            self._bar.bar_format = self._format()
            self.print(str(self._bar))

    def _format(self) -> str:
        losses = [f"{name} {average():.4g}" for name, average in self._losses.items()]
        rate = self._bar.format_dict["rate"]
        pace = [f"{rate * self._images():.3g} images/s", "{remaining} left"] if rate else []
        # tqdm cuts what is too long for a terminal at its end: rather losses than the time left.
        parts = [STEPS, BAR, *pace, *losses] if self._terminal else [STEPS, *losses, *pace]
        return "  ".join(parts)

    def restart_pace(self) -> None:
        """Leave a pause, such as a validation, out of the pace."""
        self._bar.last_print_n = self._bar.n
        self._bar.unpause()

    def print(self, text: str) -> None:
        """Print a line above the progress line."""
        if self._terminal:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        self._bar.close()
        if self._nowhere:
            self._nowhere.close()
