"""Augmented images: aligned with their masks, the pet kept, odd sizes survived."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image, ImageFilter

from petsam_jax.data import colour, paste, warp
from petsam_jax.data.augment import FULL, Augmentation, augment, random_view, resize
from petsam_jax.data.inpaint import fill_in
from petsam_jax.data.sources import Example
from petsam_jax.mask_values import BACKGROUND, IGNORE, PET
from petsam_jax.normalise import IMAGE_MEAN, IMAGE_STD, MEAN_COLOUR, normalise

SIZE = 96


def marked(seed: int, height: int = 150, width: int = 200, sigma: float = 40.0) -> Example:
    """A dark noisy image in which exactly the pet, an off-centre ellipse, is bright."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    cy, cx = rng.uniform(0.35, 0.65, 2) * (height, width)
    ry, rx = rng.uniform(0.15, 0.3, 2) * (height, width)
    inside = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
    image = rng.normal(0, sigma / 4, (height, width, 3)) + np.where(inside, 210, 30)[..., None]
    mask = np.where(inside, PET, BACKGROUND).astype(np.uint8)
    return Example(np.clip(image, 0, 255).astype(np.uint8), mask, f"marked{seed}", "ellipse")


class Marked(list):
    """A source of marked images."""

    names = groups = property(lambda self: [example.name for example in self])


OTHERS = Marked(marked(seed) for seed in range(100, 105))
ONLY = {
    "crop": {"crop": 0.5, "min_pet": 0.5},
    "zoom_out": {"zoom_out": 1.0},
    "aspect": {"aspect": 0.5, "crop": 0.3},
    "flip": {"flip_prob": 1.0},
    "rotation": {"rotation": 40.0},
    "blur": {"blur_prob": 1.0, "blur_sigma": 1.0},
    "geometry": {"crop": 0.5, "zoom_out": 0.3, "aspect": 0.3, "flip_prob": 0.5, "rotation": 30.0},
}


@pytest.mark.parametrize("kind", ONLY)
def test_image_and_mask_stay_aligned(kind):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        image, mask = augment(marked(seed), rng, SIZE, Augmentation(**ONLY[kind]))
        known = mask != IGNORE
        bright = (image[..., 1] > 120) & known
        pet = mask == PET
        assert pet.sum() > 50
        for axis in (0, 1):
            centres = [np.argwhere(region)[:, axis].mean() for region in (bright, pet)]
            assert abs(centres[0] - centres[1]) < 0.5
        union = (bright | pet).sum()
        assert (bright & pet).sum() / union > 0.9


def test_zero_settings_equal_the_plain_resize_for_every_key():
    example = marked(0)
    plain = resize(example, SIZE)
    for seed in range(3):
        for got, expected in zip(
            augment(example, np.random.default_rng(seed), SIZE, Augmentation(), OTHERS),
            plain,
            strict=True,
        ):
            np.testing.assert_array_equal(got, expected)


def test_resize_to_the_same_size_is_the_identity():
    example = marked(1, SIZE, SIZE)
    image, mask = resize(example, SIZE)
    np.testing.assert_array_equal(image, example.image)
    np.testing.assert_array_equal(mask, example.mask)


