"""The evaluation protocol: one example segmented from every kind of prompt, each result scored.

In: a predictor and an example at its own resolution. Out: named scores. A name is the measure and
the prompt: `iou/box`, `boundary_f/click3`. The measures are

    iou             ignored pixels left out
    border_as_pet   the IoU of the same mask with ignored pixels counted as pet
    boundary_f      the score of the contour, ignored pixels left out

Each click comes with all clicks before it and with the last result as mask prompt.
"""

import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from cachetools import LRUCache
from jaxtyping import Bool, Float32, UInt8

from petsam_jax.data.sources import Example
from petsam_jax.evaluation.simulated_user import (
    Click,
    generator,
    move_sides,
    next_click,
    tight_box,
)
from petsam_jax.metrics import boundary_f, iou

CLICKS = 20
# Clicks after which the contour is scored too, which takes longer than the click itself.
CONTOUR_CLICKS = (1, 3, 5)
BOX_JITTER = 0.05
# Encoded images kept: an example is encoded as it is and altered in three ways, and its image may
# come again for the next pet in it.
ENCODED_KEPT = 4

Scores = dict[str, float]
# Moves a click from the centre of an error to where it actually lands.
MoveClick = Callable[[Click], Click]


class ClickResult(NamedTuple):
    """The mask after some clicks, and these clicks."""

    mask: Bool[np.ndarray, "h w"]
    clicks: tuple[Click, ...]


@runtime_checkable
class Predictor(Protocol):
    """The methods of `ImagePredictor` that the protocol calls."""

    def encode(self, image) -> Any: ...

    def predict(self, points=None, labels=None, boxes=None, mask_input=None, *, image) -> Any: ...

    def predict_pet(self, *, image) -> Any: ...


class TimedPredictor:
    """A predictor that keeps the last encoded images, and records how long each call took."""

    def __init__(self, predictor: Predictor):
        self._predictor = predictor
        self._encoded = LRUCache(ENCODED_KEPT)
        self.seconds: dict[str, list[float]] = {"encode": [], "predict": []}

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> Any:
        """The encoded image, once its computation has finished."""
        key = image.shape, zlib.crc32(np.ascontiguousarray(image).data)
        if key not in self._encoded:
            start = time.perf_counter()
            self._encoded[key] = self._predictor.encode(image)
            jax.block_until_ready(self._encoded[key].features)
            self.seconds["encode"].append(time.perf_counter() - start)
        return self._encoded[key]

    def predict(self, **prompts: Any) -> Any:
        """As `ImagePredictor.predict`."""
        start = time.perf_counter()
        result = self._predictor.predict(**prompts)
        self.seconds["predict"].append(time.perf_counter() - start)
        return result

    def predict_pet(self, *, image: Any) -> Any:
        """As `ImagePredictor.predict_pet`; not timed."""
        return self._predictor.predict_pet(image=image)


def score_example(predictor: Predictor, example: Example) -> Scores:
    """The scores without a prompt, from the tight box, from one a little off, and from clicks."""
    image, mask = predictor.encode(example.image), example.mask
    scores = score_mask(mask_without_prompt(predictor, image), mask, "no_prompt", contour=True)
    box = tight_box(mask)
    directions = box_directions(example.name)
    for name, share in (("box", 0.0), ("box_jitter", BOX_JITTER)):
        moved = move_sides(box, directions, share, mask.shape)
        pred_mask = mask_from_box(predictor, image, moved)
        scores |= score_mask(pred_mask, mask, name, contour=True)
    results = masks_from_clicks(predictor, image, mask, CLICKS)
    for number, result in enumerate(results, 1):
        contour = number in CONTOUR_CLICKS
        scores |= score_mask(result.mask, mask, f"click{number}", contour)
    return scores


def score_mask(
    pred_mask: Bool[np.ndarray, "h w"],
    mask: UInt8[np.ndarray, "h w"],
    name: str,
    contour: bool = False,
) -> Scores:
    """All measures of one predicted mask, named after its prompt."""
    scores = {
        f"iou/{name}": float(iou(pred_mask, mask)),
        f"border_as_pet/{name}": float(iou(pred_mask, mask, border_as_pet=True)),
    }
    if contour:
        scores[f"boundary_f/{name}"] = boundary_f(pred_mask, mask)
    return scores


def box_directions(name: str) -> np.ndarray:
    """Which way each side of an example's box moves, as a share (-1..1) of the largest move."""
    return generator(f"box of {name}").uniform(-1.0, 1.0, 4)


def mask_without_prompt(predictor: Predictor, image: Any) -> Bool[np.ndarray, "h w"]:
    return predictor.predict_pet(image=image).masks[0]


def mask_from_box(
    predictor: Predictor, image: Any, box: Float32[np.ndarray, " 4"]
) -> Bool[np.ndarray, "h w"]:
    return predictor.predict(boxes=box, image=image).masks[0]


def masks_from_clicks(
    predictor: Predictor,
    image: Any,
    mask: UInt8[np.ndarray, "h w"],
    number: int,
    move: MoveClick | None = None,
) -> Iterator[ClickResult]:
    """The result after each of `number` clicks; once no error is left, the last one repeats.

    No pixel is clicked or aimed at twice: a click that `move` would put on such a pixel stays.
    """
    result = ClickResult(np.zeros(mask.shape, bool), ())
    used = np.zeros(mask.shape, bool)
    logits = None
    for _ in range(number):
        click = next_click(mask, result.mask, used)
        if click is not None:
            landed = move(click) if move else click
            if used[landed.y, landed.x]:
                landed = click
            for pixel in (click, landed):
                used[pixel.y, pixel.x] = True
            clicks = (*result.clicks, landed)
            prediction = predictor.predict(
                points=np.array([(click.x, click.y) for click in clicks], np.float32),
                labels=np.array([click.label for click in clicks], np.int32),
                mask_input=logits,
                image=image,
            )
            result, logits = ClickResult(prediction.masks[0], clicks), prediction.low_res_logits[0]
        yield result
