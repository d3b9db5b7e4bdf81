"""What a run reports as it goes: log, progress line, validation scores and sheets.

In: what each step measured, still on the devices. Out: the files of `metric_log`, WORKDIR/sheets,
and TrainingDiverged if losses diverge. In all processes of a run but the first it prints and writes
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
from tqdm import tqdm

from petsam_jax.train.checkpoints import RunCheckpoints
from petsam_jax.train.compiled_step import PARTS
from petsam_jax.train.device_batches import DeviceBatch
from petsam_jax.train.guards import WINDOW, TrainingDiverged, find_fault
from petsam_jax.train.metric_log import MetricLog, NullLog, Progress
from petsam_jax.train.step import Metrics
from petsam_jax.train.validation import Validation

# Recent losses of each kind of step that are checked for divergence.
WATCHED = 5000
# On the progress line; a narrow terminal cuts off the last ones.
SHOWN = ("loss", "iou_last", *PARTS)


class Monitor:
    """Reads the metrics of steps, one step late so that no step waits, and stops a diverging run.

    Use as a context manager.
    """

    def __init__(
        self, workdir: Path, total: int, step: int, checkpoints: RunCheckpoints, log_every: int
    ):
        """`total` is the number of steps of the run, `step` the last one done."""
        self._first = jax.process_index() == 0
        self._log = MetricLog(workdir, step) if self._first else NullLog()
        self._progress = Progress(total, step, stream=None if self._first else io.StringIO())
        self._checkpoints, self._sheets = checkpoints, workdir / "sheets"
        self._log_every = log_every
        self._pending: tuple[int, DeviceBatch, Metrics, Mapping[str, Array]] | None = None
        # Recent (step, loss) of each kind.
        self._watched: dict[str, deque[tuple[int, float]]] = {
            kind: deque(maxlen=WATCHED) for kind in ("image", "clip")
        }
        self._read_step = step
        self._values: dict[str, list[float]] = {}
        self._images, self._since = 0, time.monotonic()

    def __enter__(self) -> "Monitor":
        self._log.__enter__()
        return self

    def __exit__(self, kind, *_) -> None:
        """Also log what was read since the last line."""
        self._progress.close()
        # An error that is being raised matters more than one of writing.
        with contextlib.nullcontext() if kind is None else contextlib.suppress(OSError):
            try:
                self._write_means()
            finally:
                self._log.close()

    def print(self, text: str) -> None:
        """Print a line above the progress line."""
        self._progress.print(text)

    def add(
        self, step: int, batch: DeviceBatch, metrics: Metrics, norms: Mapping[str, Array]
    ) -> None:
        """Add a step that was just started, and read the one before."""
        before, self._pending = self._pending, (step, batch, metrics, norms)
        if before is not None:
            self._read(*before)

    def flush(self) -> None:
        """Read the last step as well."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._read(*pending)

    def pause(self) -> None:
        """Leave the time since the last step out of the pace."""
        self._images, self._since = 0, time.monotonic()
        self._progress.restart_pace()

    def _read(self, step, batch, metrics, norms) -> None:
        metrics, norms = jax.device_get((metrics, norms))
        values = {name: float(value) for name, value in metrics.losses._asdict().items()}
        values["loss"] = values.pop("total")
        values["grad_norm"] = float(metrics.grad_norm)
        self._check_losses(step, batch, values)
        ious = {"iou_first": metrics.ious.mean(0), "iou_last": metrics.ious.mean(-1)}
        # There is none if every clip was prompted on its last frame.
        values |= {name: iou for name, iou in ious.items() if iou is not None}
        values |= {f"grad_norm_{part}": float(norm) for part, norm in norms.items()}
        for name, value in values.items():
            self._values.setdefault(f"{batch.kind}/{name}", []).append(value)
        # Of all processes, while `batch.names` are those of this process.
        images = len(batch.image)
        self._images, self._read_step = self._images + images, step
        shown = {f"{batch.kind} {name}": values[name] for name in SHOWN if name in values}
        self._progress.update(step, images, shown)
        if step % self._log_every == 0:
            self._write_means()

    def _check_losses(self, step, batch, values) -> None:
        """Raise TrainingDiverged if a value is not finite or the losses of its kind diverge."""
        watched = self._watched[batch.kind]
        watched.append((step, values["loss"]))
        fault = find_fault([loss for _, loss in watched], values)
        if not fault:
            return
        # Losses began to diverge somewhere in the window; a non-finite value is of this step.
        finite = all(map(math.isfinite, values.values()))
        since = watched[-WINDOW][0] if finite else step
        raise TrainingDiverged(
            step,
            f"{batch.kind} {fault}",
            batch.names,
            self._checkpoints.last_before(since),
            self._checkpoints.best,
        )

    def _write_means(self) -> None:
        if not self._values:
            return
        means = {name: float(np.mean(values)) for name, values in self._values.items()}
        pace = self._images / max(time.monotonic() - self._since, 1e-9)
        self._log.write(self._read_step, means | {"images_per_second": pace})
        self._values, self._images, self._since = {}, 0, time.monotonic()

    def validate(
        self, step: int, validation: Validation, weights: Mapping[str, Array]
    ) -> dict[str, float]:
        """Validate these weights, log the scores, write the sheet; return the scores."""
        began = time.monotonic()
        scores, sheet = validation(weights)
        self._log.write(step, {f"valid/{name}": score for name, score in scores.items()})
        self._log.image(step, "valid", np.asarray(sheet))
        path = self._sheets / f"{step:07d}.png"
        if self._first:
            self._sheets.mkdir(exist_ok=True)
            sheet.save(path)
        shown = "  ".join(f"{name} {score:.3f}" for name, score in scores.items())
        took = tqdm.format_interval(time.monotonic() - began)
        self.print(f"step {step:,}: {shown}  ({took}, {path})")
        return scores
