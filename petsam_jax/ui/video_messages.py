"""What the page says about an object on a frame of a clip; see `telling`."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from petsam_jax.ui.messages import box_words, percent, read_words
from petsam_jax.ui.object_masks import box_slices
from petsam_jax.ui.page_state import ObjectPrompts, Settings


class ReadPrompt(NamedTuple):
    """Prompts of an object on a frame that the session has, and how they were read."""

    said: ObjectPrompts
    labels: tuple[int, ...]
    means: tuple[float, ...]
    holds_pet: bool | None


def tell_found(
    heard: ReadPrompt | None, mask: Bool[np.ndarray, "h w"], score: float, settings: Settings
) -> dict:
    """`heard` are the prompts there, None where it was tracked; `score`, how likely it is there."""
    reads = zip(heard.labels, heard.means, strict=True) if heard else ()
    coverage = None
    if heard and heard.said.box:
        inside = mask[box_slices(heard.said.box, mask.shape, mask.shape)]
        coverage = np.count_nonzero(inside) / inside.size
    return {
        "region": "pet",
        "reads": [{"label": label, "pet": round(mean, 4)} for label, mean in reads],
        "share": round(np.count_nonzero(mask) / mask.size, 6),
        "coverage": None if coverage is None else round(coverage, 4),
        "holds_pet": heard.holds_pet if heard else None,
        "presence": round(score, 4),
        "words": _words(heard, mask, score, coverage, settings),
    }


def _words(
    heard: ReadPrompt | None,
    mask: Bool[np.ndarray, "h w"],
    score: float,
    coverage: float | None,
    settings: Settings,
) -> str:
    if heard is None:
        seen = f"Found by tracking; {percent(score)} sure that it is here."
        return seen if mask.any() else "By tracking, it is not seen on this frame."
    sentences = []
    if heard.labels:
        last = heard.said.clicks[-1], heard.labels[-1], heard.means[-1]
        sentences.append(read_words(*last, settings))
    if coverage is not None:
        sentences.append(box_words(heard.holds_pet, coverage))
    if not mask.any():
        sentences.append("Nothing is found here; click on the animal or draw a box round it.")
    elif heard.said.find and not heard.labels:
        sentences.append("Found without a prompt; click to correct it.")
    return " ".join(sentences)
