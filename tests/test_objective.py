"""objective.py: whole official training steps, replayed click by click, and what rounds cost."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx

from petsam_jax.models import memory_bank
from petsam_jax.models.params import weights
from petsam_jax.models.prompting import Prompting, decode_prompts
from petsam_jax.models.prompts import add_click, empty_prompts, set_box, set_mask
from petsam_jax.models.sam2 import SAM2
from petsam_jax.models.sam2_weights import from_official, our_name
from petsam_jax.normalise import normalise
from petsam_jax.train.clip_objective import (
    clip_outcome,
    draw_gap,
    encode_frames,
    prompted_frames,
    track_frames,
)
from petsam_jax.train.losses import combine
from petsam_jax.train.objective import Objective, image_outcome, prompt_rounds
from petsam_jax.train.optimizer import unflatten
from petsam_jax.train.prompt_sampling import mask_prompt
from petsam_jax.train.step import mean_losses
from tests.golden import (
    GLOBAL_NORM_LIMIT,
    NORM_LIMIT,
    assert_close,
    golden,
    golden_model,
    shipped_model,
)

pytestmark = pytest.mark.slow

OFFICIAL = Objective(first={}, correction={}, loss={}, prompting=Prompting(gated=True))
PARTS = dict(mask="loss_mask", dice="loss_dice", iou="loss_iou", object="loss_class")


def frames(numbers):
    """Frame t of the goldens: the base image, rolled."""
    base = golden("track_step")["base_image_uint8_hwc"]
    return np.stack([np.roll(base, (3 * t, 2 * t), (0, 1)) for t in numbers])


def replay(case, frame, prompted):
    """The prompt that the official code began with, and the clicks that it sampled after it."""
    points = jnp.asarray(case[f"{frame}.point_coords_all_steps"])
    labels = jnp.asarray(case[f"{frame}.point_labels_all_steps"])
    first = int(case[f"{frame}.points_per_step"][0])
    assert (case[f"{frame}.points_per_step"] == np.arange(len(prompted)) + first).all()
    batch = len(points)
    prompts = empty_prompts(batch, 128, 128)
    if first == 2:
        prompts = set_box(prompts, points[:, :2].reshape(batch, 4), jnp.ones(batch, bool))
    else:
        prompts = add_click(prompts, points[:, 0], labels[:, 0])
    later = slice(first, None)
    clicks = jnp.swapaxes(points[:, later], 0, 1), jnp.swapaxes(labels[:, later], 0, 1)
    return prompts, clicks


def the_recorded_click(click, *_):
    return click


def official_gradients(case):
    """Dotted name of ours -> L2 norm, where the official code has a gradient."""
    norms = {}
    for name, norm in zip(case["grad.names"], case["grad.l2"], strict=True):
        found = our_name(str(name))
        if found is not None:
            # Rows of one array of ours are arrays of their own there: name[row].
            norms.setdefault(found[0].split("[")[0], []).append(float(norm))
    return {name: np.sqrt(np.square(values).sum()) for name, values in norms.items()}


def check_gradients(case, grads):
    theirs = official_gradients(case)
    total = float(case["grad.global_l2"])
    ours = {name: float(jnp.linalg.norm(grad.ravel())) for name, grad in grads.items()}
    trained = [name for name in ours if np.isfinite(theirs.get(name, np.nan))]
    norm = np.sqrt(sum(ours[name] ** 2 for name in trained))
    assert norm == pytest.approx(total, rel=GLOBAL_NORM_LIMIT)
    for name in trained:
        limit = GLOBAL_NORM_LIMIT * total + NORM_LIMIT * theirs[name]
        assert abs(ours[name] - theirs[name]) <= limit, (name, ours[name], theirs[name])
    whole = {name[len("grad.full.") :]: case[name] for name in case if ".full." in name}
    assert len(whole) == 5
    for name, want in from_official(whole).items():
        difference = np.linalg.norm(np.asarray(grads[name]) - want)
        assert difference <= NORM_LIMIT * np.linalg.norm(want), name
    return trained


def split(model):
    definition, state = nnx.split(model)
    return definition, weights(model)


@pytest.fixture(scope="module")
def picture_step():
    """Gradients and losses of a replayed image step, compiled once for clicks and boxes."""
    file = golden("train_image")
    image = jnp.asarray(frames(file["frame_of_image"][0]))
    mask = jnp.asarray(file["gt_masks"][0])
    definition, arrays = split(golden_model())

    def loss(arrays, prompts, clicks):
        model: SAM2 = nnx.merge(definition, unflatten(arrays))
        features = jax.tree.map(lambda x: x[0], encode_frames(model, image[:, None], None))
        pix_feat = model.attend_memory(features.image_embed)
        _, losses, _ = prompt_rounds(
            model, pix_feat, features, mask, prompts, clicks, the_recorded_click, OFFICIAL
        )
        parts = combine(losses, 2.0)
        return parts.total, parts

    step = jax.jit(jax.grad(loss, has_aux=True))
    return lambda prompts, clicks: step(arrays, prompts, clicks)


@pytest.mark.parametrize("kind", ["click", "box"])
def test_picture_step_equals_the_official_one(kind, picture_step):
    file = golden("train_image")
    case = {name[len(kind) + 1 :]: file[name] for name in file if name.startswith(kind + ".")}
    grads, parts = picture_step(*replay(case, "frame0", range(8)))
    for part, name in PARTS.items():
        assert_close("train_image", getattr(parts, part), case[f"loss.{name}"], name)
    assert_close("train_image", parts.total, case["loss.core_loss"], "core_loss")
    assert len(check_gradients(case, grads)) > 200


def test_clip_step_equals_the_official_one():
    file = golden("train_video")
    case = {name[len("video.") :]: file[name] for name in file if name.startswith("video.")}
    # One clip, two objects: the same frames for both.
    image = jnp.asarray(np.stack([frames(file["frame_of_image"][:, 0])] * 2))
    mask = jnp.swapaxes(jnp.asarray(file["gt_masks"]), 0, 1)
    prompting = *replay(case, "frame0", range(3)), the_recorded_click
    definition, arrays = split(golden_model())

    def loss(arrays):
        model: SAM2 = nnx.merge(definition, unflatten(arrays))
        features = encode_frames(model, image, None)
        bank = model.empty_bank(2, 128, 128, cond_slots=2, recent_slots=3)
        everyone, first = jnp.ones(2, bool), jax.tree.map(lambda x: x[:1], features)
        bank, logits, prompted = prompted_frames(
            model,
            first,
            mask[None, :, 0],
            bank,
            jnp.array([0]),
            prompting,
            everyone[None],
            OFFICIAL,
        )
        begun = bank, logits[0]
        tracked = track_frames(model, features, mask, begun, ~everyone, OFFICIAL, None, 3)
        parts = [combine(x.losses, 2.0) for x in (prompted, tracked)]
        parts = jax.tree.map(lambda a, b: a + b, *parts)
        return parts.total, parts

    grads, parts = jax.jit(jax.grad(loss, has_aux=True))(arrays)
    for part, name in PARTS.items():
        assert_close("train_video", getattr(parts, part), case[f"loss.{name}"], name)
    assert_close("train_video", parts.total, case["loss.core_loss"], "core_loss")
    trained = check_gradients(case, grads)
    assert any(name.startswith("memory_attention") for name in trained)
    assert any(name.startswith("memory_encoder") for name in trained)


def random_pets(shape, seed=0):
    """Pictures and masks of one blob each; the last one has no pet, the first is all pet."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    y, x = np.mgrid[: shape[-2], : shape[-1]]
    centre = rng.uniform(0.3, 0.7, (2, *shape[:-2], 1, 1)) * shape[-1]
    mask = (np.hypot(y - centre[0], x - centre[1]) < shape[-1] / 4).astype(np.uint8)
    mask[-1], mask[0] = 0, 1
    return jnp.asarray(image), jnp.asarray(mask)


