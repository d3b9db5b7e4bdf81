"""shapes: made-up images that are repeatable, varied, and never without a target."""

import collections
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from petsam_jax.data.shapes import KINDS, NOISE, ShapesSource
from petsam_jax.data.sources import Source


def test_an_example_depends_only_on_seed_index_and_size():
    short, long = ShapesSource(8, 48, seed=3), ShapesSource(800, 48, seed=3)
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(long.__getitem__, range(7, -1, -1)))[::-1]
    for index in range(8):
        np.testing.assert_array_equal(short[index].image, again[index].image)
        np.testing.assert_array_equal(short[index].mask, again[index].mask)
        assert short[index].name == again[index].name == long.names[index]
    other = ShapesSource(8, 48, seed=4)
    assert (other[0].image != short[0].image).mean() > 0.5 and other[0].name != short[0].name


@pytest.mark.parametrize("size", [16, 33, 128])
def test_every_target_is_visible_and_leaves_some_ground(size):
    source = ShapesSource(300, size)
    assert isinstance(source, Source) and len(source) == 300
    covers, touches = [], 0
    for index in range(300):
        example = source[index]
        assert example.image.shape == (size, size, 3) and example.image.dtype == np.uint8
        assert example.mask.shape == (size, size) and set(np.unique(example.mask)) == {0, 1}
        assert (example.name, example.group) == (source.names[index], source.groups[index])
        covers.append(example.mask.mean())
        edge = example.mask[[0, -1]].any() or example.mask[:, [0, -1]].any()
        touches += edge
    # From specks to half the image; many, but not all, reach its edge.
    assert min(covers) > 0.002 and max(covers) < 0.5 and np.median(covers) > 0.05
    assert 30 < touches < 270


def test_kinds_are_equally_frequent_and_names_differ():
    source = ShapesSource(400)
    assert collections.Counter(source.groups) == dict.fromkeys(KINDS, 100)
    assert len(set(source.names)) == 400


def test_colour_alone_does_not_identify_the_target():
    """No threshold on brightness finds the target, even when chosen for each image."""
    found = []
    for index in range(60):
        example = ShapesSource(60, 64, seed=1)[index]
        grey, inside = example.image.mean(2), example.mask == 1
        best = 0
        for level in np.percentile(grey, np.arange(5, 100, 5)):
            for guess in (grey > level, grey <= level):
                best = max(best, (guess & inside).sum() / (guess | inside).sum())
        found.append(best)
    assert np.mean(found) < 0.6


def test_on_dark_ground_shapes_are_bright_and_others_limits_their_number():
    """A ground without light has grain alone; the target is all or a part of what is brighter."""
    shares = []
    for others in (0, 2):
        source = ShapesSource(40, 64, contrast=0, ground=0, others=others)
        for index in range(40):
            bright = source[index].image.max(axis=2) > NOISE
            target = source[index].mask == 1
            assert (bright & target).sum() > 0.95 * target.sum()
            shares.append(target.sum() / bright.sum())
    assert min(shares[:40]) > 0.95 and np.mean(np.array(shares[40:]) < 0.9) > 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"length": 0},
        {"size": 15},
        {"seed": -1},
        {"contrast": 101},
        {"ground": 101},
        {"others": -1},
    ],
)
def test_senseless_numbers_are_refused(wrong):
    numbers = {"length": 4, "size": 32, "seed": 0, **wrong}
    with pytest.raises(
        ValueError, match=f"shapes: expected .*{next(iter(wrong))}={wrong.popitem()[1]}"
    ):
        ShapesSource(**numbers)
    with pytest.raises(IndexError, match=r"index 4 is not in 0\.\.3"):
        ShapesSource(4)[4]
