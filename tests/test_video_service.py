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
from petsam_jax.ui.video_state import KINDS, read_clip_state, read_tracking, read_video_export
from tests.golden_video import SIDE, shipped_frame, shipped_predictor
from tests.live_page import serving
from tests.red_predictor import RedPredictor, RedVideo, red_clip

CLIP, BOXES = red_clip()
COUNT, WIDTH, HEIGHT = len(BOXES), 160, 90
MINE, OTHER = "a" * 32, "b" * 32
FIRST = {"0": {"clicks": [[25, 45, "auto"]]}}


@pytest.fixture(scope="module")
def service():
    service = VideoService(RedVideo())
    yield service
    service.close()


def opened(service, name=MINE, file=CLIP):
    path = service.new_file()
    path.write_bytes(file)
    return service.open(name, path)


@pytest.fixture
def clip(service):
    opened(service)
    return service.clips.get(MINE)


def state(*frames, name=MINE, frame=0, **more):
    objects = [{"number": number, "frames": one} for number, one in enumerate(frames, start=1)]
    return {"clip": name, "frame": frame, "objects": objects} | more


def segment(service, *frames, **more):
    return service.segment(read_clip_state(state(*frames, **more)))


def tracked(service, *frames, both=False, **more):
    steps = service.track(*read_tracking({"state": state(*frames, **more), "both": both}))
    lines = list(iter(steps.next, None))
    assert lines[0] == {"total": len(lines) - 1}
    return lines[1:]


def unpacked(result):
    values, lengths = np.array(result["runs"]).reshape(-1, 2).T
    return np.repeat(values, lengths).reshape(result["height"], result["width"])


def timeline(result):
    values, lengths = np.array(result["timeline"]).reshape(-1, 2).T
    return np.repeat(values, lengths).tolist()


def middle(mask):
    return np.argwhere(mask).mean(axis=0)[::-1]


# Opening


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".gif"])
def test_opening_returns_size_length_and_frame_rate(service, ending):
    file, _ = red_clip(5, ending=ending)
    clip = opened(service, file=file)
    assert clip == {"clip": MINE, "width": WIDTH, "height": HEIGHT, "count": 5, "fps": clip["fps"]}
    assert clip["fps"] == pytest.approx(12, rel=0.05)
    shown = Image.open(io.BytesIO(service.frame_jpeg(MINE, 4)))
    assert shown.size == (WIDTH, HEIGHT) and shown.getpixel((45, 45))[0] > 150
    with pytest.raises(BadRequest, match="this video: frame 5; it has frames 0..4"):
        service.frame_jpeg(MINE, 5)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"", "not an mp4, mov, webm or GIF"),
        (b"#EXTM3U\nhttp://127.0.0.1/a.ts\n", "not an mp4, mov, webm or GIF"),
        (b"ffconcat version 1.0\nfile other.mp4\n", "not an mp4, mov, webm or GIF"),
        (CLIP[:300], "this video cannot be read"),
        (b"GIF89a" + bytes(40), "this video cannot be read"),
        (
            red_clip(2, size=(320, 200))[0],
            "frames of 320 x 200 pixels; the limit is 0.02 megapixels",
        ),
        (red_clip(41, side=8)[0], "41 frames; the limit is 40. Shorten it first"),
    ],
    ids=["empty", "playlist", "list", "cut-off", "gif", "pixels", "frames"],
)
def test_files_that_are_no_video_or_too_large_are_refused(file, message, tmp_path):
    small = VideoService(RedVideo(), Limits(max_clip_pixels=20_000, max_clip_frames=40))
    with pytest.raises(BadRequest, match=message) as refused:
        opened(small, file=file)
    assert "/" not in str(refused.value).replace("http://", "")
    assert len(small.clips) == 0 and not list(small.new_file().parent.glob("*.*"))
    small.close()


# Prompts


def test_a_click_gives_a_mask_on_its_frame_only(service, clip):
    result = segment(service, {"3": {"clicks": [[40, 45, "auto"]]}}, frame=3)
    x, y = middle(unpacked(result) == 1)
    x0, y0, x1, y1 = BOXES[3]
    assert abs(x - (x0 + x1) / 2) < 3 and abs(y - (y0 + y1) / 2) < 3
    (found,) = result["objects"]
    assert found["clicks"][0]["label"] == 1
    assert found["message"].startswith("Added: this looks like a pet (")
    assert timeline(result) == [0] * COUNT
    elsewhere = service.masks(MINE, 4)
    assert elsewhere["objects"] == [None] and not unpacked(elsewhere).any()


