"""How much imprecise prompts and degraded images cost: the protocol, altered one way at a time.

In: a predictor and an example. Out: named scores, `clicks_off_5/click3`, `jpeg_20/box` and so on,
all of them the IoU with ignored pixels left out. An altered image is scored at its own size: at
half and double size against the mask at that size.
"""

import io
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from petsam_jax.data.sources import Example
from petsam_jax.evaluation.protocol import (
    MoveClick,
    Predictor,
    Scores,
    box_directions,
    mask_from_box,
    mask_without_prompt,
    masks_from_clicks,
)
from petsam_jax.evaluation.simulated_user import Click, generator, move_sides, tight_box
from petsam_jax.files.images import MAX_PIXELS
from petsam_jax.mask_values import PET
from petsam_jax.metrics import iou

# How far off clicks and the sides of boxes are at most, as shares of the pet's box.
CLICKS_OFF = 0.05
BOX_OFF = (0.1, 0.2)
SIZES = {"half_size": 0.5, "double_size": 2.0}
JPEG_QUALITY = 20
CLICKS = (1, 3, 5)
# Each variant and its prompts, in the order of metrics.json.
PROMPTS = tuple(f"click{number}" for number in CLICKS)
VARIANTS = {
    f"clicks_off_{round(100 * CLICKS_OFF)}": PROMPTS,
    **{f"box_off_{round(100 * share)}": ("box",) for share in BOX_OFF},
    **dict.fromkeys([*SIZES, f"jpeg_{JPEG_QUALITY}"], ("no_prompt", "box", *PROMPTS)),
}


def score_robustness(predictor: Predictor, example: Example) -> Scores:
    """The IoUs of every variant in `VARIANTS`."""
    mask, box = example.mask, tight_box(example.mask)
    image = predictor.encode(example.image)
    variant, move = f"clicks_off_{round(100 * CLICKS_OFF)}", imprecise_hand(example)
    scores = _score_clicks(predictor, image, mask, variant, move)
    for share in BOX_OFF:
        moved = move_sides(box, box_directions(example.name), share, mask.shape)
        pred_mask = mask_from_box(predictor, image, moved)
        scores[f"box_off_{round(100 * share)}/box"] = float(iou(pred_mask, mask))
    for name, pixels, mask in alter(example):
        image = predictor.encode(pixels)
        scores[f"{name}/no_prompt"] = float(iou(mask_without_prompt(predictor, image), mask))
        pred_mask = mask_from_box(predictor, image, tight_box(mask))
        scores[f"{name}/box"] = float(iou(pred_mask, mask))
        scores |= _score_clicks(predictor, image, mask, name)
    return scores


def _score_clicks(predictor, image, mask, variant, move: MoveClick | None = None) -> Scores:
    results = masks_from_clicks(predictor, image, mask, max(CLICKS), move)
    return {
        f"{variant}/click{number}": float(iou(result.mask, mask))
        for number, result in enumerate(results, 1)
        if number in CLICKS
    }


def imprecise_hand(example: Example) -> MoveClick:
    """Moves clicks by up to `CLICKS_OFF` of the pet's box either way; their label stays."""
    rng = generator(f"hand of {example.name}")
    box = tight_box(example.mask)
    reach = CLICKS_OFF * (box[2:] - box[:2])
    last = np.array(example.mask.shape[::-1]) - 1

    def move(click: Click) -> Click:
        moved = np.array([click.x, click.y]) + reach * rng.uniform(-1.0, 1.0, 2)
        x, y = np.clip(np.round(moved).astype(int), 0, last)
        return Click(int(x), int(y), click.label)

    return move


def alter(
    example: Example,
) -> Iterator[tuple[str, UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]]:
    """Name, image and mask of the example at other sizes, and heavily compressed.

    A size that is too large for the predictor is left out.
    """
    image = Image.fromarray(example.image)
    for name, factor in SIZES.items():
        size = tuple(max(1, round(side * factor)) for side in image.size)
        if size[0] * size[1] <= MAX_PIXELS:
            resized = image.resize(size, Image.Resampling.BICUBIC)
            yield name, np.asarray(resized), _resize_mask(example.mask, size)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY)
    yield f"jpeg_{JPEG_QUALITY}", np.asarray(Image.open(file)), example.mask


def _resize_mask(mask, size) -> UInt8[np.ndarray, "h w"]:
    """The nearest pixels; a pet that falls between them keeps one."""
    resized = np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    if not (resized == PET).any():
        y, x = np.argwhere(mask == PET)[0]
        resized[y * size[1] // mask.shape[0], x * size[0] // mask.shape[1]] = PET
    return resized
