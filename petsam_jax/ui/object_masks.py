"""The masks of one object on the page.

Clicks are predicted as in training: one after the other, each with the mask of the clicks before it
fed back. The masks depend on the prompts alone, so undo always leads back to exactly the mask that
was there before. And since the image keeps its predictions, one more click is one model step.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float32

from petsam_jax.models.prompts import NEGATIVE, POSITIVE
from petsam_jax.predict.image_predictor import ImagePredictor, LowResPrediction
from petsam_jax.predict.postprocess import fill_holes, masks_at_size, remove_islands
from petsam_jax.predict.prompt_inputs import Prompt
from petsam_jax.ui.click_labels import label_clicks
from petsam_jax.ui.open_images import OpenImage
from petsam_jax.ui.page_state import ObjectPrompts, Settings

# Smaller regions, as a share of the image, do not count as a pet in a box.
SPECK = 0.005


@dataclasses.dataclass(frozen=True)
class SegmentedObject:
    """An object's prompt with a label for each click, and its candidate masks."""

    prompt: Prompt
    pet_probs: tuple[float, ...]  # mean pet probability around each click
    candidates: LowResPrediction  # three, or one; the arrays are shared and must not be changed
    chosen: int
    # A single click on background selects the background.
    inverted: bool = False
    # Whether the box has a pet in it; None without a box.
    holds_pet: bool | None = None

    @property
    def logits(self) -> Float32[np.ndarray, "h w"]:
        """The chosen mask on the model's grid; of the background if `inverted`."""
        logits = self.candidates.logits[self.chosen]
        return -logits if self.inverted else logits

    @property
    def is_background(self) -> bool:
        """Whether the mask shows background: a single click on it, or a box without a pet."""
        return self.inverted or self.holds_pet is False

    @property
    def iou_pred(self) -> float:
        return float(self.candidates.iou_pred[self.chosen])


def segment_object(
    predictor: ImagePredictor, image: OpenImage, prompts: ObjectPrompts, settings: Settings
) -> SegmentedObject:
    """Raises BadRequest for prompts outside the image."""
    size, choices = image.encoded.size, prompts.choices
    if settings.last_click_only:
        prompts = dataclasses.replace(prompts, clicks=prompts.clicks[-1:])
    prompt, pet_probs = label_clicks(image.pet_logits, size, prompts, settings)
    only_background = Prompt(prompt.points, (NEGATIVE,), find=True)
    inverted = (
        settings.last_click_only and dataclasses.replace(prompt, find=True) == only_background
    )
    if inverted:
        # The pet without what looks like this click; all the rest is the background.
        prompt = only_background
    candidates, chosen = _predict_in_turn(predictor, image, prompt, choices)
    holds_pet = box_holds_pet(image.pet_logits, size, prompt, settings) if prompt.box else None
    return SegmentedObject(prompt, pet_probs, candidates, chosen, inverted, holds_pet)


def _predict_in_turn(
    predictor: ImagePredictor,
    image: OpenImage,
    prompt: Prompt,
    choices: tuple[int | None, int | None],
) -> tuple[LowResPrediction, int]:
    """The candidates after all clicks, and the chosen one."""
    key: tuple = ()
    fed_back = None
    for step in prompt.steps():
        # As in training, only a prompt of at most one point is ambiguous.
        ambiguous = len(step.points) <= 1 and step.box is None

        def predict(step=step, ambiguous=ambiguous, fed_back=fed_back):
            prediction = predictor.predict_low_res(
                prompt=step, mask_input=fed_back, multimask=ambiguous, image=image.encoded
            )
            # Copies, since views would keep all four masks of the device in memory.
            return LowResPrediction(*map(np.array, prediction))

        key = (key, step)
        candidates = image.cached(key, predict)
        choice = choices[len(step.points)] if ambiguous else None
        chosen = int(candidates.iou_pred.argmax()) if choice is None else choice
        key, fed_back = (key, chosen), candidates.logits[chosen]
    return candidates, chosen


def box_holds_pet(
    pet_logits: Float32[np.ndarray, "h w"],
    size: tuple[int, int],
    prompt: Prompt,
    settings: Settings,
) -> bool:
    """Whether the mask without prompts, or a click, puts a pet in the box.

    Predicting with the box cannot answer this: training has no box around nothing, so the model
    finds a pet in any.
    """
    clicked = (
        label == POSITIVE and in_box(point, prompt.box)
        for point, label in zip(prompt.points, prompt.labels, strict=True)
    )
    pets = pet_logits > settings.mask_logit
    pets = remove_islands(pets, round(SPECK * pets.size))
    return any(clicked) or bool(pets[box_slices(prompt.box, size, pets.shape)].any())


def in_box(point: tuple[int, int], box: tuple[int, int, int, int]) -> bool:
    """Whether a point is in a box, sides included."""
    (x, y), (x0, y0, x1, y1) = point, box
    return x0 <= x <= x1 and y0 <= y <= y1


def object_mask(
    found: SegmentedObject,
    settings: Settings,
    image: tuple[int, int],
    shown: tuple[int, int],
) -> Bool[np.ndarray, "h w"]:
    """The object's mask at the shown size, within its box, with holes and islands removed.

    All of the box if there is no pet in it. `image` and `shown` are heights and widths.
    """
    box = found.prompt.box
    inside = box_slices(box, image, shown) if box else (slice(None), slice(None))
    mask = np.zeros(shown, bool)
    if found.holds_pet is False:
        mask[inside] = True
        return mask
    threshold = -settings.mask_logit if found.inverted else settings.mask_logit
    whole = masks_at_size(found.logits, *shown, threshold)
    # The settings count pixels of the image.
    share = math.prod(shown) / math.prod(image)
    filled = fill_holes(whole[inside], round(settings.fill_holes * share))
    mask[inside] = remove_islands(filled, round(settings.remove_islands * share))
    return mask


def box_slices(
    box: tuple[int, int, int, int], image: tuple[int, int], shown: tuple[int, int]
) -> tuple[slice, slice]:
    """Rows and columns of a box at the shown size, sides included."""
    (x0, y0, x1, y1), (height, width) = box, image
    rows = y0 * shown[0] // height, -(-(y1 + 1) * shown[0] // height)
    columns = x0 * shown[1] // width, -(-(x1 + 1) * shown[1] // width)
    return slice(*rows), slice(*columns)
