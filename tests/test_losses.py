"""Losses: equal to the reference, least at the truth, and silent where the truth is unknown."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from petsam_jax.models.mask_ops import enlarge
from petsam_jax.train.losses import (
    Losses,
    binary_focal,
    combine,
    dice,
    iou_error,
    pixel_loss,
    prompt_losses,
    read_mask,
    trained_masks,
)
from tests.golden import assert_close, golden

NAMES = {"mask": "loss_mask", "dice": "loss_dice", "iou": "loss_iou", "object": "loss_class"}
NAMES["total"] = "core_loss"
SETTINGS = {
    "official": {},
    "best_iou_only": dict(iou_heads="best"),
    "mse_focal_scores": dict(iou_kind="mse", object_alpha=0.25, object_gamma=2.0),
    "no_scores": dict(object_score=False),
}
KINDS = ("focal", "cross_entropy", "balanced")

jitted_losses = jax.jit(prompt_losses)


@pytest.fixture(scope="module")
def arrays():
    return golden("losses")


# The reference's numbers


@pytest.mark.parametrize("weight", ["read", "ones"])
def test_terms_equal_reference(arrays, weight):
    """The reference divides each term by its 3 objects."""
    logits, scores = jnp.asarray(arrays["fn.logits"]), jnp.asarray(arrays["fn.pred_ious"])
    truth = read_mask(jnp.asarray(arrays["targets"][0]))
    if weight == "ones":
        truth = truth._replace(weight=jnp.ones(truth.pet.shape))
    found = {
        "focal_multimask": pixel_loss(logits, truth, 0.25, 2.0),
        "dice_multimask": dice(logits, truth),
        "iou_l1_multimask": iou_error(logits, scores, truth, "l1"),
        "iou_mse_multimask": iou_error(logits, scores, truth, "mse"),
        "iou_l1_reduced": iou_error(logits, scores, truth, "l1").sum(),
    }
    for name, got in found.items():
        assert_close("losses", got / 3, arrays[f"fn.{name}"], name)


@pytest.mark.parametrize("alpha, gamma", [(-1.0, 0.0), (0.25, 2.0)])
def test_presence_equals_reference(arrays, alpha, gamma):
    logits, targets = (jnp.asarray(arrays[f"fn.score_{name}"]) for name in ("logits", "targets"))
    got = binary_focal(logits, targets == 1, alpha, gamma).sum() / 3
    assert_close("losses", got, arrays[f"fn.focal_scores_alpha{alpha}_gamma{gamma}"])


def prompts_of(arrays):
    return {
        name.removeprefix("combo.in."): jnp.asarray(array)
        for name, array in arrays.items()
        if name.startswith("combo.in.")
    }


def combined(prompts, targets, **options) -> Losses:
    losses = []
    for frame in range(2):
        for step in range(3):
            answer = [prompts[f"frame{frame}.step{step}.{x}"] for x in ("masks", "ious", "scores")]
            losses.append(prompt_losses(*answer, targets[frame], **options))
    return combine(jax.tree.map(lambda *parts: jnp.stack(parts), *losses), 3.0)


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_combination_equals_reference(arrays, setting):
    run = jax.jit(partial(combined, **SETTINGS[setting]))
    got = run(prompts_of(arrays), jnp.asarray(arrays["targets"]))
    for part, name in NAMES.items():
        assert_close("losses", getattr(got, part), arrays[f"combo.{setting}.{name}"], name)


def test_gradients_equal_reference(arrays):
    grad = jax.jit(jax.grad(lambda prompts, targets: combined(prompts, targets).total))
    got = grad(prompts_of(arrays), jnp.asarray(arrays["targets"]))
    assert len(got) == 18
    for name, array in got.items():
        assert_close("losses", array, arrays[f"combo.official.grad.{name}"], name)
        assert np.abs(array).max() > 0


@pytest.mark.parametrize("file, run", [("train_image", "click"), ("train_video", "video")])
def test_official_answers_at_stride_4_give_the_official_losses(file, run):
    """Whole training steps, from the logits before they are enlarged."""
    arrays, losses = golden(file), []
    for name in arrays:
        found = re.fullmatch(rf"({run}\.frame(\d)\.step\d\.)low_res_multimasks", name)
        if found:
            parts = (name, f"{found[1]}ious", f"{found[1]}object_score_logits")
            mask = jnp.asarray(arrays["gt_masks"][int(found[2])])
            losses.append(jitted_losses(*(jnp.asarray(arrays[part]) for part in parts), mask))
    assert len(losses) == {"click": 8, "video": 5}[run]
    got = combine(jax.tree.map(lambda *parts: jnp.stack(parts), *losses), 2.0)
    for part, name in NAMES.items():
        assert_close(file, getattr(got, part), arrays[f"{run}.loss.{name}"], name)


def test_one_and_three_masks_go_through_one_scan(arrays):
    """Steps of one mask, filled up to three with anything, give the numbers of one mask."""
    prompts, targets = prompts_of(arrays), jnp.asarray(arrays["targets"])

    def filled(kind, name, value):
        array = prompts[f"{name}.{kind}"]
        missing = [(0, 0), (0, 3 - array.shape[1])] + [(0, 0)] * (array.ndim - 2)
        return jnp.pad(array, missing, constant_values=value)

    names = [f"frame{frame}.step{step}" for frame in range(2) for step in range(3)]
    masks = jnp.stack([filled("masks", name, 3.0) for name in names])
    ious = jnp.stack([filled("ious", name, 0.9) for name in names])
    scores = jnp.stack([prompts[f"{name}.scores"] for name in names])
    first = jnp.array([step == 0 for _ in range(2) for step in range(3)])
    valid = first[:, None, None] | (jnp.arange(3) == 0)[None, None]
    valid = jnp.broadcast_to(valid, ious.shape)

    @jax.jit
    def total(masks):
        def step(carry, x):
            return carry, prompt_losses(*x)

        xs = masks, ious, scores, jnp.repeat(targets, 3, axis=0), valid
        return combine(jax.lax.scan(step, None, xs)[1], 3.0)

    got = total(masks)
    for part, name in NAMES.items():
        assert_close("losses", getattr(got, part), arrays[f"combo.official.{name}"], name)
    grad = jax.jit(jax.grad(lambda masks: total(masks).total))(masks)
    want = [arrays[f"combo.official.grad.{name}.masks"] for name in names]
    for got_step, want_step in zip(grad, want, strict=True):
        assert_close("losses", got_step[:, : want_step.shape[1]], want_step)
        assert not np.asarray(got_step[:, want_step.shape[1] :]).any()


# What is ignored, absent, empty


@partial(jax.jit, static_argnames=("iou_heads", "mask_kind", "object_score"))
def with_gradient(logits, iou, score, mask, valid, **options):
    def total(logits, iou, score):
        losses = prompt_losses(logits, iou, score, mask, valid, **options)
        return losses.total.sum(), losses

    grad = jax.value_and_grad(total, (0, 1, 2), has_aux=True)
    (_, losses), grads = grad(logits, iou, score)
    return losses, grads


def answer(rng, b=4, m=3, h=12, w=10):
    return (
        jnp.asarray(rng.normal(size=(b, m, h, w)), jnp.float32),
        jnp.asarray(rng.uniform(size=(b, m)), jnp.float32),
        jnp.asarray(rng.normal(size=(b, 1)), jnp.float32),
    )


def edge_masks(rng):
    """Empty, full, one pixel, all ignored."""
    masks = np.zeros((4, 12, 10), np.uint8)
    masks[1], masks[2, 5, 3], masks[3] = 1, 1, 2
    return jnp.asarray(masks)


ALL = jnp.ones((4, 3), bool)


@pytest.mark.parametrize("kind", KINDS)
def test_edges_are_finite_and_say_what_they_know(rng, kind):
    losses, grads = with_gradient(*answer(rng), edge_masks(rng), ALL, mask_kind=kind)
    for array in (*losses, *grads):
        assert np.isfinite(array).all()
    empty, full, pixel, ignored = range(4)
    for part in (losses.mask, losses.dice, losses.iou):
        assert part[empty] == 0 and part[ignored] == 0
        assert part[full] > 0 and part[pixel] > 0
    assert losses.object[empty] > 0 and losses.object[full] > 0 and losses.object[ignored] == 0
    for grad in grads[:2]:
        assert not grad[empty].any() and not grad[ignored].any() and grad[pixel].any()
    assert grads[2][empty, 0] > 0 > grads[2][pixel, 0] and grads[2][ignored, 0] == 0


def test_absent_objects_train_masks_only_without_a_score(rng):
    options = dict(object_score=False)
    losses, _ = with_gradient(*answer(rng), edge_masks(rng), ALL, **options)
    assert losses.mask[0] > 0 and losses.dice[0] > 0 and losses.iou[0] > 0
    assert not losses.object.any()
    assert losses.total[3] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_ignored_pixels_change_nothing_and_get_no_gradient(rng, kind):
    """Whatever is predicted there, as if the image ended before them."""
    logits, iou, score = answer(rng)
    mask = rng.integers(0, 2, (4, 12, 10)).astype(np.uint8)
    mask[:, 8:] = 2
    losses, grads = with_gradient(logits, iou, score, jnp.asarray(mask), ALL, mask_kind=kind)
    elsewhere = logits.at[:, :, 8:].set(50.0)
    moved, _ = with_gradient(elsewhere, iou, score, jnp.asarray(mask), ALL, mask_kind=kind)
    cut = jnp.asarray(mask[:, :8])
    cropped, cropped_grads = with_gradient(logits[:, :, :8], iou, score, cut, ALL, mask_kind=kind)
    for part, name in zip(losses, Losses._fields, strict=True):
        np.testing.assert_allclose(part, getattr(moved, name), rtol=1e-6)
        np.testing.assert_allclose(part, getattr(cropped, name), rtol=1e-5)
    assert not grads[0][:, :, 8:].any()
    np.testing.assert_allclose(grads[0][:, :, :8], cropped_grads[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_least_at_the_truth(rng, kind):
    mask = rng.integers(0, 2, (4, 12, 10)).astype(np.uint8)
    right = jnp.asarray(np.where(mask == 1, 20.0, -20.0), jnp.float32)[:, None]
    ones, valid = jnp.ones((4, 1)), jnp.ones((4, 1), bool)
    best, _ = with_gradient(right, ones, 20 * ones, jnp.asarray(mask), valid, mask_kind=kind)
    assert best.total.max() < 1e-5
    for noise in (5.0, 20.0, 40.0):
        worse = right + noise * jnp.asarray(rng.normal(size=right.shape), jnp.float32)
        losses, _ = with_gradient(worse, ones, 20 * ones, jnp.asarray(mask), valid, mask_kind=kind)
        assert (losses.total > best.total).all()
    for iou, score in ((0.9, 20.0), (1.0, 1.0), (1.0, -3.0)):
        losses, _ = with_gradient(
            right, iou * ones, score * ones, jnp.asarray(mask), valid, mask_kind=kind
        )
        assert (losses.total > best.total + 0.05).all()


# Which mask, which weights


def test_only_the_best_valid_mask_is_trained(rng):
    """The best is the one nearest to the truth; an invalid mask is not even when it is perfect."""
    logits, iou, score = answer(rng)
    mask = rng.integers(0, 2, (4, 12, 10)).astype(np.uint8)
    right = np.where(mask == 1, 5.0, -5.0)
    logits = logits.at[:, 0].set(right).at[:, 2].set(0.5 * right)
    losses, grads = with_gradient(logits, iou, score, jnp.asarray(mask), ALL)
    assert grads[0][:, 0].any() and not grads[0][:, 1:].any()
    assert grads[1].all()
    valid = jnp.array([[False, True, True]] * 4)
    losses, grads = with_gradient(logits, iou, score, jnp.asarray(mask), valid)
    assert grads[0][:, 2].any() and not grads[0][:, :2].any()
    assert not grads[1][:, 0].any() and grads[1][:, 1:].all()
    best_only, grads = with_gradient(logits, iou, score, jnp.asarray(mask), valid, iou_heads="best")
    assert grads[1][:, 2].all() and not grads[1][:, :2].any()
    np.testing.assert_allclose(best_only.iou, abs(iou[:, 2] - 1), rtol=1e-5)


def test_no_valid_mask_leaves_the_presence_loss(rng):
    mask = jnp.asarray(rng.integers(0, 2, (4, 12, 10)), jnp.uint8)
    valid = ALL.at[1].set(False)
    losses, grads = with_gradient(*answer(rng), mask, valid)
    assert losses.mask[1] == losses.dice[1] == losses.iou[1] == 0
    assert losses.total[1] == losses.object[1] > 0
    assert not grads[0][1].any() and grads[0][0].any()


@pytest.mark.slow
def test_prompts_train_the_masks_that_answer_them(rng):
    """Unclear prompts the three, clear ones the first; of one example at a time, the same."""
    logits, iou, score = answer(rng, m=4)
    mask = jnp.asarray(rng.integers(0, 2, (4, 12, 10)), jnp.uint8)
    multimask = jnp.array([True, False, False, True])

    def total(logits, iou):
        answered = trained_masks(logits, iou, multimask)
        losses = prompt_losses(*answered[:2], score, mask, answered[2])
        return losses.total.sum(), losses.total

    grad = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
    (_, mixed), (grad_logits, grad_iou) = grad(logits, iou)
    for i, several in enumerate(multimask):
        own, other = (slice(1, 4), slice(0, 1)) if several else (slice(0, 1), slice(1, 4))
        one = prompt_losses(
            logits[i : i + 1, own], iou[i : i + 1, own], score[i : i + 1], mask[i : i + 1]
        )
        np.testing.assert_allclose(mixed[i], one.total[0], rtol=1e-6)
        assert grad_logits[i, own].any() and grad_iou[i, own].all()
        assert not grad_logits[i, other].any() and not grad_iou[i, other].any()


def test_balanced_weighs_pet_and_background_alike(rng):
    """A constant guess is best at half, where plain cross-entropy wants the pet's share."""
    mask = np.zeros((1, 12, 10), np.uint8)
    mask[0, 3, 3:5] = 1
    mask[0, 8:] = 2
    mask = jnp.asarray(mask)

    def slope(logit, balanced):
        def loss(x):
            return pixel_loss(
                jnp.full((1, 1, 12, 10), x), read_mask(mask, balanced=balanced), -1.0, 0.0
            )

        return float(jax.grad(lambda x: loss(x).sum())(logit))

    assert abs(slope(0.0, True)) < 1e-6
    share = 2 / 80
    assert abs(slope(float(np.log(share / (1 - share))), False)) < 1e-6
    assert slope(0.0, False) > 0.4


