"""Sessions: objects, corrections, undoing, bounded memory, streams, files, bad input."""

import itertools
from pathlib import Path

import jax
import numpy as np
import pytest

from petsam_jax.files.clip import Clip, ClipError
from petsam_jax.predict.prompt_inputs import Prompt
from petsam_jax.predict.video.frame_masks import resolve_overlaps
from petsam_jax.predict.video.session_file import SessionError
from petsam_jax.predict.video_predictor import VideoPredictor
from tests.golden import shipped_model
from tests.golden_video import SIDE, shipped_frame, shipped_predictor

COUNT = 24
# A point where the shipped model finds something, there and on all frames after it.
POINT = dict(points=[(60, 60)], labels=[1])
OTHER = dict(points=[(64, 30)], labels=[1])


@pytest.fixture(scope="module")
def predictor():
    return shipped_predictor()


@pytest.fixture(scope="module")
def frames():
    return [shipped_frame(number) for number in range(COUNT)]


@pytest.fixture
def session(predictor, frames):
    return predictor.open(frames)


def tracked(session, *args, **kwargs):
    return {frame: masks for frame, _, masks in session.propagate(*args, **kwargs)}


def recent(session, frame, object_id=1):
    return session._state.recent(frame, object_id)


def programs(predictor):
    return predictor._tracker._step._cache_size()


# Objects


def test_objects_do_not_change_each_other(predictor, frames, session):
    session.add_points(0, 1, **POINT)
    alone = tracked(session, end=4)
    crowd = predictor.open(frames)
    crowd.add_points(2, 7, **OTHER)
    crowd.add_points(0, 1, **POINT)
    for frame, ids, masks in crowd.propagate(end=4):
        assert ids == [1, 7] and masks.shape == (2, SIDE, SIDE)
        assert masks.sum(axis=0).max() <= 1
        if frame > 0:
            np.testing.assert_allclose(
                recent(crowd, frame).logits, recent(session, frame).logits, atol=2e-3
            )
        # Nothing is taken from the other but what both claim.
        assert not (masks[0] & ~alone[frame][0]).any()
    np.testing.assert_array_equal(crowd.masks(4).masks, masks)


def test_objects_come_and_go_while_tracking(predictor, frames, session):
    session.add_points(0, 1, **POINT)
    ids_by_frame = []
    for frame, ids, masks in session.propagate(end=6):
        ids_by_frame.append(ids)
        assert len(masks) == len(ids)
        if frame == 2:
            session.add_points(2, 4, **OTHER)
        if frame == 4:
            session.remove_object(1)
    assert ids_by_frame == [[1]] * 3 + [[1, 4]] * 2 + [[4]] * 2
    late = predictor.open(frames)
    late.add_points(2, 4, **OTHER)
    tracked(late, end=6)
    np.testing.assert_allclose(recent(session, 6, 4).logits, recent(late, 6, 4).logits, atol=2e-3)


def test_a_mask_is_used_as_it_is_and_takes_pixels_from_tracked_objects(session, rng):
    session.add_points(0, 1, **POINT)
    mask = rng.random((SIDE, SIDE)) > 0.5
    np.testing.assert_array_equal(session.add_mask(3, 2, mask), mask)
    found = tracked(session, end=4)
    np.testing.assert_array_equal(found[3][1], mask)
    assert not (found[3][0] & mask).any()
    # As files and other programs have them.
    for same in (mask.astype(np.uint8) * 255, mask.astype(int).tolist()):
        found = session.add_mask(3, 2, same)
        assert found.dtype == bool
        np.testing.assert_array_equal(found, mask)
        np.testing.assert_array_equal(session.masks(3).masks[1], mask)
    nowhere = session.add_mask(5, 2, np.zeros((SIDE, SIDE), bool))
    assert not nowhere.any() and session.scores(5)[2] < 1e-4


