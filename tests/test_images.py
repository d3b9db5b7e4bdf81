"""images: every form and format, upright by EXIF; unfit ones are refused before they cost anything.

Every orientation is checked against the pixels themselves, not against Pillow's own function.
"""

import io
import pickle
import zlib

import numpy as np
import pytest
from PIL import Image

from petsam_jax.files.images import (
    MAX_FILE_PIXELS,
    MAX_PIXELS,
    UnfitImage,
    check_decodes,
    decode_image,
    decode_stored,
    load_image,
    open_image,
)
from petsam_jax.files.masks import decode_mask

# EXIF orientation -> where the pixel at (row, column) of the upright image is stored, by the
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
def test_exif_of_a_jpeg_turns_images_but_not_stored_pixels(orientation):
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
    image = decode_image(encoded(image, format, orientation=6, quality=100, subsampling=0))
    assert image.shape == (30, 20, 3) and image.dtype == np.uint8
    if mode not in ("1", "P"):
        np.testing.assert_allclose(image[..., 0].astype(int), np.rot90(grey, -1), atol=3)


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
def test_damaged_exif_leaves_the_image_as_it_is_stored():
    pixels = noise()
    data = encoded(Image.fromarray(pixels), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode_image(data), pixels)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP"])
def test_a_truncated_file_is_unfit_for_every_reader(format):
    data = encoded(Image.fromarray(noise((64, 80, 3))), format)
    for part in (0.02, 0.1, 0.5, 0.8):
        short = data[: int(len(data) * part)]
        for read in (decode_image, decode_mask, lambda d, n: check_decodes(open_image(d, n))):
            with pytest.raises(UnfitImage) as caught:
                read(short, "cut.file")
            assert caught.value.name == "cut.file" and str(caught.value).startswith("cut.file: ")


def test_errors_name_what_is_not_an_image(tmp_path):
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


def test_an_image_of_too_many_pixels_is_refused_without_decoding():
    side = int(MAX_FILE_PIXELS**0.5) + 1
    small_file = encoded(Image.new("1", (side, side)))
    assert len(small_file) < 200_000
    with pytest.raises(UnfitImage, match="is more than 89,000,000; make it smaller"):
        open_image(small_file)


def test_an_unfit_image_survives_pickling():
    unfit = pickle.loads(pickle.dumps(UnfitImage("a.jpg", "torn")))
    assert (unfit.name, unfit.reason, str(unfit)) == ("a.jpg", "torn", "a.jpg: torn")


# Any form


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (20, 30, 3), np.uint8)


def test_arrays_paths_bytes_and_pillow_images_give_the_same_pixels(pixels, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    opaque = np.dstack([pixels, np.full((20, 30), 7, np.uint8)])
    forms = (path, str(path), path.read_bytes(), Image.open(path), Image.fromarray(pixels))
    for form in (*forms, pixels, opaque, Image.fromarray(opaque)):
        loaded = load_image(form)
        assert loaded.dtype == np.uint8
        np.testing.assert_array_equal(loaded, pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr", "HSV", "I;16", "I"])
def test_grey_black_and_white_in_every_mode(mode):
    grey = np.zeros((20, 30), np.uint8)
    grey[5:15, 3:9] = 255
    if mode in ("I;16", "I"):
        wide = grey.astype(np.uint16 if mode == "I;16" else np.int32) * 257
        image = Image.fromarray(wide)
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    assert image.mode == mode
    expected = np.repeat(grey[..., None], 3, 2)
    np.testing.assert_allclose(load_image(image), expected, atol=1)


def test_grey_arrays_have_three_equal_channels(rng):
    grey = rng.integers(0, 256, (5, 7), np.uint8)
    for array in (grey, grey[..., None]):
        np.testing.assert_array_equal(load_image(array), np.repeat(grey[..., None], 3, 2))


def test_exif_turns_files_and_pillow_images(pixels):
    exif = Image.Exif()
    exif[0x0112] = 6  # Stored lying on its left side.
    data = encoded(Image.fromarray(np.rot90(pixels)), exif=exif)
    np.testing.assert_array_equal(load_image(data), pixels)
    np.testing.assert_array_equal(load_image(Image.open(io.BytesIO(data))), pixels)


def test_more_than_40_megapixels_are_refused_before_they_are_decoded():
    large = Image.new("1", (8000, 5001))
    with pytest.raises(UnfitImage, match="8000 x 5001 pixels is more than 40,000,000; make it s"):
        load_image(large)
    # A file whose header says so, and that holds nothing else.
    header = bytearray(encoded(Image.new("1", (8, 8)))[:33])
    header[16:24] = (8000).to_bytes(4, "big") + (5001).to_bytes(4, "big")
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    with pytest.raises(UnfitImage, match="8000 x 5001 pixels"):
        load_image(bytes(header) + encoded(Image.new("1", (8, 8)))[33:])
    with pytest.raises(UnfitImage, match="8000 x 5001 pixels"):
        load_image(np.broadcast_to(np.uint8(0), (5001, 8000)))
    assert MAX_PIXELS == 40_000_000
    with pytest.raises(UnfitImage, match="30 x 20 pixels is more than 599"):
        load_image(Image.new("L", (30, 20)), max_pixels=599)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32; expected uint8 0..255: multiply by 255"),
        (np.zeros((4, 4), np.uint16), "uint16; expected uint8 0..255: convert it"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\); expected \(h, w\), \(h, w, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), "4 x 0 pixels; expected 1 to"),
        (Image.new("F", (4, 4)), "image: holds floating-point numbers"),
        (b"<html>404</html>", "image: not an image in a format that Pillow knows"),
        ("no/such.png", "no/such.png: cannot be read: No such file"),
        (encoded(Image.new("RGB", (90, 90), "red"))[:-60], "damaged or truncated PNG data"),
    ],
)
def test_other_inputs_are_refused_with_advice(image, message):
    with pytest.raises(UnfitImage, match=message):
        load_image(image)
