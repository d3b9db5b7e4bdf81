"""Saved runs: exact, the right ones kept, and no fault hidden."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from petsam_jax.config import load_config
from petsam_jax.run_guard import WorkdirError
from petsam_jax.run_state import Keeper, by_place, in_place
from petsam_jax.training import Fixed, TrainState

ITERATORS = {"image": {"next_index": 7}, "clip": {"next_index": 2}}


@pytest.fixture
def config():
    return load_config("configs/tiny.py")


@pytest.fixture
def everywhere():
    return NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec())


def a_state(step, seed=0):
    rng = np.random.default_rng(seed)
    weights = {"a.0.kernel": rng.normal(size=(3, 4)), "b": rng.normal(size=5)}
    weights = {name: jnp.asarray(x, jnp.float32) for name, x in weights.items()}
    optimizer = optax.chain(optax.clip(1.0), optax.adamw(1e-3))
    _, opt_state = optimizer.update(weights, optimizer.init(weights), weights)
    ema = jax.tree.map(lambda x: x / 3, weights)
    fixed = Fixed(nnx.split(nnx.Dict())[0], {"c": jnp.asarray(rng.normal(size=2), jnp.float32)})
    return TrainState(jnp.int32(step), weights, opt_state, ema), fixed


def steps(keeper):
    return sorted(int(path.name) for path in keeper.directory.iterdir() if path.name.isdigit())


def test_any_tree_comes_apart_by_place_and_together_again():
    tree = {"a": [jnp.ones(2), optax.EmptyState()], "b": (jnp.zeros(()), {"c.d": jnp.ones(1)})}
    leaves = by_place(tree)
    assert sorted(leaves) == ["a.0", "b.0", "b.1.c.d"]
    again = in_place(tree, leaves)
    assert jax.tree.structure(again) == jax.tree.structure(tree) and again["a"][0] is leaves["a.0"]


def test_what_is_saved_comes_back_to_the_bit(config, everywhere, tmp_path):
    state, fixed = a_state(5)
    with Keeper(config, tmp_path) as keeper:
        keeper.save(state, fixed, ITERATORS)
    with Keeper(config, tmp_path) as keeper:
        got, got_fixed, iterators = keeper.restore(*a_state(0, seed=1), everywhere)
    assert iterators == ITERATORS and int(got.step) == 5
    assert jax.tree.structure(got) == jax.tree.structure(state)
    for want, array in zip(
        jax.tree.leaves((state, fixed)), jax.tree.leaves((got, got_fixed)), strict=True
    ):
        assert array.dtype == want.dtype and not array.weak_type and jnp.array_equal(array, want)


def test_without_a_step_a_run_starts_afresh(config, everywhere, tmp_path):
    state, fixed = a_state(0)
    with Keeper(config, tmp_path) as keeper:
        got, got_fixed, iterators = keeper.restore(state, fixed, everywhere)
        assert keeper.last is None and keeper.best is None
    assert iterators == {} and got_fixed is fixed
    assert all(map(jnp.array_equal, jax.tree.leaves(got), jax.tree.leaves(state)))


def test_the_newest_and_the_best_are_kept(config, tmp_path):
    scores = {1: 0.2, 2: 0.9, 3: None, 4: 0.5, 5: None, 6: None}
    with Keeper(config, tmp_path) as keeper:
        for step, score in scores.items():
            keeper.save(*a_state(step), ITERATORS, None if score is None else {"iou_mean": score})
        keeper.wait()
        assert steps(keeper) == [2, 5, 6]
        assert keeper.best.name == "2" and keeper.last.name == "6"


def test_a_step_under_another_name_is_none(config, everywhere, tmp_path):
    with Keeper(config, tmp_path) as keeper:
        keeper.save(*a_state(1), ITERATORS)
    (keeper.directory / "2.orbax-checkpoint-tmp").mkdir()
    with Keeper(config, tmp_path) as keeper:
        state, _, _ = keeper.restore(*a_state(0), everywhere)
    assert int(state.step) == 1


def test_saving_a_step_again_changes_nothing(config, everywhere, tmp_path):
    with Keeper(config, tmp_path) as keeper:
        keeper.save(*a_state(1), ITERATORS)
        keeper.save(*a_state(1, seed=2), ITERATORS)
    with Keeper(config, tmp_path) as keeper:
        state, _, _ = keeper.restore(*a_state(0, seed=3), everywhere)
    assert jnp.array_equal(state.trained["b"], a_state(1)[0].trained["b"])


def test_the_state_may_be_overwritten_while_it_is_written(config, everywhere, tmp_path):
    state, fixed = a_state(1)
    want = np.array(state.trained["b"])
    with Keeper(config, tmp_path) as keeper:
        keeper.save(state, fixed, ITERATORS)
        jax.tree.map(lambda array: array.delete(), state)
    with Keeper(config, tmp_path) as keeper:
        got, _, _ = keeper.restore(*a_state(0, seed=1), everywhere)
    assert np.array_equal(got.trained["b"], want)


def test_a_full_disk_is_told_with_the_last_good_step(config, tmp_path, monkeypatch):
    with Keeper(config, tmp_path) as keeper:
        keeper.save(*a_state(1), ITERATORS)
        keeper.wait()

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(keeper._manager, "save", full)
        with pytest.raises(WorkdirError, match="No space left.*last good one is .*checkpoints/1"):
            keeper.save(*a_state(2), ITERATORS)
