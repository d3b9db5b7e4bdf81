"""Evaluation: clicks and boxes, and the protocol on a predictor with known results."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from petsam_jax.data.sources import Example
from petsam_jax.evaluation import baselines, robustness
from petsam_jax.evaluation.protocol import CLICKS, TimedPredictor, masks_from_clicks, score_example
from petsam_jax.evaluation.simulated_user import Click, move_sides, next_click, tight_box
from petsam_jax.models.prompts import EMPTY, empty_prompts
from petsam_jax.train.prompt_sampling import clicked_pixels, evaluation_click

DISC = 8


class Discs:
    """Finds a box filled, a disc around each positive click, and nothing without a prompt."""

    def __init__(self):
        self.encoded, self.calls = 0, []

    def encode(self, image):
        self.encoded += 1
        return SimpleNamespace(size=image.shape[:2], features=np.zeros(1))

    def predict(self, points=(), labels=(), boxes=None, mask_input=None, *, image):
        self.calls.append((np.array(points), np.array(labels), mask_input))
        found = np.zeros(image.size, bool)
        if boxes is not None:
            found = baselines.filled_box(boxes, image.size)
        y, x = np.ogrid[: image.size[0], : image.size[1]]
        for (px, py), label in zip(points, labels, strict=True):
            found[(x - px) ** 2 + (y - py) ** 2 <= DISC**2] = label
        logits = np.full((1, 4, 4), len(self.calls), np.float32)
        return SimpleNamespace(masks=found[None], low_res_logits=logits)

    def predict_pet(self, *, image):
        return self.predict(image=image)


def example(mask, name="Bengal_1", group="Bengal", seed=0):
    rng = np.random.default_rng(seed)
    return Example(rng.integers(0, 256, (*mask.shape, 3), np.uint8), mask, name, group)


def square(height=60, width=80):
    """A pet of 30 x 40 pixels with an ignored rim of 3."""
    mask = np.zeros((height, width), np.uint8)
    mask[12:48, 17:63] = 2
    mask[15:45, 20:60] = 1
    return mask


def blobs(rng, number, side=48):
    """Random smooth regions, with ignored bands between some of them."""
    noise = ndimage.gaussian_filter(rng.normal(size=(number, side, side)), (0, 3, 3))
    noise /= noise.std()
    return np.select([noise > 0.5, noise > 0.2], [1, 2], 0).astype(np.uint8)


# The user


def test_the_next_click_is_the_same_as_in_training(rng):
    mask, found = blobs(rng, 24), blobs(rng, 24) == 1
    found[:4] = mask[:4] == 1
    found[4:8] = False
    points = rng.integers(0, 48, (24, 30, 2))
    labels = rng.integers(0, 2, (24, 30))
    given = empty_prompts(24, 48, 48, 30)
    given = given._replace(
        points=given.points.at[:, :30].set(points), labels=given.labels.at[:, :30].set(labels)
    )
    point, label = jax.jit(evaluation_click)(jnp.asarray(mask), found, given)
    clicked = np.asarray(clicked_pixels(given, 48, 48))
    for i in range(24):
        click = next_click(mask[i], found[i], clicked[i])
        if label[i] == EMPTY:
            assert click is None
        else:
            assert click == (*np.asarray(point[i], int), label[i])
    assert {-1, 0, 1} == set(np.asarray(label).tolist())


def test_the_next_click_is_at_the_greatest_exact_depth(rng):
    """On regions of all sizes and shapes, where the shortcuts of `next_click` might go wrong."""

    def deepest(region):
        depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1] * ~clicked
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        return depth[y, x], x, y

    labels = []
    for _ in range(300):
        shape = tuple(rng.integers(1, 60, 2))
        smooth = rng.uniform(0, 4)
        noise = ndimage.gaussian_filter(rng.normal(size=(2, *shape)), (0, smooth, smooth))
        noise /= noise.std() + 1e-9
        mask = np.select([noise[0] > 0.4, noise[0] > 0.2], [1, 2], 0).astype(np.uint8)
        found = noise[rng.integers(2)] > rng.uniform(-1, 1.5)
        clicked = rng.random(shape) < rng.choice([0, 0.01, 0.3, 0.9])
        missed, false = deepest((mask == 1) & ~found), deepest((mask == 0) & found)
        expected = (*missed[1:], 1) if missed[0] > false[0] else (*false[1:], 0)
        if max(missed[0], false[0]) == 0:
            expected = None
        assert next_click(mask, found, clicked) == expected
        labels.append(expected and expected[2])
    # All three outcomes came up, each often.
    assert min(labels.count(label) for label in (None, 0, 1)) > 15


def test_the_border_of_the_image_is_an_edge():
    assert next_click(np.ones((41, 61), np.uint8), np.zeros((41, 61), bool), _none(41, 61)) == (
        20,
        20,
        1,
    )
    false = next_click(np.zeros((41, 61), np.uint8), np.ones((41, 61), bool), _none(41, 61))
    assert false == (20, 20, 0)


def _none(*shape):
    return np.zeros(shape, bool)


def test_clicks_exhaust_an_error_and_never_repeat_a_pixel():
    mask = np.zeros((12, 12), np.uint8)
    mask[4:9, 3:8] = 1
    mask[6] = np.where(mask[6] == 1, 2, mask[6])
    clicked, seen = _none(12, 12), []
    while click := next_click(mask, _none(12, 12), clicked):
        seen.append((click.y, click.x))
        clicked[click.y, click.x] = True
    assert len(seen) == len(set(seen)) == 20
    assert set(seen) == set(map(tuple, np.argwhere(mask == 1).tolist()))


@pytest.mark.parametrize("label", [0, 1])
def test_a_cross_is_deeper_than_a_bar_that_is_wider_than_its_arms(label):
    """Arms of 5 pixels cross in a place 18 ** 0.5 deep, by moves of a king 3; the bar's is 4."""
    cross, bar = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    cross[5:10, 2:24] = cross[2:24, 10:15] = True
    bar[30:37, 2:38] = True
    missed, false = (cross, bar) if label else (bar, cross)
    click = next_click(missed.astype(np.uint8), false, np.zeros((40, 40), bool))
    assert click == (12, 7, label)


