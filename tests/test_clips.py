"""Clips from stills: smooth, aligned, truthful about what is visible."""

import dataclasses

import numpy as np
import pytest
from test_augment import OTHERS, Marked, marked

from petsam_jax.data import warp
from petsam_jax.data.augment import FULL as VARIED
from petsam_jax.data.augment import Augmentation, resize
from petsam_jax.data.clips import make_clip
from petsam_jax.data.motion import FULL, Motion, smooth_curve
from petsam_jax.data.sources import Example
from petsam_jax.mask_values import BACKGROUND, IGNORE, PET

SIZE = 96
STILL = Augmentation()


def clip(example, seed, motion, settings=STILL, others=OTHERS):
    return make_clip(example, np.random.default_rng(seed), SIZE, settings, motion, others)


def centre(region):
    return np.argwhere(region).mean(axis=0)


def test_without_motion_every_frame_is_the_resized_still():
    example = marked(0)
    image, mask = clip(example, 0, Motion(frames=3))
    plain_image, plain_mask = resize(example, SIZE)
    for index in range(3):
        np.testing.assert_array_equal(image[index], plain_image)
        np.testing.assert_array_equal(mask[index], plain_mask)


@pytest.mark.parametrize("cutout", [0.0, 1.0])
def test_each_frame_is_aligned_with_its_mask(cutout):
    motion = Motion(shift=0.2, rotation=20.0, zoom=0.3, camera=0.5, cutout_prob=cutout)
    for seed in range(10):
        image, mask = clip(marked(seed), seed, motion)
        for frame, truth in zip(image, mask, strict=True):
            bright, pet = (frame[..., 1] > 120) & (truth != IGNORE), truth == PET
            assert pet.sum() > 50
            assert (bright & pet).sum() / (bright | pet).sum() > 0.9
            assert np.abs(centre(bright) - centre(pet)).max() < 0.75


def test_motion_is_smooth_and_bounded():
    frames, shift = 8, 0.2
    motion = Motion(frames=frames, shift=shift, camera=0.0, cutout_prob=1.0)
    moved = 0.0
    for seed in range(20):
        _, mask = clip(marked(seed), seed, motion)
        path = np.array([centre(truth == PET) for truth in mask]) / SIZE
        # A parabola's second difference is constant: at most 2 limit / (frames - 1)^2; and pixels.
        second = np.abs(np.diff(path, 2, axis=0)).max()
        assert second < 2 * shift / (frames - 1) ** 2 + 2 / SIZE
        assert np.abs(path - path[0]).max() < shift + 1 / SIZE
        moved = max(moved, np.abs(path - path[0]).max())
    assert moved > 0.1


def test_curves_start_at_zero_and_keep_their_limit():
    rng = np.random.default_rng(0)
    for _ in range(200):
        path = smooth_curve(rng, 9, 0.3)
        assert path[0] == 0 and np.abs(path).max() <= 0.3
        np.testing.assert_allclose(np.diff(path, 3), 0, atol=1e-12)
    assert smooth_curve(rng, 1, 0.3).tolist() == [0]


def test_the_pet_moves_against_its_background():
    """Own background stays where it is under a still camera, while the pet goes elsewhere."""
    motion = Motion(shift=0.3, cutout_prob=1.0)
    for seed in range(5):
        image, mask = clip(marked(seed), seed, motion)
        never = (mask != PET).all(axis=0)
        # Away from every place of the pet and its fading rim the image does not change.
        grown = ~never
        for _ in range(3):
            padded = np.pad(grown, 1)
            grown = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        still = image[:, ~grown]
        assert np.abs(still.astype(int) - still[:1]).max() == 0
        # Where the pet was and is no more, there is background to see.
        left = (mask[0] == PET) & (mask[-1] == BACKGROUND)
        assert left.sum() < 20 or np.median(image[-1][left]) < 80


def test_the_pet_leaves_the_frame_after_the_first():
    motion = Motion(exit_prob=1.0, shift=0.1)
    gone = back = 0
    for seed in range(30):
        _, mask = clip(marked(seed), seed, motion)
        visible = (mask == PET).any(axis=(1, 2))
        assert visible[0] and not visible.all()
        first = int(np.argmin(visible))
        gone += not visible[first:].any()
        back += bool(visible[first:].any())
    assert gone > 3 and back > 3


def test_an_occluder_turns_what_it_hides_into_background():
    plain, passing = Motion(frames=4), Motion(frames=4, occlude_prob=1.0)
    hidden_later = 0
    for seed in range(20):
        example = marked(seed)
        _, before = clip(example, seed, plain)
        _, after = clip(example, seed, passing)
        assert not ((after == PET) & (before != PET)).any()
        hidden = (before == PET) & (after != PET)
        assert set(np.unique(after[hidden])) <= {BACKGROUND}
        share = hidden.sum(axis=(1, 2)) / (before == PET).sum(axis=(1, 2))
        assert share[0] <= 0.3
        hidden_later += bool(share.max() > 0.2)
    assert hidden_later > 10


