"""The image tab in a real browser: what a visitor does, and what the screen then shows."""

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
from tests.red_predictor import RedPredictor, red_image

pytestmark = pytest.mark.slow

# The red box of each image: x0 y0 x1 y1, sides included.
RED = (300, 100, 420, 220)
PET, BACKGROUND = (22, 163, 74), (220, 38, 38)


@pytest.fixture(scope="module")
def service():
    return ImageService(RedPredictor())


@pytest.fixture(scope="module")
def address(service):
    with serving(service) as address:
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
    # The browser logs the refused requests of some tests.
    assert [error for error in visitor.errors if "status of" not in error] == []


@pytest.fixture
def on_red(visitor):
    """With an image of a red box open, and no prompts."""
    visitor.clear()
    if visitor.js("tab.image.name") != "red.png":
        visitor.open(red_image(640, 360, RED), "red.png")
    visitor.page.locator("[data-choice=tool] [value=points]").check(force=True)
    return visitor


def expected(service, visitor):
    """The predictor's own mask for the page's state."""
    state = visitor.state()
    image = service.images.get(state.image)
    return service.masks(image, state, image.encoded.size).labels


def upright_red(size, turn):
    """A file with an EXIF rotation; the red box is in stored pixels."""
    exif = Image.Exif()
    exif[0x0112] = turn
    return red_image(*size, (60, 20, 119, 59), format="JPEG", exif=exif, quality=95)


@pytest.mark.parametrize(
    ("file", "size", "red"),
    [
        (red_image(1600, 200, (800, 50, 999, 149)), (1600, 200), (800, 50, 999, 149)),
        (red_image(120, 900, (30, 600, 89, 799)), (120, 900), (30, 600, 89, 799)),
        (red_image(9, 7, (2, 2, 6, 5)), (9, 7), (2, 2, 6, 5)),
        # Stored 320 x 180; turned right by 90 degrees, so what was on top is at the right.
        (upright_red((320, 180), 6), (180, 320), (120, 60, 159, 119)),
        (upright_red((320, 180), 3), (320, 180), (200, 120, 259, 159)),
    ],
    ids=["wide", "tall", "tiny", "turned", "upside-down"],
)
def test_a_click_on_the_pet_shows_its_mask_there(visitor, service, file, size, red):
    visitor.open(file)
    assert visitor.js("[tab.view.size.width, tab.view.size.height]") == list(size)
    x, y = (red[0] + red[2]) // 2, (red[1] + red[3]) // 2
    visitor.click(x, y)
    mask = visitor.mask()
    np.testing.assert_array_equal(mask, expected(service, visitor))
    rows, columns = np.nonzero(mask)
    # To the width of a cell of the predictor's grid.
    cell = np.array([size[0], size[1]] * 2) / 64 + 1
    found = np.array([columns.min(), rows.min(), columns.max(), rows.max()])
    assert (abs(found - red) <= cell).all()
    off = (red[0] + x) // 2, (red[1] + y) // 2
    assert visitor.colour(*off)[3] > 0
    assert visitor.colour(0, 0)[3] == 0
    assert visitor.message().startswith("Added: this looks like a pet (")


def test_right_and_shift_clicks_have_the_opposite_label(on_red):
    on_red.click(360, 160)
    on_red.idle()
    assert on_red.js("tab.prediction.objects[0].clicks[0].label") == 1
    on_red.click(360, 200, button="right")
    on_red.idle()
    assert on_red.js("tab.prediction.objects[0].clicks.map(click => click.label)") == [1, 0]
    assert on_red.message() == "Removed."
    # Its place is no longer in the mask, and its dot is red.
    assert on_red.mask()[200, 366] == 0
    dot = on_red.js(f"tab.view.place({360}, {200})")
    red = on_red.js(
        f"[...tab.part('canvas=marks').getContext('2d').getImageData({dot[0]} - 5, {dot[1]} - 3, 1,"
        " 1).data]"
    )
    assert tuple(red[:3]) == BACKGROUND
    on_red.page.keyboard.down("Shift")
    on_red.click(100, 300)
    on_red.page.keyboard.up("Shift")
    on_red.idle()
    assert on_red.js("tab.prediction.objects[0].clicks[2].label") == 1


def test_a_click_on_a_point_removes_it(on_red):
    on_red.click(360, 160)
    on_red.click(100, 300)
    on_red.idle()
    on_red.click(101, 301)
    on_red.idle()
    assert on_red.js("tab.store.active.clicks") == [[360, 160, "auto"]]
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
    # The first corner is a green dot; there is no prompt yet.
    assert tuple(on_red.colour(x0, y0)[:3]) == PET
    assert on_red.js("tab.store.active.box") is None
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
        assert on_red.message() == f"Found a pet in the box ({round(100 * share)} %)."
    else:
        assert (mask[~outside] == 1).all()
        assert on_red.message().startswith("No pet found in this box.")