def test_ignored_pixels_are_no_error():
    mask = np.full((9, 9), 2, np.uint8)
    assert next_click(mask, np.ones((9, 9), bool), _none(9, 9)) is None


def test_a_tight_box_holds_the_pet_and_not_its_ignored_rim():
    assert tight_box(square()).tolist() == [20, 15, 59, 44]


def test_sides_move_by_at_most_their_share_and_stay_in_the_image(rng):
    box = np.array([20, 15, 59, 44], np.float32)
    assert move_sides(box, rng.uniform(-1, 1, 4), 0.0, (60, 80)).tolist() == box.tolist()
    moves = np.array(
        [move_sides(box, rng.uniform(-1, 1, 4), 0.2, (60, 80)) - box for _ in range(500)]
    )
    limit = 0.2 * np.array([39, 29, 39, 29])
    assert (np.abs(moves) <= limit + 1e-4).all() and (np.abs(moves).max(0) > 0.9 * limit).all()
    outwards = move_sides(box, np.array([-1.0, -1, 1, 1]), 3.0, (60, 80))
    assert outwards.tolist() == [0, 0, 79, 59]


# The protocol


def test_each_result_is_scored_under_its_own_name():
    scores = score_example(Discs(), example(square()))
    assert scores["iou/box"] == 1 and scores["boundary_f/box"] == 1
    # The rim counts against the box, which is of the pet's own pixels.
    assert scores["border_as_pet/box"] == pytest.approx(30 * 40 / (36 * 46))
    assert scores["iou/no_prompt"] == scores["boundary_f/no_prompt"] == 0
    assert 0.8 < scores["iou/box_jitter"] < 1
    # A first disc of 197 pixels, all in the pet.
    assert scores["iou/click1"] == pytest.approx(197 / 1200)
    clicks = [scores[f"iou/click{number}"] for number in range(1, CLICKS + 1)]
    assert clicks[5] > clicks[1] > clicks[0]


def test_scores_do_not_depend_on_other_images():
    alone = score_example(Discs(), example(square()))
    predictor = TimedPredictor(Discs())
    score_example(predictor, example(square(70, 90), "Bengal_2"))
    assert score_example(predictor, example(square())) == alone
    other = score_example(predictor, example(square(), "Bengal_3"))
    assert other["iou/box_jitter"] != alone["iou/box_jitter"]