def test_small_logits_are_enlarged_as_the_model_enlarges_them(rng):
    logits, iou, score = answer(rng, h=3, w=4)
    mask = jnp.asarray(rng.integers(0, 3, (4, 12, 16)), jnp.uint8)
    whole = enlarge(logits, 12, 16)
    np.testing.assert_allclose(
        whole[..., 2, 2],
        logits[..., 0, 0] * 0.765625
        + (
            logits[..., 0, 1] * 0.109375
            + logits[..., 1, 0] * 0.109375
            + logits[..., 1, 1] * 0.015625
        ),
        rtol=1e-5,
        atol=1e-6,
    )
    small, grads = with_gradient(logits, iou, score, mask, ALL)
    large, _ = with_gradient(whole, iou, score, mask, ALL)
    np.testing.assert_allclose(small.total, large.total, rtol=1e-6)
    assert grads[0].shape == logits.shape


def test_bfloat16_logits_give_float32_losses(rng):
    logits, iou, score = answer(rng)
    half = logits.astype(jnp.bfloat16), iou, score
    losses, _ = with_gradient(*half, edge_masks(rng), ALL)
    assert all(part.dtype == jnp.float32 for part in losses)
    exact, _ = with_gradient(half[0].astype(jnp.float32), iou, score, edge_masks(rng), ALL)
    np.testing.assert_allclose(losses.total, exact.total, rtol=1e-6)


