"""How the page holds up: a click as one visitor sees it, and thirty visitors at once.

    python -m benchmarks.demo                       # the weights that ship
    python -m benchmarks.demo --ckpt DIR --visitors 30 --seconds 60

It starts demo.py and prints, for photos of 1600 x 900: milliseconds from a click to the mask on the
screen and from a new photo to "ready", median (least-most), in a headless Chromium on the same
cores; then visitors who click once a second, as the page does it, one question under way and the
newest state next. Counted are errors, clicks that no answer had in it, and answers about another
visitor's picture, whose size and pet map differ; memory is that of the server, before and after
each of three rounds.
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
# The first ones fill the cache, which then has to stay as it is.
ROUNDS = 3
# Clicks of one visitor on one object; then the next one begins.
MOST_CLICKS = min(8, MAX_POINTS)
APP = "document.querySelector('[data-root]').parentElement.petsam"
# From before the click until the frame with the new mask is drawn.
CLICK = """([x, y]) => new Promise((resolve) => {
  const app = document.querySelector('[data-root]').parentElement.petsam;
  const canvas = app.part('canvas=marks');
  const before = app.painter.mask;
  const begun = performance.now();
  app.painter.drawn = () => {
    if (app.painter.mask === before) return;
    app.painter.drawn = null;
    resolve(performance.now() - begun);
  };
  const { left, top } = canvas.getBoundingClientRect();
  const at = { clientX: left + x, clientY: top + y, pointerId: 1, button: 0, bubbles: true };
  for (const name of ['pointerdown', 'pointerup']) canvas.dispatchEvent(new PointerEvent(name, at));
})"""
PHOTO = """async (text) => {
  const app = document.querySelector('[data-root]').parentElement.petsam;
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const begun = performance.now();
  await app.photos.open(new File([bytes], 'photo.jpg', { type: 'image/jpeg' }));
  return performance.now() - begun;
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
    """Address and process id of a server that is up."""
    command = [sys.executable, "demo.py", "--port", "0", *arguments]
    root = Path(__file__).parent.parent
    begun = time.perf_counter()
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout:
                print(line.rstrip(), flush=True)
                if line.startswith("page:"):
                    print(f"up after {time.perf_counter() - begun:.1f} s")
                    yield line.split()[1], process.pid
                    return
            raise RuntimeError("demo.py ended before it was up")
        finally:
            process.terminate()


def told(name: str, milliseconds: list[float]) -> None:
    median, most = statistics.median(milliseconds), max(milliseconds)
    print(
        f"{name}: {median:.0f} ms ({min(milliseconds):.0f}-{most:.0f}), {len(milliseconds)} of it"
    )


def one_visitor(address: str) -> None:
    """In a browser; says so where there is none."""
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
        page.wait_for_function(f"{APP}.picture")
        rng = np.random.default_rng(0)
        ready, clicks = [], []
        for number in range(6):
            text = base64.b64encode(photo(number)).decode()
            ready.append(page.evaluate(PHOTO, text))
            for _ in range(6):
                x, y = page.evaluate(
                    f"{APP}.view.place({rng.integers(SIZE[0])}, {rng.integers(SIZE[1])})"
                )
                clicks.append(page.evaluate(CLICK, [x, y]))
        browser.close()
    told("click to mask on the screen", clicks)
    told("new photo to ready", ready)


class Visitor:
    """Clicks on a picture of its own and remembers what came of it."""

    def __init__(self, client: httpx.AsyncClient, number: int):
        # Each picture has a size of its own, so that an answer about another one is seen.
        self.client, self.size = client, (SIZE[0] + number, SIZE[1] - number)
        self.file, self.rng = photo(1000 + number, self.size), np.random.default_rng(number)
        self.clicks: list[list] = []
        self.made: list[float] = []  # when each click not yet answered was made
        self.waits: list[float] = []
        self.errors = self.mixed = self.lost = self.busy = self.total = 0
        self.known: dict[tuple, float] = {}
        self.new = asyncio.Event()

    async def open(self) -> None:
        self.picture = (await self._post("open", content=self.file))["picture"]

    async def visit(self, seconds: float) -> None:
        """Click once a second; the questions are asked beside it, as fast as they are answered."""
        asking = asyncio.create_task(self._ask())
        await asyncio.sleep(self.rng.random())
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            # A new object only when all is answered, as nobody leaves before.
            if len(self.clicks) >= MOST_CLICKS and not self.made:
                self.clicks = []
            x, y = self.rng.integers(0, np.array(self.size) // 8) * 8
            self.clicks.append([int(x), int(y), "auto"])
            self.made.append(time.monotonic())
            self.total += 1
            self.new.set()
            await asyncio.sleep(1)
        for _ in range(200):
            if not self.made:
                break
            await asyncio.sleep(0.05)
        self.lost += len(self.made)
        asking.cancel()

    async def _ask(self) -> None:
        while True:
            await self.new.wait()
            self.new.clear()
            clicks, made = list(self.clicks), len(self.made)
            state = {"picture": self.picture, "objects": [{"clicks": clicks}]}
            answer = await self._post("answer", json=state)
            self._judge(answer, clicks)
            now = time.monotonic()
            self.waits += [now - one for one in self.made[:made]]
            del self.made[:made]

    def _judge(self, answer: dict, clicks: list[list]) -> None:
        reads = answer["objects"][0]["reads"]
        if len(reads) != len(clicks) or (answer["width"], answer["height"]) != self.size:
            self.mixed += 1
        for (x, y, _), read in zip(clicks, reads, strict=False):
            self.mixed += self.known.setdefault((x, y), read["pet"]) != read["pet"]

    async def _post(self, path: str, **sent) -> dict:
        while True:
            try:
                answer = await self.client.post(f"/studio/{path}", **sent)
            except httpx.HTTPError:
                self.errors += 1
                await asyncio.sleep(0.5)
                continue
            if answer.status_code == 200:
                return answer.json()
            self.busy += answer.status_code == 503
            self.errors += answer.status_code != 503
            await asyncio.sleep(0.3)


async def many_visitors(address: str, number: int, seconds: float) -> list[Visitor]:
    """All at once."""
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
        f"up, {busy} asked to come back; answered within {statistics.median(waits):.0f} ms "
        f"(95 %: {waits[int(0.95 * len(waits))]:.0f}, most: {waits[-1]:.0f})"
    )


def memory(process: int) -> int:
    """Megabytes that a process has in memory."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.demo", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--ckpt", metavar="DIR", help="default: the weights that ship")
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
