"""How a click is read: is there a pet under it, by the model's own map that it makes unprompted.

In: that map as logits on the model's grid, and a click in the picture's pixels. Out: the mean
probability of pet over a small patch of the picture's pixels around the click.
"""

import numpy as np
from jaxtyping import Float, Float32
from scipy import ndimage, special

from petsam_jax.models.prompts import NEGATIVE, POSITIVE
from petsam_jax.ui.page_state import Click, Settings


def patch_mean(
    pet_logits: Float32[np.ndarray, "h w"], picture: tuple[int, int], x: int, y: int, side: int
) -> float:
    """Mean probability over side x side pixels around (x, y), as far as the picture reaches.

    `picture` is height and width. The map is enlarged bilinearly, pixel centres kept, and only
    where it is looked at.
    """
    reach = (side - 1) // 2
    rows, columns = (
        _cells(np.arange(max(at - reach, 0), min(at + side - reach, size)), size, cells)
        for at, size, cells in zip((y, x), picture, pet_logits.shape, strict=True)
    )
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"))
    logits = ndimage.map_coordinates(pet_logits, places, order=1, mode="nearest")
    return float(special.expit(logits).mean())


def _cells(pixels: np.ndarray, size: int, cells: int) -> Float[np.ndarray, " n"]:
    """Where the centres of some of a picture's pixels are among the cells of the map."""
    return (pixels + 0.5) * cells / size - 0.5


def read_click(
    pet_logits: Float32[np.ndarray, "h w"],
    picture: tuple[int, int],
    click: Click,
    settings: Settings,
) -> tuple[int, float]:
    """The label that a click gets, and the mean probability of pet around it."""
    mean = patch_mean(pet_logits, picture, click.x, click.y, settings.patch)
    on_pet = mean >= settings.pet_threshold
    if click.say == "other":
        on_pet = not on_pet
    elif click.say != "auto":
        on_pet = click.say == "pet"
    return (POSITIVE if on_pet else NEGATIVE), mean