def test_a_low_object_score_empties_the_mask_whatever_its_logits(predictor, session, monkeypatch):
    """A gated model's logits are cut off already; those of the shipped weights are not."""
    session.add_points(0, 1, **POINT)
    assert all(masks.any() for masks in tracked(session, end=2).values())
    step = predictor._tracker.step

    def doubting(*args, **rows):
        output = step(*args, **rows)
        return output._replace(object_logit=np.full(output.object_logit.shape, -5, np.float32))

    monkeypatch.setattr(predictor._tracker, "step", doubting)
    found = tracked(session, end=2)
    assert [masks.any() for masks in found.values()] == [True, False, False]
    # The logits are kept all the same, for the next frames.
    assert (recent(session, 2, 1).logits > 0).any() and session.scores(2)[1] < 0.01


def test_tracking_in_two_passes_equals_tracking_in_one(predictor, frames, session):
    """The second pass starts so late that a frame reads all that it can of the first."""
    session.add_points(0, 1, **POINT)
    whole = tracked(session, end=20)
    parted = predictor.open(frames)
    parted.add_points(0, 1, **POINT)
    rest = tracked(parted, end=17) | tracked(parted, 18, 20)
    for frame in range(21):
        np.testing.assert_array_equal(rest[frame], whole[frame])
    for frame in (18, 19, 20):
        mine, other = (recent(one, frame, 1) for one in (session, parted))
        np.testing.assert_array_equal(mine.logits, other.logits)


def test_absent_objects_have_no_mask(session):
    session.add_points(0, 1, [(30, 20)], [1])
    for frame, _, masks in session.propagate():
        score = session.scores(frame)[1]
        assert masks.any() <= (score > 0.5)


def test_overlaps_are_resolved_by_the_reference_rule(rng):
    logits = rng.normal(size=(3, 16, 16)).astype(np.float32)
    highest = np.arange(3)[:, None, None] == logits.argmax(axis=0)
    expected = highest & (logits > 0)
    np.testing.assert_array_equal(resolve_overlaps(logits > 0, list(logits)), expected)


# Corrections and undoing


@pytest.mark.slow
def test_masks_are_carried_where_the_model_was_trained_with_them(predictor, frames):
    config = predictor.config.copy_and_resolve_references()
    with config.unlocked():
        config.prompts.carried = True
    carrying = VideoPredictor(config, shipped_model(), binarise=False)
    calls, tracker = [], carrying._tracker
    step = tracker.step

    def recorded(features, bank, position, prompts, **rows):
        calls.append((int(position.frame), prompts))
        return step(features, bank, position, prompts, **rows)

    tracker.step = recorded
    session = carrying.open(frames)
    session.add_points(3, 1, **POINT)
    session.add_points(5, 2, **OTHER)
    calls.clear()
    tracked(session, 3, 7)
    # On frame 3 the second object is not known yet; on frame 5 it is prompted.
    assert [(frame, prompts.has_mask.tolist()) for frame, prompts in calls] == [
        (3, [False, False]),
        (4, [True, True]),
        (5, [True, True]),
        (6, [True, True]),
        (7, [True, True]),
    ]
    for frame, prompts in calls[1:]:
        for row, each in enumerate((1, 2)):
            expected = session._inputs.last_mask(frame - 1, each).logits
            np.testing.assert_array_equal(prompts.mask_input[row, ..., 0], expected)
    calls.clear()
    tracked(session, 3, 1, reverse=True)
    for frame, prompts in calls[1:]:
        expected = session._inputs.last_mask(frame + 1, 1).logits
        np.testing.assert_array_equal(prompts.mask_input[0, ..., 0], expected)


def test_corrections_change_later_frames_and_can_be_cleared(session):
    session.add_points(0, 1, **POINT)
    before = tracked(session, end=8)
    session.add_points(5, 1, [(20, 20)], [1])
    session.add_points(5, 1, [(100, 110)], [0])
    record = session._state.at(5, 1)
    assert record.prompt.labels == (1, 0) and not record.initial
    corrected = tracked(session, 5, 8)
    assert any((corrected[frame] != before[frame]).any() for frame in (6, 7, 8))
    session.clear_frame(5, 1)
    # The tracked mask counts again.
    np.testing.assert_array_equal(session.masks(5).masks, before[5])
    again = tracked(session, 0, 8)
    assert all((again[frame] == before[frame]).all() for frame in before)


