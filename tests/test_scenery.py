"""Small pets in scenery: nothing of another pet in it, the pet whole, its mask aligned."""

import numpy as np
import pytest
from test_augment import OTHERS, SIZE, Marked, marked

from petsam_jax.data import scenery, warp
from petsam_jax.data.augment import Augmentation, augment
from petsam_jax.data.clips import make_clip
from petsam_jax.data.motion import Motion
from petsam_jax.data.sources import Example
from petsam_jax.mask_values import BACKGROUND, PET

SMALL = Augmentation(scene_prob=1.0)


def bright(image):
    """Where marked images have a pet."""
    return image[..., 1] > 120


def longer_side(region):
    places = np.argwhere(region)
    return (places.max(axis=0) - places.min(axis=0) + 1).max() / len(region)


def test_scenery_has_no_pet_and_the_texture_of_an_image():
    for seed in range(20):
        ground = scenery.scenery(np.random.default_rng(seed), OTHERS, SIZE)
        image = np.asarray(ground.image)
        assert image.shape == (SIZE, SIZE, 3) and not np.asarray(ground.mask).any()
        # The pets of OTHERS have 210, what is around them 30 and noise of 10.
        assert image.max() < 120
        assert image.std() > 3


def test_without_a_free_piece_the_pet_is_inpainted():
    full = marked(0)
    mask = np.full_like(full.mask, PET)
    mask[:3] = BACKGROUND
    others = Marked([Example(full.image, mask, "full", "ellipse")])
    ground = scenery.scenery(np.random.default_rng(0), others, SIZE)
    assert ground.image.size == (SIZE, SIZE) and not np.asarray(ground.mask).any()
    # Without the pet, whose 210 would be a tenth of the image.
    assert (np.asarray(ground.image) > 150).mean() < 0.01


def test_an_image_of_several_pets_is_not_used_as_scenery():
    several = [Example(np.full_like(e.image, 255), e.mask, f"{e.name}#1", "x") for e in OTHERS]
    others = Marked([*several, OTHERS[0]])
    seen = []
    for seed in range(20):
        image = scenery.scenery(np.random.default_rng(seed), others, SIZE).image
        seen.append(np.asarray(image).max() == 255)
    # White only where no other image was drawn: (5/6)^3 of the time.
    drawn = [np.random.default_rng(seed).integers(6, size=3) for seed in range(20)]
    assert seen == [bool((each < 5).all()) for each in drawn]
    assert 0 < sum(seen) < 20


def test_a_pet_in_a_scene_is_small_complete_and_aligned():
    sides = []
    for seed in range(30):
        image, mask = augment(marked(seed), np.random.default_rng(seed), SIZE, SMALL, OTHERS)
        pet = mask == PET
        assert pet.sum() > 50
        assert (bright(image) & pet).sum() / (bright(image) | pet).sum() > 0.8
        sides.append(longer_side(pet))
    low, high = scenery.SMALL_SIDE
    # A pet may be cut off by the frame, and its mask is counted in whole pixels.
    assert max(sides) < high + 0.03 and min(sides) > low / 2
    assert np.ptp(sides) > 0.2


def test_a_pet_to_be_enlarged_or_cut_off_on_both_sides_is_not_made_small():
    rng = np.random.default_rng(0)
    assert scenery.small_view(rng, warp.to_layer(marked(0)), SIZE) is not None
    tiny = np.zeros((40, 40), np.uint8)
    tiny[18:22, 18:22] = PET
    across = np.zeros((40, 40), np.uint8)
    across[10:20] = PET
    for mask in (tiny, across, np.zeros((40, 40), np.uint8)):
        layer = warp.to_layer(Example(np.zeros((40, 40, 3), np.uint8), mask, "x", "x"))
        assert scenery.small_view(rng, layer, SIZE) is None


def test_a_small_pet_is_wider_or_narrower_than_in_its_image():
    ratios = []
    for seed in range(60):
        layer = warp.to_layer(marked(0))
        view = scenery.small_view(np.random.default_rng(seed), layer, SIZE)
        across, down = np.abs(view[0, 0]) / layer.image.width, view[1, 1] / layer.image.height
        ratios.append(down / across)
    assert 1 / scenery.STRETCH <= min(ratios) < 0.7 and 1.4 < max(ratios) <= scenery.STRETCH


@pytest.mark.parametrize("seed", range(6))
def test_a_small_pet_moves_over_its_scenery_in_a_clip(seed):
    motion = Motion(frames=5, shift=0.2, camera=0.3)
    rng = np.random.default_rng(seed)
    image, mask = make_clip(marked(seed), rng, SIZE, SMALL, motion, OTHERS)
    for frame, truth in zip(image, mask, strict=True):
        pet = truth == PET
        assert (bright(frame) & pet).sum() / (bright(frame) | pet).sum() > 0.75
    first, last = ((m == PET).nonzero() for m in (mask[0], mask[-1]))
    assert (
        abs(np.mean(first[0]) - np.mean(last[0])) + abs(np.mean(first[1]) - np.mean(last[1])) > 0.5
    )