def test_the_session_gets_only_what_is_new(service, clip, monkeypatch):
    calls = []

    def recorded(name):
        method = getattr(clip.session, name)

        def call(*arguments, **options):
            calls.append((name, *(each for each in arguments if isinstance(each, Prompt))))
            return method(*arguments, **options)

        return call

    for name in ("_add", "clear_frame", "remove_object"):
        monkeypatch.setattr(clip.session, name, recorded(name))
    one, two = [25, 45, "auto"], [90, 80, "pet"]
    first, both = Prompt(((25, 45),), (1,)), Prompt(((25, 45), (90, 80)), (1, 1))
    segment(service, {"0": {"clicks": [one]}})
    segment(service, {"0": {"clicks": [one, two]}})
    segment(service, {"0": {"clicks": [one, two]}}, frame=5)
    assert calls == [("_add", first), ("_add", both)]
    undone = segment(service, {"0": {"clicks": [one]}})
    assert calls[2:] == [("clear_frame",), ("_add", first)]
    assert not unpacked(undone)[78:82, 88:92].any()
    box = Prompt(box=(5, 25, 50, 70))
    segment(service, {"0": {"box": [5, 25, 50, 70], "clicks": [one]}})
    with_click = box.with_points(first.points, first.labels)
    assert calls[4:] == [("clear_frame",), ("_add", box), ("_add", with_click)]
    assert unpacked(segment(service, {})).sum() == 0
    assert calls[7:] == [("remove_object",)]


def test_islands_are_removed_on_the_page_and_in_the_export(service, clip):
    prompts, settings = (
        {"0": {"clicks": [[25, 45, "auto"], [110, 80, "pet"]]}},
        {"remove_islands": 300},
    )
    assert unpacked(segment(service, prompts))[80, 110] == 1
    assert unpacked(segment(service, prompts, settings=settings))[80, 110] == 0
    assert unpacked(service.masks(MINE, 0))[45, 25] == 1 and not clip.masks(0).masks[0, 80, 110]


def test_a_box_reports_its_coverage_or_that_it_holds_no_pet(service, clip):
    (found,) = segment(service, {"0": {"box": [10, 30, 69, 59]}})["objects"]
    assert found["holds_pet"] is True and found["coverage"] == pytest.approx(0.5, abs=0.06)
    (found,) = segment(service, {"0": {"box": [100, 10, 140, 40]}})["objects"]
    assert found["holds_pet"] is False
    assert found["message"].startswith("No pet found in this box.")


def test_prompts_outside_are_refused_and_change_nothing(service, clip):
    segment(service, FIRST)
    with pytest.raises(BadRequest, match=r"\(160, 5\) is outside the image"):
        segment(service, {"0": {"clicks": [[160, 5, "pet"]]}})
    with pytest.raises(BadRequest, match="frame 99; it has frames 0..11"):
        segment(service, FIRST | {"99": {"find": True}})
    assert clip.session.prompts == {1: {0: Prompt(points=((25, 45),), labels=(1,))}}


# Tracking


def test_tracking_starts_at_the_prompt_and_masks_follow(service, clip):
    results = tracked(service, {"2": {"clicks": [[35, 45, "auto"]]}})
    assert [result["frame"] for result in results] == list(range(2, COUNT))
    for result in results:
        # To the left there is also what the click painted.
        right = np.nonzero(unpacked(result).any(axis=0))[0].max()
        assert abs(right - BOXES[result["frame"]][2]) <= 3
    assert results[-1]["objects"][0]["message"] == "Tracked, 99 % sure."
    again = service.masks(MINE, 7)
    np.testing.assert_array_equal(unpacked(again), unpacked(results[5]))
    assert timeline(again) == [0] * 2 + [2] * (COUNT - 2)
    both = tracked(service, {"2": {"clicks": [[35, 45, "auto"]]}}, both=True)
    # What is tracked already is not tracked again.
    assert [result["frame"] for result in both] == [1, 0]


