"""pictures: formats, EXIF, the kinds of mask that are read, and those refused rather than guessed.

Every orientation is checked against the pixels themselves, not against Pillow's own function.
"""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from petsam_jax.files.images import (
    MAX_FILE_PIXELS,
    UnfitImage,
    check_decodes,
    decode_image,
    decode_stored,
    open_image,
)
from petsam_jax.files.masks import TRIMAP, decode_mask, decode_trimap

# EXIF orientation -> where the pixel at (row, column) of the upright picture is stored, by the
# standard's table: which sides the first stored row and column are.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}


def encoded(image, format="PNG", orientation=None, **options):
    if orientation:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(shape=(20, 30, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_is_applied_once_in_every_format(format, orientation):
    upright = noise()
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    data = encoded(stored, format, orientation, **({"lossless": True} if format == "WEBP" else {}))
    np.testing.assert_array_equal(decode_image(data), upright)
    assert check_decodes(open_image(data)) == (30, 20)


@pytest.mark.parametrize("orientation", STORED)
def test_exif_of_a_jpeg_turns_pictures_but_not_stored_pixels(orientation):
    data = encoded(Image.fromarray(noise()), "JPEG", orientation)
    stored = decode_stored(data)
    assert stored.shape == (20, 30, 3)
    upright = decode_image(data)
    np.testing.assert_array_equal(STORED[orientation](upright), stored)
    assert check_decodes(open_image(data)) == upright.shape[1::-1]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "I"])
def test_every_mode_becomes_rgb_and_is_turned(mode):
    grey = np.repeat(np.arange(0, 240, 8, dtype=np.uint8)[None], 20, 0)
    grey[5:15, 3:9] = 255
    if mode in ("I;16", "I"):
        wide = grey.astype(np.uint16 if mode == "I;16" else np.int32) * 257
        image, format = Image.fromarray(wide), "TIFF"
    else:
        image = Image.fromarray(np.repeat(grey[..., None], 3, 2)).convert(mode)
        format = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    picture = decode_image(encoded(image, format, orientation=6, quality=100, subsampling=0))
    assert picture.shape == (30, 20, 3) and picture.dtype == np.uint8
    if mode not in ("1", "P"):
        np.testing.assert_allclose(picture[..., 0].astype(int), np.rot90(grey, -1), atol=3)


def test_sixteen_bit_png_with_exif_is_turned_too():
    wide = noise((20, 30)).astype(np.uint16) * 257
    got = decode_image(encoded(Image.fromarray(wide), "PNG", orientation=3))
    np.testing.assert_array_equal(got[..., 1], (wide // 257)[::-1, ::-1])


def test_transparency_is_dropped_and_the_colour_kept():
    rgba = noise((8, 9, 4))
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(rgba))), rgba[..., :3])


def test_an_animation_gives_its_first_frame():
    frames = [Image.fromarray(np.full((6, 7), value, np.uint8)) for value in (10, 200)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(data), np.full((6, 7, 3), 10))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_leaves_the_picture_as_it_is_stored():
    pixels = noise()
    data = encoded(Image.fromarray(pixels), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode_image(data), pixels)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP"])
def test_a_file_cut_short_is_an_unfit_picture_however_it_is_read(format):
    data = encoded(Image.fromarray(noise((64, 80, 3))), format)
    for part in (0.02, 0.1, 0.5, 0.8):
        short = data[: int(len(data) * part)]
        for read in (decode_image, decode_mask, lambda d, n: check_decodes(open_image(d, n))):
            with pytest.raises(UnfitImage) as caught:
                read(short, "cut.file")
            assert caught.value.name == "cut.file" and str(caught.value).startswith("cut.file: ")


def test_what_is_no_picture_is_said(tmp_path):
    cases = [
        (b"", "an empty file"),
        (b"<html>", "not an image in a format that Pillow knows"),
        (tmp_path / "none.jpg", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating-point"),
    ]
    for file, reason in cases:
        with pytest.raises(UnfitImage, match=reason):
            decode_image(file)


def test_a_picture_of_too_many_pixels_is_refused_unread():
    side = int(MAX_FILE_PIXELS**0.5) + 1
    small_file = encoded(Image.new("1", (side, side)))
    assert len(small_file) < 200_000
    with pytest.raises(UnfitImage, match="is more than 89,000,000; make it smaller"):
        open_image(small_file)


def test_an_unfit_picture_survives_pickling():
    unfit = pickle.loads(pickle.dumps(UnfitImage("a.jpg", "torn")))
    assert (unfit.name, unfit.reason, str(unfit)) == ("a.jpg", "torn", "a.jpg: torn")


def test_trimap_values():
    values = np.random.default_rng(0).integers(1, 4, (9, 11)).astype(np.uint8)
    got = decode_trimap(encoded(Image.fromarray(values)))
    np.testing.assert_array_equal(got == 1, values == 1)
    np.testing.assert_array_equal(got == 0, values == 2)
    np.testing.assert_array_equal(got == 2, values == 3)
    assert TRIMAP.size == 256


@pytest.mark.parametrize("other", [0, 4, 255])
def test_other_values_are_no_trimap(other):
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
def test_every_way_to_say_pet_or_not_is_the_same_mask(kind):
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
    want = np.where(numbers > 100, 255, numbers)
    np.testing.assert_array_equal(decode_mask(encoded(image)), want)


@pytest.mark.parametrize("value", [0, 1, 255])
def test_a_mask_of_one_value_is_empty_or_full(value):
    mask = decode_mask(encoded(Image.fromarray(np.full((4, 5), value, np.uint8))))
    np.testing.assert_array_equal(mask, np.full((4, 5), min(value, 1)))


def test_masks_are_turned_as_their_pictures_are():
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
def test_what_is_not_clear_is_refused(reason):
    with pytest.raises(UnfitImage, match=f"^mask.png: .*{reason}"):
        decode_mask(encoded(Image.fromarray(REFUSED[reason])), "mask.png")


def test_palette_entries_beyond_the_numbers_are_refused():
    image = palette(disc() * 200, np.random.default_rng(0).integers(0, 256, (256, 3)).tolist())
    with pytest.raises(UnfitImage, match="palette entry 200; instance numbers go up to 100"):
        decode_mask(encoded(image))
