"""The video tab's server without a browser: clips of a red box that moves to the right."""

import io
import json
import threading
import time

import av
import httpx
import numpy as np
import pytest
from PIL import Image, ImageSequence

from petsam_jax.predict.prompt_inputs import Prompt
from petsam_jax.ui.cache import Expired
from petsam_jax.ui.image_service import ImageService
from petsam_jax.ui.limits import Limits
from petsam_jax.ui.request_fields import BadRequest
from petsam_jax.ui.video_service import VideoService
from petsam_jax.ui.video_state import KINDS, read_clip_state, read_film, read_tracking
from tests.golden_video import SIDE, shipped_frame, shipped_predictor
from tests.live_page import serving
from tests.red_predictor import RedPredictor, RedVideo, red_clip

CLIP, BOXES = red_clip()
COUNT, WIDTH, HEIGHT = len(BOXES), 160, 90
MINE, OTHER = "a" * 32, "b" * 32
FIRST = {"0": {"clicks": [[25, 45, "auto"]]}}


@pytest.fixture(scope="module")
def studio():
    studio = VideoService(RedVideo())
    yield studio
    studio.close()


def opened(studio, name=MINE, file=CLIP):
    path = studio.new_file()
    path.write_bytes(file)
    return studio.open(name, path)


@pytest.fixture
def clip(studio):
    opened(studio)
    return studio.clips.get(MINE)


def state(*frames, name=MINE, frame=0, **more):
    objects = [{"number": number, "frames": one} for number, one in enumerate(frames, start=1)]
    return {"clip": name, "frame": frame, "objects": objects} | more


def asked(studio, *frames, **more):
    return studio.answer(read_clip_state(state(*frames, **more)))


def tracked(studio, *frames, both=False, **more):
    steps = studio.track(*read_tracking({"state": state(*frames, **more), "both": both}))
    told = list(iter(steps.next, None))
    assert told[0] == {"total": len(told) - 1}
    return told[1:]


def unpacked(answer):
    values, lengths = np.array(answer["runs"]).reshape(-1, 2).T
    return np.repeat(values, lengths).reshape(answer["height"], answer["width"])


def line(answer):
    values, lengths = np.array(answer["line"]).reshape(-1, 2).T
    return np.repeat(values, lengths).tolist()


def middle(mask):
    return np.argwhere(mask).mean(axis=0)[::-1]


# Opening


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".gif"])
def test_opening_tells_size_length_and_speed(studio, ending):
    file, _ = red_clip(5, ending=ending)
    told = opened(studio, file=file)
    assert told == {"clip": MINE, "width": WIDTH, "height": HEIGHT, "count": 5, "fps": told["fps"]}
    assert told["fps"] == pytest.approx(12, rel=0.05)
    shown = Image.open(io.BytesIO(studio.picture(MINE, 4)))
    assert shown.size == (WIDTH, HEIGHT) and shown.getpixel((45, 45))[0] > 150
    with pytest.raises(BadRequest, match="this clip: frame 5; it has frames 0..4"):
        studio.picture(MINE, 5)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"", "no mp4, mov, webm or GIF"),
        (b"#EXTM3U\nhttp://127.0.0.1/a.ts\n", "no mp4, mov, webm or GIF"),
        (b"ffconcat version 1.0\nfile other.mp4\n", "no mp4, mov, webm or GIF"),
        (CLIP[:300], "no video that can be read"),
        (b"GIF89a" + bytes(40), "no video"),
        (red_clip(2, size=(320, 200))[0], "frames of 320 x 200 pixels; at most 0.02 megapixels"),
        (red_clip(41, side=8)[0], "41 frames; at most 40 are taken"),
    ],
    ids=["empty", "playlist", "list", "cut-off", "gif", "pixels", "frames"],
)
def test_what_is_no_clip_or_too_large_is_refused_in_words(file, words, tmp_path):
    small = VideoService(RedVideo(), Limits(max_clip_pixels=20_000, max_clip_frames=40))
    with pytest.raises(BadRequest, match=words) as refused:
        opened(small, file=file)
    assert "/" not in str(refused.value).replace("http://", "")
    assert len(small.clips) == 0 and not list(small.new_file().parent.glob("*.*"))
    small.close()


# Prompts


