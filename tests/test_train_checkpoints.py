"""Checkpoints of runs are exact, the right ones are kept, and no fault is hidden."""

import contextlib
import json
import resource
import shutil
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from petsam_jax.config import load_config
from petsam_jax.train.checkpoints import RunCheckpoints, flatten_by_path, unflatten_like
from petsam_jax.train.flat_params import UNPACKED, pack_small
from petsam_jax.train.guards import WorkdirError
from petsam_jax.train.step import ModelTemplate, TrainState

ITERATORS = {"image": {"next_index": 7}, "clip": {"next_index": 2}}


@pytest.fixture
def config():
    return load_config("configs/tiny.py")


@pytest.fixture
def replicated():
    return NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec())


def a_state(step, seed=0, scale=1):
    rng = np.random.default_rng(seed)
    weights = {"a.0.kernel": rng.normal(size=(3, 4 * scale)), "b": rng.normal(size=5)}
    weights = {name: jnp.asarray(x, jnp.float32) for name, x in weights.items()}
    optimizer = optax.chain(optax.clip(1.0), optax.adamw(1e-3))
    _, opt_state = optimizer.update(weights, optimizer.init(weights), weights)
    ema = jax.tree.map(lambda x: x / 3, weights)
    template = ModelTemplate(
        nnx.split(nnx.Dict())[0], {"c": jnp.asarray(rng.normal(size=2), jnp.float32)}
    )
    return TrainState(jnp.int32(step), weights, opt_state, ema), template


def steps(checkpoints):
    return sorted(int(path.name) for path in checkpoints.directory.iterdir() if path.name.isdigit())


def test_any_tree_is_flattened_by_path_and_restored():
    tree = {"a": [jnp.ones(2), optax.EmptyState()], "b": (jnp.zeros(()), {"c.d": jnp.ones(1)})}
    leaves = flatten_by_path(tree)
    assert sorted(leaves) == ["a.0", "b.0", "b.1.c.d"]
    again = unflatten_like(tree, leaves)
    assert jax.tree.structure(again) == jax.tree.structure(tree) and again["a"][0] is leaves["a.0"]


def test_a_step_is_restored_to_the_bit(config, replicated, tmp_path):
    state, template = a_state(5)
    with RunCheckpoints(config, tmp_path) as checkpoints:
        checkpoints.save(state, template, ITERATORS)
    with RunCheckpoints(config, tmp_path) as checkpoints:
        got, got_template, iterators = checkpoints.restore(*a_state(0, seed=1), replicated)
    assert iterators == ITERATORS and int(got.step) == 5
    assert jax.tree.structure(got) == jax.tree.structure(state)
    for expected, array in zip(
        jax.tree.leaves((state, template)), jax.tree.leaves((got, got_template)), strict=True
    ):
        assert (
            array.dtype == expected.dtype
            and not array.weak_type
            and jnp.array_equal(array, expected)
        )


def test_without_a_step_a_run_starts_from_scratch(config, replicated, tmp_path):
    state, template = a_state(0)
    with RunCheckpoints(config, tmp_path) as checkpoints:
        got, got_template, iterators = checkpoints.restore(state, template, replicated)
        assert checkpoints.last is None and checkpoints.best is None
    assert iterators == {} and got_template is template
    assert all(map(jnp.array_equal, jax.tree.leaves(got), jax.tree.leaves(state)))


def test_the_newest_and_the_best_are_kept(config, tmp_path):
    scores = {1: 0.2, 2: 0.9, 3: None, 4: 0.5, 5: None, 6: None}
    with RunCheckpoints(config, tmp_path) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(*a_state(step), ITERATORS)
            if score is not None:
                checkpoints.add_scores(step, {"iou_mean": score})
        checkpoints.wait()
        assert steps(checkpoints) == [2, 5, 6]
        assert checkpoints.best.name == "2" and checkpoints.last.name == "6"
    # As a run that is taken up again finds it, and goes on.
    with RunCheckpoints(config, tmp_path) as checkpoints:
        assert (
            checkpoints.best.name == "2"
            and checkpoints.has_scores(2)
            and not checkpoints.has_scores(6)
        )
        checkpoints.save(*a_state(7), ITERATORS)
        checkpoints.wait()
        assert steps(checkpoints) == [2, 6, 7]
        checkpoints.add_scores(7, {"iou_mean": 0.95})
        assert steps(checkpoints) == [6, 7] and checkpoints.best.name == "7"
    with RunCheckpoints(config, tmp_path) as checkpoints:
        assert checkpoints.best.name == "7"


