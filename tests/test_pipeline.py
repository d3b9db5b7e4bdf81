"""Batches: replayed exactly from a saved state, parted between processes, complete in order."""

import json

import numpy as np
import pytest

from petsam_jax.data import augment
from petsam_jax.data.motion import FULL
from petsam_jax.data.pipeline import make_eval_iterator, make_train_iterator
from petsam_jax.data.shapes import ShapesSource
from petsam_jax.data.sources import Example
from petsam_jax.mask_values import PET

SHAPES = ShapesSource(10, size=48)
SETTINGS = dict(batch_size=4, size=32, seed=3, augmentation=augment.FULL)


def assert_same(first, second):
    for got, expected in zip(first[:-1], second[:-1], strict=True):
        np.testing.assert_array_equal(got, expected)
    assert first[-1] == second[-1]


def take(iterator, count):
    batches = [next(iterator) for _ in range(count)]
    iterator.close()
    return batches


class Blank:
    """Tiny images, each of one value, its index."""

    def __init__(self, length):
        self.names = self.groups = tuple(str(index) for index in range(length))

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        image = np.full((3, 5, 3), index, np.uint8)
        return Example(image, np.full((3, 5), index % 2, np.uint8), self.names[index], "")


@pytest.mark.parametrize("motion", [None, FULL])
def test_shapes_and_types_and_visible(motion):
    (batch,) = take(make_train_iterator(SHAPES, motion=motion, **SETTINGS), 1)
    frames = () if motion is None else (motion.frames,)
    assert batch.image.shape == (4, *frames, 32, 32, 3) and batch.image.dtype == np.uint8
    assert batch.mask.shape == (4, *frames, 32, 32) and batch.mask.dtype == np.uint8
    np.testing.assert_array_equal(batch.visible, (batch.mask == PET).any(axis=(-2, -1)))
    assert batch.visible.shape == (4, *frames)
    assert len(batch.name) == 4 and set(batch.name) <= set(SHAPES.names)


@pytest.mark.parametrize("motion", [None, FULL])
def test_a_restored_state_replays_exactly_for_any_number_of_threads(motion):
    first = make_train_iterator(SHAPES, motion=motion, num_threads=2, **SETTINGS)
    for _ in range(3):
        next(first)
    # Through text, as a checkpoint keeps it; 3 batches of 4 out of 10 end amid the second pass.
    state = json.loads(json.dumps(first.get_state()))
    after = take(first, 4)
    second = make_train_iterator(SHAPES, motion=motion, num_threads=0, **SETTINGS)
    second.set_state(state)
    for got, expected in zip(take(second, 4), after, strict=True):
        assert_same(got, expected)


def test_seeds_and_passes_differ():
    settings = dict(SETTINGS, batch_size=10)
    first, second = take(make_train_iterator(SHAPES, **settings), 2)
    (other,) = take(make_train_iterator(SHAPES, **dict(settings, seed=4)), 1)
    for batch in (second, other):
        assert batch.name != first.name and sorted(batch.name) == sorted(first.name)
        again = batch.name.index(first.name[0])
        assert (batch.image[again] != first.image[0]).any()


def test_shards_are_disjoint_and_complete_on_every_pass():
    source, passes = Blank(11), 3
    seen = [[] for _ in range(passes)]
    for shard in range(3):
        length = len(range(shard, 11, 3))
        feed = make_train_iterator(
            source, batch_size=1, size=4, seed=0, shard_index=shard, shard_count=3, num_threads=1
        )
        names = [batch.name[0] for batch in take(feed, passes * length)]
        for number in range(passes):
            seen[number] += names[number * length : (number + 1) * length]
    for names in seen:
        assert sorted(names) == sorted(source.names)


def test_a_batch_larger_than_the_source_is_filled_from_the_next_pass():
    (batch,) = take(make_train_iterator(Blank(3), batch_size=8, size=4, seed=0), 1)
    assert [sorted(batch.name[start : start + 3]) for start in (0, 3)] == [["0", "1", "2"]] * 2


@pytest.mark.parametrize("length", [1, 4, 6])
def test_evaluation_batches_are_in_order_complete_and_of_one_shape(length):
    source = Blank(length)
    batches = list(make_eval_iterator(source, batch_size=4, size=8))
    assert [batch.image.shape for batch in batches] == [(4, 8, 8, 3)] * -(-length // 4)
    valid = np.concatenate([batch.valid for batch in batches])
    np.testing.assert_array_equal(valid, np.arange(len(valid)) < length)
    values = np.concatenate([batch.image[:, 0, 0, 0] for batch in batches])[valid]
    np.testing.assert_array_equal(values, np.arange(length))
    masks = np.concatenate([batch.mask for batch in batches])
    np.testing.assert_array_equal(masks[valid][:, 0, 0], np.arange(length) % 2)
    assert not masks[~valid].any()
    examples = [example for batch in batches for example in batch.example]
    assert [example.name for example in examples] == list(source.names)
    assert all(example.mask.shape == (3, 5) for example in examples)


def test_evaluation_can_stop_early():
    iterator = make_eval_iterator(Blank(50), batch_size=2, size=4)
    assert next(iterator).example[0].name == "0"
    iterator.close()
    assert next(iterator, None) is None


def test_an_error_in_a_thread_names_the_example():
    class Broken(Blank):
        def __getitem__(self, index):
            raise ValueError(f"{self.names[index]}.jpg: truncated")

    iterator = make_train_iterator(Broken(3), batch_size=2, size=4, seed=0)
    with pytest.raises(ValueError, match="[012].jpg: truncated"):
        next(iterator)
    iterator.close()


def test_errors_name_wrong_arguments():
    with pytest.raises(ValueError, match="shard_index=2, shard_count=2"):
        make_train_iterator(Blank(5), batch_size=1, size=4, seed=0, shard_index=2, shard_count=2)
    with pytest.raises(ValueError, match="shard_count <= 2, the number of examples"):
        make_train_iterator(Blank(2), batch_size=1, size=4, seed=0, shard_count=3)
    with pytest.raises(ValueError, match="batch_size=0"):
        make_train_iterator(Blank(2), batch_size=0, size=4, seed=0)
    with pytest.raises(ValueError, match="size=0"):
        next(make_eval_iterator(Blank(2), batch_size=1, size=0))
