"""The video tab in a real browser: a red box that moves to the right is tracked and saved."""

import threading
import time

import av
import numpy as np
import pytest
from PIL import Image

from petsam_jax.ui.image_service import ImageService
from petsam_jax.ui.video_service import VideoService
from tests.browsing import Visitor
from tests.live_page import serving
from tests.red_predictor import RedPredictor, RedVideo, red_clip

pytestmark = pytest.mark.slow

CLIP, BOXES = red_clip()
COUNT = len(BOXES)


@pytest.fixture(scope="module")
def videos():
    return VideoService(RedVideo())


@pytest.fixture(scope="module")
def address(videos):
    with serving(ImageService(RedPredictor()), videos) as address:
        yield address


@pytest.fixture(scope="module")
def visitor(browser, address):
    context = browser.new_context(viewport={"width": 1200, "height": 760}, accept_downloads=True)
    visitor = VideoVisitor(context, address, "video-tab")
    yield visitor
    assert [error for error in visitor.errors if "status of" not in error] == []
    assert [
        url for url in visitor.requests if not url.startswith((address, "blob:", "data:"))
    ] == []
    context.close()


class VideoVisitor(Visitor):
    def open(self, file, name="red.mp4"):
        before = self.js("tab.clip?.id")
        self.part("[data-file]").set_input_files(
            {"name": name, "mimeType": "video/mp4", "buffer": file}
        )
        self.until(f"tab.clip && tab.clip.id !== '{before}' && tab.painter.image")

    def idle(self):
        self.until(
            "!tab.client.running && !tab.frames.running && !tab.task.running && !tab.opening"
            " && !tab.painter.due.above"
        )

    def press(self, name):
        self.part(f"[data-do={name}]").click()

    def scrub(self, frame):
        slider = self.part("[data-scrub]")
        slider.fill(str(frame))
        self.idle()

    def tracked(self):
        return self.js("[...tab.timeline.states]")


@pytest.fixture
def on_red(visitor):
    visitor.open(CLIP)
    visitor.idle()
    return visitor


def centre(frame):
    x0, y0, x1, y1 = BOXES[frame]
    return (x0 + x1) // 2, (y0 + y1) // 2


def right_end(mask):
    return np.nonzero((mask > 0).any(axis=0))[0].max()


def test_the_tab_starts_with_an_example_and_shows_the_frame_number(visitor):
    assert visitor.js("tab.clip.name") == "kitten.mp4"
    assert visitor.part("[data-position]").inner_text() == "1 / 72"
    assert visitor.part("[data-do=track]").is_disabled()
    # The page is not taller than the window.
    assert visitor.page.evaluate("document.documentElement.scrollHeight <= innerHeight")


def test_open_click_track_scrub_and_save(on_red):
    on_red.click(*centre(0))
    assert right_end(on_red.mask()) == pytest.approx(BOXES[0][2], abs=4)
    assert (
        on_red.message().startswith("Added: this looks like a pet (")
        and on_red.tracked() == [0] * COUNT
    )
    on_red.press("track")
    on_red.idle()
    assert on_red.message().startswith(f"Tracked {COUNT} frames in ")
    assert on_red.tracked() == [2] * COUNT
    for frame in (8, 3):
        on_red.scrub(frame)
        assert on_red.js("tab.store.frame") == frame
        assert right_end(on_red.mask()) == pytest.approx(BOXES[frame][2], abs=4)
        assert on_red.message() == "Tracked, 99 % sure."
        # The image is of that frame too.
        assert on_red.colour(*centre(frame), canvas="image")[0] > 180
    on_red.part("[data-choice=show] [value=white]").check(force=True)
    for ending in ("mp4", "gif"):
        with on_red.page.expect_download() as caught:
            on_red.press(f"save-{ending}")
        assert caught.value.suggested_filename == f"red-white.{ending}"
        with av.open(str(caught.value.path())) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert len(frames) == COUNT and frames[0].shape == (90, 160, 3)
        x, y = centre(8)
        assert frames[8][y, x, 0] > 180 > frames[8][y, x, 1] and frames[8][5, 5].min() > 240
        on_red.idle()
    on_red.part("[data-choice=show] [value=overlay]").check(force=True)


def test_a_cut_out_is_shown_and_saved_as_transparent(on_red):
    on_red.click(*centre(0))
    on_red.press("track")
    on_red.idle()
    on_red.scrub(8)
    on_red.part("[data-choice=show] [value=cutout]").check(force=True)
    # The background is a light checkerboard.
    on_red.until("!tab.painter.due.below")
    assert min(on_red.colour(150, 80, canvas="image")) > 150
    mp4 = on_red.part("[data-do=save-mp4]")
    assert mp4.is_disabled() and "cannot be transparent" in mp4.get_attribute("title")
    for ending in ("gif", "webp"):
        with on_red.page.expect_download() as caught:
            on_red.press(f"save-{ending}")
        assert caught.value.suggested_filename == f"red-cutout.{ending}"
        with Image.open(caught.value.path()) as video:
            assert video.n_frames == COUNT
            video.seek(8)
            frame = video.convert("RGBA")
        assert frame.getpixel((150, 80))[3] == 0 and frame.getpixel((5, 5))[3] == 0
        red, green, _, alpha = frame.getpixel(centre(8))
        assert alpha == 255 and red > 180 > green
        on_red.idle()
    on_red.part("[data-choice=show] [value=overlay]").check(force=True)
    assert mp4.is_enabled()