def test_extreme_logits_stay_finite(rng):
    """-1024 is what the model answers where it judges the object absent."""
    _, iou, score = answer(rng)
    mask = jnp.asarray(rng.integers(0, 2, (4, 12, 10)), jnp.uint8)
    for value in (-1024.0, 1024.0):
        losses, grads = with_gradient(jnp.full((4, 3, 12, 10), value), iou, score, mask, ALL)
        assert np.isfinite(losses.total).all()
        assert all(np.isfinite(grad).all() for grad in grads)


def test_weights_and_number_of_objects(rng):
    parts = answer(rng)
    mask = jnp.asarray(rng.integers(0, 2, (4, 12, 10)), jnp.uint8)
    weights = dict(mask_weight=3.0, dice_weight=5.0, iou_weight=7.0, object_weight=11.0)
    losses = jax.jit(partial(prompt_losses, **weights))(*parts, mask)
    want = 3 * losses.mask + 5 * losses.dice + 7 * losses.iou + 11 * losses.object
    np.testing.assert_allclose(losses.total, want, rtol=1e-6)
    assert combine(losses, 2.0).total == pytest.approx(float(want.sum()) / 2, rel=1e-6)
    assert combine(losses, 0.0).total == pytest.approx(float(want.sum()), rel=1e-6)


@pytest.mark.parametrize(
    "option, value", [("mask_kind", "bce"), ("iou_kind", "L1"), ("iou_heads", "any")]
)
def test_unknown_kind_is_named(rng, option, value):
    mask = edge_masks(rng)
    with pytest.raises(ValueError, match=f"loss.{option}='{value}': expected one of"):
        prompt_losses(*answer(rng), mask, **{option: value})