def test_a_click_is_read_and_answered_on_its_frame_alone(studio, clip):
    answer = asked(studio, {"3": {"clicks": [[40, 45, "auto"]]}}, frame=3)
    x, y = middle(unpacked(answer) == 1)
    x0, y0, x1, y1 = BOXES[3]
    assert abs(x - (x0 + x1) / 2) < 3 and abs(y - (y0 + y1) / 2) < 3
    (told,) = answer["objects"]
    assert told["reads"][0]["label"] == 1 and told["words"].startswith("Read as pet: ")
    assert line(answer) == [0] * COUNT
    elsewhere = studio.masks(MINE, 4)
    assert elsewhere["objects"] == [None] and not unpacked(elsewhere).any()


def test_only_what_is_new_is_said_to_the_session(studio, clip, monkeypatch):
    said = []
    for name in ("add_points", "add_box", "clear_frame", "remove_object"):
        before = getattr(clip.session, name)
        monkeypatch.setattr(
            clip.session, name, lambda *a, n=name, f=before: (said.append(n), f(*a))[1]
        )
    one, two = [25, 45, "auto"], [90, 80, "pet"]
    asked(studio, {"0": {"clicks": [one]}})
    asked(studio, {"0": {"clicks": [one, two]}})
    asked(studio, {"0": {"clicks": [one, two]}}, frame=5)
    assert said == ["add_points"] * 2
    undone = asked(studio, {"0": {"clicks": [one]}})
    assert said[2:] == ["clear_frame", "add_points"]
    assert not unpacked(undone)[78:82, 88:92].any()
    asked(studio, {"0": {"box": [5, 25, 50, 70], "clicks": [one]}})
    assert said[4:] == ["clear_frame", "add_box", "add_points"]
    assert unpacked(asked(studio, {})).sum() == 0
    assert said[7:] == ["remove_object"]


def test_islands_go_on_the_page_and_in_the_film(studio, clip):
    said, settings = (
        {"0": {"clicks": [[25, 45, "auto"], [110, 80, "pet"]]}},
        {"remove_islands": 300},
    )
    assert unpacked(asked(studio, said))[80, 110] == 1
    assert unpacked(asked(studio, said, settings=settings))[80, 110] == 0
    assert unpacked(studio.masks(MINE, 0))[45, 25] == 1 and not clip.masks(0).masks[0, 80, 110]


def test_a_box_tells_its_coverage_or_that_it_holds_no_pet(studio, clip):
    (told,) = asked(studio, {"0": {"box": [10, 30, 69, 59]}})["objects"]
    assert told["holds_pet"] is True and told["coverage"] == pytest.approx(0.5, abs=0.06)
    (told,) = asked(studio, {"0": {"box": [100, 10, 140, 40]}})["objects"]
    assert told["holds_pet"] is False and told["words"].startswith("Only background in this box")


def test_prompts_outside_are_refused_and_change_nothing(studio, clip):
    asked(studio, FIRST)
    with pytest.raises(BadRequest, match="outside the picture of 160 x 90"):
        asked(studio, {"0": {"clicks": [[160, 5, "pet"]]}})
    with pytest.raises(BadRequest, match="frame 99; it has frames 0..11"):
        asked(studio, FIRST | {"99": {"find": True}})
    assert clip.session.prompts == {1: {0: Prompt(points=((25, 45),), labels=(1,))}}


# Tracking


def test_tracking_goes_on_from_the_prompt_and_masks_follow(studio, clip):
    answers = tracked(studio, {"2": {"clicks": [[35, 45, "auto"]]}})
    assert [answer["frame"] for answer in answers] == list(range(2, COUNT))
    for answer in answers:
        # To the left there is also what the click painted.
        right = np.nonzero(unpacked(answer).any(axis=0))[0].max()
        assert abs(right - BOXES[answer["frame"]][2]) <= 3
    assert "99 % sure that it is here" in answers[-1]["objects"][0]["words"]
    again = studio.masks(MINE, 7)
    np.testing.assert_array_equal(unpacked(again), unpacked(answers[5]))
    assert line(again) == [0] * 2 + [2] * (COUNT - 2)
    both = tracked(studio, {"2": {"clicks": [[35, 45, "auto"]]}}, both=True)
    # What is tracked already is not tracked again.
    assert [answer["frame"] for answer in both] == [1, 0]