def test_a_correction_is_tracked_from_its_frame(service, clip):
    tracked(service, FIRST)
    corrected = FIRST | {"6": {"clicks": [[110, 80, "pet"]]}}
    result = segment(service, corrected, frame=6)
    assert timeline(result) == [1] * COUNT
    results = tracked(service, corrected)
    assert [result["frame"] for result in results] == list(range(6, COUNT))
    assert unpacked(results[-1])[80, 110] == 1 and unpacked(service.masks(MINE, 3))[80, 110] == 0
    assert timeline(service.masks(MINE, 0)) == [1] * 6 + [2] * (COUNT - 6)
    # Without the correction, all is tracked from the prompt before it.
    assert [result["frame"] for result in tracked(service, FIRST)] == list(range(COUNT))


def test_stopped_tracking_continues_and_needs_prompts(service, clip):
    steps = service.track(*read_tracking({"state": state(FIRST)}))
    for _ in range(5):
        steps.next()
    steps.close()
    assert steps.next() is None
    assert [result["frame"] for result in tracked(service, FIRST)] == list(range(4, COUNT))
    # With nothing else to do, all of it is tracked again.
    assert len(tracked(service, FIRST)) == COUNT
    with pytest.raises(BadRequest, match="click on the animal on any frame first"):
        tracked(service, {})


def test_removing_an_object_removes_its_tracked_masks(service, clip):
    second = {"0": {"clicks": [[120, 70, "pet"]]}}
    results = tracked(service, FIRST, second)
    labels = unpacked(results[-1])
    assert labels[45, 90] == 1 and labels[70, 120] == 2
    left = segment(service, FIRST, frame=COUNT - 1)
    assert unpacked(left)[70, 120] == 0 and unpacked(left)[45, 90] == 1


# Export


@pytest.mark.parametrize(
    ("kind", "format"),
    [(kind, format) for kind in KINDS if kind != "cutout" for format in ("mp4", "gif")]
    + [("overlay", "webp")],
)
def test_an_exported_video_has_all_frames_and_the_masks(service, clip, kind, format):
    tracked(service, FIRST)
    request = {"state": state(FIRST), "kind": kind, "format": format}
    lines = list(iter(service.export(*read_video_export(request)).next, None))
    assert lines == [{"total": COUNT}] + [{"done": i + 1} for i in range(COUNT)]
    if format == "webp":
        with Image.open(clip.exported) as video:
            frames = [np.asarray(one.convert("RGB")) for one in ImageSequence.Iterator(video)]
    else:
        with av.open(str(clip.exported)) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == COUNT and frames[0].shape == (HEIGHT, WIDTH, 3)
    inside, outside = frames[8][45, 73].astype(int), frames[8][10, 10].astype(int)
    expected = {"white": (255,) * 3, "green": (0, 177, 64), "black": (0,) * 3, "mask": (0,) * 3}
    assert abs(outside - expected.get(kind, (120,) * 3)).max() < 12
    if kind == "overlay":
        assert inside[2] > 80  # Tinted with the first object's blue.
    else:
        assert abs(inside - ((255,) * 3 if kind == "mask" else (220, 30, 30))).max() < 30


@pytest.mark.parametrize(("format", "soft"), [("gif", 0), ("webp", 0), ("webp", 6)])
def test_an_exported_cut_out_is_transparent_around_the_animal(service, clip, format, soft):
    tracked(service, FIRST)
    request = {"state": state(FIRST), "kind": "cutout", "format": format, "soft": soft}
    list(iter(service.export(*read_video_export(request)).next, None))
    with Image.open(clip.exported) as video:
        assert video.n_frames == COUNT and video.size == (WIDTH, HEIGHT)
        for number in range(COUNT):
            video.seek(number)
            frame, mask = np.asarray(video.convert("RGBA")), clip.masks(number).masks[0]
            assert video.info["duration"] in (80, 83, 84, 90)
            if not soft:
                np.testing.assert_array_equal(frame[..., 3], np.where(mask, 255, 0))
            x0, y0, x1, y1 = BOXES[number]
            inside = frame[y0 + 5 : y1 - 4, x0 + 5 : x1 - 4]
            assert abs(inside.mean(axis=(0, 1)) - (220, 30, 30, 255)).max() < 12
            assert not frame[2, 2].any()
        assert (len(np.unique(frame[..., 3])) > 2) == (soft > 0)


def test_exported_frames_last_as_long_as_those_of_the_clip(service):
    lasting, file = [40, 200, 80, 500], io.BytesIO()
    first, *rest = [Image.new("RGB", (64, 36), (200, 10 * number, 0)) for number in range(4)]
    first.save(file, "GIF", save_all=True, append_images=rest, duration=lasting)
    opened(service, OTHER, file.getvalue())
    request = {"state": state({"0": {"find": True}}, name=OTHER), "kind": "blur", "format": "gif"}
    list(iter(service.export(*read_video_export(request)).next, None))
    with Image.open(service.clips.get(OTHER).exported) as video:
        found = [frame.info["duration"] for frame in ImageSequence.Iterator(video)]
    assert found == lasting


