"""The views that tracking is shown: whole frames, or crops where frames have more detail."""

import numpy as np
import pytest
from PIL import Image

from petsam_jax.predict.postprocess import logits_at_size, masks_at_size
from petsam_jax.predict.video.crops import (
    MaskInView,
    View,
    first_views,
    full_view,
    is_cut_off,
    next_view,
    uncrop,
)
from petsam_jax.predict.video.session_file import SessionError
from petsam_jax.predict.video_predictor import VideoPredictor
from tests.golden import shipped_model
from tests.golden_video import SIDE, shipped_frame, shipped_predictor

SIZE = 300, 460
COUNT = 10
# Left and top corner of the object on a frame.
PLACES = [(200 + 6 * number, 90 + 4 * number) for number in range(COUNT)]
OBJECT = 100, 80  # width and height


def mask_at(place, sides=OBJECT):
    mask = np.zeros(SIZE, bool)
    mask[place[1] : place[1] + sides[1], place[0] : place[0] + sides[0]] = True
    return mask


def mask_in_view(mask, view=None, present=True):
    view = full_view(SIZE) if view is None else view
    logits = logits_at_size(np.where(view.crop(mask), 10, -10).astype(np.float32), 64, 64)
    return MaskInView(logits, view, present, view)


def holds(view, place, sides=OBJECT):
    right, bottom = place[0] + sides[0], place[1] + sides[1]
    inside_x = view.left <= place[0] and right <= view.left + view.width
    return inside_x and view.top <= place[1] and bottom <= view.top + view.height


# Views


def test_a_view_is_a_square_around_its_objects_within_the_frame(rng):
    for _ in range(200):
        low = rng.uniform(0, 0.9, 2) * SIZE[::-1]
        high = low + rng.uniform(0.01, 1, 2) * (np.array(SIZE[::-1]) - low)
        view = next_view([(*low, *high)], [], SIZE, SIDE)
        assert view.left >= 0 and view.left + view.width <= SIZE[1]
        assert view.top >= 0 and view.top + view.height <= SIZE[0]
        expected = max(SIDE, 1.5 * (high - low).max())
        sides = view.width, view.height
        np.testing.assert_allclose(sides, np.minimum(expected, SIZE[::-1]), atol=0.51)
        # In the middle, as far as the frame's sides let it.
        middle = (low + high - sides) / 2
        corner = np.clip(middle, 0, np.array(SIZE[::-1]) - sides)
        np.testing.assert_allclose(view[:2], corner, atol=1)


def test_several_objects_share_a_view_and_none_is_no_reason_to_come_near():
    left, right = (10.0, 100.0, 60.0, 150.0), (390.0, 120.0, 440.0, 160.0)
    assert next_view([left, right], [], SIZE, SIDE) == full_view(SIZE)
    near = (80.0, 110.0, 120.0, 150.0)
    view = next_view([left, near], [], SIZE, SIDE)
    assert view.width == view.height == 165
    assert holds(view, (10, 100), (50, 50)) and holds(view, (80, 110), (40, 40))
    assert next_view([], [view], SIZE, SIDE) == full_view(SIZE)
    # Frames no larger than the model's input have no more detail.
    assert next_view([(3.0, 3.0, 9.0, 9.0)], [], (SIDE, SIDE), SIDE) == full_view((SIDE, SIDE))
    assert next_view([(3.0, 3.0, 9.0, 9.0)], [], (20, 40), SIDE) == full_view((20, 40))


def test_a_view_stays_until_its_objects_near_its_sides_or_change_their_size():
    view = View(100, 60, 200, 200)
    for box, stays in (
        ((150, 100, 270, 200), True),
        ((112, 100, 250, 200), True),
        ((108, 100, 250, 200), False),  # left
        ((150, 150, 270, 252), False),  # below
        ((111, 80, 285, 200), False),  # too large
        ((180, 150, 260, 200), False),  # too small
    ):
        found = next_view([tuple(map(float, box))], [view], SIZE, 64)
        assert (found == view) == stays, box
    # A smaller view would have no more detail than the model's input.
    assert next_view([(180.0, 150.0, 190.0, 160.0)], [view], SIZE, 200) == view
    # At the frame's own sides.
    corner = View(0, 0, 200, 200)
    assert next_view([(0.0, 0.0, 120.0, 120.0)], [corner], SIZE, 64) == corner
    # The first of several that fits.
    other = View(90, 50, 210, 210)
    box = [(108.0, 100.0, 250.0, 200.0)]
    assert next_view(box, [view, other], SIZE, 64) == other


