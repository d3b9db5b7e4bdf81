"""metrics.py: IoU, DAVIS's contour score and RITM's number of clicks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from petsam_jax.metrics import boundary_f, iou, noc


def random_pair(seed, shape):
    rng = np.random.default_rng(seed)
    return rng.random(shape) < 0.5, rng.integers(0, 3, shape).astype(np.uint8)


@pytest.mark.parametrize("border_as_pet", [False, True])
def test_iou_counts_pixels(border_as_pet):
    pred, mask = random_pair(0, (4, 9, 13))
    for i in range(4):
        pairs = [
            (bool(p), m != 0)
            for p, m in zip(pred[i].flat, mask[i].flat, strict=True)
            if border_as_pet or m != 2
        ]
        expected = sum(p and m for p, m in pairs) / sum(p or m for p, m in pairs)
        assert iou(pred, mask, border_as_pet)[i] == pytest.approx(expected)
        assert iou(pred[i], mask[i], border_as_pet) == pytest.approx(expected)


def test_iou_is_the_same_in_jax_and_numpy():
    pred, mask = random_pair(1, (2, 3, 16, 16))
    got = jax.jit(iou)(jnp.asarray(pred), jnp.asarray(mask))
    assert got.shape == (2, 3)
    np.testing.assert_allclose(got, iou(pred, mask), rtol=1e-6)


def test_iou_of_empty_and_ignored():
    none, all_ = np.zeros((8, 8), bool), np.ones((8, 8), bool)
    empty, ignored = np.zeros((8, 8), np.uint8), np.full((8, 8), 2, np.uint8)
    assert iou(none, empty) == 1
    assert iou(all_, empty) == 0
    assert iou(all_, ignored) == 1
    assert iou(none, ignored) == 1
    assert iou(none, ignored, border_as_pet=True) == 0
    assert iou(all_, ignored, border_as_pet=True) == 1


def davis_f(pred, pet, void, tolerance=0.008):
    """The published evaluation, step by step, with its disc dilation."""
    reach = int(np.ceil(tolerance * np.linalg.norm(pred.shape)))
    grid = np.arange(-reach, reach + 1)
    disc = grid[:, None] ** 2 + grid[None] ** 2 <= reach**2

    def contour(seg):
        east, south, both = np.zeros_like(seg), np.zeros_like(seg), np.zeros_like(seg)
        east[:, :-1], south[:-1], both[:-1, :-1] = seg[:, 1:], seg[1:], seg[1:, 1:]
        line = (seg ^ east) | (seg ^ south) | (seg ^ both)
        line[-1], line[:, -1] = seg[-1] ^ east[-1], seg[:, -1] ^ south[:, -1]
        line[-1, -1] = False
        return line

    found, true = contour(pred & ~void), contour(pet & ~void)
    precision = (found & ndimage.binary_dilation(true, disc)).sum() / found.sum()
    recall = (true & ndimage.binary_dilation(found, disc)).sum() / true.sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(60, 60), (90, 140)])
def test_boundary_f_equals_the_published_one(seed, shape):
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.normal(size=(2, *shape)), (0, 6, 6))
    pred, pet = fields[0] + fields[1] > 0.01, fields[1] > 0
    mask = pet.astype(np.uint8)
    assert boundary_f(pred, mask) == pytest.approx(davis_f(pred, pet, np.zeros(shape, bool)))
    void = rng.random(shape) < 0.05
    mask[void] = 2
    assert boundary_f(pred, mask) == pytest.approx(davis_f(pred, pet, void))
    strict = boundary_f(pred, mask, border_as_pet=True)
    assert strict == pytest.approx(davis_f(pred, pet | void, np.zeros(shape, bool)))


def test_boundary_f_forgives_only_a_shift_within_tolerance():
    mask = np.zeros((200, 200), np.uint8)
    mask[60:140, 60:140] = 1
    reach = int(np.ceil(0.008 * np.hypot(200, 200)))
    assert boundary_f(mask == 1, mask) == 1
    assert boundary_f(np.roll(mask, reach, 1) == 1, mask) == 1
    assert boundary_f(np.roll(mask, reach + 1, 1) == 1, mask) < 0.9
    assert boundary_f(np.roll(mask, (60, 60), (0, 1)) == 1, mask) < 0.1


def test_boundary_f_of_empty_masks():
    empty, dot = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    dot[10, 10] = 1
    assert boundary_f(empty == 1, empty) == 1
    assert boundary_f(dot == 1, empty) == 0
    assert boundary_f(empty == 1, dot) == 0
    assert boundary_f(dot == 1, np.full((20, 20), 2, np.uint8)) == 1


def test_contour_inside_the_ignored_band_is_free_unless_border_is_pet():
    mask = np.zeros((100, 100), np.uint8)
    mask[20:80, 20:80] = 2
    mask[30:70, 30:70] = 1
    pred = np.zeros((100, 100), bool)
    pred[25:75, 25:75] = True
    assert boundary_f(pred, mask) == 1
    assert boundary_f(pred, mask, border_as_pet=True) == 0


def test_noc_counts_clicks_and_failures():
    ious = np.full((5, 20), 0.5)
    ious[0, 0] = 0.9
    ious[1, 6:] = 0.95
    ious[2, 19] = 0.9
    ious[3, 2:4] = [0.9, np.nan]
    result = noc(ious, 0.9)
    np.testing.assert_array_equal(result.clicks, [1, 7, 20, 3, 20])
    np.testing.assert_array_equal(result.failed, [False, False, False, False, True])
    assert (result.clicks >= 20).sum() == 2
    np.testing.assert_array_equal(noc(ious, 0.9, max_clicks=5).clicks, [1, 5, 5, 3, 5])


def test_noc_refuses_too_few_clicks():
    with pytest.raises(ValueError, match="holds 10 clicks.*expected at least 20"):
        noc(np.zeros((3, 10)), 0.9)
