"""What the model answers about one object of the page.

An object's clicks are answered as training asks them: one after the other, each with the mask that
the clicks before it gave, fed back. The answer is a function of the prompts alone, so undoing leads
back to exactly the mask that was there, no matter how many requests it took to get on; and as the
picture remembers its answers, a further click costs one step of the model.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image, ImageDraw
from scipy import ndimage

from petsam_jax.predict.image_predictor import ImagePredictor, LowResPrediction
from petsam_jax.predict.postprocess import fill_holes, masks_at_size, remove_islands
from petsam_jax.ui.click_labels import read_click
from petsam_jax.ui.open_images import OpenPicture
from petsam_jax.ui.page_state import Click, ObjectPrompts, Settings, Stroke
from petsam_jax.ui.request_fields import BadRequest

# Pixels of the longer side of what a scribble is drawn on: finer than any model's mask input.
SCRIBBLE_SIDE = 512
# Smaller parts of the pet map, as shares of the picture, make no box one that holds a pet.
SPECK = 0.005


@dataclasses.dataclass(frozen=True)
class ObjectAnswer:
    """Masks that the prompts leave open, and how they were read."""

    masks: LowResPrediction  # three candidates, or one; its arrays are shared and not to be changed
    chosen: int
    labels: list[int]  # of each click: 1 pet, 0 background
    means: list[float]  # mean probability of pet around each click
    # Clicks for themselves on background show what is not the pet.
    background: bool = False
    # A box without any pet in it; None without a box.
    holds_pet: bool | None = None

    @property
    def logits(self) -> Float32[np.ndarray, "h w"]:
        """Of the chosen mask, on the model's grid; of the background where that is shown."""
        logits = self.masks.logits[self.chosen]
        return -logits if self.background else logits

    @property
    def shows_background(self) -> bool:
        """Whether the mask is of background: that of a click by itself, or a box without a pet."""
        return self.background or self.holds_pet is False

    @property
    def iou_pred(self) -> float:
        return float(self.masks.iou_pred[self.chosen])


def answer_object(
    predictor: ImagePredictor, picture: OpenPicture, said: ObjectPrompts, settings: Settings
) -> ObjectAnswer:
    """Raises BadRequest for clicks and boxes outside the picture."""
    check_inside(said, picture.encoded.size)
    if settings.alone:
        said = dataclasses.replace(said, clicks=said.clicks[-1:])
    reads = [
        read_click(picture.pet_logits, picture.encoded.size, click, settings)
        for click in said.clicks
    ]
    labels, means = [label for label, _ in reads], [mean for _, mean in reads]
    background = settings.alone and labels == [0] and not (said.box or said.strokes)
    if background:
        # Not the pet and what is like this click: the click takes from what was found unprompted.
        said = dataclasses.replace(said, find=True)
    masks, chosen = _ask_in_turn(predictor, picture, said, labels)
    pet = picture.pet_logits, picture.encoded.size
    holds_pet = box_holds_pet(*pet, said, labels, settings) if said.box else None
    return ObjectAnswer(masks, chosen, labels, means, background, holds_pet)


def check_inside(said: ObjectPrompts, size: tuple[int, int]) -> None:
    """Raises BadRequest for clicks and boxes outside of a picture of that height and width."""
    height, width = size
    places = [(click.x, click.y) for click in said.clicks]
    places += [said.box[:2], said.box[2:]] if said.box else []
    for x, y in places:
        if x >= width or y >= height:
            raise BadRequest(f"({x}, {y}) is outside the picture of {width} x {height} pixels")


