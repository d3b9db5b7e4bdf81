"""Written videos play their frames at any time; other names and sizes are refused."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from petsam_jax.files.render import cutout
from petsam_jax.files.video_reader import open_clip
from petsam_jax.files.video_writer import VideoWriter

RED, GREEN, BLUE = (200, 30, 40), (20, 180, 90), (40, 60, 220)


def stripes(height, width, brighter=0):
    frame = np.zeros((height, width, 3), np.uint8)
    for start, colour in zip((0, 20, 40), (RED, GREEN, BLUE), strict=True):
        frame[:, start : start + 20] = np.array(colour) + brighter
    return frame


@pytest.mark.parametrize("size", [(48, 60), (47, 59)])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".gif"])
def test_written_frames_are_read_back(tmp_path, suffix, size):
    path = tmp_path / f"out{suffix}"
    with VideoWriter(path, size, 24000 / 1001) as writer:
        for number in range(30):
            writer.write(stripes(*size, number))
    clip = open_clip(path)
    # An odd side is made even in H.264 by repeating its last pixels.
    assert clip.count == 30 and max(np.subtract(clip.size, size)) <= (suffix != ".gif")
    assert clip.fps == pytest.approx(24000 / 1001, abs=1.1 if suffix == ".gif" else 1e-3)
    for number in (0, 13, 29):
        found, expected = clip.read(number), stripes(*size, number)
        # At the edges of the stripes colours mix.
        for x in (8, 30, 50):
            np.testing.assert_allclose(found[24, x], expected[24, x], atol=5)


def animation(path):
    """Frames as RGBA, and how long each is shown, in milliseconds."""
    frames, durations = [], []
    with Image.open(path) as image:
        for number in range(image.n_frames):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGBA")))
            durations.append(image.info["duration"])
    return frames, durations


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_cut_outs_stay_transparent_outside_the_mask(tmp_path, suffix):
    """Also where there was something on the frame before, in a hole, and on a frame without any."""
    path, size = tmp_path / f"out{suffix}", (47, 59)
    masks = np.zeros((12, *size), bool)
    for number, mask in enumerate(masks):
        mask[9 + number : 33 + number, 3 + 2 * number : 30 + 2 * number] = True
        mask[18 + number : 24 + number, 10 + 2 * number : 18 + 2 * number] = False
    masks[5] = False
    with VideoWriter(path, size, 12.5) as writer:
        for number, mask in enumerate(masks):
            writer.write(cutout(stripes(*size, number), mask, trim=False))
    frames, durations = animation(path)
    assert durations == [80] * len(masks)
    for number, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
        np.testing.assert_array_equal(frame[..., 3], np.where(mask, 255, 0))
        wrong = np.abs(frame[..., :3].astype(int) - stripes(*size, number))[mask]
        # WebP mixes colours at the edges of the stripes.
        assert not mask.any() or np.median(wrong) <= 3


def test_a_webp_keeps_soft_edges_and_a_gif_cuts_them_in_the_middle(tmp_path):
    frame = np.full((40, 256, 4), 90, np.uint8)
    frame[..., 3] = np.arange(256)
    for suffix, expected in ((".webp", frame[..., 3]), (".gif", (frame[..., 3] >= 128) * 255)):
        with VideoWriter(tmp_path / f"out{suffix}", (40, 256), 10) as writer:
            writer.write(frame)
        (found,), _ = animation(tmp_path / f"out{suffix}")
        np.testing.assert_array_equal(found[..., 3], expected)


def test_an_opaque_webp_plays_at_the_speed_of_the_clip(tmp_path):
    with VideoWriter(tmp_path / "out.webp", (47, 59), 24000 / 1001) as writer:
        for number in range(30):
            writer.write(stripes(47, 59, number))
    frames, durations = animation(tmp_path / "out.webp")
    assert sum(durations) == round(30 * 1001 / 24) and set(durations) == {41, 42}
    for number in (0, 13, 29):
        for x in (8, 30, 50):
            expected = [*stripes(47, 59, number)[24, x], 255]
            np.testing.assert_allclose(frames[number][24, x], expected, atol=6)


def test_a_webp_plays_while_it_is_written(tmp_path):
    writer = VideoWriter(tmp_path / "out.webp", (48, 64), 24)
    for number in range(1, 4):
        writer.write(np.full((48, 64, 3), 60 * number, np.uint8))
        frames, _ = animation(tmp_path / "out.webp")
        assert len(frames) == number and abs(frames[-1][..., 0].mean() - 60 * number) < 2
    writer.close()


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".gif", ".webp"])
def test_variable_frame_durations_are_kept(tmp_path, suffix):
    """As phones film, and GIFs are made, whose last frame often stays."""
    path, seconds = tmp_path / f"out{suffix}", [0.04, 0.2, 0.08, 0.5, 0.04, 0.04, 0.7]
    with VideoWriter(path, (48, 64), 12) as writer:
        for number, one in enumerate(seconds):
            writer.write(np.full((48, 64, 3), 30 * number, np.uint8), one)
    if suffix == ".webp":
        found = [one / 1000 for one in animation(path)[1]]
    else:
        clip = open_clip(path)
        assert abs(clip.read(6).mean() - 180) < 4
        found = [clip.seconds(number) for number in range(clip.count)]
        with pytest.raises(IndexError):
            clip.seconds(7)
    known = 7 if suffix in (".gif", ".webp") else 6
    assert found[:known] == pytest.approx(seconds[:known], abs=1e-3)


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_killed_program_leaves_what_it_wrote(tmp_path, suffix):
    """Up to a second and what the encoder looks ahead."""
    program = """
import os, sys
import numpy as np
from petsam_jax.files.video_writer import VideoWriter
writer = VideoWriter(sys.argv[1], (48, 64), 24)
for number in range(200):
    writer.write(np.full((48, 64, 3), number, np.uint8))
os._exit(1)
"""
    path = tmp_path / f"out{suffix}"
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    clip = open_clip(path)
    assert clip.count >= 140
    assert abs(clip.read(100).mean() - 100) < 2


def test_a_video_without_frames_is_no_error(tmp_path):
    with VideoWriter(tmp_path / "none.mp4", (48, 64), 24):
        pass


def test_unwritable_frames_and_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"out\.avi: expected .* in \.mp4, \.mov, \.gif, \.webp"):
        VideoWriter(tmp_path / "out.avi", (48, 64), 24)
    with (
        VideoWriter(tmp_path / "out.mp4", (48, 64), 24) as writer,
        pytest.raises(ValueError, match="frame of .* in a video of"),
    ):
        writer.write(stripes(47, 64))
    clear = np.zeros((48, 64, 4), np.uint8)
    with (
        VideoWriter(tmp_path / "out.mov", (48, 64), 24) as writer,
        pytest.raises(ValueError, match=r"out\.mov: H\.264 has no transparency; use \.gif or"),
    ):
        writer.write(clear)
    with pytest.raises(ValueError, match="20000 x 2 pixels; WebP allows up to 16383 a side"):
        VideoWriter(tmp_path / "wide.webp", (2, 20_000), 24)
