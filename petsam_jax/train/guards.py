"""Checks that keep a training run from losing work: of its workdir and its losses.

A run calls `check_workdir` before anything that takes time, and passes recent losses to
`find_fault`.
"""

import contextlib
import importlib.util
import math
import os
import shutil
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import SupportsFloat

import jax

from petsam_jax.checkpoint import finished_steps

# Windows has none.
HAS_FILE_LOCKS = importlib.util.find_spec("fcntl") is not None
if HAS_FILE_LOCKS:
    import fcntl

# Never removed: a run that had it open would then lock a file that no other run sees.
LOCK = ".lock"
# Recent steps of one kind whose median loss decides whether training diverges.
WINDOW = 100


class WorkdirError(RuntimeError):
    """A run cannot start or save in its workdir: the message names it, the fault and what to do."""


class TrainingDiverged(RuntimeError):
    """A non-finite or diverging loss, with the step, its images, and earlier checkpoints."""

    def __init__(
        self,
        step: int,
        fault: str,
        names: Sequence[str],
        checkpoint: str | Path | None,
        best: str | Path | None = None,
    ):
        """`checkpoint` is the last one before the fault, `best` the best one in validation."""
        saved = "no checkpoint was written before it"
        advice = "start again in a new --workdir with a lower optim.groups.*.lr or a longer warmup"
        if checkpoint is not None:
            saved = f"the last good checkpoint is {checkpoint}"
            advice += f", optionally from that checkpoint: --config.train.start_from={checkpoint}"
        if best is not None:
            saved += f", the best in validation {best}"
        super().__init__(
            f"step {step}: {fault}\n  images of this batch: {', '.join(names)}\n  {saved}\n  "
            f"{advice}"
        )
        self.step, self.fault, self.names, self.checkpoint = step, fault, tuple(names), checkpoint


# At the start


def check_workdir(workdir: str | Path, needed_bytes: int) -> None:
    """Make the directory; raise WorkdirError if it is not writable or its disk lacks space.

    `needed_bytes` is about what the run's checkpoints will take (`tree_bytes` of one, times how
    many are kept plus the one being written), including those that are already there.
    """
    workdir = Path(workdir)
    # Processes on two hosts may have the same id.
    probe = workdir / f".probe-{jax.process_index()}-{os.getpid()}"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise WorkdirError(
            f"--workdir={workdir} cannot be written ({error.strerror}: {error.filename}); choose "
            f"another directory or change its owner or mode"
        ) from error
    files = [file for step in finished_steps(workdir) for file in step.rglob("*") if file.is_file()]
    needed_bytes -= sum(file.stat().st_size for file in files)
    free = shutil.disk_usage(workdir).free
    if free < needed_bytes:
        raise WorkdirError(
            f"--workdir={workdir}: {free / 2**30:.2f} GiB are free, but its checkpoints need about "
            f"{needed_bytes / 2**30:.2f} GiB more; free up space, choose another disk or keep fewer"
        )


def tree_bytes(*trees) -> int:
    """The size of all arrays, or abstract arrays, in the trees."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trees))


@contextlib.contextmanager
def lock_workdir(workdir: str | Path) -> Iterator[None]:
    """Hold the workdir's lock; raise WorkdirError if another run holds it.

    A second run would mistake the first one's unfinished checkpoint for the remains of a kill and
    remove it. The system releases the lock however the process ends. In a run of several processes
    the first one holds it.
    """
    if not HAS_FILE_LOCKS or jax.process_index() != 0:
        yield
        return
    path = Path(workdir) / LOCK
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkdirError(
                f"--workdir={workdir} is in use: another run holds {path}; wait until it ends, "
                "stop it, or choose another directory"
            ) from None
        except OSError:
            pass  # Some network file systems have no locks.
        yield


# Losses


def find_fault(
    losses: Iterable[SupportsFloat],
    values: Mapping[str, SupportsFloat] | None = None,
    *,
    window: int = WINDOW,
    factor: float = 5.0,
) -> str | None:
    """What is wrong with a run's recent losses, the newest last, or None.

    Faults are a newest loss, or one of `values` (loss parts, gradient norm), that is not finite,
    and divergence: the median of the last `window` losses exceeds `factor` times the least median
    of an earlier full window. A single bad batch is no divergence.
    """
    recent = [float(loss) for loss in losses]
    newest = {"loss": recent[-1]} if recent else {}
    for name, value in (newest | dict(values or {})).items():
        if not math.isfinite(value):
            return f"{name} is {float(value)}"
    medians = [
        statistics.median(recent[end - window : end])
        for end in range(len(recent), window - 1, -window)
    ]
    if len(medians) < 2 or medians[0] <= factor * min(medians[1:]) or min(medians[1:]) <= 0:
        return None
    return (
        f"the loss diverges: the median of the last {window} steps is {medians[0]:.4g}, "
        f"up from {min(medians[1:]):.4g}"
    )