def test_same_key_same_result_and_the_source_is_untouched():
    example = marked(2)
    before = example.image.copy(), example.mask.copy()
    twice = [augment(example, np.random.default_rng(5), SIZE, FULL, OTHERS) for _ in range(2)]
    for first, second in zip(*twice, strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(example.image, before[0])
    np.testing.assert_array_equal(example.mask, before[1])


def test_a_crop_keeps_the_requested_share_of_the_pet():
    settings = Augmentation(crop=0.8, aspect=0.3, rotation=30.0, min_pet=0.6, flip_prob=0.5)
    for seed in range(40):
        example = marked(seed)
        layer, points = warp.to_layer(example), warp.pet_points(example.mask)
        rng = np.random.default_rng(seed)
        mask = augment(example, rng, SIZE, settings)[1]
        assert (mask == PET).any()
        # The view is the first thing drawn, so the same key gives it again.
        view = random_view(np.random.default_rng(seed), layer, points, SIZE, settings)
        area = abs(np.linalg.det(view[:, :2])) * SIZE**2 / example.mask.size
        needed = 0.6 * min(1.0, area / (example.mask == PET).mean())
        every = np.argwhere(example.mask == PET)[:, ::-1] + 0.5
        assert warp.in_view(view, every, SIZE).mean() > needed - 0.03


def test_outside_the_image_is_ignored_and_has_the_mean_colour():
    image, mask = augment(marked(3), np.random.default_rng(0), SIZE, Augmentation(zoom_out=3.0))
    outside = mask == IGNORE
    assert outside.mean() > 0.1
    # A pixel in from the border of the image there is nothing left of the image's own colour.
    inner = ~np.asarray(
        Image.fromarray(~outside).convert("L").filter(ImageFilter.MaxFilter(3))
    ).astype(bool)
    np.testing.assert_array_equal(image[inner], np.broadcast_to(MEAN_COLOUR, image[inner].shape))


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (70, 1), (2, 3), (400, 30)])
@pytest.mark.parametrize("kind", ["empty", "full", "pixel", "ignored"])
def test_odd_sizes_and_masks_work(shape, kind):
    rng = np.random.default_rng(0)
    mask = np.full(shape, {"full": PET, "ignored": IGNORE}.get(kind, BACKGROUND), np.uint8)
    if kind == "pixel":
        mask[shape[0] // 2, shape[1] // 2] = PET
    example = Example(rng.integers(0, 256, (*shape, 3), np.uint8), mask, "odd", "odd")
    always = dataclasses.replace(FULL, paste_prob=1.0, others_prob=1.0)
    small = dataclasses.replace(FULL, scene_prob=1.0)
    for settings in (Augmentation(), FULL, always, small):
        for _ in range(3):
            image, out = augment(example, rng, 32, settings, Marked([example, OTHERS[0]]))
            assert image.shape == (32, 32, 3) and image.dtype == np.uint8
            assert out.shape == (32, 32) and set(np.unique(out)) <= {0, 1, 2}
            assert kind != "empty" or not (out == PET).any()


def test_a_pasted_pet_is_the_target_and_the_other_one_is_background():
    pasting = Augmentation(paste_prob=1.0)
    dark = marked(0)
    # A pet of another colour than the background's.
    image = np.where(dark.mask[..., None] == PET, (0, 255, 0), dark.image).astype(np.uint8)
    green = dataclasses.replace(dark, image=image)
    other = Marked([marked(50)])
    image, mask = augment(green, np.random.default_rng(0), SIZE, pasting, other)
    greenness = image[..., 1].astype(int) - image[..., 0]
    pet = mask == PET
    as_image = Image.fromarray(pet).convert("L")
    inside = np.asarray(as_image.filter(ImageFilter.MinFilter(5))) > 0
    near = np.asarray(as_image.filter(ImageFilter.MaxFilter(5))) > 0
    assert inside.sum() > 200 and (greenness[inside] == 255).all()
    assert (np.abs(greenness[~near]) < 60).all()
    other_pet = (resize(other[0], SIZE)[1] == PET) & ~pet
    assert other_pet.any() and (mask[other_pet] == BACKGROUND).all()
    np.testing.assert_array_equal(pet, resize(green, SIZE)[1] == PET)


def test_other_pets_hide_no_more_than_allowed_and_are_background():
    settings = Augmentation(others_prob=1.0, max_others=1, max_hidden=0.2)
    changed = 0
    for seed in range(30):
        example = marked(seed)
        image, mask = augment(example, np.random.default_rng(seed), SIZE, settings, OTHERS)
        plain_image, plain_mask = resize(example, SIZE)
        kept, pet = mask == PET, plain_mask == PET
        assert not (kept & ~pet).any()
        assert kept.sum() >= 0.8 * pet.sum()
        appeared = (image[..., 1] > 120) & (plain_image[..., 1] < 80)
        changed += bool(appeared.any())
        assert not (mask[appeared] == PET).any()
    assert changed > 10


def test_a_cut_off_pet_is_placed_with_its_cut_hidden():
    other = np.zeros((100, 100), np.uint8)
    other[60:, 30:60] = PET
    layer = warp.to_layer(Example(np.full((100, 100, 3), 250, np.uint8), other, "", ""))
    target = np.zeros((SIZE, SIZE), np.uint8)
    target[:20, :20] = PET
    blank = Image.new("RGB", (SIZE, SIZE))
    added = 0
    for seed in range(20):
        image, _ = paste.add_beside(np.random.default_rng(seed), blank, target, layer, 0.5)
        pasted = np.asarray(image)[..., 0] > 200
        added += bool(pasted.any())
        assert not pasted.any() or pasted[-1].any()
    assert added > 10


def test_colour_does_not_change_geometry_and_grey_is_grey():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8))
    assert colour.recolour(image, colour.random_colour(rng, 100.0, *[0.0] * 5)) is image
    grey = np.asarray(
        colour.recolour(image, colour.random_colour(rng, 100.0, 0.0, 0.0, 0.0, 0.1, 1.0))
    )
    luma = np.asarray(image) @ colour.LUMA
    assert np.abs(grey - luma[..., None]).max() < 1.01
    # A turn of hue keeps the luma, up to clipping.
    mild = Image.fromarray(rng.integers(90, 150, (20, 20, 3), np.uint8))
    turned = np.asarray(
        colour.recolour(mild, colour.random_colour(rng, 100.0, 0.0, 0.0, 0.0, 0.5, 0.0))
    )
    assert np.abs(turned - np.asarray(mild).astype(int)).max() > 5
    assert np.abs(turned @ colour.LUMA - np.asarray(mild) @ colour.LUMA).max() < 1.5


