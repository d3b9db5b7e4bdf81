"""Masks as images: black and white or numbered, cut-outs, and overlays.

In: the image, uint8 RGB, and masks of its size. Out: arrays or Pillow images to save.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image
from scipy import ndimage

from petsam_jax.files.masks import no_overlap

Colour = tuple[int, int, int]

# Colours of objects in their order, easy to tell apart; they repeat after the last.
COLOURS: tuple[Colour, ...] = (
    (59, 130, 246),
    (245, 158, 11),
    (168, 85, 247),
    (236, 72, 153),
    (6, 182, 212),
    (132, 204, 22),
)
# A numbered mask has a byte per pixel, and 255 means "ignore" in many programs.
MAX_OBJECTS = 254
# Width of an outline as a share of the image's longer side; at least a pixel.
OUTLINE = 1 / 400


def mask_image(
    masks: Bool[np.ndarray, "n h w"], scores: Float[np.ndarray, " n"] | None = None
) -> Image.Image:
    """One object white on black; several as numbers 1..n, shown in colours on black.

    Where objects overlap, the one with the highest score wins; without scores, the first. Numbers
    are palette entries, so that viewers show colours and programs read numbers.
    """
    if len(masks) == 1:
        return Image.fromarray(np.where(masks[0], np.uint8(255), np.uint8(0)))
    if len(masks) > MAX_OBJECTS:
        raise ValueError(f"{len(masks)} masks; a numbered image holds at most {MAX_OBJECTS}")
    separate = no_overlap(masks, scores)
    numbers = np.zeros(masks.shape[1:], np.uint8)
    for number, mask in enumerate(separate, start=1):
        numbers[mask] = number
    image = Image.fromarray(numbers)
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(masks))]
    image.putpalette(np.array([(0, 0, 0), *colours], np.uint8).tobytes())
    return image


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    masks: Bool[np.ndarray, "n h w"],
    colours: Sequence[Colour] = COLOURS,
    opacity: float = 0.45,
) -> UInt8[np.ndarray, "h w 3"]:
    """The image with each mask tinted and outlined, later masks above earlier ones.

    `opacity` ranges from 0 (outlines only) to 1 (opaque).
    """
    drawn = image.copy()
    width = max(1, round(max(image.shape) * OUTLINE))
    shades = np.arange(256, dtype=np.float32)
    for number, mask in enumerate(masks):
        window = _window(mask, width)
        if window is None:
            continue
        inside, view = mask[window], drawn[window]
        edge = inside & ~core(inside, width)
        for channel, value in enumerate(np.float32(colours[number % len(colours)])):
            # A table of 256 shades is quicker than tinting every pixel.
            tinted = np.rint(shades + np.float32(opacity) * (value - shades)).astype(np.uint8)
            plane = view[..., channel]
            np.copyto(plane, tinted[plane], where=inside)
            plane[edge] = value
    return drawn


def core(mask: Bool[np.ndarray, "h w"], width: int) -> Bool[np.ndarray, "h w"]:
    """The pixels of a mask more than `width` steps across and down from its edge.

    The mask is taken to continue beyond the image's border.
    """
    for _ in range(width):
        around = np.pad(mask, 1, constant_values=True)
        mask = mask & around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return mask


def cutout(
    image: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    *,
    trim: bool = True,
    soft: float = 0.0,
    background: Colour | UInt8[np.ndarray, "h w 3"] | None = None,
) -> UInt8[np.ndarray, "H W 4"]:
    """The object as RGBA, at the image's size or trimmed to what is not transparent.

    The edge fades over `soft` pixels, centred on the mask's edge. Beyond the mask it takes the
    colours of the object's nearest pixels, so that the old background does not shine through, and
    fully transparent pixels are black, so that the file does not hide it. `background` is a colour
    or an image to put behind the object. An empty mask is not trimmed but transparent everywhere.
    """
    window = _window(mask, math.ceil(soft / 2) + 1)
    rgba = np.zeros((*mask.shape, 4), np.uint8)
    if window is not None:
        rgba[window] = _faded(image[window], mask[window], soft)
    visible = rgba[..., 3] > 0
    if background is not None:
        below = np.broadcast_to(np.asarray(background, np.uint8), image.shape)
        rgba[..., :3] = _blend(rgba, below)
        rgba[..., 3] = 255
    return rgba[_window(visible, 0) or ...] if trim else rgba


def _blend(
    above: UInt8[np.ndarray, "h w 4"], below: UInt8[np.ndarray, "h w 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    share = above[..., 3:] / np.float32(255)
    return np.rint(below + share * (above[..., :3] - below.astype(np.float32))).astype(np.uint8)


def _faded(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], soft: float
) -> UInt8[np.ndarray, "h w 4"]:
    """RGBA of a window around a mask that is not empty."""
    # A mask that fills the window has no edge to fade.
    if soft <= 0 or mask.all():
        return np.dstack([image * mask[..., None], np.where(mask, np.uint8(255), np.uint8(0))])
    outward, nearest = ndimage.distance_transform_edt(~mask, return_indices=True)
    inward = ndimage.distance_transform_edt(mask)
    alpha = _ramp(np.where(mask, inward - 0.5, 0.5 - outward).astype(np.float32), soft)
    colours = image[tuple(nearest)] * (alpha > 0)[..., None]
    return np.dstack([colours, alpha])


def _ramp(depth: Float32[np.ndarray, "h w"], soft: float) -> UInt8[np.ndarray, "h w"]:
    """0 to 255 as the depth within the mask goes from -soft/2 to soft/2 pixels."""
    return np.rint(np.clip(0.5 + depth / np.float32(soft), 0, 1) * 255).astype(np.uint8)


def _window(mask: Bool[np.ndarray, "h w"], margin: int) -> tuple[slice, slice] | None:
    """Rows and columns of a mask and a margin around it, within the image; None if it is empty."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return None
    return tuple(slice(max(0, one.start - margin), one.stop + margin) for one in found[0])
