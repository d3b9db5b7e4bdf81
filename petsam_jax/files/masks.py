"""Mask files to arrays: official trimaps, and the kinds of mask that people draw.

In: a path, or the bytes of a file. Out: uint8, h w. A mask that cannot be used, or read in one way
only, raises `UnfitImage`.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL import Image

from petsam_jax.files.images import UnfitImage, load, open_image, orientation, turn_upright
from petsam_jax.mask_values import BACKGROUND, IGNORE, PET

# Formats with lossy compression, in which a mask gets grey edges.
LOSSY = ("JPEG", "MPO")
MAX_INSTANCES = 100
# Marks pixels to ignore in a mask of instance numbers, as in Pascal VOC.
VOID = 255
# How much of a grey mask may be neither dark nor light: soft edges, but not a third shade.
MAX_GREY = 0.1
# The official trimap: 1 pet, 2 background, 3 border; anything else is not a trimap.
BAD_TRIMAP = 255
TRIMAP = np.full(256, BAD_TRIMAP, np.uint8)
TRIMAP[[1, 2, 3]] = PET, BACKGROUND, IGNORE


def decode_trimap(file: Path | bytes, name: str = "") -> UInt8[np.ndarray, "h w"]:
    """An official trimap (1 pet, 2 background, 3 border) as values of `mask_values`."""
    image = load(open_image(file, name))
    if image.mode not in ("L", "P"):
        raise UnfitImage(image.filename, f"a trimap is 8-bit grey, this is {image.mode}")
    mask = TRIMAP[np.asarray(image)]
    if (mask == BAD_TRIMAP).any():
        values = np.unique(np.asarray(image))[:8].tolist()
        reason = f"not a trimap: values {values}; expected 1 pet, 2 background and 3 border"
        raise UnfitImage(image.filename, reason)
    return mask


def decode_mask(file: Path | bytes, name: str = "") -> UInt8[np.ndarray, "h w"]:
    """A hand-made mask as 0 background, 1..100 the number of the instance, 255 ignore.

    Accepted are: black and white, soft edges and JPEG noise included (white is instance 1); the
    values 0 and 1; instance numbers, as grey values or palette entries, with white for ignored
    pixels beside them; and, where transparency varies, opaque as the pet. EXIF is applied. Anything
    else, such as a colour image or shades of grey, is refused rather than guessed at.
    """
    image = load(open_image(file, name))
    turned = turn_upright(image, orientation(image))
    turned.filename = image.filename
    values, white = _grey_values(turned)
    found = np.flatnonzero(np.bincount(values.ravel()))
    numbers = found[found < white]
    if image.format not in LOSSY and numbers.size and numbers[-1] <= MAX_INSTANCES:
        _refuse_trimap(found, turned.filename)
        # With nothing but black beside it, white is the pet; with numbers beside it, it is void.
        if numbers[-1] > 0 or found[-1] < white:
            return np.where(values == white, VOID, values).astype(np.uint8)
    share = values / np.float32(white)
    too_dark = MAX_INSTANCES < found[-1] < white / 2
    if too_dark or np.mean((share >= 0.25) & (share < 0.75)) > MAX_GREY:
        raise UnfitImage(
            turned.filename,
            f"neither black and white nor instance numbers from 1 to {MAX_INSTANCES}: "
            f"{found.size} values from {found[0]} to {found[-1]}; save it as a PNG of such values",
        )
    return (share >= 0.5).astype(np.uint8)


def _grey_values(image: Image.Image) -> tuple[Shaped[np.ndarray, "h w"], int]:
    """The mask's values, from whichever channel or palette holds them, and which value is white."""
    if image.mode == "P" and not _is_grey_palette(image):
        indices = np.asarray(image)
        numbers = np.unique(indices[indices != VOID])
        if numbers.size and numbers[-1] > MAX_INSTANCES:
            reason = f"palette entry {numbers[-1]}; instance numbers go up to {MAX_INSTANCES}"
            raise UnfitImage(image.filename, reason)
        return indices, VOID
    if image.has_transparency_data:
        image = _convert(image, "RGBA")
        alpha = np.asarray(image)[..., 3]
        if alpha.min() != alpha.max():
            return np.where(alpha >= 128, np.uint8(255), np.uint8(0)), 255
        image = _convert(image, "RGB")
    if image.mode in ("1", "P"):
        image = _convert(image, "L")
    values = np.asarray(image)
    if values.ndim == 3:
        if image.mode != "RGB" or np.ptp(values.astype(np.int16), axis=2).max() > 8:
            reason = "a mask in colour; save it as black and white or as instance numbers 1..n"
            raise UnfitImage(image.filename, reason)
        values = values[..., 1]
    if values.dtype.kind not in "ui" or values.min() < 0 or values.max() > 65535:
        reason = "mask values must be whole numbers from 0 to 65535"
        raise UnfitImage(image.filename, reason)
    return values, 65535 if values.max() > 255 else 255


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """Pillow's conversion drops the file's name, which the error messages need."""
    converted = image.convert(mode)
    converted.filename = image.filename
    return converted


def _is_grey_palette(image: Image.Image) -> bool:
    """Whether the palette entries in use are shades of grey, and so the values of the mask."""
    colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
    used = np.unique(np.asarray(image))
    return used[-1] < len(colours) and not np.ptp(colours[used], axis=1).any()


def _refuse_trimap(found: np.ndarray, name: str) -> None:
    if found[0] > 0 and found.size > 1 and found[-1] <= 3:
        raise UnfitImage(
            name,
            f"values {found.tolist()} without a background of 0 look like a trimap; save pet as 1, "
            "background as 0 and border as 255",
        )


def no_overlap(
    masks: Bool[np.ndarray, "n h w"], scores: Float[np.ndarray, " n"] | None = None
) -> Bool[np.ndarray, "n h w"]:
    """Each pixel to one mask at most: the one of the highest score, or the first if equal."""
    order = range(len(masks)) if scores is None else np.argsort(-scores, kind="stable")
    separate, taken = np.zeros_like(masks), np.zeros(masks.shape[1:], bool)
    for number in order:
        separate[number] = masks[number] & ~taken
        taken |= masks[number]
    return separate
