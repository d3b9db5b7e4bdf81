"""load_source: every text that names a source, every split of it, and the errors of all others."""

import shutil

import numpy as np
import pytest
from PIL import Image

from petsam_jax.data.load import SPLITS, SourceError, load_mix, load_source
from petsam_jax.data.oxford_layout import LayoutError
from petsam_jax.data.pets import MissingData
from petsam_jax.data.sources import Source
from tests.fabricated import GOOD, archives
from tests.real_data import listed, real_data


def write_images(root, count, start=0):
    for index in range(start, start + count):
        pixels = np.random.default_rng(index).integers(0, 256, (12, 16, 3), np.uint8)
        mask = np.zeros((12, 16), np.uint8)
        mask[2:7, 3:9] = 255
        for part, array in (("images", pixels), ("masks", mask)):
            (root / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / part / f"{index:03d}.png")
    return root


def names(spec, split):
    source = load_source(str(spec), split)
    assert isinstance(source, Source)
    assert [source[index].name for index in range(len(source))] == list(source.names)
    return set(source.names)


@pytest.mark.parametrize("spec", ["shapes", "shapes:size=32", "shapes:length=40,size=16,seed=7"])
def test_shapes_have_four_splits_without_a_common_image(spec):
    parts = {split: load_source(spec, split) for split in SPLITS}
    train, valid, test, every = (set(parts[split].names) for split in SPLITS)
    assert not train & valid and train | valid == every and not test & every
    assert len(test) == len(every) == (40 if "length" in spec else 512)
    assert len(set(parts["valid"].groups)) == 4 and 0.02 < len(valid) / len(every) < 0.3
    size = 16 if "size=16" in spec else 32 if "size=32" in spec else 128
    assert parts["train"][0].image.shape == (size, size, 3)


def test_the_official_folder_and_the_prepared_one_have_the_same_splits(official, data_dir):
    version = data_dir / "oxford_iiit_pet" / "4.0.0"
    specs = [official, f"tfds:{data_dir}", data_dir, version.parent, version]
    splits = [{split: names(spec, split) for split in SPLITS} for spec in specs]
    assert all(other == splits[0] for other in splits)
    assert splits[0]["train"] | splits[0]["valid"] == set(GOOD["train"])
    # Abyssinian has two images and gives one; a breed of one image gives none.
    assert len(splits[0]["valid"]) == 1
    assert splits[0]["test"] == set(GOOD["test"])
    assert splits[0]["all"] == {*GOOD["train"], *GOOD["test"]}


