"""Clips in every form return their frames; errors name what is wrong with unfit ones."""

import av
import numpy as np
import pytest
from PIL import Image

from petsam_jax.files.clip import KEPT, ClipError
from petsam_jax.files.video_reader import open_clip

COUNT, HEIGHT, WIDTH = 46, 48, 64


def shade(frame):
    return 20 + 5 * frame


def frames(count=COUNT):
    """Each frame has a grey of its own, which no codec loses."""
    return [np.full((HEIGHT, WIDTH, 3), shade(frame), np.uint8) for frame in range(count)]


def write_video(path, codec, count=COUNT):
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        # Enough for greys to come through.
        stream.bit_rate = 4_000_000
        for frame in frames(count):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        file.mux(stream.encode())
    return path


def write_gif(path):
    first, *rest = [Image.fromarray(frame) for frame in frames()]
    first.save(path, save_all=True, append_images=rest, duration=40)
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    (root / "folder").mkdir()
    for number, frame in enumerate(frames()):
        Image.fromarray(frame).save(root / "folder" / f"{number}.png")
    return {
        "mp4": write_video(root / "a.mp4", "mpeg4"),
        "h264": write_video(root / "b.mov", "libx264"),
        "webm": write_video(root / "c.webm", "libvpx"),
        "gif": write_gif(root / "d.gif"),
        "folder": root / "folder",
        "array": np.stack(frames()),
        "list": frames(),
    }


@pytest.mark.parametrize("kind", ["mp4", "h264", "webm", "gif", "folder", "array", "list"])
def test_frames_are_read_in_any_order(sources, kind, rng):
    clip = open_clip(sources[kind])
    assert clip.count == COUNT and clip.size == (HEIGHT, WIDTH)
    orders = [range(COUNT), range(COUNT - 1, -1, -1), rng.permutation(COUNT)[:12].tolist()]
    for frame in [frame for order in orders for frame in order]:
        pixels = clip.read(frame)
        assert pixels.dtype == np.uint8 and pixels.shape == (HEIGHT, WIDTH, 3)
        # Codecs err by a grey or two; frames are 5 apart.
        assert abs(pixels.mean() - shade(frame)) < 2.5, frame
    for missing in (-1, COUNT):
        with pytest.raises(IndexError, match=f"frame {missing}; it has frames 0..{COUNT - 1}"):
            clip.read(missing)
    clip.close()


def test_fps_is_read_from_the_video(sources):
    assert open_clip(sources["h264"]).fps == 25
    assert open_clip(sources["gif"]).fps == pytest.approx(25, abs=1)


def test_stream_keeps_the_last_frames():
    clip = open_clip(iter(frames()))
    assert clip.count is None
    clip.read(40)
    assert clip.read(41 - KEPT).mean() == shade(41 - KEPT)
    with pytest.raises(ClipError, match="frame 8 has passed"):
        clip.read(40 - KEPT)
    with pytest.raises(IndexError, match=f"ended after {COUNT} frames"):
        clip.read(COUNT)
    assert clip.count == COUNT and clip.read(COUNT - 1).mean() == shade(COUNT - 1)


def test_video_holds_few_frames(sources):
    clip = open_clip(sources["h264"])
    for frame in range(COUNT):
        clip.read(frame)
    assert len(clip._kept) == KEPT


def test_errors_name_what_is_wrong_with_a_clip(sources, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(sources["mp4"].read_bytes()[:3000])
    text = tmp_path / "text.mp4"
    text.write_text("<html>404</html>")
    (tmp_path / "empty").mkdir()
    for source, reason in [
        (broken, "broken.mp4: no video stream; it is damaged"),
        (text, "^[^ ]*text.mp4: not a readable video: Invalid data found[^/']*$"),
        (tmp_path / "none.mp4", "none.mp4: no such file"),
        (tmp_path / "empty", "empty: no frames"),
        ([], "no frames"),
        (iter([]), "no frames"),
        (np.zeros((4, 4, 3), np.uint8), r"expected \(t, h, w, 3\)"),
        ([np.zeros((4, 4, 3), np.float32)], "frame 0: .*float32"),
    ]:
        with pytest.raises(ClipError, match=reason):
            open_clip(source)
    with pytest.raises(TypeError):
        open_clip(3)


@pytest.mark.parametrize("form", [list, iter])
def test_frames_of_changing_size_are_refused(form):
    clip = open_clip(form([*frames(2), np.zeros((HEIGHT, 32, 3), np.uint8)]))
    with pytest.raises(ClipError, match=f"frame 2 is 32 x {HEIGHT} pixels and the first {WIDTH} x"):
        clip.read(2)
    assert clip.read(1).mean() == shade(1)