def test_a_correction_is_tracked_from_its_frame_on(studio, clip):
    tracked(studio, FIRST)
    corrected = FIRST | {"6": {"clicks": [[110, 80, "pet"]]}}
    answer = asked(studio, corrected, frame=6)
    assert line(answer) == [1] * COUNT
    answers = tracked(studio, corrected)
    assert [answer["frame"] for answer in answers] == list(range(6, COUNT))
    assert unpacked(answers[-1])[80, 110] == 1 and unpacked(studio.masks(MINE, 3))[80, 110] == 0
    assert line(studio.masks(MINE, 0)) == [1] * 6 + [2] * (COUNT - 6)
    # Without the correction, all is tracked from the prompt before it.
    assert [answer["frame"] for answer in tracked(studio, FIRST)] == list(range(COUNT))


def test_what_was_stopped_is_gone_on_with_and_nothing_said_is_refused(studio, clip):
    steps = studio.track(*read_tracking({"state": state(FIRST)}))
    for _ in range(5):
        steps.next()
    steps.close()
    assert steps.next() is None
    assert [answer["frame"] for answer in tracked(studio, FIRST)] == list(range(4, COUNT))
    # All of it once more, if there is nothing else to do.
    assert len(tracked(studio, FIRST)) == COUNT
    with pytest.raises(BadRequest, match="click on the animal on some frame first"):
        tracked(studio, {})


def test_objects_have_their_own_masks_and_go_with_what_is_tracked_of_them(studio, clip):
    second = {"0": {"clicks": [[120, 70, "pet"]]}}
    answers = tracked(studio, FIRST, second)
    labels = unpacked(answers[-1])
    assert labels[45, 90] == 1 and labels[70, 120] == 2
    left = asked(studio, FIRST, frame=COUNT - 1)
    assert unpacked(left)[70, 120] == 0 and unpacked(left)[45, 90] == 1


# What is taken home


@pytest.mark.parametrize(
    ("kind", "format"),
    [(kind, format) for kind in KINDS if kind != "cutout" for format in ("mp4", "gif")]
    + [("overlay", "webp")],
)
def test_a_video_to_take_home_has_all_frames_and_the_masks(studio, clip, kind, format):
    tracked(studio, FIRST)
    said = {"state": state(FIRST), "kind": kind, "format": format}
    told = list(iter(studio.save(*read_film(said)).next, None))
    assert told == [{"total": COUNT}] + [{"done": i + 1} for i in range(COUNT)]
    if format == "webp":
        with Image.open(clip.film) as film:
            frames = [np.asarray(one.convert("RGB")) for one in ImageSequence.Iterator(film)]
    else:
        with av.open(str(clip.film)) as film:
            frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == COUNT and frames[0].shape == (HEIGHT, WIDTH, 3)
    inside, outside = frames[8][45, 73].astype(int), frames[8][10, 10].astype(int)
    expected = {"white": (255,) * 3, "green": (0, 177, 64), "black": (0,) * 3, "mask": (0,) * 3}
    assert abs(outside - expected.get(kind, (120,) * 3)).max() < 12
    if kind == "overlay":
        assert inside[2] > 80  # Tinted with the first object's blue.
    else:
        assert abs(inside - ((255,) * 3 if kind == "mask" else (220, 30, 30))).max() < 30


@pytest.mark.parametrize(("format", "soft"), [("gif", 0), ("webp", 0), ("webp", 6)])
def test_a_cut_out_to_take_home_is_transparent_around_the_animal(studio, clip, format, soft):
    tracked(studio, FIRST)
    said = {"state": state(FIRST), "kind": "cutout", "format": format, "soft": soft}
    list(iter(studio.save(*read_film(said)).next, None))
    with Image.open(clip.film) as film:
        assert film.n_frames == COUNT and film.size == (WIDTH, HEIGHT)
        for number in range(COUNT):
            film.seek(number)
            frame, mask = np.asarray(film.convert("RGBA")), clip.masks(number).masks[0]
            assert film.info["duration"] in (80, 83, 84, 90)
            if not soft:
                np.testing.assert_array_equal(frame[..., 3], np.where(mask, 255, 0))
            x0, y0, x1, y1 = BOXES[number]
            inside = frame[y0 + 5 : y1 - 4, x0 + 5 : x1 - 4]
            assert abs(inside.mean(axis=(0, 1)) - (220, 30, 30, 255)).max() < 12
            assert not frame[2, 2].any()
        assert (len(np.unique(frame[..., 3])) > 2) == (soft > 0)


