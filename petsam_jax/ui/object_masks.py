"""The masks of one object on the page.

Clicks are predicted as in training: one after the other, each with the mask of the clicks before it
fed back. The masks depend on the prompts alone, so undo always leads back to exactly the mask that
was there before. And since the image keeps its predictions, one more click is one model step.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image, ImageDraw
from scipy import ndimage

from petsam_jax.models.prompts import POSITIVE
from petsam_jax.predict.image_predictor import ImagePredictor, LowResPrediction
from petsam_jax.predict.postprocess import fill_holes, masks_at_size, remove_islands
from petsam_jax.ui.click_labels import label_click
from petsam_jax.ui.open_images import OpenImage
from petsam_jax.ui.page_state import Click, ObjectPrompts, Settings, Stroke
from petsam_jax.ui.request_fields import BadRequest

# Longer side in pixels of the canvas that strokes are drawn on: finer than any model's mask input.
STROKE_CANVAS = 512
# Smaller regions, as a share of the image, do not count as a pet in a box.
SPECK = 0.005


@dataclasses.dataclass(frozen=True)
class SegmentedObject:
    """The candidate masks for an object, and the labels of its clicks."""

    candidates: LowResPrediction  # three, or one; the arrays are shared and must not be changed
    chosen: int
    labels: list[int]  # of each click: 1 pet, 0 background
    pet_probs: list[float]  # mean pet probability around each click
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
    """Raises BadRequest for clicks and boxes outside the image."""
    size = image.encoded.size
    check_inside(prompts, size)
    if settings.last_click_only:
        prompts = dataclasses.replace(prompts, clicks=prompts.clicks[-1:])
    labelled = [label_click(image.pet_logits, size, click, settings) for click in prompts.clicks]
    labels, pet_probs = [label for label, _ in labelled], [prob for _, prob in labelled]
    inverted = settings.last_click_only and labels == [0] and not (prompts.box or prompts.strokes)
    if inverted:
        # The pet without what looks like this click; all the rest is the background.
        prompts = dataclasses.replace(prompts, find=True)
    candidates, chosen = _predict_in_turn(predictor, image, prompts, labels)
    holds_pet = None
    if prompts.box:
        holds_pet = box_holds_pet(image.pet_logits, size, prompts, labels, settings)
    return SegmentedObject(candidates, chosen, labels, pet_probs, inverted, holds_pet)


def check_inside(prompts: ObjectPrompts, size: tuple[int, int]) -> None:
    """Raises BadRequest for clicks and boxes outside an image of that height and width."""
    height, width = size
    places = [(click.x, click.y) for click in prompts.clicks]
    places += [prompts.box[:2], prompts.box[2:]] if prompts.box else []
    for x, y in places:
        if x >= width or y >= height:
            raise BadRequest(f"({x}, {y}) is outside the image of {width} x {height} pixels")


def _predict_in_turn(
    predictor: ImagePredictor, image: OpenImage, prompts: ObjectPrompts, labels: list[int]
) -> tuple[LowResPrediction, int]:
    """The candidates after all clicks, and the chosen one."""
    points = [(click.x, click.y) for click in prompts.clicks]
    starts_without_click = prompts.find or prompts.box is not None or bool(prompts.strokes)
    key: tuple = prompts.find, prompts.box, prompts.strokes
    fed_back = _draw_strokes(predictor, image, prompts.strokes) if prompts.strokes else None
    for number in range(0 if starts_without_click else 1, len(points) + 1):
        clicks = tuple(points[:number]), tuple(labels[:number])
        # As in training, only a prompt of at most one point is ambiguous.
        ambiguous = number <= 1 and prompts.box is None

        def predict(clicks=clicks, ambiguous=ambiguous, fed_back=fed_back):
            prediction = predictor.predict_low_res(
                *(clicks if clicks[0] else (None, None)),
                boxes=prompts.box,
                mask_input=fed_back,
                multimask=ambiguous,
                image=image.encoded,
            )
            # Copies, since views would keep all four masks of the device in memory.
            return LowResPrediction(*map(np.array, prediction))

        key = (key, clicks)
        candidates = image.cached(key, predict)
        choice = prompts.choices[number] if ambiguous else None
        chosen = int(candidates.iou_pred.argmax()) if choice is None else choice
        key, fed_back = (key, chosen), candidates.logits[chosen]
    return candidates, chosen


def box_holds_pet(
    pet_logits: Float32[np.ndarray, "h w"],
    size: tuple[int, int],
    prompts: ObjectPrompts,
    labels: list[int],
    settings: Settings,
) -> bool:
    """Whether the mask without prompts, or a click, puts a pet in the box.

    Predicting with the box cannot answer this: training has no box around nothing, so the model
    finds a pet in any.
    """
    inside = (
        label == POSITIVE and in_box(click, prompts.box)
        for click, label in zip(prompts.clicks, labels, strict=True)
    )
    pets = pet_logits > settings.mask_logit
    pets = remove_islands(pets, round(SPECK * pets.size))
    return any(inside) or bool(pets[box_slices(prompts.box, size, pets.shape)].any())


def in_box(click: Click, box: tuple[int, int, int, int]) -> bool:
    """Whether a click is in a box, sides included."""
    x0, y0, x1, y1 = box
    return x0 <= click.x <= x1 and y0 <= click.y <= y1


def _draw_strokes(
    predictor: ImagePredictor, image: OpenImage, strokes: tuple[Stroke, ...]
) -> Float32[np.ndarray, "h w"]:
    """The strokes as a mask prompt; a closed line includes its inside."""
    scale = min(1.0, STROKE_CANVAS / max(image.width, image.height))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    canvas = Image.new("1", size)
    pen = ImageDraw.Draw(canvas)
    for stroke in strokes:
        radius = max(1.0, stroke.radius * scale)
        line = [((x + 0.5) * scale, (y + 0.5) * scale) for x, y in stroke.points]
        pen.line(line, fill=1, width=round(2 * radius), joint="curve")
        for x, y in (line[0], line[-1]):
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    return predictor.mask_prompt(ndimage.binary_fill_holes(np.asarray(canvas)))


def object_mask(
    prompts: ObjectPrompts,
    found: SegmentedObject,
    settings: Settings,
    image: tuple[int, int],
    shown: tuple[int, int],
) -> Bool[np.ndarray, "h w"]:
    """The object's mask at the shown size, within its box, with holes and islands removed.

    All of the box if there is no pet in it. `image` and `shown` are heights and widths.
    """
    inside = box_slices(prompts.box, image, shown) if prompts.box else (slice(None), slice(None))
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
