"""The page in a real browser: what a visitor does, and what comes of it on the screen."""

import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

from petsam_jax.files.rle import decode_rle
from petsam_jax.ui.image_service import ImageService
from tests.browsing import Visitor
from tests.live_page import serving
from tests.red_predictor import RedPredictor, red_picture

# Red box of each picture: x0 y0 x1 y1, sides included.
RED = (300, 100, 420, 220)
PET, BACKGROUND = (22, 163, 74), (220, 38, 38)


@pytest.fixture(scope="module")
def studio():
    return ImageService(RedPredictor())


@pytest.fixture(scope="module")
def address(studio):
    with serving(studio) as address:
        yield address


@pytest.fixture(scope="module")
def context(browser):
    context = browser.new_context(viewport={"width": 1200, "height": 760}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield context
    context.close()


@pytest.fixture(scope="module")
def visitor(context, address):
    visitor = Visitor(context, address)
    yield visitor
    # The browser logs the refusals that some tests bring about.
    assert [fault for fault in visitor.faults if "status of" not in fault] == []


@pytest.fixture
def on_red(visitor):
    """With a picture of a red box open, nothing said."""
    visitor.clear()
    if visitor.app("app.picture.name") != "red.png":
        visitor.open(red_picture(640, 360, RED), "red.png")
    visitor.page.locator("[data-choice=tool] [value=points]").check(force=True)
    return visitor


def expected(studio, visitor):
    """The predictor's own mask of what the page said, asked for without the page."""
    state = visitor.state()
    picture = studio.pictures.get(state.picture)
    return studio.masks(picture, state, picture.encoded.size).labels


def upright_red(size, turn):
    """A file whose stored pixels have to be turned, with the red box as one sees it."""
    exif = Image.Exif()
    exif[0x0112] = turn
    return red_picture(*size, (60, 20, 119, 59), format="JPEG", exif=exif, quality=95)


@pytest.mark.parametrize(
    ("file", "size", "red"),
    [
        (red_picture(1600, 200, (800, 50, 999, 149)), (1600, 200), (800, 50, 999, 149)),
        (red_picture(120, 900, (30, 600, 89, 799)), (120, 900), (30, 600, 89, 799)),
        (red_picture(9, 7, (2, 2, 6, 5)), (9, 7), (2, 2, 6, 5)),
        # Stored 320 x 180; turned right by 90 degrees, so what was on top is at the right.
        (upright_red((320, 180), 6), (180, 320), (120, 60, 159, 119)),
        (upright_red((320, 180), 3), (320, 180), (200, 120, 259, 159)),
    ],
    ids=["wide", "tall", "tiny", "turned", "upside-down"],
)
def test_a_click_on_the_pet_shows_its_mask_there(visitor, studio, file, size, red):
    visitor.open(file)
    assert visitor.app("[app.view.picture.width, app.view.picture.height]") == list(size)
    x, y = (red[0] + red[2]) // 2, (red[1] + red[3]) // 2
    visitor.click(x, y)
    mask = visitor.mask()
    np.testing.assert_array_equal(mask, expected(studio, visitor))
    rows, columns = np.nonzero(mask)
    # To the width of a cell of the predictor's grid.
    cell = np.array([size[0], size[1]] * 2) / 64 + 1
    found = np.array([columns.min(), rows.min(), columns.max(), rows.max()])
    assert (abs(found - red) <= cell).all()
    off = (red[0] + x) // 2, (red[1] + y) // 2
    assert visitor.colour(*off)[3] > 0
    assert visitor.colour(0, 0)[3] == 0
    assert visitor.words().startswith("Read as pet: ")


def test_right_and_shift_clicks_say_the_other_label(on_red):
    on_red.click(360, 160)
    on_red.idle()
    assert on_red.app("app.answer.objects[0].reads[0].label") == 1
    on_red.click(360, 200, button="right")
    on_red.idle()
    assert on_red.app("app.answer.objects[0].reads.map(read => read.label)") == [1, 0]
    assert on_red.words().startswith("Taken as background, as you said; ")
    assert "pet in the 5 × 5 pixels" in on_red.words()
    # What it was told to be background is no longer in the mask, and its dot is red.
    assert on_red.mask()[200, 366] == 0
    dot = on_red.app(f"app.view.place({360}, {200})")
    red = on_red.app(
        f"[...app.part('canvas=marks').getContext('2d').getImageData({dot[0]} - 5, {dot[1]} - 3, 1,"
        " 1).data]"
    )
    assert tuple(red[:3]) == BACKGROUND
    on_red.page.keyboard.down("Shift")
    on_red.click(100, 300)
    on_red.page.keyboard.up("Shift")
    on_red.idle()
    assert on_red.app("app.answer.objects[0].reads[2].label") == 1


def test_a_click_on_a_point_removes_it(on_red):
    on_red.click(360, 160)
    on_red.click(100, 300)
    on_red.idle()
    on_red.click(101, 301)
    on_red.idle()
    assert on_red.app("app.store.active.clicks") == [[360, 160, "auto"]]
    assert on_red.page.locator("[data-clicks] li").count() == 1


@pytest.mark.parametrize(
    ("corners", "colour"),
    [((280, 80, 400, 200), PET), ((400, 200, 280, 80), PET), ((20, 300, 120, 200), BACKGROUND)],
    ids=["pet", "corners-in-another-order", "background"],
)
def test_two_clicks_make_a_box_in_its_colour(on_red, corners, colour):
    x0, y0, x1, y1 = corners
    on_red.page.keyboard.press("b")
    on_red.page.locator("[data-choice=tool] [value=box]").check(force=True)
    on_red.click(x0, y0)
    on_red.idle()
    # The first corner is a green dot; nothing is asked yet.
    assert tuple(on_red.colour(x0, y0)[:3]) == PET
    assert on_red.app("app.store.active.box") is None
    on_red.click(x1, y1)
    mask = on_red.mask()
    assert tuple(on_red.colour(x1, y1)[:3]) == BACKGROUND
    middle = (x0 + x1) / 2, max(y0, y1) + 0.5
    assert colour in [
        tuple(on_red.colour(middle[0], middle[1] + off)[:3]) for off in (-1, -0.5, 0, 0.5, 1)
    ]
    outside = np.ones_like(mask, bool)
    outside[min(y0, y1) : max(y0, y1) + 1, min(x0, x1) : max(x0, x1) + 1] = False
    assert not mask[outside].any()
    if colour == PET:
        share = (mask > 0)[~outside].mean()
        assert on_red.words() == f"Pet covers {round(100 * share)} % of the box."
    else:
        assert (mask[~outside] == 1).all()
        assert on_red.words().startswith("Only background in this box")


def test_a_drag_makes_a_box_and_a_box_without_area_is_refused_in_words(on_red):
    on_red.drag(280, 80, 440, 240)
    on_red.idle()
    assert on_red.app("app.store.active.box") == [280, 80, 440, 240]
    assert on_red.words().startswith("Pet covers ")
    on_red.clear()
    on_red.drag(20, 300, 150, 250)
    on_red.idle()
    assert on_red.words().startswith("Only background in this box")
    on_red.clear()
    on_red.drag(100, 100, 180, 100)
    assert on_red.words() == "This box has no area: drag in both directions."
    assert on_red.app("app.store.active.box") is None
    on_red.page.locator("[data-choice=tool] [value=box]").check(force=True)
    on_red.click(100, 100)
    on_red.click(100, 180)
    assert on_red.words().startswith("This box has no area")
    on_red.page.keyboard.press("Escape")
    assert on_red.app("app.stage.under.corner ?? null") is None


def test_undo_and_redo_lead_back_to_the_very_masks(on_red):
    masks = []
    for x, y in [(360, 160), (100, 300), (310, 110)]:
        on_red.click(x, y)
        masks.append(on_red.mask())
    on_red.page.keyboard.press("Control+z")
    np.testing.assert_array_equal(on_red.mask(), masks[1])
    on_red.page.keyboard.press("Control+z")
    np.testing.assert_array_equal(on_red.mask(), masks[0])
    on_red.page.keyboard.press("Control+Shift+z")
    on_red.page.locator("[data-do=redo]").click()
    np.testing.assert_array_equal(on_red.mask(), masks[2])
    for _ in range(3):
        on_red.page.locator("[data-do=undo]").click()
    on_red.idle()
    assert on_red.app("app.painter.mask") is None


def test_five_fast_clicks_all_count_and_the_newest_state_wins(on_red, studio):
    studio.predictor.delay, asked = lambda: time.sleep(0.1), studio.predictor.predicted
    places = [(360, 160), (40, 40), (600, 40), (40, 320), (600, 320)]
    try:
        for place in places:
            on_red.click(*place)
        # It takes a while: a sign says so, and every click is already to be seen.
        on_red.page.locator("[data-sign]").wait_for(state="visible", timeout=2000)
        assert on_red.page.locator("[data-clicks] li").count() == 5
        on_red.idle()
    finally:
        studio.predictor.delay = lambda: None
    assert [click[:2] for click in on_red.app("app.store.active.clicks")] == [
        list(place) for place in places
    ]
    assert len(on_red.app("app.answer.objects[0].reads")) == 5
    # Answers that nobody waited for any more were not asked for one by one: 1 + 5 steps at most
    # where 1 + 2 + 3 + 4 + 5 were possible, as the earlier ones are remembered.
    assert studio.predictor.predicted - asked <= 6
    np.testing.assert_array_equal(on_red.mask(), expected(studio, on_red))


def test_two_visitors_at_once_do_not_mix(on_red, browser, address, studio):
    other = Visitor(browser.new_context(viewport={"width": 900, "height": 600}), address)
    other.open(red_picture(500, 500, (20, 20, 219, 219)), "other.png")
    studio.predictor.delay = lambda: time.sleep(0.05)
    try:
        for step in range(3):
            on_red.click(340 + 20 * step, 150)
            other.click(60 + 40 * step, 60)
    finally:
        studio.predictor.delay = lambda: None
    for visitor, size in ((on_red, (360, 640)), (other, (500, 500))):
        mask = visitor.mask()
        assert mask.shape == size
        np.testing.assert_array_equal(mask, expected(studio, visitor))
    assert other.faults == []
    other.page.context.close()


def download(visitor, press):
    with visitor.page.expect_download() as caught:
        press()
    return caught.value.suggested_filename, caught.value.path()


def test_what_is_saved_is_the_predictors_mask(on_red, studio):
    on_red.click(360, 160)
    on_red.drag(310, 90, 500, 300)
    mask = on_red.mask() > 0
    np.testing.assert_array_equal(mask, expected(studio, on_red) > 0)
    saved = {}
    for kind in ("overlay", "cutout", "white", "blur", "mask"):
        on_red.page.locator(f"[data-choice=show] [value={kind}]").check(force=True)
        name, path = download(on_red, on_red.page.locator("[data-do=save]").click)
        assert name == f"red-{kind}.png"
        saved[kind] = np.asarray(Image.open(path))
    on_red.page.locator("[data-choice=show] [value=overlay]").check(force=True)
    np.testing.assert_array_equal(saved["mask"], np.where(mask, 255, 0))
    rows, columns = np.nonzero(mask)
    trimmed = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    np.testing.assert_array_equal(saved["cutout"][..., 3], np.where(trimmed, 255, 0))
    assert (saved["white"][~mask] == 255).all()
    assert tuple(saved["overlay"][90, 400]) == PET  # The box stays.
    name, path = download(
        on_red, lambda: on_red.page.locator("[data-labels]").select_option("json")
    )
    said = json.loads(path.read_text())
    assert name == "red.json"
    np.testing.assert_array_equal(decode_rle(said["objects"][0]["rle"]), mask)
    assert said["objects"][0]["clicks"][0]["label"] == 1


def test_the_result_is_copied(on_red):
    on_red.click(360, 160)
    on_red.idle()
    on_red.page.locator("[data-do=copy]").click()
    on_red.page.wait_for_function("document.querySelector('[data-words]').textContent == 'Copied.'")
    size = on_red.page.evaluate(
        "(async () => { const [item] = await navigator.clipboard.read(); const image = await "
        "createImageBitmap(await item.getType('image/png')); return [image.width, image.height]; })"
        "()"
    )
    assert size == [640, 360]


def test_all_of_it_by_keys_alone(on_red, studio):
    press = on_red.page.keyboard.press
    on_red.page.locator("[data-do=find]").focus()
    press("Tab")
    assert on_red.page.evaluate("document.activeElement.dataset.canvas") == "marks"
    # The cross begins in the middle; Enter clicks.
    press("ArrowUp")
    press("Enter")
    on_red.idle()
    assert on_red.app("app.store.active.clicks[0][0]") == 320
    for _ in range(3):
        press("Shift+ArrowLeft")
    press("Shift+Enter")
    on_red.idle()
    assert on_red.app("app.answer.objects[0].reads.length") == 2
    assert on_red.app("app.store.active.clicks[1][2]") == "other"
    press("Delete")
    on_red.idle()
    assert on_red.app("app.store.active.clicks.length") == 1
    press("Control+z")
    on_red.idle()
    assert on_red.app("app.store.active.clicks.length") == 2
    # A box: a corner, some way, the other corner.
    press("b")
    press("Enter")
    for key in ("Shift+ArrowRight", "Shift+ArrowDown", "Shift+ArrowDown"):
        press(key)
    press("Enter")
    np.testing.assert_array_equal(on_red.mask(), expected(studio, on_red))
    assert on_red.app("app.store.active.box") is not None
    press("p")
    press("n")
    press("f")
    on_red.idle()
    assert on_red.app("app.store.document.objects.length") == 2
    press("2")
    on_red.idle()
    assert on_red.app("app.answer.objects[1].chosen") == 1


def test_zoomed_in_a_click_is_where_it_was(on_red):
    box = on_red.page.locator("[data-canvas=marks]").bounding_box()
    on_red.page.mouse.move(box["x"] + 600, box["y"] + 200)
    on_red.page.keyboard.down("Control")
    for _ in range(4):
        on_red.page.mouse.wheel(0, -120)
    on_red.page.keyboard.up("Control")
    on_red.page.mouse.wheel(30, 40)
    on_red.until("app.view.scale > 3")
    x, y = on_red.app("app.view.pixel(300, 250)")
    on_red.page.mouse.click(box["x"] + 300, box["y"] + 250)
    on_red.idle()
    assert on_red.app("app.store.active.clicks[0].slice(0, 2)") == [x, y]
    on_red.page.locator("[data-do=zoom-fit]").click()
    assert on_red.app("app.view.fitted")


def test_a_scribble_and_three_masks(on_red, studio):
    on_red.page.locator("[data-choice=tool] [value=paint]").check(force=True)
    on_red.drag(100, 250, 200, 300)
    mask = on_red.mask()
    assert mask[275, 150] == 1 and mask[160, 360] == 0
    candidates = on_red.page.locator("[data-candidates] input")
    assert candidates.count() == 3
    candidates.nth(2).check(force=True)
    np.testing.assert_array_equal(on_red.mask(), expected(studio, on_red))
    assert on_red.app("app.answer.objects[0].chosen") == 2


def test_each_click_alone_shows_pet_or_background(on_red):
    alone = on_red.page.locator("[data-setting=alone]")
    alone.check()
    on_red.click(100, 300)
    mask = on_red.mask()
    assert mask[160, 360] == 0 and mask[300, 100] == 1
    assert on_red.words().endswith("Shown is the background.")
    on_red.click(360, 160)
    mask = on_red.mask()
    assert mask[160, 360] == 1 and mask[300, 100] == 0
    assert on_red.app("app.store.active.clicks.length") == 1
    alone.uncheck()


def test_a_hint_follows_the_mouse(on_red):
    on_red.page.mouse.move(*on_red.place(350, 150))
    on_red.page.mouse.move(*on_red.place(355, 155))
    on_red.until("app.painter.hint !== null")
    on_red.page.mouse.move(5, 5)
    on_red.until("app.painter.hint === null")


def test_a_picture_that_was_dropped_is_sent_again(on_red, studio):
    on_red.click(360, 160)
    on_red.idle()
    studio.pictures.clear()
    on_red.click(100, 300)
    on_red.idle()
    assert len(on_red.app("app.answer.objects[0].reads")) == 2


def test_what_goes_wrong_is_said_on_the_page(on_red, studio):
    on_red.page.locator("[data-file]").set_input_files(
        {"name": "notes.txt", "mimeType": "image/png", "buffer": b"not a picture"}
    )
    on_red.page.wait_for_function(
        "document.querySelector('[data-words]').textContent.includes('not an image')"
    )
    # The picture from before is still there, and answers.
    studio.predictor.delay = lambda: 1 / 0
    on_red.click(367, 163)
    on_red.idle()
    assert "something went wrong" in on_red.words()
    studio.predictor.delay = lambda: None
    on_red.page.locator("[data-do=retry]").click()
    on_red.idle()
    assert on_red.words().startswith("Read as pet")


def test_when_all_places_are_taken_the_page_waits_and_asks_again(on_red, studio):
    gate = threading.Event()
    studio.predictor.delay = gate.wait
    on_red.page.route("**/studio/answer", refuse_twice())
    threading.Timer(0.3, gate.set).start()
    on_red.click(360, 160)
    on_red.idle()
    studio.predictor.delay = lambda: None
    on_red.page.unroute("**/studio/answer")
    assert on_red.words().startswith("Read as pet")


def refuse_twice():
    refusals = iter(range(2))

    def handle(route):
        if next(refusals, None) is None:
            route.continue_()
        else:
            route.fulfill(status=503, json={"error": "too many visitors are waiting just now"})

    return handle


def test_no_request_leaves_this_machine(visitor, address):
    assert len(visitor.asked) > 20
    outside = [url for url in visitor.asked if not url.startswith((address, "blob:", "data:"))]
    assert outside == []


def test_the_tabs_are_written_in_the_ink_of_the_page_in_the_light_and_in_the_dark(visitor):
    colours = """() => ['#tabs [role=tab].selected', '#studio .ps-body'].map(
        (part) => getComputedStyle(document.querySelector(part)).color)"""
    seen = []
    for _ in range(2):
        tab, page = visitor.page.evaluate(colours)
        assert tab == page
        seen.append(tab)
        visitor.page.evaluate("document.body.classList.toggle('dark')")
    assert seen[0] != seen[1]