def test_fill_in_removes_the_pet_and_keeps_the_rest():
    example = marked(4, sigma=0.0)
    filled = np.asarray(fill_in(warp.to_layer(example)))
    assert filled[example.mask == PET].mean() < 45
    far = np.zeros(example.mask.shape, bool)
    far[:10] = far[-10:] = True
    np.testing.assert_array_equal(filled[far], example.image[far])
    everything = dataclasses.replace(example, mask=np.full_like(example.mask, PET))
    filled = np.asarray(fill_in(warp.to_layer(everything)))
    assert np.abs(filled - np.array(MEAN_COLOUR)).max() <= 1


def test_matrices_compose_and_invert():
    rng = np.random.default_rng(0)
    first = warp.view_matrix((50, 80), 32, (0.4, 0.6), (0.5, 0.7), 0.3, True)
    second = warp.motion(np.array([3.0, 4.0]), (1.0, 2.0), 0.5, 1.3)
    places = rng.uniform(0, 32, (10, 2))
    both = warp.apply(warp.compose(first, second), places)
    np.testing.assert_allclose(both, warp.apply(first, warp.apply(second, places)), rtol=1e-12)
    np.testing.assert_allclose(warp.apply(warp.inverse(first), warp.apply(first, places)), places)


def test_errors_name_wrong_settings_and_sizes():
    with pytest.raises(ValueError, match="flip_prob=1.5: set it to at least 0 and at most 1"):
        Augmentation(flip_prob=1.5)
    with pytest.raises(ValueError, match="max_others=0: set it to at least 1"):
        Augmentation(max_others=0)
    with pytest.raises(ValueError, match="hue=-0.1"):
        Augmentation(hue=-0.1)
    # Only without the checks of the test run can such an example be made at all.
    wrong = object.__new__(Example)
    vars(wrong).update(image=np.zeros((4, 5, 3), np.uint8), mask=np.zeros((5, 4), np.uint8))
    vars(wrong).update(name="my cat", group="")
    with pytest.raises(ValueError, match="my cat: image of .4, 5. and mask of .5, 4."):
        augment(wrong, np.random.default_rng(0), SIZE, FULL)


def test_normalise_is_the_published_formula_and_runs_under_jit():
    image = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), np.uint8)
    expected = (image / 255 - np.array(IMAGE_MEAN)) / np.array(IMAGE_STD)
    np.testing.assert_allclose(jax.jit(normalise)(image), expected, atol=2e-6)
    np.testing.assert_allclose(normalise(image[0]), expected[0], atol=2e-6)
    fill = np.broadcast_to(np.array(MEAN_COLOUR, np.uint8), (1, 1, 3))
    assert np.abs(normalise(fill)).max() < 0.01