def test_a_resumed_run_may_add_scores_to_its_step(config, replicated, tmp_path):
    with RunCheckpoints(config, tmp_path) as checkpoints:
        checkpoints.save(*a_state(3), ITERATORS)
    with RunCheckpoints(config, tmp_path) as checkpoints:
        assert checkpoints.best is None
        # What a kill leaves while it is judged.
        (checkpoints.directory / "3" / "metrics.orbax-checkpoint-tmp").mkdir()
        checkpoints.add_scores(3, {"iou_mean": 0.5})
    with RunCheckpoints(config, tmp_path) as checkpoints:
        assert (
            checkpoints.best.name == "3"
            and int(checkpoints.restore(*a_state(0), replicated)[0].step) == 3
        )


def test_the_last_step_before_another_is_complete(config, tmp_path):
    with RunCheckpoints(config, tmp_path) as checkpoints:
        for step in (10, 20):
            checkpoints.save(*a_state(step), ITERATORS)
        checkpoints.wait()
        found = [checkpoints.last_before(step) for step in (10, 11, 20, 21, None)]
        assert [path and path.name for path in found] == [None, "10", "10", "20", "20"]
        # Under this name while it is being written, though Orbax counts it.
        (checkpoints.directory / "20").rename(checkpoints.directory / "20.orbax-checkpoint-tmp")
        assert checkpoints.last.name == "10"
        (checkpoints.directory / "20.orbax-checkpoint-tmp").rename(checkpoints.directory / "20")


def test_a_temporary_folder_is_not_a_step(config, replicated, tmp_path):
    with RunCheckpoints(config, tmp_path) as checkpoints:
        checkpoints.save(*a_state(1), ITERATORS)
    (checkpoints.directory / "2.orbax-checkpoint-tmp").mkdir()
    with RunCheckpoints(config, tmp_path) as checkpoints:
        state, _, _ = checkpoints.restore(*a_state(0), replicated)
    assert int(state.step) == 1


def test_saving_a_step_again_changes_nothing(config, replicated, tmp_path):
    with RunCheckpoints(config, tmp_path) as checkpoints:
        checkpoints.save(*a_state(1), ITERATORS)
        checkpoints.save(*a_state(1, seed=2), ITERATORS)
    with RunCheckpoints(config, tmp_path) as checkpoints:
        state, _, _ = checkpoints.restore(*a_state(0, seed=3), replicated)
    assert jnp.array_equal(state.trained["b"], a_state(1)[0].trained["b"])


@pytest.mark.parametrize("saved, read", [(True, True), (True, False), (False, True)])
def test_a_step_does_not_depend_on_how_the_state_is_packed(
    saved, read, config, replicated, tmp_path
):
    unpacked, template = a_state(4)
    shapes = {name: array.shape for name, array in unpacked.trained.items()}
    together = pack_small(shapes, dict.fromkeys(shapes, "all"))

    def as_packed(packed, state):
        packing = together if packed else UNPACKED
        return packing.pack_within(state), template._replace(packing=packing)

    with RunCheckpoints(config, tmp_path) as checkpoints:
        checkpoints.save(*as_packed(saved, unpacked), ITERATORS)
    with RunCheckpoints(config, tmp_path) as checkpoints:
        got, kept, _ = checkpoints.restore(*as_packed(read, a_state(0, seed=1)[0]), replicated)
    assert kept.packing == (together if read else UNPACKED)
    expected, _ = as_packed(read, unpacked)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_step_of_another_optimiser_is_refused_with_advice(config, replicated, tmp_path):
    """As a version of the program that packed the optimiser's arrays wrote it."""
    state, template = a_state(4)
    packed = pack_small({name: x.shape for name, x in state.trained.items()}, {"b": 0}).pack_within
    with RunCheckpoints(config, tmp_path) as checkpoints:
        checkpoints.save(state._replace(opt_state=packed(state.opt_state)), template, ITERATORS)
    message = f"checkpoints/4: written by a version of this program.*start_from={tmp_path}$"
    with (
        RunCheckpoints(config, tmp_path) as checkpoints,
        pytest.raises(WorkdirError, match=message),
    ):
        checkpoints.restore(*a_state(0), replicated)


def test_the_state_may_be_overwritten_while_it_is_written(config, replicated, tmp_path):
    state, template = a_state(1)
    expected = np.array(state.trained["b"])
    with RunCheckpoints(config, tmp_path) as checkpoints:
        checkpoints.save(state, template, ITERATORS)
        jax.tree.map(lambda array: array.delete(), state)
    with RunCheckpoints(config, tmp_path) as checkpoints:
        got, _, _ = checkpoints.restore(*a_state(0, seed=1), replicated)
    assert np.array_equal(got.trained["b"], expected)


def test_a_full_disk_is_reported_with_the_last_good_step(config, tmp_path, monkeypatch):
    with RunCheckpoints(config, tmp_path) as checkpoints:
        checkpoints.save(*a_state(1), ITERATORS)
        checkpoints.wait()

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoints._manager, "save", full)
        with pytest.raises(WorkdirError, match="No space left.*last good one is .*checkpoints/1"):
            checkpoints.save(*a_state(2), ITERATORS)


