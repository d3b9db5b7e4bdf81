"""A real browser for tests of the page, and a visitor who does things in it.

Who imports this skips where there is no browser, and says what is missing.
"""

import contextlib
import shutil

import numpy as np
import pytest

from petsam_jax.ui.page_state import read_state

BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install it")
if not BROWSER:
    pytest.skip("no chromium on the PATH: apt-get install chromium", allow_module_level=True)

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def launched():
    """A headless Chromium."""
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield browser
        browser.close()


class Visitor:
    """A browser's tab with the page, and what one does in it; `tab` is the page's own."""

    def __init__(self, context, address, tab="studio"):
        self.page, self.tab = context.new_page(), tab
        self._app = f"document.querySelector('#{tab} [data-root]').parentElement.petsam"
        self.asked, self.faults = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda said: said.type == "error" and self.faults.append(said.text))
        self.page.goto(address)
        if tab != "studio":
            self.page.get_by_role("tab", name="Video").click()
        self.page.wait_for_function(
            f"document.querySelector('#{tab} [data-root]')?.parentElement.petsam"
        )
        self.until("app.painter.image && (app.picture || app.clip)")

    def part(self, selector):
        return self.page.locator(f"#{self.tab} {selector}")

    def app(self, expression):
        return self.page.evaluate(f"(app => {expression})({self._app})")

    def until(self, condition):
        self.page.wait_for_function(
            f"(app => {condition})({self._app})", polling=20, timeout=20_000
        )

    def open(self, file, name="cat.png"):
        before = self.app("app.picture?.id ?? ''")
        self.part("[data-file]").set_input_files(
            {"name": name, "mimeType": "image/png", "buffer": file}
        )
        self.until(f"app.picture && app.picture.id !== '{before}'")

    def place(self, x, y):
        """Of a pixel of the picture on the screen."""
        box = self.part("[data-canvas=marks]").bounding_box()
        left, top = self.app(f"app.view.place({x}, {y})")
        return box["x"] + left, box["y"] + top

    def click(self, x, y, **how):
        self.page.mouse.click(*self.place(x, y), **how)

    def drag(self, x0, y0, x1, y1):
        self.page.mouse.move(*self.place(x0, y0))
        self.page.mouse.down()
        self.page.mouse.move(*self.place((x0 + x1) / 2, (y0 + y1) / 2), steps=3)
        self.page.mouse.move(*self.place(x1, y1), steps=3)
        self.page.mouse.up()

    def idle(self):
        """Once all that was asked is answered and drawn."""
        self.until("!app.client.running && !app.photos.opening && !app.painter.due.above")

    def words(self):
        return self.part("[data-words]").inner_text()

    def mask(self):
        """Labels as the page has them."""
        self.idle()
        height, width = self.app("[app.painter.mask.height, app.painter.mask.width]")
        # As text, a letter a pixel: a list of so many numbers takes seconds to hand over.
        text = self.app("new TextDecoder('latin1').decode(app.painter.mask.labels)")
        return np.frombuffer(text.encode("latin1"), np.uint8).reshape(height, width)

    def state(self):
        return read_state(self.app("app.state()"))

    def colour(self, x, y, canvas="marks"):
        """Of the screen at a pixel of the picture: red, green, blue and alpha."""
        return self.app(
            f"(([x, y]) => [...app.part('canvas={canvas}').getContext('2d').getImageData("
            f"Math.round(x * devicePixelRatio), Math.round(y * devicePixelRatio), 1, 1).data])"
            f"(app.view.place({x}, {y}))"
        )

    def clear(self):
        self.app("app.store.clear()")
        self.idle()
