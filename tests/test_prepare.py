"""prepare: what is made, what is left out and why, and what a failed run leaves behind."""

import contextlib
import functools
import hashlib
import http.server
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from petsam_jax.cli.prepare import main
from petsam_jax.data import pets_builder, prepare
from petsam_jax.data.oxford_layout import LayoutError
from petsam_jax.data.pets import DamagedData, PetsSource
from petsam_jax.data.pets_builder import PrepareError
from tests.fabricated import FAULTS, GOOD, TEST_FAULT, archives, encoded, noisy_image, trimap
from tests.real_data import listed, real_data

NAME = "oxford_iiit_pet"


@pytest.fixture(scope="module")
def made(official, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("made")
    return data_dir, prepare.prepare(data_dir, src=official)


def stock(data_dir, split):
    return tfds.data_source(NAME, data_dir=data_dir, split=split, download=False)


def left_behind(data_dir):
    return [path for path in Path(data_dir).rglob("*") if path.is_file()]


def test_stock_tfds_reads_the_result(made, official):
    for split, names in GOOD.items():
        records = {r["file_name"].decode(): r for r in stock(made[0], split)}
        assert sorted(records) == sorted(f"{name}.jpg" for name in names)
        for name in names:
            record = records[f"{name}.jpg"]
            with Image.open(official / "images" / f"{name}.jpg") as stored:
                np.testing.assert_array_equal(record["image"], np.asarray(stored))
            np.testing.assert_array_equal(record["segmentation_mask"][..., 0], trimap())
            assert record["species"] == (0 if name[0].isupper() else 1)
    labels = {r["file_name"].decode(): int(r["label"]) for r in stock(made[0], "train")}
    assert labels["Bengal_3.jpg"] == 5 and labels["american_bulldog_4.jpg"] == 1


def test_the_head_box_is_relative_and_zero_if_missing(made):
    boxes = {r["file_name"].decode(): r["head_bbox"] for r in stock(made[0], "train")}
    np.testing.assert_allclose(boxes["Abyssinian_1.jpg"], [6 / 30, 10 / 40, 24 / 30, 30 / 40])
    np.testing.assert_array_equal(boxes["Abyssinian_2.jpg"], np.zeros(4))
    # Bengal_3's box has "ten": the image is kept without it, and reported.
    np.testing.assert_array_equal(boxes["Bengal_3.jpg"], np.zeros(4))
    assert len(made[1].boxless) == 1 and "annotations/xmls/Bengal_3.xml" in made[1].boxless[0]


def test_every_image_left_out_is_listed_with_its_reason(made):
    report = made[1]
    assert report.counts == {"train": 5, "test": 2}
    assert len(report.left_out) == len(FAULTS) + 1
    for name, reason in {**FAULTS, TEST_FAULT: "cannot be read: No such file"}.items():
        (line,) = [line for line in report.left_out if f"/{name}." in line]
        assert reason in line
    assert "left out: 9" in report.text() and all(line in report.text() for line in report.left_out)
    listing = made[0] / NAME / "4.0.0" / pets_builder.LEFT_OUT
    assert listing.read_text().splitlines() == report.left_out


def test_a_second_run_changes_nothing_and_needs_no_source(made, capsys):
    files = {path: path.stat().st_mtime_ns for path in left_behind(made[0])}
    start = time.perf_counter()
    again = prepare.prepare(made[0], src=Path("/no/such/folder"))
    assert time.perf_counter() - start < 2
    assert not again.made and again.counts == made[1].counts and again.left_out == made[1].left_out
    assert main(["--data-dir", str(made[0])]) == 0
    assert "already there, nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in left_behind(made[0])} == files


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_archives_give_the_same_as_the_folder(made, official, tmp_path, mode):
    where = archives(official, tmp_path / "archives", mode)
    report = prepare.prepare(tmp_path / "data", src=where)
    assert report.counts == made[1].counts
    assert len(report.left_out) == len(made[1].left_out)
    assert any("images/beagle_24.jpg: not in images.tar.gz" in line for line in report.left_out)
    for split in GOOD:
        ours, theirs = stock(tmp_path / "data", split), stock(made[0], split)
        for one, other in zip(ours, theirs, strict=True):
            assert one["file_name"] == other["file_name"]
            np.testing.assert_array_equal(one["image"], other["image"])
            np.testing.assert_array_equal(one["head_bbox"], other["head_bbox"])


def test_paths_and_links_in_an_archive_are_not_followed(official, tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(encoded(noisy_image("secret"), "JPEG"))
    link = tarfile.TarInfo("images/beagle_24.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, str(secret)
    outside = [tarfile.TarInfo("../escaped.jpg"), tarfile.TarInfo(str(tmp_path / "absolute.jpg"))]
    for member in outside:
        member.size = 4
    extra = [(link, b""), *((member, b"evil") for member in outside)]
    where = archives(official, tmp_path / "a" / "archives", extra=extra)
    report = prepare.prepare(tmp_path / "a" / "data", src=where)
    assert any("images/beagle_24.jpg: not in" in line for line in report.left_out)
    assert not list(tmp_path.rglob("escaped.jpg")) and not (tmp_path / "absolute.jpg").exists()


def test_a_part_of_the_set_is_enough(official, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(official, part)
    (part / "annotations" / "test.txt").unlink()
    report = prepare.prepare(tmp_path / "data", src=part)
    assert report.counts == {"train": 5}
    assert (
        PetsSource(tmp_path / "data", "all").names == PetsSource(tmp_path / "data", "train").names
    )


def test_grey_and_cmyk_jpegs_come_as_three_channels(official, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(official, part)
    for name, mode in (("Abyssinian_1", "L"), ("Abyssinian_2", "CMYK")):
        noisy_image(name).convert(mode).save(part / "images" / f"{name}.jpg")
    prepare.prepare(tmp_path / "data", src=part)
    shapes = [record["image"].shape for record in stock(tmp_path / "data", "train")]
    assert shapes == [(30, 40, 3)] * 5
    source = PetsSource(tmp_path / "data", "train")
    assert all(source[index].image.shape == (30, 40, 3) for index in range(5))


def folder_with(root, *paths):
    for path in ("", *paths):
        (root / path).mkdir(parents=True, exist_ok=True)
    return root


def test_errors_name_what_is_wrong_with_the_source(official, tmp_path):
    data = tmp_path / "data"
    cases = [
        (tmp_path / "none", "no such folder"),
        (Path(__file__), "not a folder"),
        (folder_with(tmp_path / "a"), "missing: images/, annotations/trimaps/"),
        (folder_with(tmp_path / "b", "images", "annotations/trimaps"), "trainval.txt or annot"),
    ]
    for src, reason in cases:
        with pytest.raises(LayoutError, match=reason) as caught:
            prepare.prepare(data, src=src)
        assert str(src) in str(caught.value) and "images.tar.gz" in str(caught.value)
    half = archives(official, tmp_path / "half")
    (half / "annotations.tar.gz").unlink()
    with pytest.raises(LayoutError, match="holds images.tar.gz but not annotations.tar.gz"):
        prepare.prepare(data, src=half)
    with pytest.raises(PrepareError, match="add --download, or --src"):
        prepare.prepare(data)
    assert not left_behind(data)


@pytest.mark.parametrize(
    "line", ["Abyssinian_1 1 1", "Abyssinian_1 one 1 1", "../Abyssinian 1 1 1"]
)
def test_errors_name_the_line_of_a_malformed_list(official, tmp_path, line):
    part = tmp_path / "part"
    shutil.copytree(official, part)
    (part / "annotations" / "test.txt").write_text(f"Abyssinian_6 1 1 1\n{line}\n")
    with pytest.raises(LayoutError, match=r"test.txt, line 2: expected a name and three numbers"):
        prepare.prepare(tmp_path / "data", src=part)


def test_images_that_are_all_unfit_leave_no_data_set(official, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(official, part)
    (part / "annotations" / "test.txt").write_text("Abyssinian_34 1 1 1\n")
    with pytest.raises(PrepareError, match="none of the 1 images.*a GIF file"):
        prepare.prepare(tmp_path / "data", src=part)
    assert not left_behind(tmp_path / "data")


@pytest.mark.parametrize("where", ["a_file/data", "/proc/data"])
def test_an_unwritable_folder_is_refused(official, tmp_path, where):
    (tmp_path / "a_file").touch()
    with pytest.raises(PrepareError, match="cannot be written to .* --data-dir"):
        prepare.prepare(tmp_path / where, src=official)


def test_too_little_space_is_noticed_before_the_start(official, tmp_path, monkeypatch):
    usage = types.SimpleNamespace(free=19_000_000)
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(PrepareError, match="19 MB free on the disk, but about 20 MB needed"):
        prepare.prepare(tmp_path, src=official)


FULL = "No space left on device"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(28, FULL), PrepareError),
        # As array_record raises it.
        (RuntimeError(f"write() failed: {FULL}; writing ..."), PrepareError),
        (KeyboardInterrupt(), None),
    ],
)
def test_a_failed_run_leaves_nothing(official, tmp_path, monkeypatch, error, kind):
    whole = pets_builder._example
    seen = []

    def breaks(files, remarks):
        seen.append(files)
        if len(seen) > 3:
            raise error
        return whole(files, remarks)

    monkeypatch.setattr(pets_builder, "_example", breaks)
    with pytest.raises(kind or type(error), match="the disk is full" if kind else None):
        prepare.prepare(tmp_path, src=official)
    assert not left_behind(tmp_path)
    seen.clear()
    assert main(["--data-dir", str(tmp_path), "--src", str(official)]) != 0
    monkeypatch.undo()
    assert prepare.prepare(tmp_path, src=official).counts == {"train": 5, "test": 2}


def test_leftovers_of_a_killed_run_are_listed_and_not_used(official, tmp_path, capsys):
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from petsam_jax.data import pets_builder, prepare\n"
        "pets_builder._head_box = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "prepare.prepare(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(official)], timeout=60)
    assert run.returncode == -signal.SIGKILL
    (leaving,) = prepare.leftovers(tmp_path)
    assert main(["--data-dir", str(tmp_path), "--src", str(official)]) == 0
    assert f"safe to delete: {leaving}" in capsys.readouterr().err
    assert PetsSource(tmp_path, "all").names


@pytest.mark.parametrize("harm", ["missing", "empty", "short"])
def test_damaged_records_are_refused(made, official, tmp_path, harm):
    data = tmp_path / "data"
    shutil.copytree(made[0], data)
    (shard,) = data.rglob("*train.array_record*")
    if harm == "missing":
        shard.unlink()
    else:
        os.truncate(shard, 0 if harm == "empty" else shard.stat().st_size // 2)
    with pytest.raises(DamagedData, match="delete .*4.0.0 and run petsam prepare"):
        prepare.prepare(data, src=official)


# --- the download, from a server of one's own -------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(folder, monkeypatch, checksums=None):
    """The archives of a folder at an address of this machine, known to TFDS by their checksums."""
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    infos = {}
    for name in ("images.tar.gz", "annotations.tar.gz"):
        data = (folder / name).read_bytes()
        digest = (checksums or {}).get(name) or hashlib.sha256(data).hexdigest()
        infos[f"http://127.0.0.1:{server.server_port}/{name}"] = (
            tfds.core.download.checksums.UrlInfo(
                size=tfds.core.utils.Size(len(data)), checksum=digest, filename=name
            )
        )
    for module in (pets_builder, prepare):
        monkeypatch.setattr(module, "url_infos", lambda: infos)
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def test_the_official_archives_would_be_downloaded():
    infos = pets_builder.url_infos()
    assert [url.rpartition("/")[2] for url in infos] == ["images.tar.gz", "annotations.tar.gz"]
    assert [int(info.size) for info in infos.values()] == [791_918_971, 19_173_078]
    assert all(len(info.checksum) == 64 for info in infos.values())


def test_download_verifies_prepares_and_does_not_repeat(official, tmp_path, monkeypatch):
    where, data = archives(official, tmp_path / "site"), tmp_path / "data"
    with serving(where, monkeypatch):
        assert prepare.prepare(data, download=True).counts == {"train": 5, "test": 2}
    shutil.rmtree(data / NAME)
    # The server is gone, but what was fetched is still there.
    assert prepare.prepare(data, download=True).counts == {"train": 5, "test": 2}


def test_a_wrong_checksum_is_refused(official, tmp_path, monkeypatch):
    where, data = archives(official, tmp_path / "site"), tmp_path / "data"
    with (
        serving(where, monkeypatch, {"images.tar.gz": "0" * 64}),
        pytest.raises(PrepareError, match="(?s)wrong checksum.*curl -L -C -"),
    ):
        prepare.prepare(data, download=True)
    assert not (data / NAME / "4.0.0").exists()
    # The other archive, fetched at the same time, may be under way still.
    assert {path.parent.name for path in prepare.leftovers(data)} == {NAME}


def test_a_file_missing_from_the_site_is_reported(official, tmp_path, monkeypatch):
    where, data = archives(official, tmp_path / "site"), tmp_path / "data"
    with serving(where, monkeypatch):
        (where / "images.tar.gz").unlink()
        with pytest.raises(PrepareError, match="(?s)HTTP code: 404.*--src DIR"):
            prepare.prepare(data, download=True)
    assert not (data / NAME / "4.0.0").exists()


def test_a_missing_network_is_reported_at_once(official, tmp_path, monkeypatch, capsys):
    with serving(archives(official, tmp_path / "site"), monkeypatch):
        pass
    start = time.perf_counter()
    assert main(["--download", "--data-dir", str(tmp_path / "data")]) == 1
    assert time.perf_counter() - start < 2
    message = capsys.readouterr().err
    assert "not reachable" in message and "curl -L -C - -O" in message and "--src DIR" in message


@pytest.mark.parametrize("mode", ["w:gz", "w"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.8])
def test_a_truncated_archive_is_named(official, tmp_path, mode, part):
    for name in ("images.tar.gz", "annotations.tar.gz"):
        where = archives(official, tmp_path / name, mode)
        # Cut at whole blocks, so that only the end marker is missing.
        os.truncate(where / name, int((where / name).stat().st_size * part) // 512 * 512)
        with pytest.raises(LayoutError, match=f"{name}: damaged, truncated or not a tar"):
            prepare.prepare(tmp_path / "data", src=where)
    assert not left_behind(tmp_path / "data")


@pytest.mark.slow
def test_real_pets_are_prepared_completely_and_pixel_for_pixel(tmp_path):
    src = real_data("oxford-iiit-pet")
    report = prepare.prepare(tmp_path, src=src)
    counts = {"train": len(listed(src, "trainval")), "test": len(listed(src, "test"))}
    assert report.counts == counts and not report.left_out
    for record in list(stock(tmp_path, "test"))[::40]:
        data = (src / "images" / record["file_name"].decode()).read_bytes()
        with Image.open(io.BytesIO(data)) as stored:
            np.testing.assert_array_equal(record["image"], np.asarray(stored))
