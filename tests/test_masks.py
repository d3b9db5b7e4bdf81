"""masks: trimaps, the kinds of mask that are read, and those refused rather than guessed at."""

import numpy as np
import pytest
from PIL import Image

from petsam_jax.files.images import UnfitImage
from petsam_jax.files.masks import TRIMAP, decode_mask, decode_trimap, no_overlap
from tests.test_images import STORED, encoded, noise


def test_trimap_values():
    values = np.random.default_rng(0).integers(1, 4, (9, 11)).astype(np.uint8)
    got = decode_trimap(encoded(Image.fromarray(values)))
    np.testing.assert_array_equal(got == 1, values == 1)
    np.testing.assert_array_equal(got == 0, values == 2)
    np.testing.assert_array_equal(got == 2, values == 3)
    assert TRIMAP.size == 256


@pytest.mark.parametrize("other", [0, 4, 255])
def test_a_trimap_with_other_values_is_refused(other):
    values = np.full((9, 11), 2, np.uint8)
    values[3, 4] = other
    with pytest.raises(UnfitImage, match=f"not a trimap: values .*{other}"):
        decode_trimap(encoded(Image.fromarray(values)))
    with pytest.raises(UnfitImage, match="8-bit grey, this is RGB"):
        decode_trimap(encoded(Image.fromarray(noise())))


def disc(height=40, width=50):
    y, x = np.ogrid[:height, :width]
    return np.hypot(y - 18, x - 22) < 12


def soft_disc():
    y, x = np.ogrid[:200, :250]
    # Eight pixels from black to white.
    return np.clip((80 - np.hypot(y - 90, x - 110)) * 30 + 128, 0, 255).astype(np.uint8)


def rgba_cut_out():
    pixels = noise((40, 50, 4))
    pixels[..., 3] = disc() * 255
    return pixels


def palette(indices, colours):
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette([channel for colour in colours for channel in colour])
    return image


RED_GREEN = [(0, 0, 0), (128, 0, 0), (0, 128, 0)]
BINARY = {
    "0 and 255": (Image.fromarray(disc() * np.uint8(255)), "PNG"),
    "0 and 1": (Image.fromarray(disc().astype(np.uint8)), "PNG"),
    "one bit": (Image.fromarray(disc()), "PNG"),
    "0 and 65535": (Image.fromarray(disc() * np.uint16(65535)), "PNG"),
    "16 bit, 0 and 255": (Image.fromarray(disc() * np.uint16(255)), "PNG"),
    "32 bit, 0 and 255": (Image.fromarray(disc() * np.int32(255)), "TIFF"),
    "16 bit, 0 and 1": (Image.fromarray(disc() * np.uint16(1)), "PNG"),
    "grey in RGB": (Image.fromarray(np.repeat(disc()[..., None] * np.uint8(255), 3, 2)), "PNG"),
    "opaque RGBA": (Image.fromarray(disc() * np.uint8(255)).convert("RGBA"), "PNG"),
    "cut-out": (Image.fromarray(rgba_cut_out()), "PNG"),
    "grey palette, white first": (palette(~disc(), [(255,) * 3, (0,) * 3]), "PNG"),
    "colour palette": (palette(disc(), RED_GREEN), "PNG"),
    "GIF": (Image.fromarray(disc() * np.uint8(255)), "GIF"),
    "BMP": (Image.fromarray(disc() * np.uint8(255)), "BMP"),
}


@pytest.mark.parametrize("kind", BINARY)
def test_every_kind_of_binary_mask_reads_the_same(kind):
    image, format = BINARY[kind]
    np.testing.assert_array_equal(decode_mask(encoded(image, format)), disc().astype(np.uint8))


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_jpeg_noise_moves_the_edge_by_a_few_pixels_only(quality):
    mask = decode_mask(encoded(Image.fromarray(disc() * np.uint8(255)), "JPEG", quality=quality))
    assert set(np.unique(mask)) == {0, 1}
    assert np.sum(mask != disc()) <= 12


def test_soft_edges_are_cut_at_the_middle():
    soft = soft_disc()
    assert np.unique(soft).size > 20
    np.testing.assert_array_equal(decode_mask(encoded(Image.fromarray(soft))), soft >= 128)


@pytest.mark.parametrize("kind", ["grey", "palette", "16 bit"])
@pytest.mark.parametrize("void", [False, True])
def test_instance_numbers_are_kept_and_white_beside_them_is_void(kind, void):
    numbers = np.zeros((40, 50), np.uint16)
    numbers[:10], numbers[20:30, :9], numbers[35:] = 1, 7, 100
    if void:
        numbers[:, 45:] = 65535 if kind == "16 bit" else 255
    image = Image.fromarray(numbers if kind == "16 bit" else numbers.astype(np.uint8))
    if kind == "palette":
        colours = np.random.default_rng(0).integers(0, 256, (256, 3)).tolist()
        image = palette(numbers, colours)
    expected = np.where(numbers > 100, 255, numbers)
    np.testing.assert_array_equal(decode_mask(encoded(image)), expected)


@pytest.mark.parametrize("value", [0, 1, 255])
def test_a_mask_of_one_value_is_empty_or_full(value):
    mask = decode_mask(encoded(Image.fromarray(np.full((4, 5), value, np.uint8))))
    np.testing.assert_array_equal(mask, np.full((4, 5), min(value, 1)))


def test_masks_are_turned_as_their_images_are():
    upright = disc().astype(np.uint8)
    for orientation, store in STORED.items():
        stored = Image.fromarray(np.ascontiguousarray(store(upright * np.uint8(255))))
        for format in ("PNG", "TIFF"):
            got = decode_mask(encoded(stored, format, orientation))
            np.testing.assert_array_equal(got, upright)


REFUSED = {
    "neither black and white": np.linspace(0, 255, 2000).reshape(40, 50).astype(np.uint8),
    "110 to 110": np.full((40, 50), 110, np.uint8),
    "0 to 300": disc() * np.uint16(300),
    "look like a trimap": np.where(disc(), 1, 2).astype(np.uint8),
    "a mask in colour": noise((40, 50, 3)),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_ambiguous_masks_are_refused(reason):
    with pytest.raises(UnfitImage, match=f"^mask.png: .*{reason}"):
        decode_mask(encoded(Image.fromarray(REFUSED[reason])), "mask.png")


def test_palette_entries_beyond_the_numbers_are_refused():
    image = palette(disc() * 200, np.random.default_rng(0).integers(0, 256, (256, 3)).tolist())
    with pytest.raises(UnfitImage, match="palette entry 200; instance numbers go up to 100"):
        decode_mask(encoded(image))


def test_overlaps_go_to_the_highest_score_or_else_to_the_first(rng):
    masks = rng.random((3, 10, 12)) < 0.6
    first = no_overlap(masks)
    np.testing.assert_array_equal(first.any(axis=0), masks.any(axis=0))
    assert (first.sum(axis=0) <= 1).all() and (first[0] == masks[0]).all()
    scored = no_overlap(masks, np.array([0.2, 0.9, 0.2]))
    assert (scored[1] == masks[1]).all() and (scored[0] == masks[0] & ~masks[1]).all()
