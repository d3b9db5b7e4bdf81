"""Draws what training sees: augmented images, masks, simulated prompts and clips.

In: a source. Out: a Pillow image, which `cli/preview.py` describes.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from petsam_jax.data import augment
from petsam_jax.data.motion import FULL, Motion
from petsam_jax.data.pipeline import make_train_iterator
from petsam_jax.data.sources import Source
from petsam_jax.files.contact_sheet import GREEN, RED, YELLOW, draw_mask, edge
from petsam_jax.mask_values import PET
from petsam_jax.models.prompts import BOTTOM_RIGHT, BOX_SLOTS, EMPTY, NEGATIVE, POSITIVE, add_click
from petsam_jax.train.prompt_sampling import correction_click, first_prompt

WHITE = (255, 255, 255)
CAPTION = 14
# Every kind of first prompt is as likely.
KINDS: dict[str, Any] = {"click_prob": 1 / 3, "box_prob": 1 / 3, "mask_prob": 1 / 3}


def draw_sheet(
    source: Source,
    n: int = 16,
    size: int = 192,
    seed: int = 0,
    augmentation: augment.Augmentation = augment.FULL,
    motion: Motion = FULL,
) -> Image.Image:
    """`n` rows of cells of `size` pixels, for the first n examples of a shuffled pass."""
    options: dict[str, Any] = dict(
        batch_size=n, size=size, seed=seed, augmentation=augmentation, num_threads=0
    )
    batches = []
    # The same seed shuffles both, so that a row shows one example.
    for iterator in (
        make_train_iterator(source, **options),
        make_train_iterator(source, motion=motion, **options),
    ):
        batches.append(next(iterator))
        iterator.close()
    stills, moving = batches
    height = size + CAPTION
    sheet = Image.new("RGB", ((2 + motion.frames) * size, n * height), "white")
    annotated = _with_prompts(stills.image, stills.mask, seed)
    for row in range(n):
        frames = [
            draw_mask(frame, mask) if seen else _framed(frame)
            for frame, mask, seen in zip(
                moving.image[row], moving.mask[row], moving.visible[row], strict=True
            )
        ]
        cells = [Image.fromarray(stills.image[row]), annotated[row], *frames]
        for column, cell in enumerate(cells):
            sheet.paste(cell, (column * size, row * height + CAPTION))
        caption = (3, row * height + 1)
        ImageDraw.Draw(sheet).text(caption, str(stills.name[row]), fill="black")
    return sheet


def _framed(image: UInt8[np.ndarray, "h w 3"]) -> Image.Image:
    cell = Image.fromarray(image)
    ImageDraw.Draw(cell).rectangle((0, 0, cell.width - 1, cell.height - 1), outline=RED, width=3)
    return cell


def _with_prompts(
    image: UInt8[np.ndarray, "b h w 3"], mask: UInt8[np.ndarray, "b h w"], seed: int
) -> list[Image.Image]:
    """Each image with its mask, its first prompt and two corrections."""
    key_first, *keys = jax.random.split(jax.random.key(seed), 3)
    pred = np.roll(mask == PET, mask.shape[-1] // 8, axis=-1)
    truth, guess = jnp.asarray(mask), jnp.asarray(pred)
    given = first = jax.jit(functools.partial(first_prompt, **KINDS))(key_first, truth)
    clicks = []
    for key in keys:
        clicks.append(_correct(key, truth, guess, given))
        given = add_click(given, *clicks[-1])
    cells = []
    for row in range(len(image)):
        drawn = np.array(draw_mask(image[row], mask[row]))
        drawn[edge(pred[row])] = WHITE
        cell = Image.fromarray(drawn)
        draw = ImageDraw.Draw(cell)
        _draw_first(draw, jax.tree.map(lambda leaf, row=row: np.asarray(leaf[row]), first))
        for point, label in clicks:
            if int(label[row]) != EMPTY:
                _dot(draw, point[row], GREEN if int(label[row]) == POSITIVE else RED)
        cells.append(cell)
    return cells


_correct = jax.jit(correction_click)


def _draw_first(draw: ImageDraw.ImageDraw, first) -> None:
    """Draw one image's first prompt: a box, a click, or the word "mask"."""
    if first.has_mask:
        draw.text((4, 4), "mask", fill=YELLOW)
    for point, label in zip(first.points, first.labels, strict=True):
        if label in (POSITIVE, NEGATIVE):
            _dot(draw, point, YELLOW)
    if first.labels[-1] == BOTTOM_RIGHT:
        corners = first.points[-BOX_SLOTS:].reshape(-1)
        draw.rectangle([float(value) for value in corners], outline=YELLOW, width=2)


def _dot(draw: ImageDraw.ImageDraw, point, colour) -> None:
    x, y = (float(value) for value in point)
    draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour, outline="black")
