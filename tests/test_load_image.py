"""load_image: pictures of every form as RGB bytes, and what is refused before it costs anything."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from petsam_jax.files.images import MAX_PIXELS, UnfitImage, load_image


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (20, 30, 3), np.uint8)


def test_arrays_paths_bytes_and_pillow_images_give_the_same_pixels(pixels, tmp_path):
    path = tmp_path / "picture.png"
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
    want = np.repeat(grey[..., None], 3, 2)
    np.testing.assert_allclose(load_image(image), want, atol=1)


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
    ("picture", "message"),
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
def test_what_is_no_picture_is_refused_with_what_to_do(picture, message):
    with pytest.raises(UnfitImage, match=message):
        load_image(picture)