def test_a_correction_while_tracking_counts_from_the_next_frame(predictor, frames, session):
    session.add_points(0, 1, **POINT)
    for frame, _, _ in session.propagate(end=6):
        if frame == 3:
            session.add_points(3, 1, [(20, 20)], [1])
    other = predictor.open(frames)
    other.add_points(0, 1, **POINT)
    tracked(other, end=3)
    other.add_points(3, 1, [(20, 20)], [1])
    tracked(other, 4, 6)
    for frame in (4, 5, 6):
        np.testing.assert_allclose(
            recent(session, frame).logits, recent(other, frame).logits, atol=1e-4
        )


def test_undo_goes_back_step_by_step(session):
    one = session.add_points(0, 1, **POINT)
    session.add_points(0, 1, [(20, 100)], [0])
    session.add_points(0, 2, **OTHER)
    session.remove_object(1)
    assert session.object_ids == [2]
    assert session.undo() and session.object_ids == [1, 2]
    assert session.undo() and session.object_ids == [1]
    assert session.prompt(0, 1).labels == (1, 0)
    assert session.undo()
    np.testing.assert_array_equal(session.masks(0).masks[0], one)
    assert session.undo() and session.object_ids == []
    assert not session.undo()


def test_a_box_replaces_clicks_and_reset_forgets_all(session):
    session.add_points(0, 1, **POINT)
    session.add_points(0, 1, [(20, 100)], [0])
    session.add_box(0, 1, (30, 30, 90, 90))
    prompt = session.prompt(0, 1)
    assert prompt.labels == () and prompt.box == (30, 30, 90, 90)
    fed_back = session._state.at(0, 1).logits
    session.add_points(0, 1, **POINT)
    assert session.prompt(0, 1).box == (30, 30, 90, 90)
    assert (session._state.at(0, 1).logits != fed_back).any()
    session.reset()
    assert session.object_ids == [] and session.masks(0).masks.shape == (0, SIDE, SIDE)
    assert not session.undo()


def test_set_prompt_applies_what_is_new(predictor, frames, session, rng):
    """As the same clicks one by one, and as if nothing had been there where more changed."""
    mask = rng.random((SIDE, SIDE)) > 0.5
    prompt = Prompt.read([(60, 60), (20, 100)], [1, 0], box=(30, 30, 90, 90))
    other = predictor.open(frames)
    other.add_box(0, 1, (30, 30, 90, 90))
    other.add_points(0, 1, [(60, 60)], [1])
    expected = other.add_points(0, 1, [(20, 100)], [0])
    session.set_prompt(0, 1, prompt.first_points(1))
    np.testing.assert_array_equal(session.set_prompt(0, 1, prompt), expected)
    np.testing.assert_array_equal(session.set_prompt(0, 1, prompt), expected)
    assert session.prompt(0, 1) == prompt == other.prompt(0, 1)
    with pytest.raises(ValueError, match="outside the image"):
        session.set_prompt(0, 1, Prompt.read(**POINT).with_points([(SIDE, 3)], [1]))
    assert session.prompt(0, 1) == prompt and session.prompt(1, 1) is None
    for changed, call, *given in (
        (Prompt.read(**POINT), "add_points", *POINT.values()),
        (Prompt(find=True), "add_pet"),
        (Prompt.read(mask=mask), "add_mask", mask),
    ):
        expected = getattr(predictor.open(frames), call)(0, 1, *given)
        np.testing.assert_array_equal(session.set_prompt(0, 1, changed), expected)


# Memory


def test_old_memories_are_made_again_from_masks(session):
    session.add_points(0, 1, **POINT)
    tracked(session, end=8)
    expected = recent(session, 8).logits
    tracked(session, 9, 23)
    assert recent(session, 7) is None
    tracked(session, 8, 8)
    error = np.abs(recent(session, 8).logits - expected).mean() / np.abs(expected).mean()
    assert 0 < error < 0.15


