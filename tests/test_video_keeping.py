"""What a session computes once, what it keeps of a long clip, and the errors it survives."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from petsam_jax.files.clip import ClipError
from petsam_jax.files.video_writer import VideoWriter
from petsam_jax.models import memory_bank
from petsam_jax.predict.postprocess import fill_holes, masks_at_size
from petsam_jax.predict.video.crops import full_view
from petsam_jax.predict.video.frame_masks import HOLES, enlarge
from tests.golden_video import SIDE, shipped_frame, shipped_predictor

COUNT, MOMENT = 12, 8
POINT = dict(points=[(60, 60)], labels=[1])


@pytest.fixture(scope="module")
def predictor():
    return shipped_predictor()


@pytest.fixture(scope="module")
def frames():
    return [shipped_frame(number) for number in range(COUNT)]


@pytest.fixture
def session(predictor, frames):
    return predictor.open(frames)


def track(session, *args, **kwargs):
    return [found.frame for found in session.propagate(*args, **kwargs)]


def test_frames_are_encoded_once_for_all_objects_and_a_fourth_compiles_nothing(
    predictor, session, monkeypatch
):
    encode, encoded = predictor.images.encode, []

    def counted(image):
        encoded.append(image)
        return encode(image)

    monkeypatch.setattr(predictor.images, "encode", counted)
    for each, x in enumerate((20, 60, 100), start=1):
        session.add_points(0, each, [(x, 60)], [1])
    assert track(session, end=6) == list(range(7))
    assert len(encoded) == 7
    programs = predictor._tracker._step._cache_size()
    session.add_box(1, 4, (20, 20, 90, 90))
    session.add_points(1, 4, [(50, 50), (9, 9)], [1, 0])
    track(session, 2, 9)
    track(session, 9, 5, reverse=True)
    assert predictor._tracker._step._cache_size() == programs


@pytest.mark.slow
def test_a_long_stream_keeps_little(predictor):
    """Run lengths and a pointer a frame: a mask's logits alone would be 4 KB, its frame 48 KB."""
    start, end = 60, 160

    def camera():
        for number in range(end):
            yield shipped_frame(number)

    session = predictor.open(camera())
    session.add_points(0, 1, **POINT)
    sizes = {start: [], end - 1: []}
    tracemalloc.start()
    try:
        for found in session.propagate():
            for last, sizes_there in sizes.items():
                if last - MOMENT < found.frame <= last:
                    on_device = sum(array.nbytes for array in jax.live_arrays())
                    sizes_there.append((tracemalloc.get_traced_memory()[0], on_device))
    finally:
        tracemalloc.stop()
    # The least of a few frames: a frame or two more are held until the device has read them.
    before, after = (min(host for host, _ in one) for one in sizes.values())
    device_before, device_after = (one[-1][1] for one in sizes.values())
    assert device_after == device_before
    assert (after - before) / (end - 1 - start) < 2500


@pytest.mark.slow
def test_the_nearest_prompted_frames_are_read_first(session):
    prompted = (0, 2, 4, 8, 10)
    for frame in prompted:
        session.add_points(frame, 1, **POINT)

    def read(frame):
        """Numbers of the prompted frames that a frame has as such."""
        bank = jax.tree.map(jnp.asarray, session._inputs.memories([1], frame, False).bank)
        selected = memory_bank.select(bank, frame, past_only=False)
        conditioning = selected.memory_valid[0] & (selected.memory_age[0] == 7)
        return sorted(frame - int(ago) for ago in selected.ptr_time[0][: conditioning.sum()])

    assert read(11) == [2, 4, 8, 10]
    assert read(3) == [0, 2, 4, 8]
    # The one before and the one after are in it, however far.
    assert read(9) == [2, 4, 8, 10]


def test_a_saved_session_continues_as_if_it_had_not_stopped(predictor, frames, session, tmp_path):
    session.add_points(0, 1, **POINT)
    track(session, end=5)
    session.save_session(tmp_path / "work.session")
    loaded = predictor.load_session(tmp_path / "work.session", frames)
    for one in (session, loaded):
        track(one, 6, 9)
        # A correction starts from the tracked logits.
        one.add_points(8, 1, [(100, 100)], [0])
        track(one, 8, 10)
    for frame in (6, 9, 10):
        mine, other = (one._state.recent(frame, 1) for one in (session, loaded))
        np.testing.assert_array_equal(mine.logits, other.logits)
        np.testing.assert_array_equal(session.masks(frame).masks, loaded.masks(frame).masks)


def test_a_frame_of_another_size_ends_the_pass_and_not_the_session(predictor, frames):
    odd = np.zeros((SIDE, SIDE // 2, 3), np.uint8)
    session = predictor.open([*frames[:5], odd, *frames[6:]])
    session.add_points(0, 1, **POINT)
    found = session.propagate()
    assert [next(found).frame for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ClipError, match=f"frame 5 is {SIDE // 2} x {SIDE} pixels and the first"):
        next(found)
    with pytest.raises(ClipError, match="frame 5"):
        session.add_points(5, 2, **POINT)
    assert session.object_ids == [1]
    session.add_points(4, 1, [(9, 9)], [0])
    assert track(session, 4, 1, reverse=True) == [4, 3, 2, 1]


def test_a_video_that_is_damaged_within_is_tracked_up_to_there(predictor, tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, (SIDE, SIDE), 5) as video:
        for number in range(30):
            video.write(shipped_frame(number))
    whole = path.read_bytes()
    # Frames in the middle of the file, but not the tables of their positions.
    middle = slice(len(whole) // 2, len(whole) * 6 // 10)
    path.write_bytes(
        whole[: middle.start] + bytes(middle.stop - middle.start) + whole[middle.stop :]
    )
    session = predictor.open(path)
    session.add_points(0, 1, **POINT)
    tracked = []
    with pytest.raises(ClipError, match=r"clip\.mp4: .*frame \d+"):
        tracked.extend(found.frame for found in session.propagate())
    tracked = sorted(session._state.tracked(1))
    assert len(tracked) > 5 and tracked == list(range(1, len(tracked) + 1))
    assert track(session, 0, 3) == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [(480, 854), (97, 120), (32, 32), (20, 300)])
def test_small_holes_are_filled_at_any_size(rng, size):
    area = round(HOLES * size[0] * size[1])
    holes = 0
    for _ in range(20):
        logits = rng.normal(2, 2, (SIDE // 4, SIDE // 4)).astype(np.float32)
        plain = masks_at_size(logits, *size)
        expected = fill_holes(plain, area)
        holes += (expected != plain).any()
        np.testing.assert_array_equal(enlarge(logits, full_view(size)), expected)
    assert holes > 0 or area < 2
