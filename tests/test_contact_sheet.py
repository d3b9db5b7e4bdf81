"""Cells of sheets: masks and errors are drawn where they are."""

import numpy as np

from petsam_jax.files.contact_sheet import BLUE, GREEN, RED, draw_errors, draw_mask
from petsam_jax.mask_values import IGNORE, PET


def test_outline_and_tint_are_on_the_mask_alone():
    image = np.full((20, 20, 3), 100, np.uint8)
    mask = np.zeros((20, 20), np.uint8)
    mask[5:15, 5:15], mask[0] = PET, IGNORE
    drawn = np.asarray(draw_mask(image, mask))
    np.testing.assert_array_equal(drawn[5, 5:15], np.broadcast_to(GREEN, (10, 3)))
    np.testing.assert_array_equal(drawn[mask == 0], image[mask == 0])
    assert (drawn[7:13, 7:13, 1] > 100).all() and (drawn[7:13, 7:13, 0] < 100).all()
    assert (drawn[0, :, 1] < 100).all() and (drawn[0, :, 0] > 100).all()


def test_found_missed_and_false_pixels_have_their_colours():
    image = np.zeros((1, 5, 3), np.uint8)
    mask = np.array([[PET, PET, 0, 0, IGNORE]], np.uint8)
    found = np.array([[True, False, True, False, True]])
    drawn = np.asarray(draw_errors(image, mask, found))[0]
    half = [[value // 2 for value in colour] for colour in (GREEN, RED, BLUE)]
    np.testing.assert_array_equal(drawn, [*half, [0, 0, 0], [0, 0, 0]])
