"""The pictures that went best and worst, to see why.

In: a predictor, examples and their scores. Out: sheets with a row for each picture: the picture,
the truth, and the answers to no prompt, the tight box, one click and five: green where the pet was
found, red where it was missed, blue where there is none, with the prompts drawn in. They are asked
for anew, which is cheaper than to keep the masks of all pictures, and gives the same.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from petsam_jax.data.sources import Example, Source
from petsam_jax.evaluation.protocol import (
    Predictor,
    found_by_clicks,
    found_in_box,
    found_unasked,
)
from petsam_jax.evaluation.simulated_user import tight_box
from petsam_jax.evaluation.summary import Table
from petsam_jax.files.contact_sheet import RED, YELLOW, draw_errors, draw_mask
from petsam_jax.metrics import iou
from petsam_jax.train.prompt_sampling import POSITIVE

ROWS, SIDE, CAPTION = 16, 200, 18
SHOWN = {"no_prompt": "no prompt", "box": "box", "click1": "1 click", "click5": "5 clicks"}


def ranked(table: Table) -> list[int]:
    """Rows from the worst to the best by the mean IoU of the answers that a sheet shows."""
    means = table.block("iou", tuple(SHOWN)).mean(axis=1)
    return np.argsort(means, kind="stable").tolist()


def draw_sheet(predictor: Predictor, source: Source, rows: Sequence[int]) -> Image.Image:
    """One row for each of these examples of the source."""
    columns = 2 + len(SHOWN)
    sheet = Image.new("RGB", (columns * SIDE, len(rows) * (SIDE + CAPTION)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row, index in enumerate(rows):
        top = row * (SIDE + CAPTION)
        for column, (caption, cell) in enumerate(_cells(predictor, source[index])):
            draw.text((column * SIDE + 3, top + 1), caption, fill="black", font=font)
            sheet.paste(cell, (column * SIDE, top + CAPTION))
    return sheet


def _cells(predictor: Predictor, example: Example) -> list[tuple[str, Image.Image]]:
    image, mask = predictor.encode(example.image), example.mask
    box = tight_box(mask)
    answers = list(found_by_clicks(predictor, image, mask, 5))
    found = {
        "no_prompt": found_unasked(predictor, image),
        "box": found_in_box(predictor, image, box),
        "click1": answers[0].found,
        "click5": answers[4].found,
    }
    clicks = {"click1": answers[0].clicks, "click5": answers[4].clicks}
    cells = [
        (example.name, _fitted(Image.fromarray(example.image))),
        ("truth", _fitted(draw_mask(example.image, mask))),
    ]
    for name, caption in SHOWN.items():
        cell = _fitted(draw_errors(example.image, mask, found[name]))
        draw, factor = ImageDraw.Draw(cell), cell.width / mask.shape[1]
        if name == "box":
            draw.rectangle((factor * (box + 0.5)).tolist(), outline=YELLOW)
        for click in clicks.get(name, ()):
            x, y = factor * (click.x + 0.5), factor * (click.y + 0.5)
            colour = YELLOW if click.label == POSITIVE else RED
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour, outline="black")
        cells.append((f"{caption}: {iou(found[name], mask):.2f}", cell))
    return cells


def _fitted(cell: Image.Image) -> Image.Image:
    """The cell within a square of `SIDE`, its proportions kept."""
    factor = (SIDE - 4) / max(cell.size)
    size = tuple(max(1, round(side * factor)) for side in cell.size)
    return cell.resize(size, Image.Resampling.BILINEAR)
