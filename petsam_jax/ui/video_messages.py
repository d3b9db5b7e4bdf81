"""What the page shows about an object on a frame of a clip; see `messages`."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from petsam_jax.ui.messages import (
    FOUND_UNPROMPTED,
    NOTHING_FOUND,
    box_message,
    click_message,
    describe_clicks,
    percent,
)
from petsam_jax.ui.object_masks import box_slices
from petsam_jax.ui.page_state import ObjectPrompts


class ReadPrompt(NamedTuple):
    """An object's prompts on a frame, with the labels of its clicks."""

    prompts: ObjectPrompts
    labels: tuple[int, ...]
    pet_probs: tuple[float, ...]
    holds_pet: bool | None

    def is_same(self, other: "ReadPrompt") -> bool:
        return (self.prompts, self.labels) == (other.prompts, other.labels)

    def continues(self, before: "ReadPrompt") -> bool:
        """Whether clicks were added and nothing else changed."""
        known = len(before.labels)
        first = self.prompts.clicks[:known], self.labels[:known]
        same = (before.prompts.box, before.prompts.find) == (self.prompts.box, self.prompts.find)
        return same and first == (before.prompts.clicks, before.labels)


def describe_object(
    prompt: ReadPrompt | None, mask: Bool[np.ndarray, "h w"], presence: float
) -> dict:
    """`prompt` is None where the object was tracked; `presence` is how likely it is there."""
    coverage = None
    if prompt and prompt.prompts.box:
        inside = mask[box_slices(prompt.prompts.box, mask.shape, mask.shape)]
        coverage = np.count_nonzero(inside) / inside.size
    return {
        "region": "pet",
        "clicks": describe_clicks(prompt.labels, prompt.pet_probs) if prompt else [],
        "share": round(np.count_nonzero(mask) / mask.size, 6),
        "coverage": None if coverage is None else round(coverage, 4),
        "holds_pet": prompt.holds_pet if prompt else None,
        "presence": round(presence, 4),
        "message": _message(prompt, mask, presence, coverage),
    }


def _message(
    prompt: ReadPrompt | None,
    mask: Bool[np.ndarray, "h w"],
    presence: float,
    coverage: float | None,
) -> str:
    if prompt is None:
        tracked = f"Tracked, {percent(presence)} sure."
        return tracked if mask.any() else "Not found on this frame."
    sentences = []
    if prompt.labels:
        click = prompt.prompts.clicks[-1]
        sentences.append(click_message(click, prompt.labels[-1], prompt.pet_probs[-1]))
    if coverage is not None:
        sentences.append(box_message(prompt.holds_pet, coverage))
    if not mask.any():
        sentences.append(f"{NOTHING_FOUND}.")
    elif prompt.prompts.find and not prompt.labels:
        sentences.append(FOUND_UNPROMPTED)
    return " ".join(sentences)
