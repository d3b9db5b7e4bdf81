"""A picture of IoU against clicks: the mean with its 95 % interval, and what it is to be beside.

In: the figures of metrics.json. Out: a Pillow image. Drawn twice as large and reduced, which is all
that one curve needs; a plotting library would be a dependency for this picture alone.
"""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, SCALE = 900, 560, 2
# Margins around the axes: left, top, right, bottom.
LEFT, TOP, RIGHT, BOTTOM = 70, 50, 210, 60
CURVE, BAND, GRID, INK = (20, 90, 180), (205, 222, 242), (228, 228, 228), (40, 40, 40)
# Colours of the levels beside the curve, the model's own and those of the floors.
OWN, FLOORS = (200, 80, 20), (130, 130, 130)
FONT, LABEL_GAP = 14, 17
OWN_LEVELS = {"no_prompt_iou": "no prompt", "box_iou": "box", "box_jitter_iou": "box, 5 % off"}


def plot_clicks(figures: Mapping) -> Image.Image:
    """The plot of `summary.summarise`'s figures."""
    canvas = _Canvas(_lowest(figures), len(figures["click_iou"]))
    canvas.axes(f"IoU against clicks, {figures['n']} pets, border left out")
    clicks = range(1, len(figures["click_iou"]) + 1)
    low, high = np.array(figures["intervals95"]["click_iou"]).T
    band = [*zip(clicks, low, strict=True), *zip(reversed(clicks), high[::-1], strict=True)]
    canvas.draw.polygon([canvas.place(*point) for point in band], fill=BAND)
    mean = [canvas.place(*point) for point in zip(clicks, figures["click_iou"], strict=True)]
    canvas.draw.line(mean, fill=CURVE, width=3 * SCALE, joint="curve")
    for x, y in mean:
        reach = 3.5 * SCALE
        canvas.draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=CURVE)
    canvas.levels(_levels(figures))
    return canvas.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _levels(figures) -> list[tuple[float, str, tuple[int, int, int]]]:
    """What is drawn as a level: IoU, what it is, and its colour."""
    own = [(figures[key], name, OWN) for key, name in OWN_LEVELS.items()]
    floors = [
        (floor["iou"], f"floor: {name.replace('_', ' ')}", FLOORS)
        for name, floor in figures["floors"].items()
    ]
    return own + floors


def _lowest(figures) -> float:
    """Where the IoU axis starts: the tenth below everything that is drawn."""
    least = min(level for level, *_ in _levels(figures))
    least = min(least, *(low for low, _ in figures["intervals95"]["click_iou"]))
    return float(np.floor(10 * least) / 10)


class _Canvas:
    """Axes from (1, lowest) to (clicks, 1), in pixels of the large drawing."""

    def __init__(self, lowest: float, clicks: int):
        self.lowest, self.clicks = min(lowest, 0.9), clicks
        self.image = Image.new("RGB", (SCALE * WIDTH, SCALE * HEIGHT), "white")
        self.draw = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(FONT * SCALE)

    def place(self, click: float | int, iou: float | int) -> tuple[float, float]:
        across = (click - 1) / max(self.clicks - 1, 1)
        down = (1 - iou) / (1 - self.lowest)
        x = LEFT + 12 + across * (WIDTH - LEFT - RIGHT - 24)
        return SCALE * x, SCALE * (TOP + down * (HEIGHT - TOP - BOTTOM))

    def axes(self, title: str) -> None:
        left, right = SCALE * LEFT, SCALE * (WIDTH - RIGHT)
        for tenth in range(round(10 * self.lowest), 11):
            y = self.place(1, tenth / 10)[1]
            self.draw.line((left, y, right, y), fill=GRID, width=SCALE)
            self.text((left - 10 * SCALE, y), f"{tenth / 10:.1f}", "rm")
        bottom = SCALE * (HEIGHT - BOTTOM)
        for click in range(1, self.clicks + 1):
            self.text((self.place(click, 1)[0], bottom + 10 * SCALE), str(click), "mt")
        middle = (left + right) / 2
        self.text((middle, bottom + 32 * SCALE), "clicks", "mt")
        self.text((middle, SCALE * TOP / 2), title, "mm")
        self.text((SCALE * 12, SCALE * TOP / 2), "IoU", "lm")

    def levels(self, levels) -> None:
        """Dashed lines over the width, named on the right; names that would touch are moved."""
        left, right = SCALE * LEFT, SCALE * (WIDTH - RIGHT)
        free = 0.0
        for iou, name, colour in sorted(levels, reverse=True):
            y = self.place(1, iou)[1]
            for x in range(left, right, 12 * SCALE):
                self.draw.line((x, y, x + 6 * SCALE, y), fill=colour, width=SCALE)
            label = max(y, free)
            free = label + LABEL_GAP * SCALE
            self.text((right + 8 * SCALE, label), f"{iou:.3f} {name}", "lm", colour)

    def text(self, where, text, anchor, colour=INK) -> None:
        self.draw.text(where, text, fill=colour, font=self.font, anchor=anchor)
