"""Checks that keep a training run from losing work: of its workdir, its config and its losses.

A run calls `check_workdir` and `check_config` before anything that takes time, and passes recent
losses to `find_fault`.
"""

import contextlib
import math
import os
import shutil
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import SupportsFloat

import jax
from ml_collections import ConfigDict

from petsam_jax.checkpoint import finished_steps
from petsam_jax.config import differences, from_json, to_json

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None

CONFIG = "config.json"
# Never removed: a run that waits to open it would lock a file that nobody else sees.
LOCK = ".lock"
# Steps of one kind by whose losses it is judged whether they diverge.
WINDOW = 100


class WorkdirError(RuntimeError):
    """A workdir in which a run cannot start: the message names it, the fault and what to do."""


class TrainingDiverged(RuntimeError):
    """A loss that is not finite or grows: step, pictures, and checkpoints from before it."""

    def __init__(
        self,
        step: int,
        fault: str,
        names: Sequence[str],
        checkpoint: str | Path | None,
        best: str | Path | None = None,
    ):
        """`checkpoint` is the last one that is older than the fault, `best` that in validation."""
        saved = "no checkpoint was written before it"
        advice = "start again in a new --workdir with lower optim.groups.*.lr or a longer warmup"
        if checkpoint is not None:
            saved = f"the last good checkpoint is {checkpoint}"
            advice += f", from there if you like: --config.train.start_from={checkpoint}"
        if best is not None:
            saved += f", the best in validation {best}"
        super().__init__(
            f"step {step}: {fault}\n  pictures of this batch: {', '.join(names)}\n  {saved}\n  "
            f"{advice}"
        )
        self.step, self.fault, self.names, self.checkpoint = step, fault, tuple(names), checkpoint


# At the start


def check_workdir(workdir: str | Path, needed_bytes: int) -> None:
    """Make the directory; raise WorkdirError if it cannot be written or its disk lacks room.

    `needed_bytes`: about what the run will keep there (`tree_bytes` of a checkpoint times how many
    are kept, and one more while it is being written), what it has kept so far included.
    """
    workdir = Path(workdir)
    # Two hosts may have the same process id.
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
            f"{needed_bytes / 2**30:.2f} GiB more; make room, choose another disk or keep fewer"
        )


def tree_bytes(*trees) -> int:
    """The size of all arrays, or outlines of arrays, in the trees."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trees))


@contextlib.contextmanager
def lock_workdir(workdir: str | Path) -> Iterator[None]:
    """Raise WorkdirError if another run is in the workdir, else let none in until this is over.

    A second run would take the first one's unfinished checkpoint for what a kill left, and remove
    it. The system lifts the lock of a process that ends in whatever way. Of several processes of a
    run the first one holds it.
    """
    if fcntl is None or jax.process_index() != 0:
        yield
        return
    path = Path(workdir) / LOCK
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkdirError(
                f"--workdir={workdir} is in use: another run holds {path}; wait for its end, stop "
                "it, or choose another directory"
            ) from None
        except OSError:
            pass  # Some disks of a network have no locks.
        yield


def check_config(workdir: str | Path, config: ConfigDict, may_differ: Iterable[str] = ()) -> None:
    """Keep the config as WORKDIR/config.json; refuse a workdir that was trained by another.

    Fields that match a pattern of `may_differ` ("train.log_every") may change from start to start,
    and all of them as long as there is no checkpoint: a first start may have failed by its config.
    Raises WorkdirError with every field that differs.
    """
    path = Path(workdir) / CONFIG
    if path.exists() and finished_steps(workdir):
        try:
            old = from_json(path.read_text())
            if not old:
                raise ValueError("it is empty")
        except (ValueError, AttributeError, TypeError) as error:
            raise WorkdirError(f"{path} is damaged ({error}); choose a new --workdir") from error
        may_differ = tuple(may_differ)
        refused = [
            line
            for line in differences(old, config)
            if not any(fnmatchcase(line.partition(":")[0], pattern) for pattern in may_differ)
        ]
        if refused:
            title = f"--workdir={workdir} holds a run of another config ({path} -> now):"
            advice = "choose a new --workdir, or start with the config it was made with"
            raise WorkdirError("\n  ".join([title, *refused, advice]))
    # Each process of a run has a name of its own for the new file.
    new = path.with_name(f"{path.name}.{jax.process_index()}.new")
    new.write_text(to_json(config))
    os.replace(new, path)


# Losses


def find_fault(
    losses: Iterable[SupportsFloat],
    values: Mapping[str, SupportsFloat] | None = None,
    *,
    window: int = WINDOW,
    factor: float = 5.0,
) -> str | None:
    """What is wrong with a run's recent losses, the newest last, or None.

    A loss, or one of `values` (parts, gradient norm) of the newest step, that is not finite; or a
    loss that diverges: the median of the last `window` is over `factor` times the least median of
    an earlier, whole window. One bad batch is no divergence.
    """
    losses = [float(loss) for loss in losses]
    newest = {"loss": losses[-1]} if losses else {}
    for name, value in (newest | dict(values or {})).items():
        if not math.isfinite(value):
            return f"{name} is {float(value)}"
    whole = [
        statistics.median(losses[end - window : end])
        for end in range(len(losses), window - 1, -window)
    ]
    if len(whole) < 2 or whole[0] <= factor * min(whole[1:]) or min(whole[1:]) <= 0:
        return None
    return (
        f"the loss diverges: the median of the last {window} steps is {whole[0]:.4g}, "
        f"it was {min(whole[1:]):.4g} before"
    )