def test_first_views_are_of_all_places(rng):
    none = np.zeros((0, 2))
    assert first_views(none, False, SIZE, SIDE) == [full_view(SIZE)]
    assert first_views(np.array([(50.0, 9.0)]), False, (90, 90), SIDE) == [full_view((90, 90))]
    for place, left in (((230, 150), 80), ((3, 290), 0), ((459, 0), 160)):
        found = first_views(np.array([place], float), False, SIZE, SIDE)
        assert found == [full_view(SIZE), View(left, 0, 300, 300)]
    tall = first_views(np.array([(10.0, 230.0)]), False, SIZE[::-1], SIDE)
    assert tall == [View(0, 0, 300, 460), View(0, 80, 300, 300)]
    # In one square or not at all.
    near, far = np.array([(100.0, 5.0), (399.0, 5.0)]), np.array([(100.0, 5.0), (401.0, 5.0)])
    assert first_views(near, False, SIZE, SIDE) == [full_view(SIZE), View(100, 0, 300, 300)]
    assert first_views(far, False, SIZE, SIDE) == [full_view(SIZE)]
    box = np.array([(200.0, 90.0), (300.0, 170.0)])
    assert first_views(box, True, SIZE, SIDE) == [next_view([(*box[0], *box[1])], [], SIZE, SIDE)]
    # A click beside the box counts.
    with_click = np.array([(120.0, 100.0), *box])
    assert holds(first_views(with_click, True, SIZE, SIDE)[0], (120, 90), (180, 80))


def test_a_mask_is_cut_off_where_only_its_view_ends():
    inner = View(80, 40, 200, 200)
    for place, sides, is_cut in (
        ((120, 80), (80, 80), False),
        ((60, 80), (80, 80), True),
        ((120, 20), (80, 80), True),
        ((240, 80), (80, 80), True),
        ((120, 200), (80, 80), True),
    ):
        assert is_cut_off(mask_in_view(mask_at(place, sides), inner), SIZE) == is_cut
    assert not is_cut_off(mask_in_view(np.ones(SIZE, bool)), SIZE)
    assert is_cut_off(mask_in_view(np.ones(SIZE, bool), SQUARE), SIZE)
    assert not is_cut_off(mask_in_view(np.zeros(SIZE, bool), inner), SIZE)


def test_a_box_is_around_the_mask_but_for_specks():
    box = mask_in_view(mask_at((200, 90))).box()
    # Cells of 460 / 64 by 300 / 64 pixels.
    np.testing.assert_allclose(box, (200, 90, 300, 170), atol=7.5)
    speck = mask_at((200, 90))
    speck[290:296, 2:10] = True
    np.testing.assert_allclose(mask_in_view(speck).box(), box, atol=7.5)
    view = View(150, 50, 200, 200)
    np.testing.assert_allclose(
        mask_in_view(mask_at((200, 90)), view).box(), (200, 90, 300, 170), atol=3.2
    )
    one = np.zeros(SIZE, bool)
    one[120:130, 230:240] = True
    x0, y0, x1, y1 = mask_in_view(one).box()
    assert x0 <= 235 <= x1 and y0 <= 125 <= y1 and x1 - x0 < 25 and y1 - y0 < 25
    np.testing.assert_allclose(
        mask_in_view(np.ones(SIZE, bool)).box(), (0, 0, SIZE[1], SIZE[0]), atol=7.5
    )
    assert mask_in_view(np.zeros(SIZE, bool)).box() is None
    assert mask_in_view(mask_at((200, 90)), present=False).box() is None


def test_logits_move_with_the_view(rng):
    smooth = rng.normal(size=(6, 6)).astype(np.float32)
    logits = np.asarray(Image.fromarray(smooth).resize((64, 64), Image.Resampling.BICUBIC))
    old = View(100, 60, 128, 128)
    there = MaskInView(logits, old, True, None)
    assert there.in_view(old) is logits
    # By whole cells: the same numbers, and what was not in view is background.
    moved = there.in_view(View(120, 50, 128, 128))
    np.testing.assert_allclose(moved[5:, :-10], logits[:-5, 10:], atol=1e-5)
    assert (moved[:5] == -10).all() and (moved[:, -10:] == -10).all()
    # Nearer and back: but for what is lost between cells.
    near = View(132, 92, 64, 64)
    back = MaskInView(there.in_view(near), near, True, None).in_view(old)
    np.testing.assert_allclose(back[17:-17, 17:-17], logits[17:-17, 17:-17], atol=0.1)
    # The mask at the frame's size stays where it is.
    mask = mask_at((150, 100), (60, 50))
    near, far = View(110, 70, 150, 150), View(60, 20, 260, 260)
    moved = mask_in_view(mask, near).in_view(far)
    large = uncrop(masks_at_size(moved, far.height, far.width), far, SIZE)
    assert (large & mask).sum() / (large | mask).sum() > 0.88


