"""picture_prompts: from a picture's pixels to the model's, in few shapes, or refused."""

import numpy as np
import pytest

from petsam_jax.predict.prompt_inputs import picture_prompts, power_of_two

SIDE, PICTURE = 64, (100, 200)


def read(points=None, labels=None, boxes=None, mask_input=None, picture=PICTURE):
    return picture_prompts(points, labels, boxes, mask_input, picture, SIDE)


def test_centres_of_pixels_go_to_the_same_places_of_the_models_square():
    # The corners of the picture, half a pixel outside its outermost pixels, are those of the model.
    corners = [(-0.5, -0.5), (199.5, 99.5), (99.5, 49.5)]
    prompts, number = read(corners, [1, 0, 1], boxes=(0, 0, 199, 99))
    np.testing.assert_allclose(
        prompts.points[0, :3], [(-0.5, -0.5), (63.5, 63.5), (31.5, 31.5)], atol=1e-5
    )
    # The middle of a picture's pixel, which is 0.32 x 0.64 model pixels large.
    np.testing.assert_allclose(prompts.points[0, -2:], [(-0.34, -0.18), (63.34, 63.18)], atol=1e-5)
    assert prompts.labels[0].tolist() == [1, 0, 1, *[-1] * 13, 2, 3]
    assert number is None and not prompts.has_mask.any() and not prompts.mask_input.any()


def test_at_the_models_own_size_places_stay_as_they_are(rng):
    points = rng.integers(0, SIDE, (5, 2))
    prompts, _ = read(points, np.ones(5, bool), picture=(SIDE, SIDE))
    np.testing.assert_array_equal(prompts.points[0, :5], points)


def test_a_box_has_corners_in_any_order_and_is_cut_off_at_the_picture():
    want = read(boxes=(20, 30, 199, 99))[0].points
    for box in ((199, 30, 20, 99), (199, 99, 20, 30), (20, 30, 250, 1e6)):
        np.testing.assert_array_equal(read(boxes=box)[0].points, want)
    one_pixel = read(boxes=(20, 30, 20, 30))[0].points[0, -2:]
    np.testing.assert_array_equal(one_pixel[0], one_pixel[1])


def test_slots_for_points_are_16_and_then_powers_of_two():
    slots = {}
    for number in (0, 1, 16, 17, 32, 33):
        points = np.full((number, 2), 5.0)
        slots[number] = read(points, np.ones(number))[0].labels.shape[1] - 2
    assert slots == {0: 16, 1: 16, 16: 16, 17: 32, 32: 32, 33: 64}
    assert [power_of_two(n) for n in (0, 1, 2, 3, 4, 5)] == [1, 1, 2, 4, 4, 8]


def test_objects_are_filled_up_to_a_power_of_two_with_empty_prompts(rng):
    masks = rng.normal(size=(3, 16, 16))
    prompts, number = read(
        rng.integers(0, 90, (3, 2, 2)),
        [[1, 0], [1, -1], [0, -1]],
        rng.uniform(0, 90, (3, 4)),
        masks,
    )
    assert number == 3 and prompts.points.shape == (4, 18, 2)
    assert (prompts.labels[3] == -1).all() and prompts.has_mask.tolist() == [True] * 3 + [False]
    np.testing.assert_array_equal(prompts.mask_input[:3, ..., 0], masks.astype(np.float32))
    assert prompts.labels[1].tolist() == [1, *[-1] * 15, 2, 3]
    empty, number = read(np.zeros((0, 2, 2)), np.zeros((0, 2)))
    assert number == 0 and (empty.labels == -1).all()


def test_one_object_may_have_its_axis_beside_prompts_without(rng):
    mask = rng.normal(size=(1, 16, 16))
    prompts, number = read([(5, 5)], [1], mask_input=mask)
    assert number is None
    np.testing.assert_array_equal(prompts.mask_input, read(mask_input=mask[0])[0].mask_input)
    assert read([(5, 5)], [1], boxes=[(1, 2, 3, 4)])[1] is None
    assert read(boxes=[(1, 2, 3, 4)])[1] == 1


def test_an_empty_slot_may_hold_anything():
    prompts, _ = read([(np.nan, 1e9), (3, 4)], [-1, 1])
    assert prompts.labels[0, :2].tolist() == [-1, 1] and np.isfinite(prompts.points).all()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (dict(points=[(5, 5)]), "points without labels"),
        (dict(labels=[1]), "labels without points"),
        (dict(points=[(5, 5)], labels=[1, 0]), r"labels: shape \(2,\)"),
        (dict(points=(5, 5), labels=1), r"points: shape \(2,\); want \(p, 2\)"),
        (dict(points=[(5, 5, 5)], labels=[1]), r"points: shape \(1, 3\)"),
        (dict(points=[(5, 5)], labels=[2]), r"labels: \[2.0\]; want 1 in, 0 out or -1"),
        (dict(points=[(5, 5)], labels=[0.5]), r"labels: \[0.5\]"),
        (dict(points=[(5, 5)], labels=[np.nan]), r"labels: \[nan\]"),
        (dict(points=[(np.nan, 5)], labels=[1]), "points: NaN or infinity"),
        (dict(points=[("a", 5)], labels=[1]), "points: not an array of numbers"),
        (dict(points=[(5, 5), (200, 5)], labels=[1, 1]), r"\(200, 5\) is outside .* x 0..199"),
        (dict(points=[(5, -0.6)], labels=[1]), r"\(5, -0.6\) is outside .* y 0..99"),
        (dict(boxes=(1, 2, 3)), r"boxes: shape \(3,\); want \(4,\)"),
        (dict(boxes=(1, 2, 3, np.inf)), "boxes: NaN or infinity"),
        (dict(boxes=(200, 2, 300, 50)), r"boxes: \(200, 2, 300, 50\) is all outside"),
        (dict(boxes=[(1, 2, 3, 4), (5, -9, 9, -2)]), r"boxes: \(5, -9, 9, -2\) is all outside"),
        (dict(mask_input=np.zeros((64, 64))), r"mask_input: shape \(64, 64\); want .* \(16, 16\)"),
        (dict(mask_input=np.full((16, 16), np.nan)), "mask_input: NaN or infinity"),
        (
            dict(boxes=[(1, 2, 3, 4)] * 2, mask_input=np.zeros((3, 16, 16))),
            "boxes of 2, mask_input of 3",
        ),
        (
            dict(points=[(5, 5)], labels=[1], mask_input=np.zeros((3, 16, 16))),
            "points of one, mask_input of 3",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_do(asked, message):
    with pytest.raises(ValueError, match=message):
        read(**asked)