def test_backwards_reads_later_frames(session):
    """As SAM 2: frames after it that were already tracked, besides the prompted one."""
    session.add_points(9, 1, **POINT)
    tracked(session, reverse=True, end=8)
    alone = recent(session, 8).logits
    tracked(session, end=14)
    tracked(session, reverse=True, end=8)
    assert np.abs(recent(session, 8).logits - alone).max() > 0.01


def test_five_prompted_frames_are_all_remembered(session):
    for frame in range(0, 10, 2):
        session.add_points(frame, 1, **POINT)
    slots = session._inputs.memories([1], 20, False).bank.conditioning
    assert sorted(slots.frame[slots.valid]) == [0, 2, 4, 6, 8]
    slots = session._inputs.memories([1], 4, False, without=4).bank.conditioning
    assert sorted(slots.frame[slots.valid]) == [0, 2, 6, 8]


def test_everything_runs_in_one_program(predictor, session):
    session.add_points(3, 1, **POINT)
    tracked(session, end=4)
    before = programs(predictor)
    session.add_points(4, 1, [(9, 9)], [0])
    session.clear_frame(3)
    tracked(session, 4, 8)
    tracked(session, 4, 0, reverse=True)
    session.add_box(20, 1, (3, 3, 50, 50))
    session.clear_frame(4)
    tracked(session, 20, 23)
    assert programs(predictor) == before


@pytest.mark.slow
def test_a_stream_takes_little_and_is_not_read_ahead(predictor):
    read = itertools.count()

    def camera():
        for number in range(150):
            next(read)
            yield shipped_frame(number % COUNT)

    session = predictor.open(camera())
    session.add_points(0, 1, **POINT)
    state, inputs = session._state, session._inputs
    sizes = []
    for frame, _, _ in session.propagate():
        # The frame that is yielded is the last one that was read.
        assert next(read) == frame + 1 + frame
        if frame >= 50:
            sizes.append((len(state._recent._frames), len(inputs._encoded), len(jax.live_arrays())))
    assert frame == 149 and len(state.tracked(1)) == 149
    assert len(set(sizes)) == 1
    with pytest.raises(ClipError, match="frame 3 has passed; only the last 32"):
        session.add_points(3, 1, **POINT)
    session.add_points(149, 1, **POINT)
    assert len(tracked(session, 149)) == 1


# Files


def test_a_session_continues_where_it_was_saved(predictor, frames, session, tmp_path, rng):
    session.add_points(0, 3, **POINT)
    session.add_points(0, 3, [(20, 100)], [0])
    session.add_box(2, 3, (20, 20, 90, 90))
    session.add_mask(0, 5, rng.random((SIDE, SIDE)) > 0.5)
    tracked(session, end=5)
    path = tmp_path / "work.session"
    session.save_session(path)
    loaded = predictor.load_session(path, frames)
    assert loaded.object_ids == [3, 5]
    for frame in range(7):
        np.testing.assert_array_equal(loaded.masks(frame).masks, session.masks(frame).masks)
    assert loaded.prompt(2, 3) == session.prompt(2, 3)
    # From a prompted frame nothing has to be recalled.
    np.testing.assert_array_equal(tracked(loaded, 0, 5)[5], tracked(session, 0, 5)[5])
    assert list(tmp_path.iterdir()) == [path]

    with pytest.raises(SessionError, match=f"of a clip of {COUNT} frames"):
        predictor.load_session(path, frames[:5])
    other = predictor._tracker.fingerprint
    predictor._tracker.fingerprint = "0"
    with pytest.raises(SessionError, match="other weights"):
        predictor.load_session(path, frames)
    predictor._tracker.fingerprint = other
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SessionError, match="damaged"):
        predictor.load_session(path, frames)
    with pytest.raises(FileNotFoundError):
        predictor.load_session(tmp_path / "none", frames)


