"""Prompts: from an image's pixels to the model's, in few shapes, or refused; as JSON; in steps."""

import dataclasses
import json

import numpy as np
import pytest

from petsam_jax.predict.prompt_inputs import Prompt, model_prompts, power_of_two, read_prompts
from petsam_jax.predict.prompt_masks import PackedMask, Stroke, mask_logits

SIDE, IMAGE = 64, (100, 200)


def read(points=None, labels=None, boxes=None, mask_input=None, size=IMAGE):
    prompts, logits, number = read_prompts(points, labels, boxes, mask_input, SIDE // 4)
    return model_prompts(prompts, size, SIDE, logits), number


def test_centres_of_pixels_map_to_the_models_square():
    # The corners of the image, half a pixel outside its outermost pixels, are those of the model.
    corners = [(-0.5, -0.5), (199.5, 99.5), (99.5, 49.5)]
    prompts, number = read(corners, [1, 0, 1], boxes=(0, 0, 199, 99))
    np.testing.assert_allclose(
        prompts.points[0, :3], [(-0.5, -0.5), (63.5, 63.5), (31.5, 31.5)], atol=1e-5
    )
    # The centre of an image's pixel, which is 0.32 x 0.64 model pixels large.
    np.testing.assert_allclose(prompts.points[0, -2:], [(-0.34, -0.18), (63.34, 63.18)], atol=1e-5)
    assert prompts.labels[0].tolist() == [1, 0, 1, *[-1] * 13, 2, 3]
    assert number is None and not prompts.has_mask.any() and not prompts.mask_input.any()


def test_at_the_models_own_size_points_stay_as_they_are(rng):
    points = rng.integers(0, SIDE, (5, 2))
    prompts, _ = read(points, np.ones(5, bool), size=(SIDE, SIDE))
    np.testing.assert_array_equal(prompts.points[0, :5], points)


def test_a_box_has_corners_in_any_order_and_is_clipped_to_the_image():
    expected = read(boxes=(20, 30, 199, 99))[0].points
    for box in ((199, 30, 20, 99), (199, 99, 20, 30), (20, 30, 250, 1e6)):
        np.testing.assert_array_equal(read(boxes=box)[0].points, expected)
    one_pixel = read(boxes=(20, 30, 20, 30))[0].points[0, -2:]
    np.testing.assert_array_equal(one_pixel[0], one_pixel[1])


def test_slots_for_points_are_16_and_then_powers_of_two():
    slots = {}
    for number in (0, 1, 16, 17, 32, 33):
        points = np.full((number, 2), 5.0)
        slots[number] = read(points, np.ones(number))[0].labels.shape[1] - 2
    assert slots == {0: 16, 1: 16, 16: 16, 17: 32, 32: 32, 33: 64}
    assert [power_of_two(n) for n in (0, 1, 2, 3, 4, 5)] == [1, 1, 2, 4, 4, 8]


def test_objects_are_padded_to_a_power_of_two_with_empty_prompts(rng):
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
    ("given", "message"),
    [
        (dict(points=[(5, 5)]), "points without labels"),
        (dict(labels=[1]), "labels without points"),
        (dict(points=[(5, 5)], labels=[1, 0]), r"labels: shape \(2,\)"),
        (dict(points=(5, 5), labels=1), r"points: shape \(2,\); expected \(p, 2\)"),
        (dict(points=[(5, 5, 5)], labels=[1]), r"points: shape \(1, 3\)"),
        (dict(points=[(5, 5)], labels=[2]), r"labels: \[2.0\]; expected 1 in, 0 out or -1"),
        (dict(points=[(5, 5)], labels=[0.5]), r"labels: \[0.5\]"),
        (dict(points=[(5, 5)], labels=[np.nan]), r"labels: \[nan\]"),
        (dict(points=[(np.nan, 5)], labels=[1]), "points: NaN or infinity"),
        (dict(points=[("a", 5)], labels=[1]), "points: not an array of numbers"),
        (dict(points=[(5, 5), (200, 5)], labels=[1, 1]), r"\(200, 5\) is outside .* x 0..199"),
        (dict(points=[(5, -0.6)], labels=[1]), r"\(5, -0.6\) is outside .* y 0..99"),
        (dict(boxes=(1, 2, 3)), r"boxes: shape \(3,\); expected \(4,\)"),
        (dict(boxes=(1, 2, 3, np.inf)), "boxes: NaN or infinity"),
        (dict(boxes=(200, 2, 300, 50)), r"boxes: \(200, 2, 300, 50\) is entirely outside"),
        (
            dict(boxes=[(1, 2, 3, 4), (5, -9, 9, -2)]),
            r"boxes: \(5, -9, 9, -2\) is entirely outside",
        ),
        (
            dict(mask_input=np.zeros((64, 64))),
            r"mask_input: shape \(64, 64\); expected .* \(16, 16\)",
        ),
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
def test_bad_prompts_are_errors_with_what_is_expected(given, message):
    with pytest.raises(ValueError, match=message):
        read(**given)


# The record


MASK = np.zeros(IMAGE, bool)
MASK[10:60, 20:90] = True
LINE = Stroke(4.0, ((20, 30.5), (80, 30.5), (80, 60)))
FULL = Prompt(
    points=((20, 30), (50.5, 7)),
    labels=(1, 0),
    box=(10, 5, 40, 50),
    strokes=(LINE,),
    mask=PackedMask.of(MASK),
    find=True,
)


def test_a_prompt_reads_arrays():
    prompt = Prompt.read(
        np.array([[20, 30], [50.5, 7]]), [True, False], [10, 5, 40, 50], MASK * 255
    )
    assert prompt == dataclasses.replace(FULL, strokes=(), find=False)
    np.testing.assert_array_equal(prompt.mask.unpack(), MASK)
    assert Prompt.read() == Prompt() and Prompt().is_empty and not Prompt(find=True).is_empty
    assert len({prompt, Prompt(), FULL}) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(points=[[(5, 5)]], labels=[[1]]), "one at a time"),
        (dict(box=[(1, 2, 3, 4)]), r"box: shape \(1, 4\); expected \(4,\)"),
        (dict(mask=MASK * 0.4), "mask: numbers of type float64"),
        (dict(mask=MASK[0]), r"mask: shape \(200,\)"),
    ],
)
def test_a_prompt_is_about_one_object(given, message):
    with pytest.raises(ValueError, match=message):
        Prompt.read(**given)