def test_a_pet_cut_off_by_its_image_never_shows_the_cut():
    example = marked(0)
    mask = np.zeros_like(example.mask)
    mask[80:, 60:120] = PET
    image = np.where(mask[..., None] == PET, 220, 30).astype(np.uint8).repeat(3, axis=2)
    cut = Example(image, mask, "cut", "")
    for seed in range(10):
        _, frames = clip(cut, seed, Motion(shift=0.3, rotation=30.0, zoom=0.3, cutout_prob=1.0))
        assert all((frame[-1] == PET).any() for frame in frames)


def test_light_changes_smoothly_and_the_masks_do_not():
    _, plain = clip(marked(1), 3, Motion(frames=6))
    image, mask = clip(marked(1), 3, Motion(frames=6, light=0.3))
    np.testing.assert_array_equal(mask, plain)
    means = image.mean(axis=(1, 2, 3))
    assert np.ptp(means) > 1
    assert np.abs(np.diff(np.log(means), 2)).max() < 0.05


@pytest.mark.parametrize("shape", [(1, 1), (1, 60), (60, 1), (40, 300)])
@pytest.mark.parametrize("kind", ["empty", "full", "pixel", "ignored"])
def test_odd_sizes_and_masks_work(shape, kind):
    rng = np.random.default_rng(0)
    mask = np.full(shape, {"full": PET, "ignored": IGNORE}.get(kind, BACKGROUND), np.uint8)
    if kind == "pixel":
        mask[shape[0] // 2, shape[1] // 2] = PET
    example = Example(rng.integers(0, 256, (*shape, 3), np.uint8), mask, "odd", "odd")
    always = dataclasses.replace(
        FULL, cutout_prob=1.0, other_ground_prob=0.5, occlude_prob=1.0, exit_prob=0.5
    )
    for frames in (1, 3):
        motion = dataclasses.replace(always, frames=frames)
        for _ in range(4):
            image, out = make_clip(example, rng, 32, VARIED, motion, Marked([example, OTHERS[0]]))
            assert image.shape == (frames, 32, 32, 3) and image.dtype == np.uint8
            assert out.shape == (frames, 32, 32) and set(np.unique(out)) <= {0, 1, 2}
            assert kind not in ("empty", "ignored") or not (out == PET).any()


def test_the_camera_stays_inside_the_image():
    motion = Motion(frames=6, shift=0.3, rotation=20.0, zoom=0.3)
    for seed in range(10):
        assert not (clip(marked(seed), seed, motion)[1] == IGNORE).any()


def test_errors_name_wrong_settings():
    with pytest.raises(ValueError, match="frames=0: set it to at least 1"):
        Motion(frames=0)
    with pytest.raises(ValueError, match="exit_prob=2.0"):
        Motion(exit_prob=2.0)


def test_a_pet_bends_with_its_mask_from_the_second_frame_on():
    motion = Motion(frames=4, bend=0.1, cutout_prob=1.0)
    bent = 0
    for seed in range(8):
        image, mask = clip(marked(seed), seed, motion)
        plain = resize(marked(seed), SIZE)[1] == PET
        assert ((mask[0] == PET) == plain).mean() > 0.995
        for frame, truth in zip(image, mask, strict=True):
            bright, pet = frame[..., 1] > 120, truth == PET
            assert (bright & pet).sum() / (bright | pet).sum() > 0.9
        last = mask[-1] == PET
        bent += (last != plain).sum() > 0.05 * plain.sum()
    assert bent >= 6


def test_a_pet_that_is_cut_off_stays_stiff():
    example = marked(0)
    mask = example.mask.copy()
    mask[40:, 60:140] = PET
    image = np.where(mask[..., None] == PET, 210, example.image).astype(np.uint8)
    cut = dataclasses.replace(example, image=image, mask=mask)
    _, masks = clip(cut, 0, Motion(frames=4, bend=0.1, cutout_prob=1.0))
    for one in masks[1:]:
        np.testing.assert_array_equal(one, masks[0])


def test_a_pet_that_turns_changes_its_width_and_not_its_height():
    ratios = []
    for seed in range(12):
        image, mask = clip(marked(seed), seed, Motion(frames=4, turn=1.0, cutout_prob=1.0))
        sides = [np.ptp(np.nonzero(m == PET)[axis]) for axis in (1, 0) for m in mask[[0, -1]]]
        first_wide, last_wide, first_high, last_high = sides
        assert abs(last_high - first_high) <= 2
        ratios.append(last_wide / first_wide)
        bright, pet = image[-1][..., 1] > 120, mask[-1] == PET
        assert (bright & pet).sum() / (bright | pet).sum() > 0.9
    # A path ends at most at three quarters of the way.
    assert max(ratios) < 2**0.75 + 0.1 and min(ratios) > 2**-0.75 - 0.1
    assert max(ratios) > 1.2 and min(ratios) < 0.85


def test_an_unmoved_grid_bends_nothing():
    layer = warp.to_layer(marked(0))
    image, mask = warp.bend(layer, np.zeros((5, 5, 2)))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(layer.image))
    np.testing.assert_array_equal(np.asarray(mask), np.asarray(layer.mask))
    aside = warp.bend(layer, np.broadcast_to((7.0, -3.0), (5, 5, 2)))
    np.testing.assert_array_equal(np.asarray(aside.mask)[3:, :-7], np.asarray(layer.mask)[:-3, 7:])
