"""`petsam track`: files of every format, prompts anywhere, interrupted runs, wrong flags."""

import argparse
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

from petsam_jax.checkpoint import save_weights
from petsam_jax.cli import track
from petsam_jax.files import track_files
from petsam_jax.files.video_reader import ClipError, FrameSequence, open_clip
from petsam_jax.files.video_writer import VideoWriter
from petsam_jax.models.params import weights
from petsam_jax.predict.video_predictor import VideoPredictor
from tests.golden import shipped_config, shipped_model
from tests.golden_video import SIDE, shipped_frame, shipped_predictor

COUNT = 8
POINT = ["--point", "60,60"]


@pytest.fixture(autouse=True)
def _shipped_weights(monkeypatch):
    given = classmethod(lambda cls, directory, *, step, dtype: shipped_predictor())
    monkeypatch.setattr(VideoPredictor, "from_checkpoint", given)


@pytest.fixture
def clip(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    for number in range(COUNT):
        Image.fromarray(shipped_frame(number)).save(folder / f"{number}.png")
    return folder


def images(folder):
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


def expected(clip, *calls):
    session = shipped_predictor().open(clip)
    for name, *given in calls:
        getattr(session, name)(*given)
    return session


@pytest.mark.slow
def test_files_of_every_format(clip, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    flags = [*POINT, "--object", "4", "--box", "60,10,120,50", "--format", "overlay,cutout,masks"]
    assert track.main([str(clip), "--out", str(out), *flags]) == 0
    session = expected(
        clip, ("add_box", 0, 4, (60, 10, 120, 50)), ("add_points", 0, 1, [(60, 60)], [1])
    )
    masks = [found.masks for found in session.propagate()]
    expected_masks = [mask[0] * 1 + mask[1] * 2 for mask in masks]
    np.testing.assert_array_equal(images(tmp_path / "out-masks"), expected_masks)
    cutouts = np.array(images(tmp_path / "out-cutout"))
    np.testing.assert_array_equal(cutouts[..., 3] == 255, np.array(masks).any(axis=1))
    video = open_clip(out)
    assert video.count == COUNT and video.size == (SIDE, SIDE)
    printed = f"{out}, {tmp_path / 'out-cutout'}, {tmp_path / 'out-masks'}: {COUNT} frames"
    assert printed in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_a_cut_out_is_one_transparent_file_where_that_can_be(clip, tmp_path, capsys, suffix):
    out, beside = tmp_path / f"out{suffix}", tmp_path / f"out-cutout{suffix}"
    flags = [str(clip), "--out", str(out), *POINT, "--format"]
    session = expected(clip, ("add_points", 0, 1, [(60, 60)], [1]))
    expected_masks = [found.masks[0] for found in session.propagate()]

    def check(path):
        with Image.open(path) as film:
            assert film.n_frames == COUNT
            for number, mask in enumerate(expected_masks):
                film.seek(number)
                alpha = np.asarray(film.convert("RGBA"))[..., 3]
                np.testing.assert_array_equal(alpha, np.where(mask, 255, 0))

    assert track.main([*flags, "cutout"]) == 0
    check(out)
    assert f"{out}: {COUNT} frames" in capsys.readouterr().out
    assert track.main([*flags, "overlay,cutout"]) == 0
    check(beside)
    with Image.open(out) as film:
        assert film.n_frames == COUNT and film.convert("RGBA").getextrema()[3] == (255, 255)
    assert not (tmp_path / "out-cutout").exists()


def test_frames_of_a_gif_last_as_long_as_they_did(tmp_path):
    lasting = [40, 200, 80, 500]
    first, *rest = [Image.fromarray(shipped_frame(number)) for number in range(4)]
    first.save(tmp_path / "clip.gif", save_all=True, append_images=rest, duration=lasting)
    for name in ("out.gif", "out.webp"):
        flags = [str(tmp_path / "clip.gif"), "--out", str(tmp_path / name), *POINT]
        assert track.main([*flags, "--format", "cutout"]) == 0
        with Image.open(tmp_path / name) as film:
            for number, milliseconds in enumerate(lasting):
                film.seek(number)
                film.load()
                assert film.info["duration"] == milliseconds


def test_the_whole_clip_is_tracked_from_a_frame_within(clip, tmp_path):
    out = tmp_path / "out.gif"
    flags = ["--frame", "5", *POINT, "--point", "20,100,0", "--format", "overlay,masks"]
    assert track.main([str(clip), "--out", str(out), *flags]) == 0
    session = expected(
        clip, ("add_points", 5, 1, [(60, 60)], [1]), ("add_points", 5, 1, [(20, 100)], [0])
    )
    expected_masks = {found.frame: found.masks[0] for found in session.propagate(reverse=True)}
    expected_masks |= {found.frame: found.masks[0] for found in session.propagate()}
    found = np.array(images(tmp_path / "out-masks")) > 0
    np.testing.assert_array_equal(found, [expected_masks[number] for number in range(COUNT)])
    assert open_clip(out).count == COUNT


def test_a_mask_file_and_no_prompt_at_all(clip, tmp_path, capsys, rng):
    mask = rng.random((SIDE, SIDE)) > 0.5
    Image.fromarray(mask).save(tmp_path / "mask.png")
    flags = ["--mask", str(tmp_path / "mask.png"), "--format", "masks"]
    assert track.main([str(clip), "--out", str(tmp_path / "a.mp4"), *flags]) == 0
    np.testing.assert_array_equal(images(tmp_path / "a-masks")[0] > 0, mask)
    assert not (tmp_path / "a.mp4").exists()

    pet = shipped_predictor().open(clip).add_pet(0, 1)
    code = track.main([str(clip), "--out", str(tmp_path / "b.mp4"), "--format", "masks"])
    if pet.any():
        assert code == 0 and (images(tmp_path / "b-masks")[0] > 0).sum() == pet.sum()
    else:
        assert code == 1 and "no pet found on frame 0" in capsys.readouterr().err


@pytest.mark.parametrize("frame, done", [(0, [0, 1, 2, 3]), (6, [3, 4, 5])])
def test_ctrl_c_leaves_what_is_done(clip, tmp_path, capsys, monkeypatch, frame, done):
    """On the way forward and on the way back from the prompted frame."""
    update = tqdm.update

    def interrupted(self, n=1):
        update(self, n)
        if self.n == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(tqdm, "update", interrupted)
    out = tmp_path / "out.mp4"
    flags = ["--frame", str(frame), *POINT, "--format", "overlay,masks"]
    assert track.main([str(clip), "--out", str(out), *flags]) == 130
    assert open_clip(out).count == len(done)
    names = [path.stem for path in sorted((tmp_path / "out-masks").iterdir())]
    assert names == [f"{number:05}" for number in done]
    printed = f"interrupted by SIGINT; {len(done)} of {COUNT} frames are done"
    assert printed in capsys.readouterr().err
    # Python's own handler is back.
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_a_terminated_program_leaves_a_video_that_plays(tmp_path):
    """The command itself, with weights from a file, on a clip that it could not finish in time."""
    config = shipped_predictor().config.copy_and_resolve_references()
    with config.unlocked():
        config.model = ConfigDict(shipped_config())
    save_weights(tmp_path / "ckpt", weights(shipped_model()), config)
    with VideoWriter(tmp_path / "clip.mp4", (48, 64), 24) as video:
        for _ in range(5000):
            video.write(np.zeros((48, 64, 3), np.uint8))
    out = tmp_path / "out.mp4"
    flags = ["clip.mp4", "--out", out.name, "--ckpt", "ckpt", "--box", "9,9,40,40"]
    program = subprocess.Popen(
        [sys.executable, "-m", "petsam_jax", "track", *flags],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # Frames are being written, and then some more.
        while program.poll() is None and not (out.exists() and out.stat().st_size > 1000):
            time.sleep(0.05)
        program.send_signal(signal.SIGTERM)
        _, printed = program.communicate(timeout=120)
    finally:
        program.kill()
    assert program.returncode == 143, printed
    done = int(re.search(r"interrupted by SIGTERM; (\d+) of 5000 frames are done", printed)[1])
    video = open_clip(out)
    assert video.count == done > 0
    assert video.read(done - 1).shape == (48, 64, 3)


def test_a_damaged_frame_ends_the_video_before_it(clip, tmp_path, capsys, monkeypatch):
    read = FrameSequence._read

    def damaged(self, frame):
        if frame == 3:
            raise ClipError("frame 3 is damaged")
        return read(self, frame)

    monkeypatch.setattr(FrameSequence, "_read", damaged)
    out = tmp_path / "out.mp4"
    assert track.main([str(clip), "--out", str(out), *POINT]) == 1
    assert open_clip(out).count == 3
    assert f"frame 3 is damaged; 3 of {COUNT} frames are done" in capsys.readouterr().err


def test_progress_shows_rate_and_time_left(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    with track.progress_bar(300, quiet=False) as progress:
        for seconds in (20, 5, 15):
            now += seconds
            progress.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "1/300 frames,  0.05 frames/s, 1:39:40 left",
        "3/300 frames,  0.07 frames/s, 1:06:00 left",
    ]
    with track.progress_bar(300, quiet=True) as progress:
        now += 20
        progress.update()
    assert capsys.readouterr().err == ""


def test_wrong_flags_are_errors(clip, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out.mp4")]
    for flags, reason in [
        ([str(clip), *out, *POINT, "--frame", "3"], "--frame and --object go before"),
        ([str(clip), *out, "--step", "3"], "--step: name its checkpoint"),
        ([str(clip), "--out", str(tmp_path / "out.avi"), *POINT], "expected a name that ends in"),
        ([str(clip), "--out", str(tmp_path / "no" / "out.mp4"), *POINT], "there is no folder"),
        ([str(tmp_path / "none.mp4"), *out, *POINT], "none.mp4: no such file"),
        ([str(clip), *out, "--frame", "9", *POINT], "frame 9; it has frames 0..7"),
        ([str(clip), *out, "--point", "200,3"], "outside the image"),
        ([str(clip), *out, "--mask", str(tmp_path / "none.png")], "none.png"),
    ]:
        assert track.main(flags) == 1
        assert reason in capsys.readouterr().err
        assert not (tmp_path / "out.mp4").exists()
    for flags, reason in [
        (["--format", "mp4"], "no format 'mp4'; there are overlay, cutout, masks"),
        (["--frame", "-1"], "whole number"),
        (["--point", "3"], "expected X,Y"),
    ]:
        with pytest.raises(SystemExit):
            track.main([str(clip), *out, *flags])
        assert reason in capsys.readouterr().err


def test_flags_are_added_to_any_parser():
    parser = argparse.ArgumentParser()
    track.add_arguments(parser)
    flags = (
        "dog.mp4 --out o.mp4 --object 2 --frame 3 --point 4,5 --point 6,7,0 --frame 9 --box 1,2,3,4"
    )
    args = parser.parse_args(flags.split())
    assert args.prompts == [
        (3, 2, "point", (4, 5, 1)),
        (3, 2, "point", (6, 7, 0)),
        (9, 2, "box", (1, 2, 3, 4)),
    ]
    assert parser.parse_args(["dog.mp4", "--out", "o.mp4"]).prompts == ()
    assert set(track.FORMATS) == set(track_files.FORMATS)
