"""Scores of masks, and the number of clicks they took.

In: binary predictions and masks (0 background, 1 pet, 2 ignored), as JAX or numpy arrays. Out: IoU
with ignored pixels left out, the contour score F of DAVIS (Perazzi et al. 2016), and RITM's number
of clicks (NoC). Scores with a choice of how to count ignored pixels take `border_as_pet`.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from petsam_jax.mask_values import IGNORE, PET

AnyArray = jax.Array | np.ndarray


def iou(
    pred_mask: Bool[AnyArray, "*b h w"],
    mask: UInt8[AnyArray, "*b h w"],
    border_as_pet: bool = False,
) -> Float[AnyArray | np.floating, "*b"]:
    """Intersection over union for each image; 1 if both masks are empty.

    Ignored pixels are left out, or count as pet with `border_as_pet`. Runs under jit.
    """
    pet, counted = _truth(mask, border_as_pet)
    common = (pred_mask & pet & counted).sum((-2, -1))
    either = ((pred_mask | pet) & counted).sum((-2, -1))
    both_empty = either == 0
    return (common + both_empty) / (either + both_empty)


def boundary_f(
    pred_mask: Bool[AnyArray, "h w"],
    mask: UInt8[AnyArray, "h w"],
    border_as_pet: bool = False,
    tolerance: float = 0.008,
) -> float:
    """F score of the contours, within `tolerance` of the image's diagonal (rounded up to pixels).

    Ignored pixels are cleared in both masks before the contours are found, as DAVIS does with void
    pixels: a contour inside the ignored band counts as exact. `border_as_pet` is the strict form.
    1 if both contours are empty, 0 if one is.
    """
    pred_mask, mask = np.asarray(pred_mask), np.asarray(mask)
    pet, counted = _truth(mask, border_as_pet)
    predicted, true = _contour(pred_mask & counted), _contour(pet & counted)
    if not predicted.any() or not true.any():
        return float(predicted.any() == true.any())
    reach = np.ceil(tolerance * np.hypot(*mask.shape))
    precision = (ndimage.distance_transform_edt(~true)[predicted] <= reach).mean()
    recall = (ndimage.distance_transform_edt(~predicted)[true] <= reach).mean()
    if precision + recall == 0:
        return 0.0
    return float(2 * precision * recall / (precision + recall))


class Noc(NamedTuple):
    """The clicks that each image needed, and whether it failed within those allowed."""

    clicks: Int[np.ndarray, " n"]
    failed: Bool[np.ndarray, " n"]


def noc(ious: Float[AnyArray, "n k"], target: float, max_clicks: int = 20) -> Noc:
    """Number of clicks until the IoU first reaches `target`; `max_clicks` if it never does.

    `ious[i, j]` is image i after j + 1 clicks; NaN stands for clicks that were not made. RITM's
    column ">= 20" is `(clicks >= 20).sum()`: it includes images that only the last click solved,
    which `failed` does not. Raises ValueError for fewer than `max_clicks` columns.
    """
    ious = np.asarray(ious)
    if not 1 <= max_clicks <= ious.shape[1]:
        raise ValueError(
            f"ious holds {ious.shape[1]} clicks for each image; expected at least {max_clicks}"
        )
    ious = ious[:, :max_clicks]
    reached = ious >= target
    solved = reached.any(axis=1)
    return Noc(np.where(solved, reached.argmax(axis=1) + 1, max_clicks), ~solved)


def _truth(mask, border_as_pet):
    """Which pixels are pet, and which pixels count."""
    if border_as_pet:
        return (mask == PET) | (mask == IGNORE), mask == mask
    return mask == PET, mask != IGNORE


def _contour(region: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels that differ from the one right, below or diagonally below: DAVIS's one-pixel contour.

    A region that the image's border cuts off has no contour there.
    """
    padded = np.pad(region, ((0, 1), (0, 1)), "edge")
    right, below, diagonal = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (region ^ right) | (region ^ below) | (region ^ diagonal)
