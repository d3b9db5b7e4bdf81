"""folder: a user's own images, in any format, with any of the usual masks."""

import os

import numpy as np
import pytest
from PIL import Image

from petsam_jax.data.folder import FolderSource
from petsam_jax.data.oxford_layout import LayoutError
from petsam_jax.data.sources import Source, image_name
from tests.real_data import real_data


def noise(seed, size=(30, 20)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def box(value=255, size=(30, 20)):
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[4:12, 5:17] = value
    return mask


def save(root, path, image):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(root / path)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "ferrets"
    save(root, "images/a.png", noise(0))
    save(root, "masks/a.png", box())
    return root


def test_formats_may_differ_and_the_mask_may_be_one_or_white(root):
    for index, (image, mask) in enumerate([("jpg", "png"), ("webp", "bmp"), ("tif", "gif")]):
        save(root, f"images/b{index}.{image}", noise(index))
        save(root, f"masks/b{index}.{mask}", box(1 if mask == "png" else 255))
    source = FolderSource(root)
    assert isinstance(source, Source) and source.names == ("a", "b0", "b1", "b2")
    assert source.groups == ("ferrets",) * 4 and not source.skipped
    for index in range(4):
        example = source[index]
        assert example.name == source.names[index] and example.image.shape == (20, 30, 3)
        np.testing.assert_array_equal(example.mask, box(1))
    np.testing.assert_array_equal(source[0].image, np.asarray(noise(0)))


def test_every_instance_is_an_example_with_the_others_as_background(root):
    numbers = np.zeros((20, 30), np.uint8)
    numbers[2:8, 2:9], numbers[10:15, 12:20], numbers[:, 25:] = 1, 3, 255
    save(root, "images/b.png", noise(1))
    save(root, "masks/b.png", numbers)
    source = FolderSource(root)
    assert source.names == ("a", "b#1", "b#3")
    for index, number in ((1, 1), (2, 3)):
        mask = source[index].mask
        np.testing.assert_array_equal(mask == 1, numbers == number)
        np.testing.assert_array_equal(mask == 2, numbers == 255)
        np.testing.assert_array_equal(source[index].image, np.asarray(noise(1)))


def test_a_stem_that_looks_like_an_instance_is_an_image_of_its_own(root):
    for stem in ("shot#1", "shot#2"):
        save(root, f"images/{stem}.png", noise(2))
        save(root, f"masks/{stem}.png", box())
    names = FolderSource(root).names
    assert names == ("a", "shot#1#1", "shot#2#1")
    assert len({image_name(name) for name in names}) == 3


def test_subfolders_are_groups_and_split_names_are_not(root):
    save(root, "images/tabby/x.jpg", noise(3))
    save(root, "masks/tabby/x.png", box())
    source = FolderSource(root)
    assert source.names == ("a", "tabby/x") and source.groups == ("ferrets", "tabby")
    train = root.rename(root.parent / "train")
    assert FolderSource(train).groups == (root.parent.name, "tabby")


def test_exif_is_applied_to_the_image_before_the_mask_is_compared(root):
    image = noise(4)
    exif = image.getexif()
    exif[0x0112] = 6
    for name, mask in (("b", box(size=(20, 30))), ("c", box())):
        (root / "images" / f"{name}.jpg").parent.mkdir(exist_ok=True)
        image.save(root / "images" / f"{name}.jpg", exif=exif)
        save(root, f"masks/{name}.png", mask)
    source = FolderSource(root)
    assert source.names == ("a", "b") and source[1].image.shape == (30, 20, 3)
    assert source[1].mask.shape == (30, 20)
    (unfit,) = source.skipped
    assert "30 x 20, but its image 20 x 30 as EXIF turns it" in unfit.reason


def test_unusable_files_are_skipped_with_their_reason(root, caplog):
    cases = {
        "alone": "has no masks/alone.*",
        "maskless": "has no images/maskless.*",
        "twice": "2 files images/twice.*; expected one",
        "torn": "damaged or truncated JPEG data",
        "text": "not an image in a format that Pillow knows",
        "size": "10 x 10, but its image 30 x 20",
        "empty": "no pet pixel in the mask",
        "grey": "neither black and white nor instance numbers",
    }
    for stem in cases:
        save(root, f"images/{stem}.jpg", noise(5, (300, 200) if stem == "torn" else (30, 20)))
        save(root, f"masks/{stem}.png", box())
    (root / "masks" / "alone.png").unlink()
    (root / "images" / "maskless.jpg").unlink()
    save(root, "images/twice.png", noise(6))
    os.truncate(root / "images" / "torn.jpg", 20_000)
    (root / "images" / "text.jpg").write_text("no image")
    save(root, "masks/size.png", box(size=(10, 10)))
    save(root, "masks/empty.png", box(0))
    ramp = np.linspace(0, 255, 600).astype(np.uint8).reshape(20, 30)
    save(root, "masks/grey.png", ramp)
    (root / "images" / ".DS_Store").write_text("hidden")
    source = FolderSource(root)
    assert source.names == ("a",) and len(source.skipped) == len(cases)
    for stem, reason in cases.items():
        (unfit,) = [unfit for unfit in source.skipped if f"/{stem}." in unfit.name]
        assert reason in unfit.reason and str(unfit) in caplog.text
    assert f"{root}: 8 of 9 images left out" in caplog.text


def test_other_folder_layouts_are_refused(root, tmp_path):
    with pytest.raises(LayoutError, match="no images/ folder; expected images/ and masks/"):
        FolderSource(tmp_path)
    save(root, "masks/a.png", box(0))
    with pytest.raises(LayoutError, match="the first fault is .*a.png: no pet pixel"):
        FolderSource(root)
    (root / "masks" / "a.png").unlink()
    (root / "images" / "a.png").unlink()
    with pytest.raises(LayoutError, match="no image with a mask that can be used$"):
        FolderSource(root)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["train", "valid"])
def test_the_real_cats_are_read_one_by_one(part):
    folder = real_data("feral-cats") / part
    source = FolderSource(folder)
    images = {path.stem for path in (folder / "masks").iterdir()}
    assert {image_name(name) for name in source.names} == images
    assert len(source.skipped) == 0 and set(source.groups) == {"feral-cats"}
    for index in range(0, len(source), 97):
        example = source[index]
        number = int(example.name.rpartition("#")[2]) if "#" in example.name else 1
        stored = np.asarray(Image.open(folder / "masks" / f"{image_name(example.name)}.png"))
        np.testing.assert_array_equal(example.mask, stored == number)
        assert example.image.shape == (384, 384, 3) and example.mask.any()