USUAL = Objective(
    first=dict(click_prob=0.4, box_prob=0.3, mask_prob=0.1, none_prob=0.2, centre_prob=0.5),
    correction=dict(centre_prob=0.5, truth_prob=0.1, silent_prob=0.2),
    loss=dict(mask_kind="balanced"),
    prompting=Prompting(paint=dict(inside=3.0, outside=-8.0, click=10.0, radius=0.045)),
    rounds=2,
    clip_rounds=1,
    second_prompt_prob=0.5,
    clip_mask_prob=0.5,
)


def test_only_prompts_without_clicks_and_masks_are_refined():
    definition, arrays = split(shipped_model())
    image, mask = random_pets((6, 64, 64))
    none = empty_prompts(6, 64, 64)
    boxed, masked = jnp.array([0, 1, 0, 0, 0, 1], bool), jnp.array([0, 0, 0, 1, 0, 0], bool)
    prompts = set_box(none, jnp.tile(jnp.array([9.0, 12.0, 50.0, 60.0]), (6, 1)), boxed)
    clicked = jnp.array([-1, -1, 1, -1, -1, 1], jnp.int32)
    prompts = add_click(prompts, jnp.full((6, 2), 30.0), clicked)
    prompts = set_mask(prompts, mask_prompt(mask), masked)
    prompted = jnp.array([1, 1, 1, 1, 0, 1], bool)

    @jax.jit
    def outputs(image):
        model: SAM2 = nnx.merge(definition, unflatten(arrays))
        features = model.encode_image(normalise(image))
        pix_feat = model.attend_memory(features.image_embed)
        inputs = pix_feat, features.high_res_feats, prompts
        plain, refined = (
            decode_prompts(
                model,
                *inputs,
                dataclasses.replace(USUAL.prompting, refinements=n),
                prompted=prompted,
            )
            for n in (0, 2)
        )
        return plain, refined

    plain, refined = outputs(image)
    moved = jnp.abs(refined.mask_logits - plain.mask_logits).max((1, 2, 3))
    # No prompt and a box; not the click, the mask, the tracked one, nor the box with a click.
    np.testing.assert_array_equal(moved > 1e-3, [True, True, False, False, False, False])
    np.testing.assert_allclose(moved[2:], 0, atol=1e-4)
    np.testing.assert_array_equal(refined.all_logits, plain.all_logits)


