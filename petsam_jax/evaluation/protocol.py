"""One picture, asked about without a prompt, with boxes and click by click, and each answer scored.

In: a predictor and an example at its own resolution. Out: named scores. A name says what was
measured and after what: `iou/box`, `boundary_f/click3`. The measures are

    iou             ignored pixels left out
    border_as_pet   the IoU of the same answer with ignored pixels counted as pet
    boundary_f      the score of the contour, ignored pixels left out

Each click is fed the answer before it, and the clicks so far are said again with it.
"""

import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
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
# Encoded pictures kept: an example is asked about as it is and altered in three ways, and its
# picture comes again for the next pet in it.
ENCODED_KEPT = 4

Scores = dict[str, float]
# Where a click really lands that was meant for the middle of an error.
Move = Callable[[Click], Click]


class Clicked(NamedTuple):
    """The pet that was found, and the clicks that it was found by."""

    found: Bool[np.ndarray, "h w"]
    clicks: tuple[Click, ...]


@runtime_checkable
class Predictor(Protocol):
    """What is asked of `image_predictor.ImagePredictor`."""

    def encode(self, image) -> Any: ...

    def predict(self, points=None, labels=None, boxes=None, mask_input=None, *, image) -> Any: ...

    def predict_pet(self, *, image) -> Any: ...


class TimedPredictor:
    """A predictor that remembers the last pictures, and how long each call took in seconds."""

    def __init__(self, predictor: Predictor):
        self._predictor = predictor
        self._encoded: OrderedDict[tuple, Any] = OrderedDict()
        self.seconds: dict[str, list[float]] = {"encode": [], "predict": []}

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> Any:
        """The picture's encoding, ready to be used."""
        key = image.shape, zlib.crc32(np.ascontiguousarray(image).data)
        if key not in self._encoded:
            start = time.perf_counter()
            self._encoded[key] = self._predictor.encode(image)
            jax.block_until_ready(self._encoded[key].features)
            self.seconds["encode"].append(time.perf_counter() - start)
        self._encoded.move_to_end(key)
        while len(self._encoded) > ENCODED_KEPT:
            self._encoded.popitem(last=False)
        return self._encoded[key]

    def predict(self, **prompts: Any) -> Any:
        """As `ImagePredictor.predict`."""
        start = time.perf_counter()
        said = self._predictor.predict(**prompts)
        self.seconds["predict"].append(time.perf_counter() - start)
        return said

    def predict_pet(self, *, image: Any) -> Any:
        """As `ImagePredictor.predict_pet`; its time is not counted among those of the prompts."""
        return self._predictor.predict_pet(image=image)


def judge(predictor: Predictor, example: Example) -> Scores:
    """No prompt, the tight box, a box that is a little off, and clicks, on one example."""
    image, mask = predictor.encode(example.image), example.mask
    scores = score(found_unasked(predictor, image), mask, "no_prompt", contour=True)
    box = tight_box(mask)
    directions = box_directions(example.name)
    for name, share in (("box", 0.0), ("box_jitter", BOX_JITTER)):
        moved = move_sides(box, directions, share, mask.shape)
        found = found_in_box(predictor, image, moved)
        scores |= score(found, mask, name, contour=True)
    clicked = found_by_clicks(predictor, image, mask, CLICKS)
    for number, said in enumerate(clicked, 1):
        scores |= score(said.found, mask, f"click{number}", contour=number in CONTOUR_CLICKS)
    return scores


def score(
    found: Bool[np.ndarray, "h w"],
    mask: UInt8[np.ndarray, "h w"],
    name: str,
    contour: bool = False,
) -> Scores:
    """The measures of one answer, under its name."""
    scores = {
        f"iou/{name}": float(iou(found, mask)),
        f"border_as_pet/{name}": float(iou(found, mask, border_as_pet=True)),
    }
    if contour:
        scores[f"boundary_f/{name}"] = boundary_f(found, mask)
    return scores


def box_directions(name: str) -> np.ndarray:
    """Which way, and how far of what is allowed, each side of an example's box is moved."""
    return generator(f"box of {name}").uniform(-1.0, 1.0, 4)


def found_unasked(predictor: Predictor, image: Any) -> Bool[np.ndarray, "h w"]:
    """The pet that is found without a prompt."""
    return predictor.predict_pet(image=image).masks[0]


def found_in_box(
    predictor: Predictor, image: Any, box: Float32[np.ndarray, " 4"]
) -> Bool[np.ndarray, "h w"]:
    """The pet that is found in a box."""
    return predictor.predict(boxes=box, image=image).masks[0]


def found_by_clicks(
    predictor: Predictor,
    image: Any,
    mask: UInt8[np.ndarray, "h w"],
    number: int,
    move: Move | None = None,
) -> Iterator[Clicked]:
    """The answer to each of `number` clicks; the last one again once there is no error left.

    No pixel is clicked or aimed at twice. A click that `move` carries onto one of those is not
    moved.
    """
    said = Clicked(np.zeros(mask.shape, bool), ())
    used = np.zeros(mask.shape, bool)
    logits = None
    for _ in range(number):
        click = next_click(mask, said.found, used)
        if click is not None:
            landed = move(click) if move else click
            if used[landed.y, landed.x]:
                landed = click
            for pixel in (click, landed):
                used[pixel.y, pixel.x] = True
            clicks = (*said.clicks, landed)
            prediction = predictor.predict(
                points=np.array([(click.x, click.y) for click in clicks], np.float32),
                labels=np.array([click.label for click in clicks], np.int32),
                mask_input=logits,
                image=image,
            )
            said, logits = Clicked(prediction.masks[0], clicks), prediction.low_res_logits[0]
        yield said
