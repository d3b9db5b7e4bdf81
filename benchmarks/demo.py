"""The page under load: the time of a click for one visitor, and thirty visitors at once.

    python -m benchmarks.demo                       # the shipped weights
    python -m benchmarks.demo --ckpt DIR --visitors 30 --seconds 60

Starts demo.py and prints, for photos of 1600 x 900 in a headless Chromium on the same cores, the
median (min-max) milliseconds from a click to the mask on the screen and from a new photo until it
is ready. Then visitors click once a second, and send requests as the page does: one at a time, with
the newest state. It counts errors, clicks missing from every response, and responses about another
visitor's image, and prints the server's memory before and after each of three rounds.
"""

import argparse
import asyncio
import base64
import contextlib
import io
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from petsam_jax.ui.limits import MAX_POINTS

SIZE = (1600, 900)
# The first ones fill the cache, after which memory must not grow.
ROUNDS = 3
# Clicks of a visitor on one object, before the next object.
MAX_CLICKS = min(8, MAX_POINTS)
TAB = "document.querySelector('[data-root]').parentElement.petsam"
# Milliseconds from a click until the frame with the new mask is drawn.
CLICK = """([x, y]) => new Promise((resolve) => {
  const tab = document.querySelector('[data-root]').parentElement.petsam;
  const canvas = tab.part('canvas=marks');
  const before = tab.painter.mask;
  const started = performance.now();
  tab.painter.drawn = () => {
    if (tab.painter.mask === before) return;
    tab.painter.drawn = null;
    resolve(performance.now() - started);
  };
  const { left, top } = canvas.getBoundingClientRect();
  const at = { clientX: left + x, clientY: top + y, pointerId: 1, button: 0, bubbles: true };
  for (const name of ['pointerdown', 'pointerup']) canvas.dispatchEvent(new PointerEvent(name, at));
})"""
PHOTO = """async (text) => {
  const tab = document.querySelector('[data-root]').parentElement.petsam;
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const started = performance.now();
  await tab.opener.open(new File([bytes], 'photo.jpg', { type: 'image/jpeg' }));
  return performance.now() - started;
}"""


