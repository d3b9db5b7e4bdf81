"""Cut-outs: a pet over another image, and other pets beside, behind or partly over it.

In and out: an RGB Pillow image and its mask of one size, in which 1 is the target. Cut-outs fade
over a pixel or two, so that no hard rim gives them away. Everything but the target becomes
background, other pets included: the prompt tells which pet is the target.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from petsam_jax.data import warp
from petsam_jax.data.warp import Layer, Matrix
from petsam_jax.mask_values import BACKGROUND, IGNORE, PET

# Radius in pixels of the box filter that fades; the pet's own edge is half transparent.
FADE = 1
HALF = 128
# How far a cut-out reaches into the ignored rim, in pixels: fur comes first, and its old background
# only further out.
SPREAD = 2
# A pet this close to a side of the image, as a share of it, counts as cut off there.
EDGE = 0.02
# Longer side of a pet added beside another, as a share of the image's.
BESIDE_SIDE = (0.3, 0.7)
# A pet smaller than this share of its own image is not worth pasting.
LEAST_AREA = 0.01
# At least this share of a pet beside another must be visible.
LEAST_SHOWN = 0.3
PLACE_TRIES = 4
_IS_PET = [255 if value == PET else 0 for value in range(256)]

Mask = UInt8[np.ndarray, "h w"]


class Box(NamedTuple):
    """Where a pet is in its image, as shares of the sides, and where it is cut off."""

    low: np.ndarray  # (x, y)
    high: np.ndarray
    cut_low: np.ndarray  # at the left, at the top
    cut_high: np.ndarray  # at the right, at the bottom


def pet_box(layer: Layer) -> Box | None:
    """The bounds of the pet; None without a pet pixel."""
    bounds = layer.mask.point(_IS_PET).getbbox()
    if bounds is None:
        return None
    low, high = np.array(bounds).reshape(2, 2) / layer.mask.size
    return Box(low, high, low < EDGE, high > 1 - EDGE)


def pet_alpha(mask: Mask) -> Image.Image:
    """Opacity as an 8-bit image: 255 inside the pet, 0 outside; a hard edge is half opaque."""
    pet = mask == PET
    rim = mask == IGNORE
    if rim.any():
        near = Image.fromarray(pet).convert("L").filter(ImageFilter.BoxBlur(SPREAD))
        pet = pet | (rim & (np.asarray(near) > 0))
    return Image.fromarray(pet).convert("L").filter(ImageFilter.BoxBlur(FADE))


def paste(image: Image.Image, mask: Mask, ground: Layer) -> tuple[Image.Image, Mask]:
    """Put the pet of an image over `ground`, whose mask is 0, or 2 outside its image."""
    alpha = pet_alpha(mask)
    rim = (mask == IGNORE) & (np.asarray(alpha) > 0)
    kept = (mask == PET) | rim
    return (
        Image.composite(image, ground.image, alpha),
        np.where(kept, mask, np.asarray(ground.mask)),
    )


def put_in_front(
    image: Image.Image, mask: Mask, other: Image.Image, alpha: Image.Image
) -> tuple[Image.Image, Mask]:
    """Cover an image with `other`, of opacity `alpha`; what is covered becomes background."""
    covered = np.asarray(alpha) >= HALF
    return (
        Image.composite(other, image, alpha),
        np.where(covered, np.uint8(BACKGROUND), mask),
    )


def put_behind(
    image: Image.Image, mask: Mask, other: Image.Image, alpha: Image.Image
) -> tuple[Image.Image, Mask]:
    """As `put_in_front`, but the target stays in front."""
    opaque = np.asarray(alpha).astype(np.uint16) * (255 - np.asarray(pet_alpha(mask)))
    hidden = Image.fromarray((opaque // 255).astype(np.uint8))
    return put_in_front(image, mask, other, hidden)


def add_beside(
    rng: np.random.Generator, image: Image.Image, mask: Mask, other: Layer, max_hidden: float
) -> tuple[Image.Image, Mask]:
    """Put the pet of `other` into the image, hiding at most `max_hidden` of the target.

    A pet that its own image cuts off is put at the same edge of this one. Without a fitting place,
    or a pet worth pasting, image and mask are returned unchanged.
    """
    size, target = image.size[0], mask == PET
    box = pet_box(other)
    area = np.asarray(other.mask).size * LEAST_AREA
    if box is None or not target.any() or (np.asarray(other.mask) == PET).sum() < area:
        return image, mask
    if (box.cut_low & box.cut_high).any():
        return image, mask
    in_front = bool(rng.random() < 0.5)
    for _ in range(PLACE_TRIES):
        matrix = placed_view(rng, other, box, size, BESIDE_SIDE)
        cut = np.asarray(warp.warp_mask(other.mask, matrix, size, BACKGROUND))
        pet = cut == PET
        overlap = (pet & target).sum()
        fits = overlap <= max_hidden * target.sum() if in_front else True
        shown = pet.sum() - (0 if in_front else overlap)
        if fits and shown > LEAST_SHOWN * max(pet.sum(), 1):
            put = put_in_front if in_front else put_behind
            return put(image, mask, warp.warp_image(other.image, matrix, size), pet_alpha(cut))
    return image, mask


def placed_view(
    rng: np.random.Generator,
    other: Layer,
    box: Box,
    size: int,
    sides: tuple[float, float],
    stretch: float = 1.0,
) -> Matrix:
    """A random size, place and mirroring for the pet that keeps its cut edges at the border.

    Its longer side lies between the two shares `sides` of the image's. It may be cut off at one of
    two opposite sides, not at both. The ratio of its width to its height changes by up to a factor
    of `stretch` either way.
    """
    flip = bool(rng.random() < 0.5)
    extent = box.high - box.low
    ratio = np.exp(rng.uniform(-0.5, 0.5) * np.log(stretch) * np.array([1, -1]))
    scale = ratio * (extent / ratio).max() / rng.uniform(*sides)
    half = extent / scale / 2
    place = rng.uniform(0.1, 0.9, 2)
    cut_low, cut_high = box.cut_low.copy(), box.cut_high.copy()
    if flip:
        cut_low[0], cut_high[0] = cut_high[0], cut_low[0]
    # A little beyond the edge, so that no gap shows.
    place = np.where(cut_low, half - EDGE, np.where(cut_high, 1 - half + EDGE, place))
    middle = (box.low + box.high) / 2
    aside = (place - 0.5) * scale * (-1 if flip else 1, 1)
    return warp.view_matrix(other.image.size, size, middle - aside, scale, 0.0, flip)