def test_each_click_comes_with_all_clicks_and_the_last_mask():
    predictor = Discs()
    image = predictor.encode(np.zeros((60, 80, 3), np.uint8))
    results = list(masks_from_clicks(predictor, image, square(), 4))
    assert [len(points) for points, *_ in predictor.calls] == [1, 2, 3, 4]
    assert [mask if mask is None else mask[0, 0] for *_, mask in predictor.calls] == [None, 1, 2, 3]
    points, labels, _ = predictor.calls[-1]
    clicks = results[-1].clicks
    assert [[click.x, click.y] for click in clicks] == points.tolist()
    assert [click.label for click in clicks] == labels.tolist()


def test_without_an_error_the_last_result_repeats():
    predictor = Discs()
    y, x = np.ogrid[:40, :40]
    mask = ((x - 20) ** 2 + (y - 20) ** 2 <= DISC**2).astype(np.uint8)
    image = predictor.encode(np.zeros((40, 40, 3), np.uint8))
    results = list(masks_from_clicks(predictor, image, mask, 5))
    assert len(predictor.calls) == 1 and len(results) == 5
    assert all((result.mask == (mask == 1)).all() for result in results)


def test_a_moved_click_never_lands_on_one_before_it():
    predictor = Discs()
    image = predictor.encode(np.zeros((60, 80, 3), np.uint8))
    corner = masks_from_clicks(predictor, image, square(), 6, lambda c: Click(0, 0, c.label))
    clicks = list(corner)[-1].clicks
    assert clicks[0] == (0, 0, 1) and len({click[:2] for click in clicks}) == 6


def test_an_image_is_encoded_once_and_calls_are_timed():
    inner = Discs()
    predictor = TimedPredictor(inner)
    score_example(predictor, example(square()))
    robustness.score_robustness(predictor, example(square()))
    score_example(predictor, example(square(), "the same image#2"))
    assert inner.encoded == len(predictor.seconds["encode"]) == 4
    score_example(predictor, example(square(), seed=1))
    assert inner.encoded == 5
    assert 40 <= len(predictor.seconds["predict"]) <= len(inner.calls)
    assert min(predictor.seconds["predict"]) > 0


# Robustness


def test_every_variant_is_scored_with_each_of_its_prompts():
    scores = robustness.score_robustness(Discs(), example(square()))
    expected = [f"{name}/{of}" for name, prompts in robustness.VARIANTS.items() for of in prompts]
    assert sorted(scores) == sorted(expected)
    # Discs do not look at the image, so compression changes nothing and a box fits at any size.
    assert scores["jpeg_20/box"] == scores["half_size/box"] == scores["double_size/box"] == 1
    assert scores["box_off_20/box"] < scores["box_off_10/box"] < 1


def test_images_are_altered_with_their_masks():
    original = example(square())
    (half, *_), (double, image, mask), (jpeg, compressed, same) = robustness.alter(original)
    assert (half, double, jpeg) == ("half_size", "double_size", "jpeg_20")
    assert image.shape == (120, 160, 3) and (mask[::2, ::2] == original.mask).all()
    change = np.abs(compressed.astype(int) - original.image).mean()
    assert same is original.mask and 5 < change < 80


def test_a_pet_of_one_pixel_does_not_vanish_at_half_size():
    for place in ((0, 0), (5, 7), (10, 12)):
        mask = np.zeros((11, 13), np.uint8)
        mask[place] = 1
        _, image, half = next(iter(robustness.alter(example(mask))))
        # 5.5 and 6.5 pixels, rounded to even.
        assert image.shape[:2] == half.shape == (6, 6)
        assert (half == 1).sum() == 1


def test_a_size_that_is_too_large_is_left_out(monkeypatch):
    monkeypatch.setattr(robustness, "MAX_PIXELS", 60 * 80)
    assert [name for name, *_ in robustness.alter(example(square()))] == ["half_size", "jpeg_20"]


def test_imprecise_clicks_are_near_and_keep_their_label():
    move = robustness.imprecise_hand(example(square()))
    moved = np.array([move(Click(40, 30, 1)) for _ in range(200)])
    # 5 % of 39 and 29 pixels, rounded.
    assert np.abs(moved[:, :2] - [40, 30]).max(0).tolist() == [2, 1]
    assert (moved[:, 2] == 1).all()
    at_edge = np.array([move(Click(79, 0, 0)) for _ in range(50)])
    assert at_edge[:, 0].max() == 79 and at_edge[:, 1].min() == 0