def test_an_unfinished_export_leaves_no_file(service, clip):
    segment(service, FIRST)
    request = {"state": state(FIRST), "kind": "blur", "format": "mp4"}
    steps = service.export(*read_video_export(request))
    for _ in range(3):
        steps.next()
    before = set(clip.path.parent.iterdir())
    steps.close()
    assert clip.exported is None and len(before - set(clip.path.parent.iterdir())) == 1


# Visitors


def test_clips_are_separate_and_limited_in_number_and_bytes():
    service = VideoService(RedVideo(), Limits(clips=2))
    for name in (MINE, OTHER):
        opened(service, name)
    tracked(service, FIRST)
    assert segment(service, {}, name=OTHER)["objects"] == [None]
    assert not unpacked(service.masks(OTHER, 5)).any() and unpacked(service.masks(MINE, 5)).any()
    files = {name: service.clips.get(name).path for name in (OTHER, MINE)}
    opened(service, "c" * 32)
    # The least recently used was closed, and its file deleted.
    with pytest.raises(Expired, match="this video is no longer open; send it again"):
        service.masks(OTHER, 0)
    assert not files[OTHER].exists() and files[MINE].exists()
    opened(service, MINE)
    assert not files[MINE].exists() and len(service.clips) == 2
    service.close()
    one = VideoService(RedVideo(), Limits(clip_bytes=1))
    opened(one, MINE), opened(one, OTHER)
    assert len(one.clips) == 1 and one.clips.nbytes > 20_000_000
    one.close()


def test_closing_a_clip_ends_its_tracking(service, clip):
    steps = service.track(*read_tracking({"state": state(FIRST)}))
    steps.next()
    service.clips.drop(MINE)
    with pytest.raises(Expired):
        steps.next()
    steps.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip": "x"}, "expected an id of 32 hexadecimal digits"),
        ({"frame": -1}, "frame: -1; expected a number from 0"),
        ({"objects": [{"number": 1, "frames": {"x": {}}}]}, "prompts by frame"),
        ({"objects": [{"number": 1, "frames": {"0": {"strokes": []}}}]}, "unknown strokes"),
        ({"objects": [{"number": 1}, {"number": 1}]}, "two of them have the same number"),
        (
            {"objects": [{"number": 1, "frames": {str(i): {} for i in range(65)}}]},
            "the limit is 64",
        ),
        ({"image": "x"}, "unknown image"),
    ],
)
def test_invalid_states_are_refused_by_field(change, message):
    with pytest.raises(BadRequest, match=message):
        read_clip_state(state() | change)


def test_unknown_kinds_and_formats_are_refused():
    for change, message in (({"kind": "exe"}, "kind: 'exe'"), ({"format": "avi"}, "format: 'avi'")):
        with pytest.raises(BadRequest, match=message):
            read_video_export({"state": state(), "kind": "mask", "format": "gif"} | change)
    with pytest.raises(BadRequest, match="mp4 cannot be transparent; choose gif or webp"):
        read_video_export({"state": state(), "kind": "cutout", "format": "mp4"})
    with pytest.raises(BadRequest, match="both: expected true or false"):
        read_tracking({"state": state(), "both": 1})


# Over HTTP


@pytest.fixture(scope="module")
def address(service):
    with serving(ImageService(RedPredictor()), service) as address:
        yield address


@pytest.fixture
def web(address):
    with httpx.Client(base_url=address, timeout=20) as web:
        web.post(f"/petsam/video/open?clip={MINE}", content=CLIP).raise_for_status()
        yield web