@pytest.mark.parametrize(
    "prompt", [Prompt(), FULL, *(Prompt(**{name: x}) for name, x in vars(FULL).items())]
)
def test_a_prompt_survives_json(prompt):
    assert Prompt.from_json(json.loads(json.dumps(prompt.to_json()))) == prompt


def test_what_is_no_prompt_in_json_is_refused():
    with pytest.raises(TypeError):
        Prompt.from_json({"sound": "meow"})


def test_prompts_and_arrays_become_the_same():
    points = [[(20, 30), (50.5, 7)], [(1, 2), (0, 0)]]
    arrays = read(points, [[1, 0], [1, -1]], [(10, 5, 40, 50), (3, 4, 9, 9)])[0]
    prompts = [
        Prompt(((20, 30), (50.5, 7)), (1, 0), (10, 5, 40, 50)),
        Prompt(((1, 2),), (1,), (3, 4, 9, 9)),
    ]
    for mine, other in zip(model_prompts(prompts, IMAGE, SIDE), arrays, strict=True):
        used = slice(None) if mine.ndim != 3 else arrays.labels != -1
        np.testing.assert_array_equal(mine[used], other[used])
    assert read_prompts(None, None, None, None, 16, prompts)[::2] == (prompts, 2)
    assert read_prompts(None, None, None, None, 16, FULL)[::2] == ([FULL], None)
    with pytest.raises(ValueError, match="prompt: holds points and boxes itself"):
        read_prompts([(1, 2)], [1], None, None, 16, FULL)
    with pytest.raises(ValueError, match="mask_input: of 1 objects; expected 2"):
        read_prompts(None, None, None, np.zeros((16, 16)), 16, prompts)


def test_objects_may_have_different_kinds_of_prompts():
    prompts = [Prompt(box=(1, 2, 3, 4)), Prompt(((5, 5),), (0,)), Prompt(mask=FULL.mask)]
    found = model_prompts(prompts, IMAGE, SIDE)
    assert (found.labels != -1).sum(axis=1).tolist() == [2, 1, 0, 0]
    assert found.has_mask.tolist() == [False, False, True, False]


def test_a_mask_and_strokes_become_mask_prompts(rng):
    found = model_prompts([Prompt(mask=FULL.mask)], IMAGE, SIDE)
    np.testing.assert_array_equal(found.mask_input[0, ..., 0], mask_logits(MASK, 16))
    drawn = model_prompts([Prompt(strokes=(LINE,))], IMAGE, SIDE).mask_input[0, ..., 0] > 0
    # Cells of 12.5 x 6.25 pixels: on the line, beside it, beyond its end.
    assert drawn[4, 2] and drawn[4, 5] and drawn[8, 6] and not drawn[7, 3] and not drawn[12, 6]
    ring = Stroke(2.0, ((40, 20), (120, 20), (120, 80), (40, 80), (40, 20)))
    assert model_prompts([Prompt(strokes=(ring,))], IMAGE, SIDE).mask_input[0, 8, 6] > 0
    # Earlier logits take their place.
    logits = rng.normal(size=(1, 16, 16)).astype(np.float32)
    found = model_prompts([FULL], IMAGE, SIDE, logits)
    np.testing.assert_array_equal(found.mask_input[..., 0], logits)
    with pytest.raises(ValueError, match="image has 50 x 40 pixels and the mask 200 x 100"):
        model_prompts([Prompt(mask=FULL.mask)], (40, 50), SIDE)


def test_steps_go_click_by_click_from_what_precedes_them():
    clicks = Prompt(FULL.points, FULL.labels)
    assert clicks.steps() == [Prompt(((20, 30),), (1,)), clicks]
    assert FULL.steps() == [FULL.first_points(0), FULL.first_points(1), FULL]
    assert Prompt().steps() == [Prompt()] and Prompt(box=FULL.box).steps() == [Prompt(box=FULL.box)]
    assert Prompt().with_points(FULL.points, FULL.labels) == clicks
    for step in FULL.steps():
        assert FULL.extends(step)
    assert not FULL.first_points(1).extends(FULL) and not FULL.extends(clicks)


def test_a_crop_moves_all_but_the_mask():
    cropped = FULL.in_crop(10, 5)
    assert cropped == Prompt(
        points=((10, 25), (40.5, 2)),
        labels=(1, 0),
        box=(0, 0, 30, 45),
        strokes=(Stroke(4.0, ((10, 25.5), (70, 25.5), (70, 55))),),
        find=True,
    )
    np.testing.assert_array_equal(cropped.coordinates, FULL.coordinates - (10, 5))
    assert len(FULL.coordinates) == 7 and Prompt().coordinates.shape == (0, 2)
