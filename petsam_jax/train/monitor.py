"""What a run tells while it goes: log, progress line, validation and its sheets, and its end.

In: what each step measured, still on the devices. Out: the files of `logbook`, WORKDIR/sheets, and
TrainingDiverged where losses go wrong. In all processes of a run but the first it says and writes
nothing, but reads and validates as the first does, so that all of them stop at the same step.
"""

import contextlib
import io
import math
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict
from tqdm import tqdm

from petsam_jax.train.checkpoints import RunCheckpoints
from petsam_jax.train.compiled_step import PARTS
from petsam_jax.train.device_batches import DeviceBatch
from petsam_jax.train.guards import WINDOW, TrainingDiverged, find_fault
from petsam_jax.train.metric_log import MetricLog, NullLog, Progress
from petsam_jax.train.step import Metrics
from petsam_jax.train.validation import Validation

# Losses of each kind of step that are watched for divergence.
WATCHED = 5000
# On the progress line, the foremost first: a narrow terminal cuts off the others.
SHOWN = ("loss", "iou_last", *PARTS)


class Monitor:
    """Reads what steps had to say, one step late so that no step waits, and stops a bad run.

    Use as a context manager.
    """

    def __init__(
        self, config: ConfigDict, workdir: Path, total: int, step: int, checkpoints: RunCheckpoints
    ):
        """Of a run of `total` steps whose last one done is `step`."""
        self._first = jax.process_index() == 0
        self._logbook = MetricLog(workdir, step) if self._first else NullLog()
        self._progress = Progress(total, step, stream=None if self._first else io.StringIO())
        self._checkpoints, self._sheets = checkpoints, workdir / "sheets"
        self._log_every = config.train.log_every
        self._waiting = None
        # Steps and losses of each kind.
        self._watched = {"image": deque(maxlen=WATCHED), "clip": deque(maxlen=WATCHED)}
        self._read_step, self._values = step, {}
        self._images, self._since = 0, time.monotonic()

    def __enter__(self) -> "Monitor":
        self._logbook.__enter__()
        return self

    def __exit__(self, kind, *_) -> None:
        """Write what was read since the last line of the log, too."""
        self._progress.close()
        # An error that is on its way is worth more than one of writing.
        with contextlib.nullcontext() if kind is None else contextlib.suppress(OSError):
            try:
                self._write_means()
            finally:
                self._logbook.close()

    def say(self, text: str) -> None:
        """A line on the terminal."""
        self._progress.say(text)

    def add(
        self, step: int, fed: DeviceBatch, metrics: Metrics, norms: Mapping[str, Array]
    ) -> None:
        """Note a step that was just started, and read the one before."""
        before, self._waiting = self._waiting, (step, fed, metrics, norms)
        if before is not None:
            self._read(*before)

    def flush(self) -> None:
        """Read the last step, too."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._read(*waiting)

    def pause(self) -> None:
        """What took time since the last step was no training."""
        self._images, self._since = 0, time.monotonic()
        self._progress.restart_pace()

    def _read(self, step, fed, metrics, norms) -> None:
        (metrics, norms), kind, names = jax.device_get((metrics, norms)), fed.kind, fed.names
        values = {name: float(value) for name, value in metrics.losses._asdict().items()}
        values["loss"] = values.pop("total")
        values["grad_norm"] = float(metrics.grad_norm)
        self._watch(step, kind, values, names)
        ious = {"iou_first": metrics.ious.mean(0), "iou_last": metrics.ious.mean(-1)}
        # A last frame that all were prompted on has none.
        values |= {name: iou for name, iou in ious.items() if iou is not None}
        values |= {f"grad_norm_{part}": float(norm) for part, norm in norms.items()}
        for name, value in values.items():
            self._values.setdefault(f"{kind}/{name}", []).append(value)
        # Of all processes; each has the names of its own pictures only.
        images = len(fed.image)
        self._images, self._read_step = self._images + images, step
        shown = {f"{kind} {name}": values[name] for name in SHOWN if name in values}
        self._progress.update(step, images, shown)
        if step % self._log_every == 0:
            self._write_means()

    def _watch(self, step, kind, values, names) -> None:
        watched = self._watched[kind]
        watched.append((step, values["loss"]))
        fault = find_fault([loss for _, loss in watched], values)
        if not fault:
            return
        # Losses that diverge did so somewhere in the window; one that is not finite does so now.
        finite = all(map(math.isfinite, values.values()))
        since = watched[-WINDOW][0] if finite else step
        raise TrainingDiverged(
            step,
            f"{kind} {fault}",
            names,
            self._checkpoints.last_before(since),
            self._checkpoints.best,
        )

    def _write_means(self) -> None:
        if not self._values:
            return
        means = {name: float(np.mean(values)) for name, values in self._values.items()}
        pace = self._images / max(time.monotonic() - self._since, 1e-9)
        self._logbook.write(self._read_step, means | {"images_per_second": pace})
        self._values, self._images, self._since = {}, 0, time.monotonic()

    def validate(
        self, step: int, validation: Validation, weights: Mapping[str, Array]
    ) -> dict[str, float]:
        """Try these weights, and tell and show how good they are; the scores by name."""
        began = time.monotonic()
        scores, sheet = validation(weights)
        self._logbook.write(step, {f"valid/{name}": score for name, score in scores.items()})
        self._logbook.picture(step, "valid", np.asarray(sheet))
        path = self._sheets / f"{step:07d}.png"
        if self._first:
            self._sheets.mkdir(exist_ok=True)
            sheet.save(path)
        shown = "  ".join(f"{name} {score:.3f}" for name, score in scores.items())
        took = tqdm.format_interval(time.monotonic() - began)
        self.say(f"step {step:,}: {shown}  ({took}, {path})")
        return scores