@contextlib.contextmanager
def little_room():
    """No file may grow beyond this, as on a disk that is full; threads learn it when they write."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("reported_by", ["save", "wait", "add_scores", "exit"])
def test_a_disk_that_fills_while_a_step_is_written_is_reported(
    reported_by, config, replicated, tmp_path
):
    with RunCheckpoints(config, tmp_path) as checkpoints:
        checkpoints.save(*a_state(1), ITERATORS)
        checkpoints.add_scores(1, {"iou_mean": 0.5})
    before = threading.enumerate()
    # Made here, since what it compiles is stored on the disk, too.
    second, third = a_state(2, scale=500), a_state(3)
    message = r"written .*File too large.*; the last good one is .*checkpoints/1\. Free up space"
    with pytest.raises(WorkdirError, match=message):  # noqa: SIM117
        with RunCheckpoints(config, tmp_path) as checkpoints, little_room():
            checkpoints.save(*second, ITERATORS)
            while checkpoints._manager.is_saving_in_progress():
                time.sleep(0.01)
            if reported_by == "save":
                checkpoints.save(*third, ITERATORS)
            elif reported_by == "wait":
                checkpoints.wait()
            elif reported_by == "add_scores":
                checkpoints.add_scores(2, {"iou_mean": 0.9})
    # A run is taken up by a new process, in which nothing goes on writing. Orbax's own `join` would
    # raise once more what its thread died of.
    for thread in set(threading.enumerate()).difference(before):
        threading.Thread.join(thread, 60)
    with RunCheckpoints(config, tmp_path) as checkpoints:
        assert checkpoints.last.name == checkpoints.best.name == "1" and steps(checkpoints) == [1]
        got, _, _ = checkpoints.restore(*a_state(0, seed=1), replicated)
        assert jnp.array_equal(got.trained["b"], a_state(1)[0].trained["b"])
        checkpoints.save(*a_state(2), ITERATORS)
    assert steps(checkpoints) == [1, 2]


# Damage


def flip(folder):
    """One bit of each file of arrays in it."""
    for file in folder.rglob("*"):
        if file.is_file() and file.parent.name == "d":
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)


@pytest.mark.parametrize("item", ["params", "ema", "optimizer"])
def test_a_damaged_step_is_named_with_the_previous_one(item, config, replicated, tmp_path):
    with RunCheckpoints(config, tmp_path) as checkpoints:
        for step in (4, 8):
            checkpoints.save(*a_state(step), ITERATORS)
    flip(checkpoints.directory / "8" / item)
    with RunCheckpoints(config, tmp_path) as checkpoints:
        message = "checkpoints/8: .*CRC.*; remove that folder and start again .*checkpoints/4$"
        with pytest.raises(WorkdirError, match=message):
            checkpoints.restore(*a_state(0), replicated)
    shutil.rmtree(checkpoints.directory / "8")
    with RunCheckpoints(config, tmp_path) as checkpoints:
        assert int(checkpoints.restore(*a_state(0), replicated)[0].step) == 4
    flip(checkpoints.directory / "4" / item)
    with (
        RunCheckpoints(config, tmp_path) as checkpoints,
        pytest.raises(WorkdirError, match="start from scratch"),
    ):
        checkpoints.restore(*a_state(0), replicated)


@pytest.mark.parametrize("item", ["params", "ema", "optimizer"])
def test_checksums_are_compared(item, config, replicated, tmp_path):
    """What Orbax itself reads without complaint."""
    with RunCheckpoints(config, tmp_path) as checkpoints:
        checkpoints.save(*a_state(4), ITERATORS)
        checkpoints.wait()
        other = {"params": lambda s, f: f.frozen | s.trained, "ema": lambda s, f: s.ema}
        other["optimizer"] = lambda s, f: flatten_by_path(s.opt_state)
        tree = jax.tree.map(np.array, other[item](*a_state(4, seed=1)))
        with ocp.StandardCheckpointer() as writer:
            writer.save(checkpoints.directory / "4" / item, tree, force=True)
        with pytest.raises(WorkdirError, match=rf"\({item}: checksums are wrong: .*b"):
            checkpoints.restore(*a_state(0), replicated)


def test_a_step_without_the_optimisers_checksums_is_read(config, replicated, tmp_path):
    """As earlier versions wrote it."""
    with RunCheckpoints(config, tmp_path) as checkpoints:
        checkpoints.save(*a_state(4), ITERATORS)
    (file,) = (
        file for file in (checkpoints.directory / "4" / "progress").iterdir() if file.suffix == ""
    )
    progress = json.loads(file.read_text())
    del progress["optimizer"]
    file.write_text(json.dumps(progress))
    with RunCheckpoints(config, tmp_path) as checkpoints:
        assert int(checkpoints.restore(*a_state(0), replicated)[0].step) == 4
