"""What the page shows about an object on an image: numbers for the panel, and a message."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from PIL import Image

from petsam_jax.predict.prompt_inputs import Prompt
from petsam_jax.ui.object_masks import SegmentedObject, in_box
from petsam_jax.ui.page_state import Click, ObjectPrompts, Settings

NOTHING_FOUND = "Nothing found here. Click on the animal or draw a box around it"
FOUND_UNPROMPTED = "Found a pet. Click to correct it."


def describe_object(
    prompts: ObjectPrompts,
    found: SegmentedObject,
    mask: Bool[np.ndarray, "h w"],
    coverage: float | None,
    settings: Settings,
) -> dict:
    """`mask` is the one shown, `coverage` the share of the box that is pet."""
    ambiguous = len(found.candidates.logits) > 1 and found.holds_pet is not False
    return {
        "region": "background" if found.is_background else "pet",
        "clicks": describe_clicks(found.prompt, found.pet_probs),
        "iou": round(found.iou_pred, 4),
        "share": round(np.count_nonzero(mask) / mask.size, 6),
        "coverage": None if coverage is None else round(coverage, 4),
        "holds_pet": found.holds_pet,
        "chosen": found.chosen,
        "candidates": _candidates(found, settings) if ambiguous else [],
        "message": _message(prompts, found, mask, coverage, settings),
    }


def describe_clicks(prompt: Prompt, pet_probs: Sequence[float]) -> list[dict]:
    """The label of each click, and the pet probability around it."""
    return [
        {"label": label, "pet_prob": round(prob, 4)}
        for label, prob in zip(prompt.labels, pet_probs, strict=True)
    ]


def _candidates(found: SegmentedObject, settings: Settings) -> list[dict]:
    return [
        {"iou": round(float(iou), 4), "thumbnail": _thumbnail(logits > settings.mask_logit)}
        for logits, iou in zip(found.candidates.logits, found.candidates.iou_pred, strict=True)
    ]


def _thumbnail(mask: Bool[np.ndarray, "h w"]) -> str:
    """A mask on the model's grid as the data URL of a PNG, transparent outside it."""
    alpha = Image.fromarray(mask.astype(np.uint8))
    alpha.putpalette([0, 0, 0, 0, 0, 0])
    file = io.BytesIO()
    alpha.save(file, "PNG", bits=1, transparency=0)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _message(
    prompts: ObjectPrompts,
    found: SegmentedObject,
    mask: Bool[np.ndarray, "h w"],
    coverage: float | None,
    settings: Settings,
) -> str:
    sentences = []
    prompt = found.prompt
    if prompt.points:
        sentences.append(click_message(prompts.clicks[-1], prompt.labels[-1], found.pet_probs[-1]))
        if prompt.box and not in_box(prompt.points[-1], prompt.box):
            sentences.append("That click is outside the box; the mask stays inside it.")
    if found.inverted:
        sentences.append("The background is selected.")
    if coverage is not None:
        sentences.append(box_message(found.holds_pet, coverage))
    if not mask.any():
        lower = ", or lower the mask threshold" if settings.mask_threshold > 0.5 else ""
        sentences.append(f"{NOTHING_FOUND}{lower}.")
    elif prompt.find and not prompt.points:
        sentences.append(FOUND_UNPROMPTED)
    return " ".join(sentences)


def box_message(holds_pet: bool | None, coverage: float) -> str:
    """What is in a box."""
    if not holds_pet:
        return "No pet found in this box. If there is one, click on it."
    return f"Found a pet in the box ({percent(coverage)})."


def click_message(click: Click, label: int, pet_prob: float) -> str:
    """What a click did, and why where the page decided it."""
    if click.label == "auto" and label == 1:
        return f"Added: this looks like a pet ({percent(pet_prob)})."
    if click.label == "auto":
        return f"Removed: this looks like background ({percent(1 - pet_prob)})."
    return "Added." if label == 1 else "Removed."


def percent(share: float) -> str:
    """In whole per cent, but never a false 0 or 100."""
    if 0 < share < 0.005:
        return "less than 1 %"
    if 0.995 <= share < 1:
        return "more than 99 %"
    return f"{round(100 * share)} %"
