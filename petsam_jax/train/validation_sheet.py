"""The sheet of a validation: a few images with their masks and predictions from four prompts.

In: images, masks and predictions on the host. Out: a Pillow image.
"""

import jax
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from petsam_jax.files.contact_sheet import RED, YELLOW, draw_errors, draw_mask
from petsam_jax.models.prompts import BOTTOM_RIGHT, BOX_SLOTS, EMPTY, POSITIVE, Prompts

SHEET_ROWS, CAPTION = 8, 14


def sheet_row(
    image: UInt8[np.ndarray, "h w 3"],
    mask: UInt8[np.ndarray, "h w"],
    masks: Bool[np.ndarray, "s h w"],
    ious: Float[np.ndarray, " s"],
    prompts: Prompts,
) -> list[tuple[str, Image.Image]]:
    """Captions and cells of one image: itself, its mask, and predictions from four prompts.

    Predictions (s) are from no prompt, from a box, and after each click.
    """
    last = len(ious) - 1
    shown = {"no prompt": 0, "box": 1, "1 click": 2}
    if last > 2:
        shown[f"{last - 1} clicks"] = last
    cells = [("image", Image.fromarray(image)), ("truth", draw_mask(image, mask))]
    for name, number in shown.items():
        cell = draw_errors(image, mask, masks[number])
        draw_prompts(cell, jax.tree.map(lambda x, n=number: x[n], prompts))
        cells.append((f"{name}: {ious[number]:.2f}", cell))
    return cells


def draw_prompts(cell: Image.Image, prompts: Prompts) -> None:
    """Draw one image's clicks, yellow for pet and red for background, and its box."""
    draw = ImageDraw.Draw(cell)
    clicks = prompts.points[:-BOX_SLOTS], prompts.labels[:-BOX_SLOTS]
    for (x, y), label in zip(*clicks, strict=True):
        if label != EMPTY:
            colour = YELLOW if label == POSITIVE else RED
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour, outline="black")
    if prompts.labels[-1] == BOTTOM_RIGHT:
        corners = prompts.points[-BOX_SLOTS:].reshape(-1)
        draw.rectangle([float(value) for value in corners], outline=YELLOW, width=2)


def draw_sheet(rows: list[list[tuple[str, Image.Image]]]) -> Image.Image:
    """The first SHEET_ROWS rows, with captions above the cells."""
    rows = rows[:SHEET_ROWS]
    width, height = rows[0][0][1].size
    height += CAPTION
    sheet = Image.new("RGB", (len(rows[0]) * width, len(rows) * height), "white")
    for y, row in enumerate(rows):
        for x, (caption, cell) in enumerate(row):
            sheet.paste(cell, (x * width, y * height + CAPTION))
            ImageDraw.Draw(sheet).text((x * width + 3, y * height + 1), caption, fill="black")
    return sheet
