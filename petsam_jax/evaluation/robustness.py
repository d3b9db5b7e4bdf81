"""How much careless prompts and worse pictures cost: the protocol again, altered one way at a time.

In: a predictor and an example. Out: named scores, `clicks_off_5/click3`, `jpeg_20/box` and so on,
all of them the IoU with ignored pixels left out. An altered picture is judged at its own size: at
half and double size against the mask at that size.
"""

import io
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from petsam_jax.data.sources import PET, Example
from petsam_jax.evaluation.protocol import (
    Move,
    Predictor,
    Scores,
    box_directions,
    found_by_clicks,
    found_in_box,
    found_unasked,
)
from petsam_jax.evaluation.simulated_user import Click, generator, move_sides, tight_box
from petsam_jax.files.images import MAX_PIXELS
from petsam_jax.metrics import iou

# Parts of the pet's box by which clicks and the sides of boxes are off.
CLICKS_OFF = 0.05
BOX_OFF = (0.1, 0.2)
SIZES = {"half_size": 0.5, "double_size": 2.0}
JPEG_QUALITY = 20
CLICKS = (1, 3, 5)
# What is altered, and what was then asked; metrics.json has them in this order.
PROMPTS = tuple(f"click{number}" for number in CLICKS)
VARIANTS = {
    f"clicks_off_{round(100 * CLICKS_OFF)}": PROMPTS,
    **{f"box_off_{round(100 * share)}": ("box",) for share in BOX_OFF},
    **dict.fromkeys([*SIZES, f"jpeg_{JPEG_QUALITY}"], ("no_prompt", "box", *PROMPTS)),
}


def judge_robustness(predictor: Predictor, example: Example) -> Scores:
    """The IoUs of every variant in `VARIANTS`."""
    mask, box = example.mask, tight_box(example.mask)
    image = predictor.encode(example.image)
    scores = _clicked(predictor, image, mask, f"clicks_off_{round(100 * CLICKS_OFF)}", example)
    for share in BOX_OFF:
        moved = move_sides(box, box_directions(example.name), share, mask.shape)
        found = found_in_box(predictor, image, moved)
        scores[f"box_off_{round(100 * share)}/box"] = float(iou(found, mask))
    for name, picture, mask in altered(example):
        image = predictor.encode(picture)
        scores[f"{name}/no_prompt"] = float(iou(found_unasked(predictor, image), mask))
        found = found_in_box(predictor, image, tight_box(mask))
        scores[f"{name}/box"] = float(iou(found, mask))
        scores |= _clicked(predictor, image, mask, name)
    return scores


def _clicked(predictor, image, mask, variant, careless: Example | None = None) -> Scores:
    """The IoUs after clicks, which are off where they are those of a careless user."""
    move = None if careless is None else careless_hand(careless)
    answers = found_by_clicks(predictor, image, mask, max(CLICKS), move)
    return {
        f"{variant}/click{number}": float(iou(said.found, mask))
        for number, said in enumerate(answers, 1)
        if number in CLICKS
    }


def careless_hand(example: Example) -> Move:
    """Moves clicks by up to `CLICKS_OFF` of the pet's box either way, whatever is then under them.

    What was meant, pet or background, stays.
    """
    rng = generator(f"hand of {example.name}")
    box = tight_box(example.mask)
    reach = CLICKS_OFF * (box[2:] - box[:2])
    last = np.array(example.mask.shape[::-1]) - 1

    def move(click: Click) -> Click:
        moved = np.array([click.x, click.y]) + reach * rng.uniform(-1.0, 1.0, 2)
        x, y = np.clip(np.round(moved).astype(int), 0, last)
        return Click(int(x), int(y), click.label)

    return move


def altered(
    example: Example,
) -> Iterator[tuple[str, UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]]:
    """The example's picture at other sizes and badly compressed, each with its name and mask.

    A size that is too large for the predictor is left out.
    """
    picture = Image.fromarray(example.image)
    for name, factor in SIZES.items():
        size = tuple(max(1, round(side * factor)) for side in picture.size)
        if size[0] * size[1] <= MAX_PIXELS:
            resized = picture.resize(size, Image.Resampling.BICUBIC)
            yield name, np.asarray(resized), _resize_mask(example.mask, size)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY)
    yield f"jpeg_{JPEG_QUALITY}", np.asarray(Image.open(file)), example.mask


def _resize_mask(mask, size) -> UInt8[np.ndarray, "h w"]:
    """The nearest pixels; a pet that falls between them keeps one."""
    resized = np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    if not (resized == PET).any():
        y, x = np.argwhere(mask == PET)[0]
        resized[y * size[1] // mask.shape[0], x * size[0] // mask.shape[1]] = PET
    return resized
