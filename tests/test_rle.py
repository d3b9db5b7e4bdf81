"""Run lengths: exact round trips, the text of pycocotools, and what is damaged is refused."""

import json

import numpy as np
import pytest

from petsam_jax.files.rle import decode_rle, encode_rle


def masks(rng, number=60):
    """Of many sizes and densities: noise, rectangles, all and nothing."""
    for _ in range(number):
        height, width = rng.integers(1, 60, 2)
        yield rng.random((height, width)) < rng.choice([0, 0.02, 0.5, 0.98, 1])
        block = np.zeros((height, width), bool)
        block[rng.integers(height) :, : rng.integers(width) + 1] = True
        yield block


def test_a_mask_round_trips_exactly_even_through_json(rng):
    for mask in masks(rng):
        rle = json.loads(json.dumps(encode_rle(mask)))
        assert rle["size"] == list(mask.shape)
        np.testing.assert_array_equal(decode_rle(rle), mask)


def test_runs_of_megapixels_round_trip(rng):
    mask = np.zeros((1500, 2000), bool)
    mask[700:, 900:] = rng.random((800, 1100)) < 0.999
    np.testing.assert_array_equal(decode_rle(encode_rle(mask)), mask)


def test_text_by_hand():
    # Columns 0 1, 1 1, 0 0: runs 1 3 2 are the characters 49, 51 and 50.
    assert encode_rle(np.array([[0, 1, 0], [1, 1, 0]], bool)) == {"size": [2, 3], "counts": "132"}
    # Runs 0 40 0: 40 is 01000 and 00001 in groups of five, 48 + 8 + 32 and 48 + 1.
    assert encode_rle(np.ones((5, 8), bool))["counts"] == "0X1"


@pytest.mark.filterwarnings("ignore:__array__")
def test_text_equals_that_of_pycocotools(rng):
    coco = pytest.importorskip("pycocotools.mask")
    for mask in masks(rng):
        theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert encode_rle(mask)["counts"] == theirs["counts"].decode()
        np.testing.assert_array_equal(decode_rle(theirs), mask)
        np.testing.assert_array_equal(coco.decode(encode_rle(mask)), mask)


def test_plain_lists_of_lengths_are_read(rng):
    mask = rng.random((7, 9)) < 0.5
    pixels = mask.T.ravel()
    lengths, value = [], False
    while len(pixels):
        run = np.argmax(pixels != value) if (pixels != value).any() else len(pixels)
        lengths.append(int(run))
        pixels, value = pixels[run:], not value
    np.testing.assert_array_equal(decode_rle({"size": [7, 9], "counts": lengths}), mask)


@pytest.mark.parametrize(
    "rle, words",
    [
        ({"size": [2, 3], "counts": "13"}, "counts cover 4 pixels, but size 2 x 3 has 6"),
        ({"size": [2, 3], "counts": [9, -3]}, "damaged or belongs to another image"),
        ({"size": [2, 3], "counts": ""}, "not COCO's compressed text"),
        ({"size": [2, 3], "counts": "X"}, "not COCO's compressed text"),
        ({"size": [2, 3], "counts": "1 2"}, "not COCO's compressed text"),
        ({"size": [2, 3], "counts": "o" * 13 + "1"}, "not COCO's compressed text"),
        ({"counts": "132"}, "expected {'size'"),
        ({"size": 6, "counts": "132"}, "expected {'size'"),
    ],
)
def test_errors_name_what_is_not_rle(rle, words):
    with pytest.raises(ValueError, match=words):
        decode_rle(rle)
