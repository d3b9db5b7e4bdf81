"""Written videos play what was put in, at any time; other names and sizes are refused."""

import subprocess
import sys

import numpy as np
import pytest

from petsam_jax.video.frames import open_clip
from petsam_jax.video.writer import VideoWriter

RED, GREEN, BLUE = (200, 30, 40), (20, 180, 90), (40, 60, 220)


def stripes(height, width, brighter=0):
    frame = np.zeros((height, width, 3), np.uint8)
    for start, colour in zip((0, 20, 40), (RED, GREEN, BLUE), strict=True):
        frame[:, start : start + 20] = np.array(colour) + brighter
    return frame


@pytest.mark.parametrize("size", [(48, 60), (47, 59)])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".gif"])
def test_frames_come_back(tmp_path, suffix, size):
    path = tmp_path / f"out{suffix}"
    with VideoWriter(path, size, 24000 / 1001) as writer:
        for number in range(30):
            writer.write(stripes(*size, number))
    clip = open_clip(path)
    # An odd side is made even in H.264 by repeating its last pixels.
    assert clip.count == 30 and max(np.subtract(clip.size, size)) <= (suffix != ".gif")
    assert clip.fps == pytest.approx(24000 / 1001, abs=1.1 if suffix == ".gif" else 1e-3)
    for number in (0, 13, 29):
        found, want = clip.read(number), stripes(*size, number)
        # At the edges of the stripes colours mix.
        for x in (8, 30, 50):
            np.testing.assert_allclose(found[24, x], want[24, x], atol=5)


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_killed_program_leaves_what_it_wrote(tmp_path, suffix):
    """Up to a second and what the encoder looks ahead."""
    program = """
import os, sys
import numpy as np
from petsam_jax.video.writer import VideoWriter
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


def test_no_frame_is_no_error(tmp_path):
    with VideoWriter(tmp_path / "none.mp4", (48, 64), 24):
        pass


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"out\.avi: want a name that ends in \.mp4, \.mov, \.gif"):
        VideoWriter(tmp_path / "out.avi", (48, 64), 24)
    with (
        VideoWriter(tmp_path / "out.mp4", (48, 64), 24) as writer,
        pytest.raises(ValueError, match="frame of .* in a video of"),
    ):
        writer.write(stripes(47, 64))