def photo(seed: int, size: tuple[int, int] = SIZE) -> bytes:
    """A JPEG of smooth noise."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 16, 3), np.uint8))
    file = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


@contextlib.contextmanager
def demo(arguments: list[str]) -> Iterator[tuple[str, int]]:
    """The URL and process id of a running server."""
    command = [sys.executable, "demo.py", "--port", "0", *arguments]
    root = Path(__file__).parent.parent
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout:
                print(line.rstrip(), flush=True)
                if line.startswith("page:"):
                    print(f"started after {time.perf_counter() - started:.1f} s")
                    yield line.split()[1], process.pid
                    return
            raise RuntimeError("demo.py ended before it was ready")
        finally:
            process.terminate()


def print_times(name: str, milliseconds: list[float]) -> None:
    median, least, most = statistics.median(milliseconds), min(milliseconds), max(milliseconds)
    print(f"{name}: {median:.0f} ms ({least:.0f}-{most:.0f}), {len(milliseconds)} times")


def one_visitor(address: str) -> None:
    """Time clicks and photos in a browser, if there is one."""
    chromium = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        print("no browser: pip install playwright and apt-get install chromium to time clicks")
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1360, "height": 820})
        page.goto(address)
        page.wait_for_function("document.querySelector('[data-root]')?.parentElement.petsam")
        page.wait_for_function(f"{TAB}.image")
        rng = np.random.default_rng(0)
        ready, clicks = [], []
        for number in range(6):
            text = base64.b64encode(photo(number)).decode()
            ready.append(page.evaluate(PHOTO, text))
            for _ in range(6):
                x, y = page.evaluate(
                    f"{TAB}.view.place({rng.integers(SIZE[0])}, {rng.integers(SIZE[1])})"
                )
                clicks.append(page.evaluate(CLICK, [x, y]))
        browser.close()
    print_times("click to mask on the screen", clicks)
    print_times("new photo to ready", ready)


class Visitor:
    """Clicks on its own image, and counts what goes wrong."""

    def __init__(self, client: httpx.AsyncClient, number: int):
        # Each image has its own size, so that responses about another one are noticed.
        self.client, self.size = client, (SIZE[0] + number, SIZE[1] - number)
        self.file, self.rng = photo(1000 + number, self.size), np.random.default_rng(number)
        self.clicks: list[list] = []
        self.pending: list[float] = []  # the times of clicks without a response
        self.waits: list[float] = []
        self.errors = self.mixed = self.lost = self.busy = self.total = 0
        self.known: dict[tuple, float] = {}
        self.new = asyncio.Event()

    async def open(self) -> None:
        self.image = (await self._post("open", content=self.file))["image"]

    async def visit(self, seconds: float) -> None:
        """Click once a second, while requests are sent as fast as they are answered."""
        sending = asyncio.create_task(self._send())
        await asyncio.sleep(self.rng.random())
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            # A new object only once there are no pending clicks, as a real visitor would.
            if len(self.clicks) >= MAX_CLICKS and not self.pending:
                self.clicks = []
            x, y = self.rng.integers(0, np.array(self.size) // 8) * 8
            self.clicks.append([int(x), int(y), "auto"])
            self.pending.append(time.monotonic())
            self.total += 1
            self.new.set()
            await asyncio.sleep(1)
        for _ in range(200):
            if not self.pending:
                break
            await asyncio.sleep(0.05)
        self.lost += len(self.pending)
        sending.cancel()

    async def _send(self) -> None:
        while True:
            await self.new.wait()
            self.new.clear()
            clicks, sent = list(self.clicks), len(self.pending)
            state = {"image": self.image, "objects": [{"clicks": clicks}]}
            masks = await self._post("segment", json=state)
            self._check(masks, clicks)
            now = time.monotonic()
            self.waits += [now - one for one in self.pending[:sent]]
            del self.pending[:sent]

    def _check(self, masks: dict, clicks: list[list]) -> None:
        found = masks["objects"][0]["clicks"]
        if len(found) != len(clicks) or (masks["width"], masks["height"]) != self.size:
            self.mixed += 1
        for (x, y, _), click in zip(clicks, found, strict=False):
            self.mixed += self.known.setdefault((x, y), click["pet_prob"]) != click["pet_prob"]

    async def _post(self, path: str, **request) -> dict:
        while True:
            try:
                response = await self.client.post(f"/petsam/image/{path}", **request)
            except httpx.HTTPError:
                self.errors += 1
                await asyncio.sleep(0.5)
                continue
            if response.status_code == 200:
                return response.json()
            self.busy += response.status_code == 503
            self.errors += response.status_code != 503
            await asyncio.sleep(0.3)


async def many_visitors(address: str, number: int, seconds: float) -> list[Visitor]:
    """Visitors who all click at once."""
    limits = httpx.Limits(max_connections=number, max_keepalive_connections=number)
    async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as client:
        visitors = [Visitor(client, i) for i in range(number)]
        await asyncio.gather(*(visitor.open() for visitor in visitors))
        await asyncio.gather(*(visitor.visit(seconds) for visitor in visitors))
    return visitors


def summary(visitors: list[Visitor]) -> str:
    waits = sorted(1000 * wait for visitor in visitors for wait in visitor.waits)
    clicks, errors, lost, mixed, busy = (
        sum(getattr(visitor, name) for visitor in visitors)
        for name in ("total", "errors", "lost", "mixed", "busy")
    )
    return (
        f"{len(visitors)} visitors, {clicks} clicks: {errors} errors, {lost} lost, {mixed} mixed "
        f"up, {busy} refused as busy; median response {statistics.median(waits):.0f} ms "
        f"(95 %: {waits[int(0.95 * len(waits))]:.0f}, max: {waits[-1]:.0f})"
    )


def memory(process: int) -> int:
    """The resident memory of a process in megabytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.demo", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--ckpt", metavar="DIR", help="default: the shipped weights")
    parser.add_argument("--visitors", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    with demo(["--ckpt", args.ckpt] if args.ckpt else []) as (address, process):
        one_visitor(address)
        print(f"memory: {memory(process)} MB before")
        for _ in range(ROUNDS):
            visitors = asyncio.run(many_visitors(address, args.visitors, args.seconds))
            print(f"{summary(visitors)}; memory {memory(process)} MB", flush=True)


if __name__ == "__main__":
    main()
