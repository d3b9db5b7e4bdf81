"""Checks of a run: its workdir, and losses that diverge."""

import shutil
from collections import namedtuple
from pathlib import Path

import jax
import numpy as np
import pytest

from petsam_jax.train.guards import (
    TrainingDiverged,
    WorkdirError,
    check_workdir,
    find_fault,
    lock_workdir,
    tree_bytes,
)


def trained(workdir):
    """The folder of a finished step in a run's workdir."""
    step = Path(workdir) / "checkpoints" / "5"
    step.mkdir(parents=True)
    return step


# Workdir


def test_good_workdir_is_made_and_left_clean(tmp_path):
    check_workdir(tmp_path / "a" / "b", 1000)
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_file_in_place_of_the_workdir_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(WorkdirError, match=f"--workdir={workdir} cannot be written .*choose"):
            check_workdir(workdir, 0)


def test_an_unwritable_workdir_is_refused(tmp_path, monkeypatch):
    """Root may write anywhere, so the refusal is staged."""

    def refuse(path, data):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(WorkdirError, match="cannot be written .Permission denied.*owner or mode"):
        check_workdir(tmp_path, 0)


def test_a_full_disk_is_refused(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**39, 3 * 2**29))
    check_workdir(tmp_path, 3 * 2**29)
    with pytest.raises(WorkdirError, match="1.50 GiB are free.* 2.00 GiB more; free up space"):
        check_workdir(tmp_path, 2**31)


def test_existing_checkpoints_count_toward_the_needed_space(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40, 1000))
    (trained(tmp_path) / "params").mkdir()
    (tmp_path / "checkpoints" / "5" / "params" / "array").write_bytes(b"x" * 5000)
    # Of an incomplete step.
    (tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp" / "array").write_bytes(b"x" * 5000)
    check_workdir(tmp_path, 6000)
    with pytest.raises(WorkdirError, match="GiB more"):
        check_workdir(tmp_path, 6001)


def test_bytes_of_trees():
    tree = {"a": np.zeros((3, 4), np.float32), "b": jax.ShapeDtypeStruct((5,), "bfloat16")}
    assert tree_bytes(tree, [np.zeros(2, np.int32)]) == 48 + 10 + 8


def test_a_workdir_is_locked_by_one_run(tmp_path):
    refusal = rf"in use.*{tmp_path}/\.lock; wait until it ends"
    with lock_workdir(tmp_path):
        with pytest.raises(WorkdirError, match=refusal), lock_workdir(tmp_path):
            raise AssertionError
        with lock_workdir(tmp_path.parent):
            pass
    with pytest.raises(ZeroDivisionError), lock_workdir(tmp_path):
        raise ZeroDivisionError
    with lock_workdir(tmp_path):
        pass


def test_file_systems_without_locks_are_accepted(tmp_path, monkeypatch):
    """As on Windows, and on some disks of a network; only the first process takes it."""

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    with lock_workdir(tmp_path):
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        with lock_workdir(tmp_path):
            pass
        monkeypatch.undo()
        monkeypatch.setattr("petsam_jax.train.guards.HAS_FILE_LOCKS", False)
        with lock_workdir(tmp_path):
            pass
        monkeypatch.undo()
        monkeypatch.setattr("fcntl.flock", refuse)
        with lock_workdir(tmp_path):
            pass


# Losses


def noisy(rng, level, steps=300):
    return list(level * np.exp(0.3 * rng.normal(size=steps)))


def test_falling_and_noisy_losses_are_fine(rng):
    assert find_fault([]) is None
    assert find_fault([300.0, 2.0]) is None
    falling = [loss * 0.99**step for step, loss in enumerate(noisy(rng, 10.0))]
    assert find_fault(falling, {"grad_norm": 3.0}) is None
    # Single bad batches, and a plateau twice as high, are no divergence.
    spiky = noisy(rng, 1.0)
    spiky[-40:] = [1000.0 if step % 4 == 0 else loss for step, loss in enumerate(spiky[-40:])]
    assert find_fault(spiky) is None
    assert find_fault(noisy(rng, 1.0) + noisy(rng, 2.0)) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_value_is_named(bad):
    assert find_fault([1.0, bad]) == f"loss is {bad}"
    assert find_fault([1.0], {"dice": 0.1, "grad_norm": bad}) == f"grad_norm is {bad}"


def test_divergence_is_found_within_a_window(rng):
    losses = noisy(rng, 1.0)
    while len(losses) < 420:
        losses.append(20.0)
        fault = find_fault(losses)
        if fault:
            break
    assert 345 < len(losses) < 360
    assert fault.startswith("the loss diverges: the median of the last 100 steps is ")


def test_the_error_names_step_images_and_checkpoint():
    error = TrainingDiverged(120, "loss is nan", ["Abyssinian_1", "pug_7"], "/run/checkpoints/100")
    for part in ("step 120: loss is nan", "Abyssinian_1, pug_7", "/run/checkpoints/100", "lr"):
        assert part in str(error)
    assert (error.step, error.names) == (120, ("Abyssinian_1", "pug_7"))
    # What to do is a command's own flags.
    assert "--config.train.start_from=/run/checkpoints/100" in str(error)
    without = str(TrainingDiverged(1, "loss is nan", ["a"], None))
    assert "no checkpoint was written before it" in without and "start_from" not in without
    error = TrainingDiverged(120, "loss is nan", ["pug_7"], "/run/100", best="/run/60")
    assert "last good checkpoint is /run/100, the best in validation /run/60\n" in str(error)
