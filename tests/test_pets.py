"""pets: the prepared set and the extracted folder give the same examples and report faults."""

import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from petsam_jax.data.oxford_layout import LayoutError, OfficialArchives, OfficialTree, breed
from petsam_jax.data.pets import MissingData, OfficialFolder, PetsSource, species
from petsam_jax.data.sources import Source
from petsam_jax.files.images import decode_image
from tests.fabricated import FAULTS, GOOD, TEST_FAULT, archives, noisy_image, trimap
from tests.real_data import listed, real_data


@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_both_sources_give_the_same_good_images(official, data_dir, split):
    names = [name for part in GOOD for name in GOOD[part] if split in (part, "all")]
    both = OfficialFolder(official, split), PetsSource(data_dir, split)
    by_name = []
    for source in both:
        assert isinstance(source, Source) and len(source) == len(names)
        assert sorted(source.names) == sorted(names)
        examples = [source[index] for index in range(len(source))]
        assert tuple(example.name for example in examples) == source.names
        assert tuple(example.group for example in examples) == source.groups
        by_name.append({example.name: example for example in examples})
    for name in names:
        one, other = by_name[0][name], by_name[1][name]
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.mask, np.array([9, 1, 0, 2])[trimap()])
        np.testing.assert_array_equal(other.mask, one.mask)
        assert one.group == other.group == name.rpartition("_")[0]


def test_the_folder_logs_skipped_images(official, caplog):
    source = OfficialFolder(official, "all")
    assert len(source.skipped) == len(FAULTS) + 1
    for name, reason in {**FAULTS, TEST_FAULT: "cannot be read: No such file"}.items():
        (unfit,) = [unfit for unfit in source.skipped if f"/{name}." in unfit.name]
        assert reason in unfit.reason and str(unfit) in caplog.text
    assert f"{official}: 9 of 16 images left out" in caplog.text


def test_many_faults_are_counted_and_the_first_ten_named(official, tmp_path, caplog):
    folder = tmp_path / "pets"
    shutil.copytree(official, folder)
    lines = [f"Bengal_{number} 6 1 1" for number in range(100, 115)]
    (folder / "annotations" / "test.txt").write_text("\n".join(["beagle_7 5 2 1", *lines]))
    source = OfficialFolder(folder, "test")
    assert len(source) == 1 and len(source.skipped) == 15
    assert "15 of 16 images left out" in caplog.text and "and 5 more" in caplog.text
    assert "Bengal_109" in caplog.text and "Bengal_110" not in caplog.text


def test_exif_does_not_turn_official_images(official, tmp_path):
    folder = tmp_path / "pets"
    shutil.copytree(official, folder)
    file = folder / "images" / "beagle_7.jpg"
    image = noisy_image("beagle_7")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(file, exif=exif)
    assert decode_image(file).shape == (40, 30, 3)
    example = OfficialFolder(folder, "test")[1]
    assert example.name == "beagle_7" and example.image.shape == (30, 40, 3)
    assert example.mask.shape == (30, 40)


def test_errors_name_a_missing_list(official, data_dir, tmp_path):
    folder = tmp_path / "pets"
    shutil.copytree(official, folder)
    (folder / "annotations" / "test.txt").unlink()
    assert OfficialFolder(folder, "all").names == OfficialFolder(folder, "train").names
    with pytest.raises(LayoutError, match="no list of a test split, only train"):
        OfficialFolder(folder, "test")
    with pytest.raises(LayoutError, match="no valid split, only test, train|only train, test"):
        PetsSource(data_dir, "valid")


def test_a_folder_without_a_usable_image_is_refused_with_the_first_fault(official, tmp_path):
    folder = tmp_path / "pets"
    shutil.copytree(official, folder)
    (folder / "annotations" / "trainval.txt").write_text("Abyssinian_34 1 1 1\n")
    with pytest.raises(LayoutError, match="no image of train can be used.*a GIF file"):
        OfficialFolder(folder, "train")


def test_threads_read_the_same_as_one_reader(official, data_dir):
    for source in (OfficialFolder(official, "train"), PetsSource(data_dir, "train")):
        once = [source[index] for index in range(len(source))]
        with ThreadPoolExecutor(4) as pool:
            often = list(pool.map(source.__getitem__, list(range(len(source))) * 20))
        for index, example in enumerate(often):
            assert example.name == once[index % len(source)].name
            np.testing.assert_array_equal(example.image, once[index % len(source)].image)


def test_breeds_and_species():
    assert breed("american_bulldog_10") == "american_bulldog" and breed("Bengal") == "Bengal"
    assert species("Egyptian_Mau_1") == "cat" and species("american_bulldog") == "dog"


def test_the_archives_hold_the_same_as_the_folder(official, tmp_path):
    where = archives(official, tmp_path)
    packed = OfficialArchives(where / "images.tar.gz", where / "annotations.tar.gz")
    tree = OfficialTree(official)
    assert packed.entries() == tree.entries()
    entries = tree.entries()["test"][:2]
    read = {files.entry: files for files in packed.read_all(entries)}
    assert read == {entry: tree.read(entry) for entry in entries}
    assert 0 < tree.size() < packed.size() * 2


def test_missing_data_is_reported_within_two_seconds_with_advice(tmp_path):
    code = (
        "import sys; from pathlib import Path; from petsam_jax.data.pets import PetsSource\n"
        "PetsSource(Path(sys.argv[1]), 'train')"
    )
    start = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert time.perf_counter() - start < 2
    for words in ("--download", "--src DIR", "configs/tiny.py", str(tmp_path), "MissingData"):
        assert words in run.stderr
    with pytest.raises(MissingData):
        PetsSource(tmp_path, "train")


@pytest.mark.slow
def test_the_real_folder_is_complete():
    root = real_data("oxford-iiit-pet")
    train, test = OfficialFolder(root, "train"), OfficialFolder(root, "test")
    assert not train.skipped and not test.skipped
    assert set(train.names) == listed(root, "trainval") and set(test.names) == listed(root, "test")
    assert len(train) == len(set(train.names)) and len(test) == len(set(test.names))
    assert len(set(train.groups)) == 37
    assert set(test.groups) <= set(train.groups)
    assert not set(train.names) & set(test.names)
    example = train[train.names.index("Abyssinian_1")]
    assert example.image.shape[:2] == example.mask.shape
    assert set(np.unique(example.mask)) == {0, 1, 2}
    share = np.mean([(train[index].mask == 2).mean() for index in range(0, len(train), 24)])
    # Border pixels are known to be 12.9 % of the image on average.
    assert 0.10 < share < 0.16
