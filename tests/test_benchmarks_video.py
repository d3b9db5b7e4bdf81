"""benchmarks/video.py: both tables and the stream's growth, of a tiny model."""

import re

import numpy as np
import pytest

from benchmarks import video
from petsam_jax.predict.video_predictor import VideoPredictor
from tests.golden_video import shipped_predictor

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _tiny_weights(monkeypatch):
    given = classmethod(lambda cls, directory: shipped_predictor())
    monkeypatch.setattr(VideoPredictor, "from_checkpoint", given)


def numbers(line):
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", line)]


def test_speed_and_stages(capsys, monkeypatch):
    monkeypatch.setattr(video, "COUNT", 20)
    video.main(video.parse(["--rounds", "1", "--calls", "2", "--objects", "3"]))
    lines = capsys.readouterr().out.splitlines()
    tables = [line for line in lines if line.startswith("|")]
    whole, stages = tables[2], tables[5:]
    objects, median, best, cpu, *_, covered = numbers(whole)
    assert objects == 3
    assert 0 < median <= best
    assert cpu > 0
    assert 0 <= covered <= 100
    names = [line.split("|")[1].strip() for line in stages]
    assert names[0] == "decode" and names[-1] == "write"
    assert len(names) == 8
    assert all(min(numbers(line)) >= 0 and len(numbers(line)) == 2 for line in stages)


def test_growth_of_a_stream(capsys, monkeypatch):
    monkeypatch.setattr(video, "SETTLED", 5)
    video.main(video.parse(["--frames", "20", "--small"]))
    *steps, last = capsys.readouterr().out.splitlines()[2:]
    assert [int(numbers(line)[0]) for line in steps] == [*range(6, 20, 2)]
    assert last.endswith("MB after the first 5 frames; target: less than 50")
    assert np.isfinite(numbers(last)[0])
