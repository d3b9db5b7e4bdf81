"""The best and the worst examples, to see why.

In: a predictor, examples and their scores. Out: sheets with a row for each example: the image,
the true mask, and the results without a prompt, from the tight box, from one click and from five:
green where the pet was found, red where it was missed, blue where background was taken for pet,
with the prompts drawn in. They are predicted again, with the same result, which is cheaper than
keeping the masks of all examples.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from petsam_jax.data.sources import Example, Source
from petsam_jax.evaluation.protocol import (
    Predictor,
    mask_from_box,
    mask_without_prompt,
    masks_from_clicks,
)
from petsam_jax.evaluation.simulated_user import tight_box
from petsam_jax.evaluation.summary import Table
from petsam_jax.files.contact_sheet import RED, YELLOW, draw_errors, draw_mask
from petsam_jax.metrics import iou
from petsam_jax.models.prompts import POSITIVE

ROWS, SIDE, CAPTION = 16, 200, 18
SHOWN = {"no_prompt": "no prompt", "box": "box", "click1": "1 click", "click5": "5 clicks"}


def ranked(table: Table) -> list[int]:
    """Rows from the worst to the best by the mean IoU of the results that a sheet shows."""
    means = table.block("iou", tuple(SHOWN)).mean(axis=1)
    return np.argsort(means, kind="stable").tolist()


def draw_sheet(predictor: Predictor, source: Source, rows: Sequence[int]) -> Image.Image:
    """A sheet with a row for each of these examples of the source."""
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
    results = list(masks_from_clicks(predictor, image, mask, 5))
    pred_masks = {
        "no_prompt": mask_without_prompt(predictor, image),
        "box": mask_from_box(predictor, image, box),
        "click1": results[0].mask,
        "click5": results[4].mask,
    }
    clicks = {"click1": results[0].clicks, "click5": results[4].clicks}
    cells = [
        (example.name, _fit(Image.fromarray(example.image))),
        ("truth", _fit(draw_mask(example.image, mask))),
    ]
    for name, caption in SHOWN.items():
        cell = _fit(draw_errors(example.image, mask, pred_masks[name]))
        draw, factor = ImageDraw.Draw(cell), cell.width / mask.shape[1]
        if name == "box":
            draw.rectangle((factor * (box + 0.5)).tolist(), outline=YELLOW)
        for click in clicks.get(name, ()):
            x, y = factor * (click.x + 0.5), factor * (click.y + 0.5)
            colour = YELLOW if click.label == POSITIVE else RED
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour, outline="black")
        cells.append((f"{caption}: {iou(pred_masks[name], mask):.2f}", cell))
    return cells


def _fit(cell: Image.Image) -> Image.Image:
    """The cell within a square of `SIDE`, its proportions kept."""
    factor = (SIDE - 4) / max(cell.size)
    size = tuple(max(1, round(side * factor)) for side in cell.size)
    return cell.resize(size, Image.Resampling.BILINEAR)
