"""Clips of the official code, replayed by `VideoPredictor`: prompts in, the same numbers out."""

import jax
import numpy as np
import pytest

from tests.golden import assert_close, golden, nchw
from tests.golden_video import SIDE, golden_frame, golden_predictor

OBJECTS = (1, 2)
# What a session keeps of a frame, by the golden file's names.
RECORDED = (
    "pred_masks",
    "pred_masks_high_res",
    "obj_ptr",
    "object_score_logits",
    "maskmem_features",
)


@pytest.fixture(scope="module")
def predictor():
    return golden_predictor()


class Replay:
    """A clip of the golden file, and the names of its arrays that were compared."""

    def __init__(self, predictor, name, num_frames):
        self.t, self.name = golden("track_step"), name
        self.session = predictor.open([golden_frame(number) for number in range(num_frames)])
        self.compared = set()

    def click(self, frame, name="click"):
        for row, each in enumerate(OBJECTS):
            points, labels = self.t[f"{name}.coords"][row], self.t[f"{name}.labels"][row]
            self.session.add_points(frame, each, points, labels)
        self.compare(frame, "_fix" if name == "fix" else "")

    def mask(self, frame):
        for row, each in enumerate(OBJECTS):
            self.session.add_mask(frame, each, self.t["mask_prompt.mask"][row, 0] > 0)
        self.compare(frame)

    def track(self, *frames, reverse=False):
        passed = self.session.propagate(frames[0], frames[-1], reverse=reverse)
        assert [found.frame for found in passed] == list(frames)
        for frame in frames:
            self.compare(frame)

    def compare(self, frame, suffix=""):
        """What was found and is remembered of a frame."""
        found = [self.record(frame, each) for each in OBJECTS]
        for name, arrays in zip(RECORDED, zip(*found, strict=True), strict=True):
            array = f"{self.name}.frame{frame}{suffix}.{name}"
            if array in self.t:
                assert_close("track_step", np.stack(arrays), self.t[array], array)
                self.compared.add(array)

    def record(self, frame, object_id):
        state = self.session._state
        known, recent = state.at(frame, object_id), state.recent(frame, object_id)
        if frame in state.prompted(object_id):
            recent = known
        full = jax.image.resize(recent.logits, (SIDE, SIDE), "bilinear")
        memory = nchw(recent.memory[None])[0]
        score = np.array([known.object_logit])
        return recent.logits[None], full[None], known.obj_ptr, score, memory

    def done(self):
        expected = {name for name in self.t if name.startswith(f"{self.name}.frame")}
        expected = {name for name in expected if name.rpartition(".")[2] in RECORDED}
        assert expected and self.compared == expected, expected - self.compared


def test_click_track_correct(predictor):
    clip = Replay(predictor, "seq", 3)
    clip.click(0)
    clip.track(0, 1, 2)
    clip.click(2, "fix")
    clip.done()


def test_memories_leave_the_window(predictor):
    clip = Replay(predictor, "long", 11)
    clip.click(0)
    clip.track(*range(11))
    clip.done()


def test_backwards(predictor):
    clip = Replay(predictor, "reverse", 8)
    clip.click(5)
    clip.track(5, 4, 3, reverse=True)
    clip.done()


@pytest.mark.slow
def test_two_prompted_frames(predictor):
    clip = Replay(predictor, "two_cond", 8)
    clip.click(0)
    clip.click(6)
    clip.track(1, 2)
    clip.done()


def test_mask(predictor):
    clip = Replay(predictor, "mask_prompt", 2)
    clip.mask(0)
    clip.track(0, 1)
    clip.done()
