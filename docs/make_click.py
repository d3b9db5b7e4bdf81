"""Record clicks on the web page: the animation at the top of the README.

    python docs/make_click.py                                  # writes docs/click.webp
    python docs/make_click.py --example dog.webp --click 500,330 --click 830,140

A click with ",0" uses the right button. The script starts `demo.py` with the weights that ship (or
--ckpt), opens one of the page's examples in Chromium, clicks on it, and joins the screenshots into
an animated WebP of at most 400 kB. It needs Chromium on the PATH and `pip install playwright`. The
pointer is drawn by the script, since screenshots have none.
"""

import argparse
import contextlib
import io
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
VIEW = {"width": 1100, "height": 640}
TAB = "document.querySelector('[data-root]').parentElement.petsam"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
MOST_BYTES = 400_000
# Milliseconds that a step of the pointer, a held button and a result are shown.
STEP, PRESS, LOOK = 60, 160, 1600
STEPS = 8
# The pointer's outline in pixels; its tip is the first corner.
ARROW = ((0, 0), (0, 17), (4, 13), (7, 20), (10, 19), (7, 12), (12, 12))
SMOOTH = 4

Point = tuple[float, float]
# On the dog.
CLICKS = ("500,330", "830,140", "700,560")


class Click(NamedTuple):
    """A pixel of the image, and the mouse button."""

    x: float
    y: float
    button: str = "left"

    @classmethod
    def read(cls, text: str) -> "Click":
        """X,Y or X,Y,0."""
        x, y, *other = text.split(",")
        return cls(float(x), float(y), "right" if other == ["0"] else "left")


class Shot(NamedTuple):
    """A screenshot, and for how many milliseconds it is shown."""

    image: Image.Image
    duration: int


@contextlib.contextmanager
def page_of_demo(ckpt: str | None) -> Iterator[str]:
    """The URL of the demo, which runs until the context ends."""
    flags = ["--port", "0", *(["--ckpt", ckpt] if ckpt else [])]
    with subprocess.Popen(
        [sys.executable, "demo.py", *flags], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            for line in process.stdout:
                if line.startswith("page:"):
                    yield line.split()[1]
                    return
            raise SystemExit("make_click: the demo did not start; see its output above")
        finally:
            process.terminate()


def record(url: str, example: str, clicks: Sequence[Click]) -> list[Shot]:
    """Screenshots of the pointer moving from click to click, and of the results."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    shots: list[Shot] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(viewport=VIEW)
        page.goto(url)
        page.wait_for_function(f"document.querySelector('[data-root]') && {TAB}?.image")
        page.locator(f"[data-examples] [data-name='{example}']").click()
        page.wait_for_function(f"{TAB}.image?.name === '{example}'")
        pointer = VIEW["width"] * 0.66, VIEW["height"] * 0.9
        for click in clicks:
            still = _screen(page)
            canvas = page.locator("[data-canvas=marks]").bounding_box()
            left, top = page.evaluate(f"{TAB}.view.place({click.x}, {click.y})")
            target = canvas["x"] + left, canvas["y"] + top
            shots += [Shot(_with_pointer(still, at), STEP) for at in _path(pointer, target)]
            shots.append(Shot(_with_pointer(still, target, pressed=True), PRESS))
            page.mouse.click(*target, button=click.button)
            page.wait_for_function(f"(tab => !tab.client.running && !tab.painter.due.above)({TAB})")
            # Away from the image, so that no cross and no hint appears.
            page.mouse.move(5, 5)
            page.wait_for_timeout(400)
            shots.append(Shot(_with_pointer(_screen(page), target), LOOK))
            pointer = target
        browser.close()
    return shots


def _screen(page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def _path(start: Point, end: Point) -> list[Point]:
    """Points from one to the other, slow at both ends."""
    shares = [i / STEPS for i in range(1, STEPS + 1)]
    eased = [share * share * (3 - 2 * share) for share in shares]
    return [tuple(a + s * (b - a) for a, b in zip(start, end, strict=True)) for s in eased]


def _with_pointer(screen: Image.Image, at: Point, pressed: bool = False) -> Image.Image:
    """The screenshot with the pointer, and a ring around it while the button is held."""
    side = 60
    layer = Image.new("RGBA", (side * SMOOTH, side * SMOOTH))
    draw, middle = ImageDraw.Draw(layer), side / 2
    if pressed:
        ring = [SMOOTH * (middle - 16)] * 2 + [SMOOTH * (middle + 16)] * 2
        draw.ellipse(ring, outline=(255, 255, 255, 230), width=3 * SMOOTH)
    arrow = [(SMOOTH * (middle + x), SMOOTH * (middle + y)) for x, y in ARROW]
    draw.polygon(arrow, fill=(20, 20, 20, 255))
    draw.line([*arrow, arrow[0]], fill=(255, 255, 255, 255), width=SMOOTH + 2, joint="curve")
    layer = layer.resize((side, side), Image.Resampling.LANCZOS)
    shown = screen.copy()
    shown.paste(layer, (round(at[0] - middle), round(at[1] - middle)), layer)
    return shown


def save(shots: Sequence[Shot], out: Path) -> int:
    """Write the animation in the best quality within `MOST_BYTES`; return its size in bytes."""
    images, durations = [shot.image for shot in shots], [shot.duration for shot in shots]
    for quality in (80, 65, 50, 35):
        file = io.BytesIO()
        options = dict(save_all=True, append_images=images[1:], duration=durations, loop=0)
        images[0].save(file, "WEBP", quality=quality, method=4, **options)
        if file.tell() <= MOST_BYTES:
            break
    out.write_bytes(file.getvalue())
    return file.tell()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python docs/make_click.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--example", default="dog.webp", help="a file of petsam_jax/ui/examples")
    parser.add_argument("--click", action="append", metavar="X,Y[,0]", help="pixels of the example")
    parser.add_argument("--ckpt", metavar="DIR", help="default: the weights that ship")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "click.webp")
    args = parser.parse_args(argv)
    clicks = [Click.read(text) for text in args.click or CLICKS]
    with page_of_demo(args.ckpt) as url:
        size = save(record(url, args.example, clicks), args.out)
    print(f"{args.out}: {size:,} bytes")
    return 0 if size <= MOST_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