def _ask_in_turn(
    predictor: ImagePredictor, picture: OpenPicture, said: ObjectPrompts, labels: list[int]
) -> tuple[LowResPrediction, int]:
    """The answer to all clicks, and which of its masks is meant."""
    points = [(click.x, click.y) for click in said.clicks]
    starts = said.find or said.box is not None or bool(said.strokes)
    key: tuple = said.find, said.box, said.strokes
    fed = _scribble(predictor, picture, said.strokes) if said.strokes else None
    for number in range(0 if starts else 1, len(points) + 1):
        clicks = tuple(points[:number]), tuple(labels[:number])
        # As training has it: the masks differ as long as there is at most one point.
        several = number <= 1 and said.box is None

        def ask(clicks=clicks, several=several, fed=fed):
            answer = predictor.predict_low_res(
                *(clicks if clicks[0] else (None, None)),
                boxes=said.box,
                mask_input=fed,
                multimask=several,
                image=picture.encoded,
            )
            # What is remembered should not keep all four masks that the device has made.
            return LowResPrediction(*map(np.array, answer))

        key = (key, clicks)
        masks = picture.remember(key, ask)
        choice = said.choices[number] if several else None
        chosen = int(masks.iou_pred.argmax()) if choice is None else choice
        key, fed = (key, chosen), masks.logits[chosen]
    return masks, chosen


def box_holds_pet(
    pet_logits: Float32[np.ndarray, "h w"],
    size: tuple[int, int],
    said: ObjectPrompts,
    labels: list[int],
    settings: Settings,
) -> bool:
    """Whether there is any pet in the box, as the map without prompts has it, or as a click says.

    The model is not asked with the box: it never saw a box round nothing, and finds a pet in any.
    """
    inside = (
        label == POSITIVE and in_box(click, said.box)
        for click, label in zip(said.clicks, labels, strict=True)
    )
    pets = pet_logits > settings.mask_logit
    pets = remove_islands(pets, round(SPECK * pets.size))
    return any(inside) or bool(pets[box_slices(said.box, size, pets.shape)].any())


def in_box(click: Click, box: tuple[int, int, int, int]) -> bool:
    """Its sides belong to a box."""
    x0, y0, x1, y1 = box
    return x0 <= click.x <= x1 and y0 <= click.y <= y1


def _scribble(
    predictor: ImagePredictor, picture: OpenPicture, strokes: tuple[Stroke, ...]
) -> Float32[np.ndarray, "h w"]:
    """What was painted as a mask to feed in; a line that closes counts with all inside of it."""
    scale = min(1.0, SCRIBBLE_SIDE / max(picture.width, picture.height))
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    drawing = Image.new("1", size)
    pen = ImageDraw.Draw(drawing)
    for stroke in strokes:
        reach = max(1.0, stroke.radius * scale)
        line = [((x + 0.5) * scale, (y + 0.5) * scale) for x, y in stroke.points]
        pen.line(line, fill=1, width=round(2 * reach), joint="curve")
        for x, y in (line[0], line[-1]):
            pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=1)
    return predictor.mask_prompt(ndimage.binary_fill_holes(np.asarray(drawing)))


def object_mask(
    said: ObjectPrompts,
    answer: ObjectAnswer,
    settings: Settings,
    picture: tuple[int, int],
    shown: tuple[int, int],
) -> Bool[np.ndarray, "h w"]:
    """One object's mask at the size that is shown, tidied as the settings say, within its box.

    Of a box without any pet it is all of the box. `picture` and `shown` are heights and widths.
    """
    inside = box_slices(said.box, picture, shown) if said.box else (slice(None), slice(None))
    mask = np.zeros(shown, bool)
    if answer.holds_pet is False:
        mask[inside] = True
        return mask
    threshold = -settings.mask_logit if answer.background else settings.mask_logit
    whole = masks_at_size(answer.logits, *shown, threshold)
    # Areas are in the picture's pixels.
    share = math.prod(shown) / math.prod(picture)
    tidied = fill_holes(whole[inside], round(settings.fill_holes * share))
    mask[inside] = remove_islands(tidied, round(settings.remove_islands * share))
    return mask


def box_slices(
    box: tuple[int, int, int, int], picture: tuple[int, int], shown: tuple[int, int]
) -> tuple[slice, slice]:
    """Rows and columns of a box; its sides belong to it."""
    (x0, y0, x1, y1), (height, width) = box, picture
    rows = y0 * shown[0] // height, -(-(y1 + 1) * shown[0] // height)
    columns = x0 * shown[1] // width, -(-(x1 + 1) * shown[1] // width)
    return slice(*rows), slice(*columns)