def test_plain_tfds_uses_the_default_folder_of_tfds(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert names("tfds", "test") == set(GOOD["test"])


def test_one_folder_of_images_is_split_by_name(tmp_path):
    root = write_images(tmp_path / "mine", 60)
    train, valid, every = (names(root, split) for split in ("train", "valid", "all"))
    assert not train & valid and train | valid == every and len(every) == 60
    assert 1 <= len(valid) <= 14
    write_images(root, 60, start=60)
    more = [names(root, split) for split in ("train", "valid")]
    assert train <= more[0] and valid <= more[1]
    with pytest.raises(SourceError, match="no test split; put one in a test/ folder"):
        load_source(str(root), "test")


@pytest.mark.parametrize("valid_name", ["valid", "val"])
def test_train_and_valid_folders_are_the_splits(tmp_path, valid_name):
    write_images(tmp_path / "train", 9)
    write_images(tmp_path / valid_name, 3, start=20)
    assert len(names(tmp_path, "train")) == 9
    assert names(tmp_path, "valid") == {"020", "021", "022"}
    assert len(load_source(str(tmp_path), "all")) == len(names(tmp_path, "all")) == 12
    with pytest.raises(SourceError, match=f"no test/ folder, only train/, {valid_name}/"):
        load_source(str(tmp_path), "test")
    write_images(tmp_path / "test", 2, start=30)
    assert names(tmp_path, "test") == {"030", "031"}


def test_a_train_folder_alone_gives_a_validation_split(tmp_path):
    write_images(tmp_path / "train", 30)
    train, valid = names(tmp_path, "train"), names(tmp_path, "valid")
    assert not train & valid and len(train | valid) == 30 and valid
    shutil.move(tmp_path / "train", tmp_path / "test")
    with pytest.raises(SourceError, match="no train/ folder to take split valid from"):
        load_source(str(tmp_path), "valid")


def test_too_few_to_split_is_an_error(tmp_path):
    root = write_images(tmp_path / "mine", 1)
    with pytest.raises(SourceError, match="1 examples are too few .*; use split all"):
        load_source(str(root), "valid")
    assert names(root, "all") == {"000"}


def test_a_mix_opens_each_at_its_split(tmp_path):
    root = write_images(tmp_path / "mine", 20)
    mix = load_mix(["shapes:length=50,size=16", str(root)], [3, 1], "train")
    of_mine = np.mean([group == "mine" for group in mix.groups])
    assert abs(of_mine - 0.25) < 0.02
    assert {name for name, group in zip(mix.names, mix.groups, strict=True) if group == "mine"} == (
        names(root, "train")
    )


@pytest.mark.parametrize(
    "spec", ["shapes:colour=3", "shapes:size", "shapes:size=big", "shapes:size=-4", "shapes:,"]
)
def test_senseless_numbers_for_shapes_are_refused(spec):
    with pytest.raises(
        SourceError, match=f"^source '{spec}': expected shapes:KEY=NUMBER.*length, size"
    ):
        load_source(spec, "train")


def test_the_error_for_an_unknown_source_lists_valid_ones(tmp_path):
    for spec, reason in [
        ("pets", "no such folder or other source"),
        (str(tmp_path / "none"), "no such folder"),
        (__file__, "not a folder"),
        (str(tmp_path), "unknown folder layout"),
    ]:
        with pytest.raises(SourceError, match=reason) as caught:
            load_source(spec, "train")
        message = str(caught.value)
        assert repr(spec) in message
        for accepted in (
            "shapes:length=512,size=128,seed=0",
            "tfds:DATA_DIR",
            "images/ and masks/",
        ):
            assert accepted in message
    with pytest.raises(
        SourceError, match="^split: expected one of train, valid, test, all, got 'val'"
    ):
        load_source("shapes", "val")


def test_nearly_right_folders_get_specific_advice(official, tmp_path):
    with pytest.raises(SourceError, match=f"it contains some: {official}"):
        load_source(str(official.parent), "train")
    where = archives(official, tmp_path / "packed")
    with pytest.raises(SourceError, match=f"prepare --src {where} first"):
        load_source(str(where), "train")
    (tmp_path / "half" / "images").mkdir(parents=True)
    with pytest.raises(LayoutError, match="no masks/ folder"):
        load_source(str(tmp_path / "half"), "train")
    (tmp_path / "half" / "annotations").mkdir()
    with pytest.raises(LayoutError, match="missing: annotations/trimaps/"):
        load_source(str(tmp_path / "half"), "train")
    with pytest.raises(MissingData, match=r"(?s)--download.*--src DIR.*configs/tiny\.py"):
        load_source(f"tfds:{tmp_path}", "train")


@pytest.mark.slow
def test_the_real_sets_are_split():
    pets, cats = real_data("oxford-iiit-pet"), real_data("feral-cats")
    train, valid = (load_source(str(pets), part) for part in SPLITS[:2])
    everything = listed(pets, "trainval")
    assert set(train.names) | set(valid.names) == everything
    assert len(train) + len(valid) == len(everything)
    assert not everything & listed(pets, "test")
    # A tenth of each breed, rounded up.
    assert 0.1 * len(everything) <= len(valid) <= 0.15 * len(everything)
    assert set(train.groups) == set(valid.groups)
    # An example for each animal, and some images have several.
    images = list((cats / "valid" / "masks").iterdir())
    assert len(load_source(str(cats), "valid")) > len(images)