def test_a_session_of_version_0_1_0_opens(predictor, frames):
    """Two clicks and a mask on frame 0, a box on frame 2; frame 1 was tracked."""
    path = Path(__file__).parent / "saved" / "session_0.1.0.session"
    session = predictor.load_session(path, frames[:4])
    mask = np.zeros((SIDE, SIDE), bool)
    mask[5:40, 70:110] = True
    assert session.prompt(0, 1) == Prompt(points=((60, 60), (20.5, 100)), labels=(1, 0))
    assert session.prompt(2, 1) == Prompt(box=(20, 20, 90, 90))
    assert session.prompt(0, 5) == Prompt.read(mask=mask)
    areas = [session.masks(frame).masks.sum(axis=(1, 2)).tolist() for frame in range(4)]
    assert areas == [[0, 1400], [5488, 2340], [12433, 0], [0, 0]]
    assert session.scores(1) == pytest.approx({1: 0.95745, 5: 0.98676}, abs=1e-4)
    assert list(tracked(session, 0, 3)) == [0, 1, 2, 3]


# Bad input


def test_bad_input_is_an_error_and_the_session_stays(session):
    with pytest.raises(ValueError, match="no objects"):
        session.propagate()
    session.add_points(0, 1, **POINT)
    for call, error, reason in [
        (lambda: session.add_points(0, 1, [(SIDE, 3)], [1]), ValueError, "outside the image"),
        (lambda: session.add_points(0, 2, [(3, 3)], [5]), ValueError, "labels"),
        (lambda: session.add_points(0, 2, [[(3, 3)]], [[1]]), ValueError, "one at a time"),
        (lambda: session.add_box(0, 2, (200, 200, 210, 220)), ValueError, "outside the image"),
        (lambda: session.add_box(0, 2, [(2, 2, 9, 9)]), ValueError, "expected \\(4,\\)"),
        (lambda: session.add_points(COUNT, 2, **POINT), IndexError, f"frame {COUNT}"),
        (lambda: session.add_mask(0, 2, np.full((SIDE, SIDE), 0.4)), ValueError, "type float64"),
        (lambda: session.scores(COUNT), IndexError, f"frame {COUNT}"),
        (lambda: session.add_mask(0, 2, np.ones((3, 3), bool)), ValueError, "the mask 3 x 3"),
        (lambda: session.propagate(-1), IndexError, "frame -1"),
        (lambda: session.propagate(0, COUNT), IndexError, f"frame {COUNT}"),
        (lambda: session.propagate(5, 3), ValueError, "from frame 5 to 3"),
        (lambda: session.propagate(3, 5, reverse=True), ValueError, "from frame 3 to 5"),
        (lambda: session.masks(COUNT), IndexError, f"frame {COUNT}"),
        (
            lambda: session.remove_object(9),
            ValueError,
            r"object 9: does not exist; there are \[1\]",
        ),
        (lambda: session.clear_frame(0, 9), ValueError, "object 9"),
        (lambda: session.clear_frame(3), ValueError, "frame 3: no prompts there"),
    ]:
        with pytest.raises(error, match=reason):
            call()
    assert session.object_ids == [1] and session.prompt(0, 1).labels == (1,)
    assert len(tracked(session, end=2)) == 3
    session.clear_frame(0, 1)
    with pytest.raises(ValueError, match="object 1: no prompt is left"):
        session.propagate()


def test_frames_before_a_damaged_one_are_tracked(predictor):
    class Damaged(Clip):
        def _read(self, frame):
            if frame == 4:
                raise ClipError("frame 4 is damaged")
            return shipped_frame(frame)

    session = predictor.open(Damaged("clip", COUNT))
    session.add_points(0, 1, **POINT)
    passing = session.propagate()
    assert [next(passing).frame for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ClipError, match="frame 4 is damaged"):
        next(passing)
    session.add_points(6, 1, **POINT)
    assert list(tracked(session, 6, 8)) == [6, 7, 8]