def test_a_picture_step_is_finite_and_repeats_with_its_key():
    image, mask = random_pets((4, 64, 96))
    definition, arrays = split(shipped_model())

    @jax.jit
    def step(key):
        model = nnx.merge(definition, unflatten(arrays))
        return image_outcome(model, image, mask, key, USUAL)

    one, again, other = (step(jax.random.key(seed)) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert one.ious.shape == (3, 4) and one.counted.all()
    assert np.isfinite(mean_losses(one).total)
    assert not np.array_equal(one.losses.total, other.losses.total)
    # Without a pet there is no mask to learn, only its absence.
    assert (one.losses.mask[:, -1] == 0).all() and (one.losses.object[:, -1] > 0).all()


def test_gaps_are_spread_over_all_lengths_and_none_is_longer():
    keys = jax.random.split(jax.random.key(0), 4000)
    gaps = np.asarray(jax.vmap(lambda key: draw_gap(key, 500))(keys))
    assert gaps.min() == 0 and 450 < gaps.max() <= 500
    for low, high, share in ((0, 1, 0.112), (1, 10, 0.259), (10, 100, 0.357), (100, 501, 0.258)):
        assert ((gaps >= low) & (gaps < high)).mean() == pytest.approx(share, abs=0.03)
    assert (np.asarray(jax.vmap(lambda key: draw_gap(key, 0))(keys)) == 0).all()


def test_after_a_gap_only_the_age_of_the_first_pointer_is_another():
    image, mask = random_pets((4, 4, 64, 64))
    definition, arrays = split(shipped_model())
    twice = jnp.array([True, False, True, False])

    @jax.jit
    def track(image, mask, gap, first_number):
        model: SAM2 = nnx.merge(definition, unflatten(arrays))
        features = encode_frames(model, image, None)
        first = jax.tree.map(lambda x: x[0], features)
        key = jax.random.key(0)
        memory = model.encode_memory(first.image_embed, jnp.ones((4, 1, 16, 16)), jnp.ones((4, 1)))
        bank = model.empty_bank(4, 64, 64, cond_slots=2, recent_slots=4)
        pointer = jax.random.normal(key, bank.conditioning.obj_ptr[:, 0].shape)
        bank = memory_bank.write(bank, memory, pointer, first_number, jnp.ones(4, bool))
        begun = bank, jnp.zeros((4, 1, 16, 16))
        return track_frames(model, features, mask, begun, twice, USUAL, None, 16, gap)

    near, far, moved_along = (track(image, mask, *n) for n in ((0, 0), (40, 0), (40, 40)))
    np.testing.assert_array_equal(near.counted, far.counted)
    np.testing.assert_array_equal(far.counted[-1], ~twice)
    assert far.counted[:-1].all()
    assert np.abs(near.losses.mask - far.losses.mask).max() > 1e-3
    np.testing.assert_allclose(near.losses.mask, moved_along.losses.mask, rtol=1e-4, atol=1e-5)


def test_a_clip_step_counts_each_frame_once_and_the_second_prompt_only_where_there_is_one():
    image, mask = random_pets((6, 4, 64, 64))
    definition, arrays = split(shipped_model())

    @jax.jit
    def step(key):
        model = nnx.merge(definition, unflatten(arrays))
        return clip_outcome(model, image, mask, key, USUAL)

    outcome = step(jax.random.key(0))
    # Two prompts on the first frame, two on the last, then three tracked frames.
    assert outcome.ious.shape == (7, 6)
    counted = np.asarray(outcome.counted)
    assert counted[:2].all() and counted[4:6].all()
    np.testing.assert_array_equal(counted[2], counted[3])
    np.testing.assert_array_equal(counted[2], ~counted[6])
    assert counted[2].any() and not counted[2].all()
    assert np.isfinite(mean_losses(outcome).total)


def test_a_tracked_frame_sees_the_mask_before_it_only_where_masks_are_carried():
    image, mask = random_pets((2, 3, 64, 64))
    definition, arrays = split(shipped_model())

    @jax.jit
    def track(logits, carried):
        model = nnx.merge(definition, unflatten(arrays))
        features = encode_frames(model, image, None)
        bank = model.empty_bank(2, 64, 64, cond_slots=1, recent_slots=3)
        how = [
            dataclasses.replace(USUAL, prompting=dataclasses.replace(USUAL.prompting, carried=each))
            for each in (False, True)
        ]
        never = jnp.zeros(2, bool)
        outcomes = [
            track_frames(model, features, mask, (bank, logits), never, each, None, 16).losses.mask
            for each in how
        ]
        return jnp.where(carried, outcomes[1], outcomes[0])

    here, there = (
        jnp.full((2, 1, 16, 16), -8.0).at[:, :, a:b, a:b].set(8.0) for a, b in ((0, 6), (8, 14))
    )
    plain = [track(logits, False) for logits in (here, there)]
    np.testing.assert_array_equal(*plain)
    carried = [track(logits, True) for logits in (here, there)]
    # The second frame is shown it, and the third what the second made of it.
    assert (np.abs(carried[0] - carried[1]).max(axis=1) > 1e-3).all()


def test_a_given_mask_is_what_is_remembered_and_an_answer_where_none_is_given():
    image, mask = random_pets((3, 64, 64))
    model = shipped_model()
    definition, arrays = split(model)
    given = jnp.array([True, False, True])
    prompts = empty_prompts(3, 64, 64)._replace(
        mask_input=mask_prompt(mask), has_mask=jnp.ones(3, bool)
    )
    no_rounds = jnp.zeros(0)

    @jax.jit
    def remember(arrays, given):
        model = nnx.merge(definition, unflatten(arrays))
        features = encode_frames(model, image[:, None], None)
        bank = model.empty_bank(3, 64, 64, cond_slots=1)
        prompting = prompts, no_rounds, the_recorded_click
        who, numbers = jnp.ones((1, 3), bool), jnp.array([0])
        bank, *_ = prompted_frames(
            model, features, mask[None], bank, numbers, prompting, who, USUAL, given[None]
        )
        logits = rearrange(mask_prompt(mask), "b h w 1 -> b 1 h w")
        present = jnp.array([[10.0], [10.0], [-10.0]])
        return bank.conditioning.memory[:, 0], model.encode_memory(
            features.image_embed[0], logits, present
        )

    memory, of_truth = remember(arrays, given)
    same = [np.allclose(a, b, atol=1e-5) for a, b in zip(memory, of_truth, strict=True)]
    assert same == [True, False, True]


def test_frames_prompted_together_are_remembered_as_each_alone():
    """Two frames of three objects, of which the second frame is remembered for one."""
    image, mask = random_pets((3, 2, 64, 64))
    definition, arrays = split(shipped_model())
    mask = jnp.swapaxes(mask, 0, 1)
    x, y = np.random.default_rng(1).uniform(5, 60, (2, 1, 6))
    clicks = jnp.asarray(np.stack([x, y], -1), jnp.float32), jnp.ones((1, 6), jnp.int32)
    who = jnp.array([[True, True, True], [False, True, False]])
    given = jnp.array([[False, True, False], [True, False, False]])

    @jax.jit
    def both(arrays):
        model = nnx.merge(definition, unflatten(arrays))
        features = encode_frames(model, image, None)

        def prompt(bank, frames, numbers):
            flat = rearrange(mask[np.array(frames)], "n b h w -> (n b) h w")
            box = jnp.tile(jnp.array([10.0, 12.0, 40.0, 50.0]), (len(flat), 1))
            prompts = set_box(empty_prompts(*flat.shape), box, jnp.ones(len(flat), bool))
            chosen = [3 * frame + i for frame in frames for i in range(3)]
            rounds = jax.tree.map(lambda x: x[:, np.array(chosen)], clicks)
            return prompted_frames(
                model,
                jax.tree.map(lambda x: x[np.array(frames)], features),
                mask[np.array(frames)],
                bank,
                jnp.array(numbers),
                (prompts, rounds, the_recorded_click),
                who[np.array(frames)],
                USUAL,
                given[np.array(frames)],
            )

        empty = model.empty_bank(3, 64, 64, cond_slots=2)
        bank, first, outcome = prompt(empty, [0], [0])
        bank, second, later = prompt(bank, [1], [7])
        alone = jax.tree.map(lambda *x: jnp.concatenate(x), (first, outcome), (second, later))
        return prompt(empty, [0, 1], [0, 7]), (bank, *alone)

    together, alone = both(arrays)
    assert together[2].ious.shape == (4, 3)
    for got, want in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    held = together[0].conditioning
    np.testing.assert_array_equal(held.valid.sum(axis=1), [1, 2, 1])
