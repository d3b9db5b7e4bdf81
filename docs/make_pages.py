"""Take the README's screenshots of the web page: clicks, boxes in dark mode, a tracked clip.

    python docs/make_pages.py    # writes page_points.webp, page_box.webp and page_video.webp

The script starts `demo.py` with the weights that ship (or --ckpt) and uses the page in Chromium. It
needs what docs/make_click.py needs.
"""

import argparse
import io
import shutil
import sys
from collections.abc import Sequence

from make_click import ARGUMENTS, ROOT, page_of_demo
from PIL import Image

VIEW = {"width": 1440, "height": 900}
# Pixels of the example: the kitten's ear and belly, and its ball with the right button.
CLICKS = ((266, 284, "left"), (767, 337, "left"), (585, 400, "right"))
# The dog, and grass beside it: x0, y0, x1, y1.
BOXES = ((30, 15, 990, 775), (50, 40, 375, 280))
# Clicks on the first frame of the clip, and the frame to show after tracking.
CLIP_CLICKS, FRAME = ((150, 170, "left"), (330, 200, "left")), 40


class Tab:
    """A tab of the page, and actions on it."""

    def __init__(self, page, name: str):
        self.page = page
        self._script = f"document.querySelector('#{name} [data-root]')?.parentElement.petsam"

    def until(self, condition: str) -> None:
        self.page.wait_for_function(f"(tab => {condition})({self._script})", timeout=120_000)

    def idle(self) -> None:
        self.until("!tab.client.running && !tab.painter.due.above")

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the image is on the screen."""
        box = self.page.locator("[data-canvas=marks]:visible").bounding_box()
        left, top = self.page.evaluate(f"{self._script}.view.place({x}, {y})")
        return box["x"] + left, box["y"] + top

    def click(self, x: float, y: float, button: str) -> None:
        self.page.mouse.click(*self.place(x, y), button=button)
        self.idle()

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        self.page.mouse.move(*self.place(x0, y0))
        self.page.mouse.down()
        self.page.mouse.move(*self.place(x1, y1), steps=6)
        self.page.mouse.up()
        self.idle()

    def save(self, name: str) -> None:
        """Save a screenshot, with the pointer out of the way."""
        self.page.mouse.move(5, 890)
        self.page.wait_for_timeout(600)
        screen = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        path = ROOT / "docs" / f"page_{name}.webp"
        screen.save(path, quality=80, method=6)
        print(f"{path}: {path.stat().st_size:,} bytes")


def points(page) -> None:
    tab = Tab(page, "image-tab")
    for click in CLICKS:
        tab.click(*click)
    tab.save("points")


def boxes(page) -> None:
    tab = Tab(page, "image-tab")
    page.locator("#image-tab [data-examples] [data-name='dog.webp']").click()
    tab.until("tab.image?.name === 'dog.webp'")
    for number, box in enumerate(BOXES):
        if number:
            page.locator("#image-tab [data-do=add]").click()
        tab.drag(*box)
    tab.save("box")


def clip(page) -> None:
    page.get_by_role("tab", name="Video").click()
    tab = Tab(page, "video-tab")
    tab.until("tab?.painter.image && tab.clip")
    for click in CLIP_CLICKS:
        tab.click(*click)
    page.locator("#video-tab [data-do=track]").click()
    page.locator("#video-tab [data-do=stop]").wait_for(state="visible")
    page.locator("#video-tab [data-do=stop]").wait_for(state="hidden", timeout=120_000)
    page.locator("#video-tab [data-scrub]").fill(str(FRAME))
    tab.idle()
    tab.save("video")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python docs/make_pages.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ckpt", metavar="DIR", help="default: the weights that ship")
    ckpt = parser.parse_args(argv).ckpt
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with page_of_demo(ckpt) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        for draw, scheme in ((points, "light"), (boxes, "dark"), (clip, "light")):
            page = browser.new_page(viewport=VIEW, color_scheme=scheme)
            page.goto(url)
            Tab(page, "image-tab").until("tab?.painter.image && tab.image")
            draw(page)
            page.close()
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