def test_masks_of_a_view_are_placed_in_the_frame(rng):
    masks = rng.random((2, 40, 30)) > 0.5
    large = uncrop(masks, View(50, 70, 30, 40), SIZE)
    assert large.shape == (2, *SIZE) and large.sum() == masks.sum()
    np.testing.assert_array_equal(large[:, 70:110, 50:80], masks)
    np.testing.assert_array_equal(View(50, 70, 30, 40).crop(large[1]), masks[1])
    everything = rng.random(SIZE) > 0.5
    assert uncrop(everything, full_view(SIZE), SIZE) is everything


# Tracking


@pytest.fixture(scope="module")
def predictor():
    return shipped_predictor()


@pytest.fixture(scope="module")
def frames():
    """The shipped frames, enlarged, and in them the object that the shipped model takes as one."""
    large = [
        Image.fromarray(shipped_frame(number)).resize(SIZE[::-1], Image.Resampling.BICUBIC)
        for number in range(COUNT)
    ]
    return [np.array(each) for each in large]


@pytest.fixture
def session(predictor, frames):
    return predictor.open(frames)


def record_shapes(monkeypatch, predictor):
    """The shapes of all images that are encoded from now on."""
    encode, shapes = predictor.images.encode, []

    def recorded(image):
        shapes.append(image.shape[:2])
        return encode(image)

    monkeypatch.setattr(predictor.images, "encode", recorded)
    return shapes


def tracked(session, *args, **kwargs):
    return {frame: masks for frame, _, masks in session.propagate(*args, **kwargs)}


def view_on(session, frame, object_id=1):
    return session._state.recent(frame, object_id).view


@pytest.mark.slow
def test_a_tracked_object_is_cropped(predictor, session, monkeypatch):
    shapes = record_shapes(monkeypatch, predictor)
    session.add_mask(0, 1, mask_at(PLACES[0]))
    record = session._state.at(0, 1)
    assert record.view == record.memory_view and holds(record.view, PLACES[0])
    assert shapes == [(record.view.height, record.view.width)]
    # Half as wide again as the object, give or take a cell of its mask.
    assert 143 <= record.view.width <= 165 and record.view.height == record.view.width
    found = tracked(session)
    assert view_on(session, 1) == record.view
    for frame in range(1, COUNT):
        mask, view = found[frame][0], view_on(session, frame)
        assert mask.shape == SIZE and mask.any()
        assert not (mask & ~uncrop(np.ones((view.height, view.width), bool), view, SIZE)).any()
    assert len(shapes) == COUNT


@pytest.mark.slow
def test_without_zoom_whole_frames_are_encoded(frames, monkeypatch):
    predictor = VideoPredictor(
        shipped_predictor().config, shipped_model(), binarise=False, zoom=False
    )
    shapes = record_shapes(monkeypatch, predictor)
    session = predictor.open(frames)
    session.add_mask(0, 1, mask_at(PLACES[0]))
    tracked(session, end=3)
    session.add_points(5, 2, [(230, 150)], [1])
    session.add_box(6, 3, (10, 10, 60, 60))
    assert shapes == [SIZE] * 6


@pytest.fixture
def outputs(session, monkeypatch):
    """What the model returns for each view, in order: (predicted IoU, mask at stride 4)."""
    tracker, outputs = session._inputs.tracker, []
    step = tracker.step

    def scripted(*args, **kwargs):
        iou, mask = outputs.pop(0)
        logits = np.where(mask, 8, -8).astype(np.float32)[None]
        iou, present = np.float32([iou]), np.float32([9])
        output = step(*args, **kwargs)
        return output._replace(logits=logits, iou_pred=iou, object_logit=present)

    monkeypatch.setattr(tracker, "step", scripted)
    return outputs