def test_frames_of_a_film_last_as_long_as_those_of_the_clip(studio):
    lasting, file = [40, 200, 80, 500], io.BytesIO()
    first, *rest = [Image.new("RGB", (64, 36), (200, 10 * number, 0)) for number in range(4)]
    first.save(file, "GIF", save_all=True, append_images=rest, duration=lasting)
    opened(studio, OTHER, file.getvalue())
    said = {"state": state({"0": {"find": True}}, name=OTHER), "kind": "blur", "format": "gif"}
    list(iter(studio.save(*read_film(said)).next, None))
    with Image.open(studio.clips.get(OTHER).film) as film:
        found = [frame.info["duration"] for frame in ImageSequence.Iterator(film)]
    assert found == lasting


def test_a_video_that_is_given_up_leaves_no_file(studio, clip):
    asked(studio, FIRST)
    steps = studio.save(*read_film({"state": state(FIRST), "kind": "blur", "format": "mp4"}))
    for _ in range(3):
        steps.next()
    before = set(clip.path.parent.iterdir())
    steps.close()
    assert clip.film is None and len(before - set(clip.path.parent.iterdir())) == 1


# Visitors


def test_visitors_are_apart_and_bounded_in_number_and_bytes():
    studio = VideoService(RedVideo(), Limits(clips=2))
    for name in (MINE, OTHER):
        opened(studio, name)
    tracked(studio, FIRST)
    assert asked(studio, {}, name=OTHER)["objects"] == [None]
    assert not unpacked(studio.masks(OTHER, 5)).any() and unpacked(studio.masks(MINE, 5)).any()
    files = {name: studio.clips.get(name).path for name in (OTHER, MINE)}
    opened(studio, "c" * 32)
    # The one that was used last but one had to go, and its file with it.
    with pytest.raises(Expired, match="this clip is not open any more; send it again"):
        studio.masks(OTHER, 0)
    assert not files[OTHER].exists() and files[MINE].exists()
    opened(studio, MINE)
    assert not files[MINE].exists() and len(studio.clips) == 2
    studio.close()
    one = VideoService(RedVideo(), Limits(clip_bytes=1))
    opened(one, MINE), opened(one, OTHER)
    assert len(one.clips) == 1 and one.clips.nbytes > 20_000_000
    one.close()


def test_a_clip_that_is_closed_ends_its_tracking(studio, clip):
    steps = studio.track(*read_tracking({"state": state(FIRST)}))
    steps.next()
    studio.clips.drop(MINE)
    with pytest.raises(Expired):
        steps.next()
    steps.close()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"clip": "x"}, "want an id of 32 digits"),
        ({"frame": -1}, "frame: -1; want a number from 0"),
        ({"objects": [{"number": 1, "frames": {"x": {}}}]}, "prompts by frame"),
        ({"objects": [{"number": 1, "frames": {"0": {"strokes": []}}}]}, "unknown strokes"),
        ({"objects": [{"number": 1}, {"number": 1}]}, "two of them have one number"),
        ({"objects": [{"number": 1, "frames": {str(i): {} for i in range(65)}}]}, "at most 64"),
        ({"picture": "x"}, "unknown picture"),
    ],
)
def test_what_the_page_would_not_say_is_refused_by_name(said, words):
    with pytest.raises(BadRequest, match=words):
        read_clip_state(state() | said)


def test_styles_that_are_none_are_refused():
    for said, words in (({"kind": "exe"}, "kind: 'exe'"), ({"format": "avi"}, "format: 'avi'")):
        with pytest.raises(BadRequest, match=words):
            read_film({"state": state(), "kind": "mask", "format": "gif"} | said)
    with pytest.raises(BadRequest, match="an mp4 cannot be transparent; take gif or webp"):
        read_film({"state": state(), "kind": "cutout", "format": "mp4"})
    with pytest.raises(BadRequest, match="both: want true or false"):
        read_tracking({"state": state(), "both": 1})


# Over the web


@pytest.fixture(scope="module")
def address(studio):
    with serving(ImageService(RedPredictor()), studio) as address:
        yield address


@pytest.fixture
def web(address):
    with httpx.Client(base_url=address, timeout=20) as web:
        web.post(f"/studio/clip/open?clip={MINE}", content=CLIP).raise_for_status()
        yield web