def test_a_drag_makes_a_box_and_a_box_without_area_is_refused(on_red):
    on_red.drag(280, 80, 440, 240)
    on_red.idle()
    assert on_red.js("tab.store.active.box") == [280, 80, 440, 240]
    assert on_red.message().startswith("Found a pet in the box (")
    on_red.clear()
    on_red.drag(20, 300, 150, 250)
    on_red.idle()
    assert on_red.message().startswith("No pet found in this box.")
    on_red.clear()
    on_red.drag(100, 100, 180, 100)
    assert on_red.message() == "This box has no area. Drag diagonally."
    assert on_red.js("tab.store.active.box") is None
    on_red.page.locator("[data-choice=tool] [value=box]").check(force=True)
    on_red.click(100, 100)
    on_red.click(100, 180)
    assert on_red.message().startswith("This box has no area")
    on_red.page.keyboard.press("Escape")
    assert on_red.js("tab.stage.draft.corner ?? null") is None


def test_undo_and_redo_restore_the_exact_masks(on_red):
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
    assert on_red.js("tab.painter.mask") is None


def test_five_fast_clicks_all_count_and_the_newest_state_wins(on_red, service):
    service.predictor.delay, before = lambda: time.sleep(0.1), service.predictor.predicted
    places = [(360, 160), (40, 40), (600, 40), (40, 320), (600, 320)]
    try:
        for place in places:
            on_red.click(*place)
        # While it computes there is a busy sign, and every click is already shown.
        on_red.page.locator("[data-busy]").wait_for(state="visible", timeout=2000)
        assert on_red.page.locator("[data-clicks] li").count() == 5
        on_red.idle()
    finally:
        service.predictor.delay = lambda: None
    assert [click[:2] for click in on_red.js("tab.store.active.clicks")] == [
        list(place) for place in places
    ]
    assert len(on_red.js("tab.prediction.objects[0].clicks")) == 5
    # States that were replaced while they waited are not predicted, and earlier predictions are
    # cached: at most 1 + 5 steps, where 1 + 2 + 3 + 4 + 5 were possible.
    assert service.predictor.predicted - before <= 6
    np.testing.assert_array_equal(on_red.mask(), expected(service, on_red))


def test_two_visitors_at_once_do_not_mix(on_red, browser, address, service):
    other = Visitor(browser.new_context(viewport={"width": 900, "height": 600}), address)
    other.open(red_image(500, 500, (20, 20, 219, 219)), "other.png")
    service.predictor.delay = lambda: time.sleep(0.05)
    try:
        for step in range(3):
            on_red.click(340 + 20 * step, 150)
            other.click(60 + 40 * step, 60)
    finally:
        service.predictor.delay = lambda: None
    for visitor, size in ((on_red, (360, 640)), (other, (500, 500))):
        mask = visitor.mask()
        assert mask.shape == size
        np.testing.assert_array_equal(mask, expected(service, visitor))
    assert other.errors == []
    other.page.context.close()


def download(visitor, press):
    with visitor.page.expect_download() as caught:
        press()
    return caught.value.suggested_filename, caught.value.path()


def test_saved_files_have_the_predictors_mask(on_red, service):
    on_red.click(360, 160)
    on_red.drag(310, 90, 500, 300)
    mask = on_red.mask() > 0
    np.testing.assert_array_equal(mask, expected(service, on_red) > 0)
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
        on_red, lambda: on_red.page.locator("[data-annotations]").select_option("json")
    )
    annotations = json.loads(path.read_text())
    assert name == "red.json"
    np.testing.assert_array_equal(decode_rle(annotations["objects"][0]["rle"]), mask)
    assert annotations["objects"][0]["clicks"][0]["label"] == 1


def test_the_result_is_copied(on_red):
    on_red.click(360, 160)
    on_red.idle()
    on_red.page.locator("[data-do=copy]").click()
    on_red.page.wait_for_function(
        "document.querySelector('[data-message]').textContent == 'Copied.'"
    )
    size = on_red.page.evaluate(
        "(async () => { const [item] = await navigator.clipboard.read(); const image = await "
        "createImageBitmap(await item.getType('image/png')); return [image.width, image.height]; })"
        "()"
    )
    assert size == [640, 360]


def test_everything_works_by_keyboard(on_red, service):
    press = on_red.page.keyboard.press
    on_red.page.locator("[data-do=find]").focus()
    press("Tab")
    assert on_red.page.evaluate("document.activeElement.dataset.canvas") == "marks"
    # The cross starts in the middle; Enter clicks.
    press("ArrowUp")
    press("Enter")
    on_red.idle()
    assert on_red.js("tab.store.active.clicks[0][0]") == 320
    for _ in range(3):
        press("Shift+ArrowLeft")
    press("Shift+Enter")
    on_red.idle()
    assert on_red.js("tab.prediction.objects[0].clicks.length") == 2
    assert on_red.js("tab.store.active.clicks[1][2]") == "opposite"
    press("Delete")
    on_red.idle()
    assert on_red.js("tab.store.active.clicks.length") == 1
    press("Control+z")
    on_red.idle()
    assert on_red.js("tab.store.active.clicks.length") == 2
    # A box: one corner, then the opposite one.
    press("b")
    press("Enter")
    for key in ("Shift+ArrowRight", "Shift+ArrowDown", "Shift+ArrowDown"):
        press(key)
    press("Enter")
    np.testing.assert_array_equal(on_red.mask(), expected(service, on_red))
    assert on_red.js("tab.store.active.box") is not None
    press("p")
    press("n")
    press("f")
    on_red.idle()
    assert on_red.js("tab.store.document.objects.length") == 2
    press("2")
    on_red.idle()
    assert on_red.js("tab.prediction.objects[1].chosen") == 1


