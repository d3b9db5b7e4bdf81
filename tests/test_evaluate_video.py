"""The command `evaluate-video` on clips with known masks; the predictor finds red pixels."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from petsam_jax.cli import evaluate_video
from petsam_jax.evaluation.video import find_known_clips, repeat_first, score_clip
from petsam_jax.files.video_reader import ClipError, open_clip
from petsam_jax.predict.video_predictor import VideoPredictor
from tests.red_predictor import RedVideo

HEIGHT, WIDTH, SIDE = 64, 128, 32


def write_clip(folder, count=5):
    """A red square that moves right by 8 pixels per frame, and its masks."""
    for part in ("frames", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        left = 8 + 8 * number
        inside = np.zeros((HEIGHT, WIDTH), bool)
        inside[16 : 16 + SIDE, left : left + SIDE] = True
        frame = np.where(inside[..., None], np.uint8([220, 30, 30]), np.uint8(120))
        Image.fromarray(frame).save(folder / "frames" / f"{number}.png")
        Image.fromarray(inside).save(folder / "masks" / f"{number}.png")
    return folder


@pytest.fixture
def red(monkeypatch):
    predictor = RedVideo()
    predictor.config = SimpleNamespace(model=SimpleNamespace(dtype="float32"))
    monkeypatch.setattr(VideoPredictor, "from_checkpoint", lambda *args, **options: predictor)


def test_prompts_are_scored_against_baselines(red, tmp_path, capsys):
    data, out = write_clip(tmp_path / "clips" / "square").parent, tmp_path / "out"
    assert evaluate_video.main(["--data", str(data), "--out", str(out)]) == 0
    figures = json.loads((out / "metrics.json").read_text())
    means = figures["means"]
    assert list(means) == ["mask", "click1", "click3", "boxes", "still"]
    assert means["click1"]["J"] > 0.9 and means["click1"]["F"] > 0.9
    # The square has moved by 8, 16 and 24 of its 32 pixels.
    shares = [(SIDE - moved) / (SIDE + moved) for moved in (8, 16, 24)]
    assert means["still"]["J"] == pytest.approx(np.mean(shares), abs=1e-4)
    assert figures["clips"]["square"]["still"]["1"] == means["still"]
    assert "J&F" in capsys.readouterr().out
    for name in means:
        assert open_clip(out / f"square-{name}.mp4").count == 5


def test_the_first_and_the_last_frame_do_not_count(tmp_path):
    (known,) = find_known_clips(write_clip(tmp_path / "square"))
    true = [known.mask(frame, 1)[None] == 1 for frame in range(5)]
    seen = []
    results = [~true[0], *true[1:4], ~true[4]]
    scores = score_clip(known, iter(results), lambda frame, masks: seen.append(frame))
    assert scores[1].means() == {"J": 1, "F": 1, "J&F": 1} and len(scores[1].J) == 3
    assert seen == [0, 1, 2, 3, 4]
    first = list(repeat_first(RedVideo(), known))
    assert len(first) == 5 and all((masks == true[0]).all() for masks in first)


def test_unfit_clips_are_refused(tmp_path):
    with pytest.raises(ClipError, match="no frames/ and masks/ in it"):
        find_known_clips(tmp_path)
    folder = write_clip(tmp_path / "square", count=3)
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(folder / "masks" / "0.png")
    with pytest.raises(ClipError, match=r"0\.png: no object in the first frame's mask"):
        find_known_clips(tmp_path)
    (folder / "masks" / "2.png").rename(folder / "masks" / "3.png")
    with pytest.raises(ClipError, match="3 frames and 3 masks; each frame needs a mask"):
        find_known_clips(folder)
    for part, last in (("frames", "2.png"), ("masks", "3.png")):
        (folder / part / last).unlink()
    with pytest.raises(ClipError, match="2 frames; the first and the last do not count"):
        find_known_clips(folder)