def test_a_correction_is_tracked_from_its_frame_and_undone_there(on_red):
    on_red.click(*centre(0))
    on_red.press("track")
    on_red.idle()
    on_red.scrub(6)
    on_red.page.keyboard.press("ArrowRight")
    on_red.page.keyboard.press("ArrowLeft")
    on_red.idle()
    assert on_red.js("tab.store.frame") == 6
    on_red.part("[data-both]").uncheck()
    on_red.click(140, 12, button="right")
    assert on_red.mask()[12, 140] == 1
    assert on_red.tracked() == [1] * COUNT
    on_red.press("track")
    on_red.idle()
    assert on_red.tracked() == [1] * 6 + [2] * 6
    assert on_red.js("tab.store.frame") == COUNT - 1 and on_red.mask()[12, 140] == 1
    on_red.press("undo")
    on_red.idle()
    # It returns to the frame of the change.
    assert on_red.js("tab.store.frame") == 6
    assert on_red.js("tab.store.active.clicks.length") == 0
    on_red.press("redo")
    on_red.idle()
    assert on_red.mask()[12, 140] == 1
    on_red.part("[data-both]").check()
    on_red.press("clear")
    on_red.idle()
    assert on_red.js("tab.store.isEmpty") and on_red.tracked() == [0] * COUNT


def test_boxes_and_objects_on_other_frames(on_red):
    on_red.scrub(2)
    x0, y0, x1, y1 = BOXES[2]
    on_red.drag(x0 - 3, y0 - 3, x1 + 3, y1 + 3)
    assert on_red.mask()[centre(2)[1], centre(2)[0]] == 1
    assert on_red.message().startswith("Found a pet in the box (")
    on_red.press("add")
    on_red.click(140, 80, button="right")
    assert on_red.mask()[80, 140] == 2
    on_red.scrub(0)
    assert on_red.part("[data-clicks] li").count() == 0
    on_red.press("track")
    on_red.idle()
    # From frame 2 to the end, and back.
    assert on_red.tracked() == [2] * COUNT
    on_red.part("[data-objects] li").nth(1).locator("button").click()
    on_red.scrub(5)
    assert set(np.unique(on_red.mask())) == {0, 1}


def test_tracking_stops_and_continues(on_red, videos):
    gate = threading.Event()
    frames = iter(range(1000))
    videos.predictor.delay = lambda: next(frames) < 4 or gate.wait(10)
    on_red.click(*centre(0))
    on_red.idle()
    try:
        on_red.press("track")
        on_red.until("tab.timeline.states[3] === 2")
        on_red.press("stop")
        on_red.until("!tab.task.running")
    finally:
        gate.set()
        videos.predictor.delay = lambda: None
    assert on_red.message().startswith("Stopped after 4 of 12 frames")
    on_red.press("track")
    on_red.idle()
    assert on_red.tracked() == [2] * COUNT


def test_an_expired_clip_is_sent_again_with_its_prompts(on_red, videos):
    on_red.click(*centre(0))
    on_red.press("track")
    on_red.idle()
    videos.clips.clear()
    # A video without the masks on the screen is not saved.
    on_red.press("save-gif")
    on_red.idle()
    assert on_red.message() == "The video expired and was reloaded. Please track again."
    assert on_red.tracked() == [0] * COUNT
    on_red.scrub(0)
    assert right_end(on_red.mask()) == pytest.approx(BOXES[0][2], abs=4)
    videos.clips.clear()
    on_red.press("track")
    on_red.idle()
    assert on_red.message().startswith(f"Tracked {COUNT} frames in ")
    assert on_red.tracked() == [2] * COUNT


def test_a_file_that_is_no_video_is_refused_and_the_clip_stays(on_red):
    name = on_red.js("tab.clip.id")
    on_red.part("[data-file]").set_input_files(
        {"name": "notes.mp4", "mimeType": "video/mp4", "buffer": b"not a clip at all"}
    )
    on_red.idle()
    assert on_red.message() == (
        "notes.mp4: not an mp4, mov, webm or GIF file; save it as one of these"
    )
    assert on_red.js("tab.clip.id") == name


def test_visitors_are_separate_and_leaving_closes_the_clip(on_red, browser, address, videos):
    context = browser.new_context(viewport={"width": 420, "height": 800})
    other = VideoVisitor(context, address, "video-tab")
    other.open(red_clip(5, size=(90, 90), side=20)[0], "small.mp4")
    on_red.click(*centre(0))
    assert other.js("tab.store.isEmpty") and right_end(on_red.mask()) > 30
    assert other.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    name = other.js("tab.clip.id")
    other.page.goto("about:blank")
    until = time.monotonic() + 10
    while name in videos.clips and time.monotonic() < until:
        time.sleep(0.05)
    assert name not in videos.clips and on_red.js("tab.clip.id") in videos.clips
    context.close()
