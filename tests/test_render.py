"""Masks as images: what is where, what is hidden, and what fades."""

import io

import numpy as np
import pytest
from PIL import Image

from petsam_jax.files.masks import decode_mask
from petsam_jax.files.render import COLOURS, cutout, mask_image, overlay


@pytest.fixture
def image(rng):
    return rng.integers(1, 256, (40, 60, 3), np.uint8)


@pytest.fixture
def mask():
    """Rows 10 to 29 and columns 20 to 44, without a hole of two by two."""
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:45] = True
    mask[15:17, 30:32] = False
    return mask


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_one_mask_is_white_on_black(mask):
    image = Image.open(io.BytesIO(png(mask_image(mask[None]))))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), np.where(mask, 255, 0))


def test_several_masks_are_coloured_numbers_that_a_data_folder_reads(mask):
    other = np.zeros_like(mask)
    other[:20, :25] = True
    file = png(mask_image(np.stack([mask, other]), np.array([0.5, 0.9])))
    numbers = np.where(other, 2, mask)
    np.testing.assert_array_equal(decode_mask(file), numbers)
    seen = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    np.testing.assert_array_equal(seen, np.array([(0, 0, 0), *COLOURS], np.uint8)[numbers])
    first = png(mask_image(np.stack([mask, other])))
    np.testing.assert_array_equal(decode_mask(first), np.where(mask, 1, 2 * other))


def test_no_mask_is_black_and_too_many_are_refused():
    assert not np.asarray(mask_image(np.zeros((0, 5, 6), bool))).any()
    with pytest.raises(ValueError, match="300 masks; a numbered image holds at most 254"):
        mask_image(np.ones((300, 2, 2), bool))


def test_overlay_tints_inside_and_keeps_the_rest(image, mask):
    before = image.copy()
    drawn = overlay(image, mask[None], [(255, 0, 0)], opacity=0.5)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(drawn[~mask], image[~mask])
    inner = np.zeros_like(mask)
    inner[18:29, 21:44] = True
    expected = np.rint(0.5 * image[inner] + 0.5 * np.array([255, 0, 0]))
    np.testing.assert_allclose(drawn[inner], expected, atol=1)
    assert (drawn[10, 20:45] == (255, 0, 0)).all() and (drawn[15, [29, 32]] == (255, 0, 0)).all()


def test_overlay_draws_no_outline_at_the_sides_of_the_image(image):
    drawn = overlay(image, np.ones((1, 40, 60), bool), [(0, 0, 255)], opacity=0.0)
    np.testing.assert_array_equal(drawn, image)
    np.testing.assert_array_equal(overlay(image, np.zeros((1, 40, 60), bool)), image)


def test_later_masks_lie_above_and_colours_repeat(image, mask):
    colours = [(255, 0, 0), (0, 255, 0)]
    drawn = overlay(image, np.stack([mask] * 3), colours, opacity=1.0)
    assert (drawn[mask] == (255, 0, 0)).all()
    assert (overlay(image, np.stack([mask] * 2), colours, opacity=1.0)[mask] == (0, 255, 0)).all()


def test_a_cutout_is_the_object_and_holds_nothing_of_the_rest(image, mask):
    whole = cutout(image, mask, trim=False)
    np.testing.assert_array_equal(whole[..., 3], np.where(mask, 255, 0))
    np.testing.assert_array_equal(whole[mask, :3], image[mask])
    assert not whole[~mask].any()
    np.testing.assert_array_equal(cutout(image, mask), whole[10:30, 20:45])


def test_an_empty_cutout_has_the_size_of_the_image_and_is_transparent(image):
    made = cutout(image, np.zeros((40, 60), bool), soft=3.0)
    assert made.shape == (40, 60, 4) and not made.any()


@pytest.mark.parametrize("soft", [2.0, 5.0])
def test_a_soft_edge_is_half_transparent_at_the_edge_and_as_wide_as_set(image, soft):
    mask = np.zeros((40, 60), bool)
    mask[:, 30:] = True
    alpha = cutout(image, mask, trim=False, soft=soft)[20, :, 3] / 255
    # Centres of pixels lie 0.5, 1.5, ... from the edge between columns 29 and 30.
    expected = np.clip(0.5 + (np.arange(60) - 29.5) / soft, 0, 1)
    np.testing.assert_allclose(alpha, expected, atol=0.003)


def test_a_soft_edge_has_the_colours_of_the_object(mask):
    image = np.where(mask[..., None], np.uint8(200), np.uint8(10)).repeat(3, axis=2)
    made = cutout(image, mask, trim=False, soft=4.0)
    faded = (made[..., 3] > 0) & ~mask
    assert faded.sum() > 80 and (made[faded, :3] == 200).all()
    assert not made[made[..., 3] == 0].any()


def test_a_soft_cutout_with_a_full_mask_is_the_image(image):
    made = cutout(image, np.ones((40, 60), bool), soft=6.0)
    np.testing.assert_array_equal(made[..., :3], image)
    assert (made[..., 3] == 255).all()


def test_a_background_is_behind_the_object(image, mask, rng):
    white = cutout(image, mask, background=(255, 255, 255), trim=False)
    np.testing.assert_array_equal(white[..., :3], np.where(mask[..., None], image, 255))
    assert (white[..., 3] == 255).all()
    assert cutout(image, mask, background=(255, 255, 255)).shape == (20, 25, 4)
    other = rng.integers(0, 256, image.shape, np.uint8)
    below = cutout(image, mask, background=other, trim=False, soft=2.0)
    alpha = cutout(image, mask, trim=False, soft=2.0)[..., 3]
    np.testing.assert_array_equal(below[alpha == 0, :3], other[alpha == 0])
    np.testing.assert_array_equal(below[alpha == 255, :3], image[alpha == 255])
