"""What the page shows about an object on a frame of a clip; see `messages`."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from petsam_jax.predict.prompt_inputs import Prompt
from petsam_jax.ui.messages import (
    FOUND_UNPROMPTED,
    NOTHING_FOUND,
    box_message,
    click_message,
    describe_clicks,
    percent,
)
from petsam_jax.ui.object_masks import box_slices
from petsam_jax.ui.page_state import Click


class ReadPrompt(NamedTuple):
    """An object's prompt on a frame, with a label for each click."""

    prompt: Prompt
    pet_probs: tuple[float, ...]
    last_click: Click | None
    holds_pet: bool | None


def describe_object(
    read: ReadPrompt | None, mask: Bool[np.ndarray, "h w"], presence: float
) -> dict:
    """`read` is None where the object was tracked; `presence` is how likely it is there."""
    coverage = None
    if read and read.prompt.box:
        inside = mask[box_slices(read.prompt.box, mask.shape, mask.shape)]
        coverage = np.count_nonzero(inside) / inside.size
    return {
        "region": "pet",
        "clicks": describe_clicks(read.prompt, read.pet_probs) if read else [],
        "share": round(np.count_nonzero(mask) / mask.size, 6),
        "coverage": None if coverage is None else round(coverage, 4),
        "holds_pet": read.holds_pet if read else None,
        "presence": round(presence, 4),
        "message": _message(read, mask, presence, coverage),
    }


def _message(
    read: ReadPrompt | None,
    mask: Bool[np.ndarray, "h w"],
    presence: float,
    coverage: float | None,
) -> str:
    if read is None:
        tracked = f"Tracked, {percent(presence)} sure."
        return tracked if mask.any() else "Not found on this frame."
    sentences = []
    if read.last_click:
        label, pet_prob = read.prompt.labels[-1], read.pet_probs[-1]
        sentences.append(click_message(read.last_click, label, pet_prob))
    if coverage is not None:
        sentences.append(box_message(read.holds_pet, coverage))
    if not mask.any():
        sentences.append(f"{NOTHING_FOUND}.")
    elif read.prompt.find and not read.last_click:
        sentences.append(FOUND_UNPROMPTED)
    return " ".join(sentences)
