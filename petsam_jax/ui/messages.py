"""What the page says about an object: numbers for its panels, and words for its visitor."""

import base64
import io

import numpy as np
from jaxtyping import Bool
from PIL import Image

from petsam_jax.ui.object_masks import ObjectAnswer, in_box
from petsam_jax.ui.page_state import Click, ObjectPrompts, Settings


def tell_object(
    said: ObjectPrompts,
    answer: ObjectAnswer,
    mask: Bool[np.ndarray, "h w"],
    coverage: float | None,
    settings: Settings,
) -> dict:
    """`mask` is what is shown of the object, `coverage` how much of its box is pet."""
    candidates = len(answer.masks.logits) > 1 and answer.holds_pet is not False
    return {
        "region": "background" if answer.shows_background else "pet",
        "reads": [
            {"label": label, "pet": round(mean, 4)}
            for label, mean in zip(answer.labels, answer.means, strict=True)
        ],
        "iou": round(answer.iou_pred, 4),
        "share": round(np.count_nonzero(mask) / mask.size, 6),
        "coverage": None if coverage is None else round(coverage, 4),
        "holds_pet": answer.holds_pet,
        "chosen": answer.chosen,
        "candidates": [
            {"iou": round(float(iou), 4), "picture": _thumbnail(logits > settings.mask_logit)}
            for logits, iou in zip(answer.masks.logits, answer.masks.iou_pred, strict=True)
        ]
        if candidates
        else [],
        "words": _words(said, answer, mask, coverage, settings),
    }


def _thumbnail(mask: Bool[np.ndarray, "h w"]) -> str:
    """A mask on the model's square as a PNG in a data URL: opaque where it is."""
    alpha = Image.fromarray(mask.astype(np.uint8))
    alpha.putpalette([0, 0, 0, 0, 0, 0])
    file = io.BytesIO()
    alpha.save(file, "PNG", bits=1, transparency=0)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _words(
    said: ObjectPrompts,
    answer: ObjectAnswer,
    mask: Bool[np.ndarray, "h w"],
    coverage: float | None,
    settings: Settings,
) -> str:
    sentences = []
    if answer.means:
        click = said.clicks[-1]
        sentences.append(read_words(click, answer.labels[-1], answer.means[-1], settings))
        if said.box and not in_box(click, said.box):
            sentences.append("It is outside of the box, which the mask is limited to.")
    if answer.background:
        sentences.append("Shown is the background.")
    if coverage is not None:
        sentences.append(box_words(answer.holds_pet, coverage))
    if not mask.any():
        lower = " or lower the mask threshold" if settings.mask_threshold > 0.5 else ""
        sentences.append(f"Nothing is found here; click on the animal, draw a box round it{lower}.")
    elif said.find and not said.clicks:
        sentences.append("Found without a prompt; click to correct it.")
    return " ".join(sentences)


def box_words(holds_pet: bool, coverage: float) -> str:
    """What is in a box."""
    if not holds_pet:
        return "Only background in this box: no pet is seen there. If there is one, click on it."
    return f"Pet covers {percent(coverage)} of the box."


def read_words(click: Click, label: int, mean: float, settings: Settings) -> str:
    """How a click was read, or what it was told to be."""
    name = "pet" if label == 1 else "background"
    looked = f"{settings.patch} × {settings.patch} pixels around it"
    if click.say == "auto":
        return f"Read as {name}: {percent(mean)} pet in the {looked}."
    return f"Taken as {name}, as you said; {percent(mean)} pet in the {looked}."


def percent(share: float) -> str:
    """In whole per cents, but never a false 0 or 100."""
    if 0 < share < 0.005:
        return "less than 1 %"
    if 0.995 <= share < 1:
        return "more than 99 %"
    return f"{round(100 * share)} %"
