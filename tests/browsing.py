"""A real browser for tests of the page, and a visitor who uses the page in it.

Tests that import this are skipped without a browser, with what is missing as the reason.
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
    """The page in a browser; `tab` is the id of the page's tab that is used."""

    def __init__(self, context, address, tab="image-tab"):
        self.page, self.tab = context.new_page(), tab
        self._script = f"document.querySelector('#{tab} [data-root]').parentElement.petsam"
        self.requests, self.errors = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda log: log.type == "error" and self.errors.append(log.text))
        self.page.goto(address)
        if tab != "image-tab":
            self.page.get_by_role("tab", name="Video").click()
        self.page.wait_for_function(
            f"document.querySelector('#{tab} [data-root]')?.parentElement.petsam"
        )
        self.until("tab.painter.image && (tab.image || tab.clip)")

    def part(self, selector):
        return self.page.locator(f"#{self.tab} {selector}")

    def js(self, expression):
        """The value of a JavaScript expression about `tab`, the tab's object."""
        return self.page.evaluate(f"(tab => {expression})({self._script})")

    def until(self, condition):
        self.page.wait_for_function(
            f"(tab => {condition})({self._script})", polling=20, timeout=20_000
        )

    def open(self, file, name="cat.png"):
        before = self.js("tab.image?.id ?? ''")
        self.part("[data-file]").set_input_files(
            {"name": name, "mimeType": "image/png", "buffer": file}
        )
        self.until(f"tab.image && tab.image.id !== '{before}'")

    def place(self, x, y):
        """Where a pixel of the image is on the screen."""
        box = self.part("[data-canvas=marks]").bounding_box()
        left, top = self.js(f"tab.view.place({x}, {y})")
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
        """Wait until everything is predicted and drawn."""
        self.until("!tab.client.running && !tab.opener.opening && !tab.painter.due.above")

    def message(self):
        return self.part("[data-message]").inner_text()

    def mask(self):
        """Labels of the mask on the page."""
        self.idle()
        height, width = self.js("[tab.painter.mask.height, tab.painter.mask.width]")
        # As text with a letter per pixel, since passing so many numbers takes seconds.
        text = self.js("new TextDecoder('latin1').decode(tab.painter.mask.labels)")
        return np.frombuffer(text.encode("latin1"), np.uint8).reshape(height, width)

    def state(self):
        return read_state(self.js("tab.state()"))

    def colour(self, x, y, canvas="marks"):
        """The screen at a pixel of the image: red, green, blue and alpha."""
        return self.js(
            f"(([x, y]) => [...tab.part('canvas={canvas}').getContext('2d').getImageData("
            f"Math.round(x * devicePixelRatio), Math.round(y * devicePixelRatio), 1, 1).data])"
            f"(tab.view.place({x}, {y}))"
        )

    def clear(self):
        self.js("tab.store.clear()")
        self.idle()
