"""Labels for clicks that have none: is there a pet under them?

The answer comes from the mask that the model predicts without any prompt. In: that mask as logits
on the model's grid, and clicks in image pixels. Out: the mean pet probability in a small patch of
image pixels around each click.
"""

import numpy as np
from jaxtyping import Float, Float32
from scipy import ndimage, special

from petsam_jax.models.prompts import NEGATIVE, POSITIVE
from petsam_jax.predict.prompt_inputs import Prompt
from petsam_jax.ui.page_state import Click, ObjectPrompts, Settings


def label_clicks(
    pet_logits: Float32[np.ndarray, "h w"],
    image: tuple[int, int],
    prompts: ObjectPrompts,
    settings: Settings,
) -> tuple[Prompt, tuple[float, ...]]:
    """The prompts with a label for each click, and the mean pet probabilities around them.

    `image` is its height and width. Raises BadRequest for prompts outside it.
    """
    prompts.check_inside(image)
    read = [label_click(pet_logits, image, click, settings) for click in prompts.clicks]
    return prompts.labelled([label for label, _ in read]), tuple(mean for _, mean in read)


def label_click(
    pet_logits: Float32[np.ndarray, "h w"],
    image: tuple[int, int],
    click: Click,
    settings: Settings,
) -> tuple[int, float]:
    """A click's label, and the mean pet probability around it."""
    mean = patch_mean(pet_logits, image, click.x, click.y, settings.patch)
    on_pet = mean >= settings.pet_threshold
    if click.label == "opposite":
        on_pet = not on_pet
    elif click.label != "auto":
        on_pet = click.label == "pet"
    return (POSITIVE if on_pet else NEGATIVE), mean


def patch_mean(
    pet_logits: Float32[np.ndarray, "h w"], image: tuple[int, int], x: int, y: int, side: int
) -> float:
    """Mean probability over side x side pixels around (x, y), as far as they are in the image.

    `image` is its height and width. The logits are resized bilinearly with pixel centres aligned,
    and only within the patch.
    """
    reach = (side - 1) // 2
    rows, columns = (
        _to_cells(np.arange(max(at - reach, 0), min(at + side - reach, size)), size, cells)
        for at, size, cells in zip((y, x), image, pet_logits.shape, strict=True)
    )
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"))
    logits = ndimage.map_coordinates(pet_logits, places, order=1, mode="nearest")
    return float(special.expit(logits).mean())


def _to_cells(pixels: np.ndarray, size: int, cells: int) -> Float[np.ndarray, " n"]:
    """Pixel centres in the coordinates of the logits."""
    return (pixels + 0.5) * cells / size - 0.5
