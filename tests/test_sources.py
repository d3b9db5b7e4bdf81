"""sources: mixing by weight, subsets, and the validation part chosen by name hash."""

import collections

import numpy as np
import pytest

from petsam_jax.data import sources
from petsam_jax.data.sources import (
    Example,
    MixedSource,
    Source,
    Subset,
    image_name,
    is_validation,
    name_hash,
    split_validation,
)


class Named:
    """Examples that differ only in name."""

    def __init__(self, names, groups=None):
        self.names = tuple(names)
        self.groups = tuple(groups or ["all"] * len(self.names))

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        pixels = np.zeros((2, 3), np.uint8)
        return Example(np.stack([pixels] * 3, 2), pixels, self.names[index], self.groups[index])


def numbered(letter, count, group=None):
    return Named([f"{letter}{index}" for index in range(count)], [group or letter] * count)


def test_sources_follow_the_protocol():
    assert isinstance(numbered("a", 2), Source) and not isinstance([1, 2], Source)


def test_a_subset_has_its_indices_in_order():
    subset = Subset(numbered("a", 9), [7, 2, 2])
    assert subset.names == ("a7", "a2", "a2") and subset.groups == ("a", "a", "a")
    assert [subset[index].name for index in range(len(subset))] == ["a7", "a2", "a2"]
    with pytest.raises(IndexError):
        subset[3]


@pytest.mark.parametrize(
    ("sizes", "weights"),
    [((5, 5), (1, 1)), ((100, 7), (1, 1)), ((13, 400, 1), (0.5, 0.3, 0.2)), ((50, 3), (9, 1))],
)
def test_a_mix_has_the_shares_and_shows_every_example(sizes, weights):
    parts = [numbered(letter, size) for letter, size in zip("abc", sizes, strict=False)]
    mix = MixedSource(parts, weights)
    shown = [mix[index] for index in range(len(mix))]
    assert tuple(example.name for example in shown) == mix.names
    assert tuple(example.group for example in shown) == mix.groups
    counts = collections.Counter(mix.names)
    assert counts.keys() == {name for part in parts for name in part.names}
    repeats = []
    for part, weight in zip(parts, weights, strict=True):
        of_part = sum(counts[name] for name in part.names)
        assert abs(of_part - len(mix) * weight / sum(weights)) <= len(parts)
        times = [counts[name] for name in part.names]
        assert max(times) - min(times) <= 1
        repeats.append(max(times))
    assert min(repeats) == 1


def test_a_mix_is_even_throughout_the_pass():
    mix = MixedSource([numbered("a", 300), numbered("b", 10)], [3, 1])
    of_b = np.cumsum([group == "b" for group in mix.groups])
    expected = np.arange(1, len(mix) + 1) / 4
    assert np.abs(of_b - expected).max() <= 1


def test_a_mix_weighted_by_size_has_everything_once():
    mix = MixedSource([numbered("a", 3), numbered("b", 7)], [3, 7])
    assert sorted(mix.names) == sorted([f"a{i}" for i in range(3)] + [f"b{i}" for i in range(7)])


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, -1], [1, float("nan")], [1, float("inf")]])
def test_senseless_weights_are_refused(weights):
    with pytest.raises(ValueError, match="^weights: "):
        MixedSource([numbered("a", 2), numbered("b", 2)], weights)


def test_an_empty_mix_is_refused():
    with pytest.raises(ValueError, match="got 0 sources"):
        MixedSource([], [])
    with pytest.raises(ValueError, match="number 1 of the mix is empty"):
        MixedSource([numbered("a", 2), numbered("b", 0)], [1, 1])


def test_a_pass_that_would_fill_the_memory_is_refused():
    with pytest.raises(ValueError, match="pass of 1000000100 examples, more than 10,000,000"):
        MixedSource([numbered("a", 100), numbered("b", 100)], [1, 1e7])
    assert sources.MAX_PASS == 10_000_000


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("cat", "cat"),
        ("cat#2", "cat"),
        ("a#b", "a#b"),
        ("a#1#12", "a#1"),
        ("#3", "#3"),
        ("a#", "a#"),
    ],
)
def test_the_image_of_an_instance(name, image):
    assert image_name(name) == image


def test_hashes_are_uniform_fixed_and_depend_on_the_seed():
    hashes = np.array([name_hash(f"Bengal_{index}") for index in range(4000)])
    assert hashes.min() >= 0 and hashes.max() < 1
    # The distance of the distribution function from the diagonal; 0.0258 is exceeded 1 % of times.
    assert np.abs(np.sort(hashes) - np.arange(1, 4001) / 4000).max() < 0.0258
    other = np.array([name_hash(f"Bengal_{index}", seed=1) for index in range(4000)])
    assert abs(np.corrcoef(hashes, other)[0, 1]) < 0.05
    # Fixed for all time, or a stored model's validation part would have been trained on.
    assert name_hash("Abyssinian_1") == pytest.approx(0.06940839415320355, abs=1e-12)
    assert name_hash("cat#1") == name_hash("cat#2") == name_hash("cat")


def pets(count, breeds=37):
    names = [f"breed{index % breeds}_{index // breeds}" for index in range(count)]
    return names, [name.rpartition("_")[0] for name in names]


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_every_group_gives_about_its_share(share):
    names, groups = pets(37 * 100)
    chosen = np.array(is_validation(names, groups, share))
    assert abs(chosen.mean() - share) < 4 * (share * (1 - share) / len(names)) ** 0.5 + 0.002
    for group in set(groups):
        of_group = chosen[np.array(groups) == group]
        assert 1 <= of_group.sum() <= 100 * share + 5 * (100 * share) ** 0.5


def test_adding_images_moves_none_in_large_groups():
    names, groups = pets(37 * 100)
    before = dict(zip(names, is_validation(names, groups, 0.1), strict=True))
    more, more_groups = pets(37 * 150)
    order = np.random.default_rng(0).permutation(len(more))
    shuffled = [more[index] for index in order], [more_groups[index] for index in order]
    after = dict(zip(shuffled[0], is_validation(*shuffled, 0.1), strict=True))
    assert all(after[name] == valid for name, valid in before.items())


def test_small_groups_give_one_and_single_images_none():
    names = ["a_0", "a_1", "a_2", "b_0"]
    chosen = is_validation(names, ["a", "a", "a", "b"], 1e-9)
    assert sum(chosen) == 1 and not chosen[3]
    assert not any(is_validation(names, ["a"] * 4, 0.0))
    assert is_validation([], [], 0.1) == []


def test_instances_of_an_image_stay_together():
    names = [f"photo{index // 3}#{index % 3 + 1}" for index in range(600)]
    train, valid = split_validation(Named(names), 0.2)
    images = [{image_name(name) for name in part.names} for part in (train, valid)]
    assert not images[0] & images[1] and len(images[0] | images[1]) == 200
    assert len(train) + len(valid) == 600 and 20 <= len(images[1]) <= 60


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(ValueError, match="^share: "):
        is_validation(["a"], ["a"], share)