def test_a_clip_by_the_web_from_upload_to_download(web):
    said = state(FIRST)
    answer = web.post("/studio/clip/answer", json=said).json()
    assert answer["objects"][0]["reads"][0]["label"] == 1
    with web.stream("POST", "/studio/clip/track", json={"state": said}) as response:
        told = [json.loads(line) for line in response.iter_lines()]
    assert told[0] == {"total": COUNT} and [one["frame"] for one in told[1:]] == list(range(COUNT))
    masks = web.get("/studio/clip/masks", params={"clip": MINE, "frame": 7}).json()
    assert masks["runs"] == told[8]["runs"] and line(masks) == [2] * COUNT
    picture = web.get("/studio/clip/frame", params={"clip": MINE, "frame": 7})
    assert Image.open(io.BytesIO(picture.content)).size == (WIDTH, HEIGHT)
    assert web.get(f"/studio/clip/film?clip={MINE}").status_code == 400
    said = {"state": said, "kind": "white", "format": "gif"}
    told = web.post("/studio/clip/save", json=said).text.splitlines()
    assert len(told) == COUNT + 1
    film = web.get("/studio/clip/film", params={"clip": MINE, "name": "../my dog"})
    assert film.content[:6] == b"GIF89a" and "my%20dog.gif" in film.headers["content-disposition"]
    assert web.post(f"/studio/clip/close?clip={MINE}").status_code == 204
    gone = web.get("/studio/clip/masks", params={"clip": MINE, "frame": 7})
    assert gone.status_code == 410 and gone.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "sent", "status", "words"),
    [
        (f"open?clip={OTHER}", b"no clip", 400, "no mp4, mov, webm or GIF"),
        ("open?clip=../../etc/passwd", CLIP, 400, "want an id of 32 digits"),
        ("answer", b"{", 400, "not JSON"),
        ("track", b"{}", 400, "request: want a dictionary"),
        ("track", json.dumps({"state": state(name="d" * 32)}).encode(), 410, "send it again"),
    ],
)
def test_what_makes_no_sense_is_refused_over_the_web(web, path, sent, status, words):
    answer = web.post(f"/studio/clip/{path}", content=sent)
    assert answer.status_code == status and words in answer.json()["error"]


def test_errors_in_the_midst_are_a_line_of_words(web, studio, caplog):
    answer = web.post("/studio/clip/track", json={"state": state({})})
    assert "click on the animal" in json.loads(answer.text)["error"]
    studio.predictor.delay = lambda: 1 / 0
    try:
        answer = web.post("/studio/clip/track", json={"state": state(FIRST)})
    finally:
        studio.predictor.delay = lambda: None
    assert "something went wrong" in json.loads(answer.text.splitlines()[-1])["error"]
    assert "ZeroDivision" not in answer.text and "ZeroDivision" in caplog.text


def test_who_goes_away_ends_the_tracking_and_clicks_do_not_wait_for_it(web, address, studio):
    steps = threading.Semaphore(0)
    studio.predictor.delay = lambda: (steps.release(), time.sleep(0.1))
    picture = web.post("/studio/open", content=_picture()).json()["picture"]
    try:
        with web.stream("POST", "/studio/clip/track", json={"state": state(FIRST)}) as response:
            lines = response.iter_lines()
            assert json.loads(next(lines)) == {"total": COUNT}
            next(lines)
            asked = time.perf_counter()
            said = {"picture": picture, "objects": [{"find": True}]}
            assert httpx.post(f"{address}/studio/answer", json=said).status_code == 200
            assert time.perf_counter() - asked < 1
        time.sleep(0.4)
        done = steps._value
        time.sleep(0.4)
        assert done == steps._value < COUNT
    finally:
        studio.predictor.delay = lambda: None


def _picture():
    file = io.BytesIO()
    Image.new("RGB", (64, 36), "red").save(file, "PNG")
    return file.getvalue()


# With a model


def test_the_tab_shows_what_the_predictor_finds(tmp_path):
    from petsam_jax.files.video_writer import VideoWriter

    predictor = shipped_predictor()
    with VideoWriter(tmp_path / "clip.mp4", (SIDE, SIDE), 8) as writer:
        for number in range(4):
            writer.write(shipped_frame(number))
    studio = VideoService(predictor)
    opened(studio, file=(tmp_path / "clip.mp4").read_bytes())
    said = {"0": {"clicks": [[60, 60, "pet"], [64, 30, "background"]]}}
    first = asked(studio, said)
    answers = tracked(studio, said)
    own = predictor.open(tmp_path / "clip.mp4")
    own.add_points(0, 1, [(60, 60)], [1])
    mask = own.add_points(0, 1, [(64, 30)], [0])
    np.testing.assert_array_equal(unpacked(first) == 1, mask)
    for answer, (frame, _, masks) in zip(answers, own.propagate(), strict=True):
        assert answer["frame"] == frame
        np.testing.assert_array_equal(unpacked(answer) == 1, masks[0])
    assert any(unpacked(answer).any() for answer in answers[1:])
    studio.close()