def cells(x0, y0, x1, y1):
    """A mask at the model's resolution, SIDE / 4 cells on each side."""
    mask = np.zeros((SIDE // 4, SIDE // 4), bool)
    mask[y0:y1, x0:x1] = True
    return mask


INSIDE, LEFT = cells(8, 8, 20, 24), cells(0, 8, 20, 24)
SQUARE = View(80, 0, 300, 300)  # around (230, 150)


@pytest.mark.parametrize(
    ("of_whole", "of_square", "chosen"),
    [
        ((0.6, INSIDE), (0.7, INSIDE), SQUARE),
        ((0.7, INSIDE), (0.6, INSIDE), full_view(SIZE)),
        # The object continues where the square ends.
        ((0.6, INSIDE), (0.7, LEFT), full_view(SIZE)),
        ((0.6, INSIDE), (0.7, cells(8, 8, 32, 24)), full_view(SIZE)),
        # Here the frame ends too.
        ((0.6, INSIDE), (0.7, cells(8, 0, 20, 32)), SQUARE),
        ((0.6, INSIDE), (0.7, cells(0, 0, 0, 0)), SQUARE),
    ],
)
def test_a_first_click_is_tried_on_the_whole_frame_and_on_a_square(
    session, outputs, of_whole, of_square, chosen
):
    outputs[:] = of_whole, of_square
    mask = session.add_points(0, 1, [(230, 150)], [1])
    record = session._state.at(0, 1)
    assert record.view == chosen and not outputs
    expected = masks_at_size(record.logits, chosen.height, chosen.width)
    np.testing.assert_array_equal(mask, uncrop(expected, chosen, SIZE))
    # A further click corrects that mask, in its view.
    outputs[:] = [(0.1, INSIDE)]
    session.add_points(0, 1, [(240, 160)], [0])
    assert session._state.at(0, 1).view == chosen and not outputs


def test_a_click_outside_the_view_chooses_a_new_one(session, outputs):
    outputs[:] = (0.1, INSIDE), (0.2, INSIDE)
    session.add_points(0, 1, [(230, 150)], [1])
    assert session._state.at(0, 1).view == SQUARE
    outputs[:] = (0.3, INSIDE), (0.4, INSIDE)
    session.add_points(0, 1, [(2, 2)], [0])
    assert session._state.at(0, 1).view == SQUARE._replace(left=0)
    # No square holds all of these.
    outputs[:] = [(0.1, INSIDE)]
    session.add_points(0, 1, [(420, 2)], [0])
    assert session._state.at(0, 1).view == full_view(SIZE) and not outputs


def test_a_box_is_cropped(session):
    box = (*PLACES[0], PLACES[0][0] + OBJECT[0], PLACES[0][1] + OBJECT[1])
    session.add_points(0, 1, [(5, 5)], [1])
    session.add_box(0, 1, box)
    view = session._state.at(0, 1).view
    assert view == next_view([tuple(map(float, box))], [], SIZE, SIDE)
    assert view.width == view.height == 150 and holds(view, PLACES[0])


def test_a_prompted_object_is_remembered_in_a_crop(session):
    mask = session.add_points(0, 1, [(230, 150)], [1])
    record = session._state.at(0, 1)
    assert mask.shape == SIZE
    assert record.memory_view == session._inputs.view_around(0, [1])
    # Another object's prompt changes the view of the frame; both are remembered in it.
    session.add_mask(0, 2, mask_at((5, 5), (20, 20)))
    views = {session._state.at(0, each).memory_view for each in (1, 2)}
    assert views == {session._inputs.view_around(0, [1, 2])}


@pytest.mark.slow
def test_a_correction_takes_the_view_of_tracking_or_the_whole_frame(session):
    session.add_mask(0, 1, mask_at(PLACES[0]))
    tracked(session, end=3)
    session.add_mask(3, 1, mask_at(PLACES[3]))
    view = session._state.at(3, 1).view
    assert view != full_view(SIZE)
    session.add_points(3, 1, [(view.left + 70, view.top + 60)], [0])
    record = session._state.at(3, 1)
    assert record.view == view and not record.initial
    session.undo()
    session.add_points(3, 1, [(2, 2)], [0])
    assert session._state.at(3, 1).view == full_view(SIZE)
    assert tracked(session, 3, 5).keys() == {3, 4, 5}


@pytest.mark.slow
def test_an_absent_object_is_searched_for_in_whole_frames(session):
    session.add_mask(0, 1, mask_at(PLACES[0]))
    session.add_mask(4, 1, np.zeros(SIZE, bool))
    tracked(session, 4, 5)
    assert session._state.at(4, 1).memory_view == full_view(SIZE)
    assert view_on(session, 5) == full_view(SIZE)
    # So is an object that is not known there yet.
    session.add_mask(0, 2, mask_at((5, 5), (20, 20)))
    session.clear_frame(4)
    tracked(session, 8, 8)
    assert view_on(session, 8) == full_view(SIZE)


def test_views_are_the_same_in_pieces_backwards_and_from_a_file(
    predictor, frames, session, tmp_path
):
    session.add_mask(0, 1, mask_at(PLACES[0]))
    found = tracked(session)
    pieces = predictor.open(frames)
    pieces.add_mask(0, 1, mask_at(PLACES[0]))
    tracked(pieces, end=4)
    pieces.save_session(tmp_path / "session")
    loaded = predictor.load_session(tmp_path / "session", frames)
    for other in (pieces, loaded):
        rest = tracked(other, 5)
        for frame in range(5, COUNT):
            assert view_on(other, frame) == view_on(session, frame)
            np.testing.assert_array_equal(rest[frame], found[frame])
    back = predictor.open(frames[::-1])
    back.add_mask(COUNT - 1, 1, mask_at(PLACES[0]))
    tracked(back, reverse=True)
    assert view_on(back, COUNT - 2) == view_on(session, 1)
    text = (tmp_path / "session").read_bytes()
    (tmp_path / "session").write_bytes(text[: len(text) // 2])
    with pytest.raises(SessionError, match="damaged"):
        predictor.load_session(tmp_path / "session", frames)
