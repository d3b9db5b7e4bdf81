"""postprocess: enlarging as JAX does it, holes and islands by area."""

import jax
import numpy as np
import pytest

from petsam_jax.predict.postprocess import (
    fill_holes,
    logits_at_size,
    masks_at_size,
    remove_islands,
)

SIZES = [(16, 16), (17, 63), (64, 40), (3, 200), (200, 3), (1, 1), (333, 500)]


@pytest.fixture
def logits(rng):
    return rng.normal(size=(2, 3, 16, 16)).astype(np.float32)


def test_logits_are_resized_as_jax_does_it(logits):
    # Both ways at once: higher, and narrower.
    expected = jax.image.resize(logits, (2, 3, 133, 7), "bilinear", precision="highest")
    np.testing.assert_allclose(logits_at_size(logits, 133, 7), expected, atol=2e-5)


@pytest.mark.parametrize("threshold", [0.0, 0.7, -3.0, 9.0])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_masks_are_the_logits_above_the_threshold(logits, height, width, threshold):
    expected = logits_at_size(logits, height, width) > np.float32(threshold)
    np.testing.assert_array_equal(masks_at_size(logits, height, width, threshold), expected)


def test_a_blob_in_a_corner_stays_there():
    logits = np.full((8, 8), -5.0, np.float32)
    logits[6:, :2] = 5.0
    mask = masks_at_size(logits, 80, 160)
    y, x = np.nonzero(mask)
    # Half way between the middles of the cells of either kind.
    assert (y.min(), y.max(), x.min(), x.max()) == (60, 79, 0, 39) and mask.sum() > 0.95 * 20 * 40


def test_holes_are_filled_up_to_an_area_and_bays_never():
    mask = np.zeros((20, 20), bool)
    mask[2:18, 2:18] = True
    mask[4, 4:7] = mask[10:12, 10:12] = False  # Holes of 3 and 4 pixels.
    mask[2:4, 14] = False  # A bay of 2 pixels, open at the top.
    assert fill_holes(mask, 0) is mask
    small, large = fill_holes(mask, 3), fill_holes(mask, 4)
    assert small[4, 4:7].all() and not small[10:12, 10:12].any()
    assert large[4, 4:7].all() and large[10:12, 10:12].all() and not large[2:4, 14].any()
    assert mask.sum() == 16 * 16 - 9 and not fill_holes(mask, 999)[:2].any()


def test_background_at_the_pictures_sides_is_no_hole():
    mask = np.ones((6, 6), bool)
    mask[0, 0] = mask[3, 5] = mask[2, 2] = False
    filled = fill_holes(mask, 100)
    assert not filled[0, 0] and not filled[3, 5] and filled[2, 2]
    assert not fill_holes(np.zeros((6, 6), bool), 100).any()


def test_pixels_that_touch_at_corners_are_one_hole_and_one_island():
    mask = np.ones((8, 8), bool)
    mask[3, 3] = mask[4, 4] = False
    assert not fill_holes(mask, 1)[3, 3] and fill_holes(mask, 2).all()
    islands = np.zeros((8, 8), bool)
    islands[1:4, 1:4] = True
    islands[6, 6] = islands[7, 7] = True
    assert remove_islands(islands, 1)[6, 6] and not remove_islands(islands, 2)[6:, 6:].any()


def test_the_largest_island_stays_however_small_it_is():
    mask = np.zeros((9, 9), bool)
    mask[0, 0] = True
    mask[4, 4:6] = True
    kept = remove_islands(mask, 50)
    assert kept.sum() == 2 and kept[4, 4:6].all()
    assert not remove_islands(np.zeros((9, 9), bool), 50).any()
    assert remove_islands(mask, 0) is mask


def test_each_mask_of_a_stack_is_cleaned_alone(rng):
    masks = rng.random((2, 3, 30, 40)) < 0.55
    filled, kept = fill_holes(masks, 5), remove_islands(masks, 5)
    for i, j in np.ndindex(2, 3):
        np.testing.assert_array_equal(filled[i, j], fill_holes(masks[i, j], 5))
        np.testing.assert_array_equal(kept[i, j], remove_islands(masks[i, j], 5))
    assert (filled >= masks).all() and filled.sum() > masks.sum() > kept.sum()