def test_a_click_on_a_zoomed_image_is_where_it_was(on_red):
    box = on_red.page.locator("[data-canvas=marks]").bounding_box()
    on_red.page.mouse.move(box["x"] + 600, box["y"] + 200)
    on_red.page.keyboard.down("Control")
    for _ in range(4):
        on_red.page.mouse.wheel(0, -120)
    on_red.page.keyboard.up("Control")
    on_red.page.mouse.wheel(30, 40)
    on_red.until("tab.view.scale > 3")
    x, y = on_red.js("tab.view.pixel(300, 250)")
    on_red.page.mouse.click(box["x"] + 300, box["y"] + 250)
    on_red.idle()
    assert on_red.js("tab.store.active.clicks[0].slice(0, 2)") == [x, y]
    on_red.page.locator("[data-do=zoom-fit]").click()
    assert on_red.js("tab.view.fitted")


def test_a_scribble_and_three_masks(on_red, service):
    on_red.page.locator("[data-choice=tool] [value=paint]").check(force=True)
    on_red.drag(100, 250, 200, 300)
    mask = on_red.mask()
    assert mask[275, 150] == 1 and mask[160, 360] == 0
    candidates = on_red.page.locator("[data-candidates] input")
    assert candidates.count() == 3
    candidates.nth(2).check(force=True)
    np.testing.assert_array_equal(on_red.mask(), expected(service, on_red))
    assert on_red.js("tab.prediction.objects[0].chosen") == 2


def test_starting_over_with_each_click_selects_the_pet_or_the_background(on_red):
    alone = on_red.page.locator("[data-setting=last_click_only]")
    alone.check()
    on_red.click(100, 300)
    mask = on_red.mask()
    assert mask[160, 360] == 0 and mask[300, 100] == 1
    assert on_red.message().endswith("The background is selected.")
    on_red.click(360, 160)
    mask = on_red.mask()
    assert mask[160, 360] == 1 and mask[300, 100] == 0
    assert on_red.js("tab.store.active.clicks.length") == 1
    alone.uncheck()


def test_a_preview_follows_the_mouse(on_red):
    on_red.page.mouse.move(*on_red.place(350, 150))
    on_red.page.mouse.move(*on_red.place(355, 155))
    on_red.until("tab.painter.hint !== null")
    on_red.page.mouse.move(5, 5)
    on_red.until("tab.painter.hint === null")


def test_an_expired_image_is_sent_again(on_red, service):
    on_red.click(360, 160)
    on_red.idle()
    service.images.clear()
    on_red.click(100, 300)
    on_red.idle()
    assert len(on_red.js("tab.prediction.objects[0].clicks")) == 2


def test_errors_are_shown_on_the_page(on_red, service):
    on_red.page.locator("[data-file]").set_input_files(
        {"name": "notes.txt", "mimeType": "image/png", "buffer": b"not an image"}
    )
    on_red.until("tab.part('message').textContent.includes('notes.txt: not an image')")
    # The image from before is still open.
    service.predictor.delay = lambda: 1 / 0
    on_red.click(367, 163)
    on_red.idle()
    assert "something went wrong" in on_red.message()
    service.predictor.delay = lambda: None
    on_red.page.locator("[data-do=retry]").click()
    on_red.idle()
    assert on_red.message().startswith("Added: this looks like a pet")


def test_when_the_server_is_busy_the_page_retries(on_red, service):
    gate = threading.Event()
    service.predictor.delay = gate.wait
    on_red.page.route("**/petsam/image/segment", refuse_twice())
    threading.Timer(0.3, gate.set).start()
    on_red.click(360, 160)
    on_red.idle()
    service.predictor.delay = lambda: None
    on_red.page.unroute("**/petsam/image/segment")
    assert on_red.message().startswith("Added: this looks like a pet")


def refuse_twice():
    refusals = iter(range(2))

    def handle(route):
        if next(refusals, None) is None:
            route.continue_()
        else:
            route.fulfill(status=503, json={"error": "too many visitors are waiting"})

    return handle


def test_no_request_leaves_this_machine(visitor, address):
    assert len(visitor.requests) > 20
    outside = [url for url in visitor.requests if not url.startswith((address, "blob:", "data:"))]
    assert outside == []


def test_the_tab_labels_have_the_text_colour_of_both_themes(visitor):
    colours = """() => ['#tabs [role=tab].selected', '#image-tab .ps-body'].map(
        (part) => getComputedStyle(document.querySelector(part)).color)"""
    seen = []
    for _ in range(2):
        tab, page = visitor.page.evaluate(colours)
        assert tab == page
        seen.append(tab)
        visitor.page.evaluate("document.body.classList.toggle('dark')")
    assert seen[0] != seen[1]