def test_a_clip_over_http_from_upload_to_download(web):
    request = state(FIRST)
    result = web.post("/petsam/video/segment", json=request).json()
    assert result["objects"][0]["clicks"][0]["label"] == 1
    with web.stream("POST", "/petsam/video/track", json={"state": request}) as response:
        lines = [json.loads(line) for line in response.iter_lines()]
    assert lines[0] == {"total": COUNT}
    assert [step["frame"] for step in lines[1:]] == list(range(COUNT))
    masks = web.get("/petsam/video/masks", params={"clip": MINE, "frame": 7}).json()
    assert masks["runs"] == lines[8]["runs"] and timeline(masks) == [2] * COUNT
    frame = web.get("/petsam/video/frame", params={"clip": MINE, "frame": 7})
    assert Image.open(io.BytesIO(frame.content)).size == (WIDTH, HEIGHT)
    assert web.get(f"/petsam/video/download?clip={MINE}").status_code == 400
    request = {"state": request, "kind": "white", "format": "gif"}
    lines = web.post("/petsam/video/export", json=request).text.splitlines()
    assert len(lines) == COUNT + 1
    video = web.get("/petsam/video/download", params={"clip": MINE, "name": "../my dog"})
    assert video.content[:6] == b"GIF89a" and "my%20dog.gif" in video.headers["content-disposition"]
    assert web.post(f"/petsam/video/close?clip={MINE}").status_code == 204
    gone = web.get("/petsam/video/masks", params={"clip": MINE, "frame": 7})
    assert gone.status_code == 410 and gone.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "sent", "status", "message"),
    [
        (f"open?clip={OTHER}", b"no clip", 400, "not an mp4, mov, webm or GIF"),
        ("open?clip=../../etc/passwd", CLIP, 400, "expected an id of 32 hexadecimal digits"),
        ("segment", b"{", 400, "not JSON"),
        ("track", b"{}", 400, "request: expected a dictionary"),
        ("track", json.dumps({"state": state(name="d" * 32)}).encode(), 410, "send it again"),
    ],
)
def test_invalid_requests_are_refused_over_http(web, path, sent, status, message):
    response = web.post(f"/petsam/video/{path}", content=sent)
    assert response.status_code == status and message in response.json()["error"]


def test_errors_during_a_long_task_are_a_line(web, service, caplog):
    response = web.post("/petsam/video/track", json={"state": state({})})
    assert "click on the animal" in json.loads(response.text)["error"]
    service.predictor.delay = lambda: 1 / 0
    try:
        response = web.post("/petsam/video/track", json={"state": state(FIRST)})
    finally:
        service.predictor.delay = lambda: None
    assert "something went wrong" in json.loads(response.text.splitlines()[-1])["error"]
    assert "ZeroDivision" not in response.text and "ZeroDivision" in caplog.text


def test_a_disconnect_ends_tracking_and_clicks_do_not_wait_for_it(web, address, service):
    steps = threading.Semaphore(0)
    service.predictor.delay = lambda: (steps.release(), time.sleep(0.1))
    image = web.post("/petsam/image/open", content=_png()).json()["image"]
    try:
        with web.stream("POST", "/petsam/video/track", json={"state": state(FIRST)}) as response:
            lines = response.iter_lines()
            assert json.loads(next(lines)) == {"total": COUNT}
            next(lines)
            sent = time.perf_counter()
            request = {"image": image, "objects": [{"find": True}]}
            assert httpx.post(f"{address}/petsam/image/segment", json=request).status_code == 200
            assert time.perf_counter() - sent < 1
        time.sleep(0.4)
        done = steps._value
        time.sleep(0.4)
        assert done == steps._value < COUNT
    finally:
        service.predictor.delay = lambda: None


def _png():
    file = io.BytesIO()
    Image.new("RGB", (64, 36), "red").save(file, "PNG")
    return file.getvalue()


# With a model


@pytest.mark.slow
def test_the_tab_shows_what_the_predictor_finds(tmp_path):
    from petsam_jax.files.video_writer import VideoWriter

    predictor = shipped_predictor()
    with VideoWriter(tmp_path / "clip.mp4", (SIDE, SIDE), 8) as writer:
        for number in range(4):
            writer.write(shipped_frame(number))
    service = VideoService(predictor)
    opened(service, file=(tmp_path / "clip.mp4").read_bytes())
    prompts = {"0": {"clicks": [[60, 60, "pet"], [64, 30, "background"]]}}
    first = segment(service, prompts)
    results = tracked(service, prompts)
    own = predictor.open(tmp_path / "clip.mp4")
    own.add_points(0, 1, [(60, 60)], [1])
    mask = own.add_points(0, 1, [(64, 30)], [0])
    np.testing.assert_array_equal(unpacked(first) == 1, mask)
    for result, (frame, _, masks) in zip(results, own.propagate(), strict=True):
        assert result["frame"] == frame
        np.testing.assert_array_equal(unpacked(result) == 1, masks[0])
    assert any(unpacked(result).any() for result in results[1:])
    service.close()
