"""distance.py: the exact transform against scipy, centres, and uniform choice of a pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from petsam_jax.train.distance import centre_pixel, squared_distance, uniform_pixel


def scipy_squared(region):
    """Both regions' squared distances of one map, its surroundings counted as outside."""
    total = np.zeros(region.shape)
    for value in (1, -1):
        padded = np.pad(region == value, 1)
        total += ndimage.distance_transform_edt(padded)[1:-1, 1:-1] ** 2
    return np.rint(total).astype(np.int32)


def blobs(rng, shape, sigma):
    field = ndimage.gaussian_filter(rng.normal(size=shape), (0, sigma, sigma))
    field /= field.std()
    return (field > 0.2).astype(np.int8) - (field < -0.2).astype(np.int8)


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 96, 33), (2, 17, 128), (1, 1, 9), (1, 9, 1)])
@pytest.mark.parametrize("sigma", [0.0, 2.0, 8.0])
def test_equals_scipy_on_two_regions(shape, sigma):
    region = blobs(np.random.default_rng(0), shape, sigma)
    got = jax.jit(squared_distance)(jnp.asarray(region))
    np.testing.assert_array_equal(got, np.stack([scipy_squared(r) for r in region]))


@pytest.mark.parametrize("shape", [(1, 64, 64), (1, 200, 40), (1, 40, 200), (1, 1, 1)])
@pytest.mark.parametrize("value", [0, 1, -1])
def test_one_region_all_over_is_bounded_by_the_border(shape, value):
    region = np.full(shape, value)
    got = jax.jit(squared_distance)(jnp.asarray(region))
    np.testing.assert_array_equal(got[0], scipy_squared(region[0]))


def test_one_pixel_and_one_hole():
    dot = np.zeros((2, 50, 50), int)
    dot[0, 20, 30] = 1
    dot[1] = 1
    dot[1, 25, 25] = 0
    got = jax.jit(squared_distance)(jnp.asarray(dot))
    np.testing.assert_array_equal(got, np.stack([scipy_squared(r) for r in dot]))


def test_neighbouring_regions_are_each_others_edge():
    halves = jnp.ones((1, 40, 40), int).at[:, :, 20:].set(-1)
    got = jax.jit(squared_distance)(halves)
    np.testing.assert_array_equal(got[0, 20, [19, 20, 10]], [1, 1, 100])


def test_result_does_not_depend_on_the_rest_of_the_batch():
    region = jnp.asarray(blobs(np.random.default_rng(1), (4, 48, 48), 3.0))
    transform = jax.jit(squared_distance)
    alone = jnp.concatenate([transform(r[None]) for r in region])
    np.testing.assert_array_equal(transform(region), alone)


def test_centre_is_the_deepest_free_pixel_and_ties_go_to_the_second_region():
    region = np.zeros((3, 32, 32), int)
    region[0, 2:9, 3:10] = 1
    region[0, 20:23, 20:23] = -1
    region[1, 2:7, 3:8] = 1
    region[1, 20:25, 20:25] = -1
    free = np.ones(region.shape, bool)
    pixel, found = centre_pixel(jnp.asarray(region), jnp.asarray(free))
    np.testing.assert_array_equal(pixel[:2], [[6, 5], [22, 22]])
    np.testing.assert_array_equal(found, [True, True, False])
    free[0, 5, 6] = False
    pixel, _ = centre_pixel(jnp.asarray(region), jnp.asarray(free))
    np.testing.assert_array_equal(pixel[0], [5, 4])


def test_uniform_pixel_is_uniform():
    candidates = np.random.default_rng(2).random((16, 16)) < 0.3
    candidates[5] = False
    draws = 20_000
    many = jnp.broadcast_to(jnp.asarray(candidates), (draws, 16, 16))
    pixel, found = jax.jit(uniform_pixel)(jax.random.key(0), many)
    counts = np.zeros((16, 16), int)
    np.add.at(counts, (np.asarray(pixel[:, 1]), np.asarray(pixel[:, 0])), 1)
    assert found.all()
    assert counts[~candidates].sum() == 0
    assert counts[candidates].min() > 0
    assert stats.chisquare(counts[candidates]).pvalue > 0.01


def test_uniform_pixel_reaches_the_corners_and_reports_none():
    corner = np.zeros((5, 8, 12), bool)
    places = [(0, 0), (0, 11), (7, 0), (7, 11)]
    for i, (y, x) in enumerate(places):
        corner[i, y, x] = True
    pixel, found = uniform_pixel(jax.random.key(1), jnp.asarray(corner))
    np.testing.assert_array_equal(pixel[:4], [(x, y) for y, x in places])
    np.testing.assert_array_equal(found, [True] * 4 + [False])
    assert (pixel[4] >= 0).all() and pixel[4, 0] < 12 and pixel[4, 1] < 8
