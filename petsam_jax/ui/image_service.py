"""The image tab's requests without HTTP: files and states in, plain data out.

All methods may be called from several threads.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from petsam_jax.files.images import UnfitImage, check_size, open_image, upright_rgb
from petsam_jax.predict.image_predictor import ImagePredictor
from petsam_jax.predict.postprocess import logits_at_size
from petsam_jax.ui.limits import MAX_POINTS, MEGA, Limits
from petsam_jax.ui.messages import describe_object
from petsam_jax.ui.object_masks import (
    SegmentedObject,
    box_slices,
    object_mask,
    segment_object,
)
from petsam_jax.ui.open_images import OpenImage, OpenImages
from petsam_jax.ui.page_state import PageState

# Common formats that Pillow reads safely, by Pillow's names.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# The formats that every browser turns upright by their EXIF orientation.
UPRIGHT_IN_BROWSERS = ("JPEG", "MPO")


class ImageMasks(NamedTuple):
    """The objects of an image; `labels` is 0 where there is none, i + 1 on objects[i]."""

    labels: UInt8[np.ndarray, "h w"]
    objects: list[SegmentedObject | None]  # None without prompts
    coverages: list[float | None]  # the share of each box that is pet, overlapping objects included


class ImageService:
    """A predictor and the images that visitors have open."""

    def __init__(self, predictor: ImagePredictor, limits: Limits | None = None):
        self.predictor, self.limits = predictor, limits or Limits()
        self.images = OpenImages(self.limits)

    def warm_up(self) -> None:
        """Compile what the first visitor would wait for: an image, a click, and many clicks."""
        blank = self.predictor.encode(np.zeros((64, 64, 3), np.uint8))
        for clicks in (1, MAX_POINTS):
            self.predictor.predict_low_res([(1, 1)] * clicks, [1] * clicks, image=blank)

    def open(self, file: bytes) -> dict:
        """Encode an image file: its id, its size, and whether browsers show it as it is.

        Raises UnfitImage, a ValueError, for a file that is no image, damaged or too large.
        """
        pixels, browser_shows_it = self._decode(file)
        encoded = self.predictor.encode(pixels)
        unprompted = self.predictor.predict_low_res(multimask=True, image=encoded)
        name = self.images.add(OpenImage(file, encoded, unprompted))
        height, width = encoded.size
        return {
            "image": name,
            "width": width,
            "height": height,
            "browser_shows_it": browser_shows_it,
        }

    def pixels(self, name: str) -> UInt8[np.ndarray, "h w 3"]:
        """An open image, upright; raises Expired."""
        return self._decode(self.images.get(name).file)[0]

    def _decode(self, file: bytes) -> tuple[UInt8[np.ndarray, "h w 3"], bool]:
        """Upright RGB, and whether browsers show the file the same way."""
        if len(file) > self.limits.max_upload:
            limit = self.limits.max_upload / MEGA
            raise UnfitImage("image", f"larger than {limit:g} MB; make it smaller first")
        image = open_image(file)
        if image.format not in FORMATS:
            reason = f"{image.format} files are not supported; save it as JPEG or PNG"
            raise UnfitImage("image", reason)
        check_size(image, self.limits.max_pixels)
        same_in_browsers = "exif" not in image.info or image.format in UPRIGHT_IN_BROWSERS
        return upright_rgb(image), same_in_browsers

    def segment(self, state: PageState) -> dict:
        """Masks as runs of labels, and a description of each object.

        Raises Expired for an image that is not open, BadRequest for prompts outside it.
        """
        image = self.images.get(state.image)
        shown = shown_size(image.encoded.size, self.limits.shown_pixels)
        masks = self.masks(image, state, shown)
        objects = [
            describe_object(prompts, found, masks.labels == number, coverage, state.settings)
            if found
            else None
            for number, (prompts, found, coverage) in enumerate(
                zip(state.objects, masks.objects, masks.coverages, strict=True), start=1
            )
        ]
        height, width = shown
        return {"height": height, "width": width, "runs": runs(masks.labels), "objects": objects}

    def masks(self, image: OpenImage, state: PageState, shown: tuple[int, int]) -> ImageMasks:
        """All objects at the given size, without overlaps."""
        labels = np.zeros(shown, np.uint8)
        objects: list[SegmentedObject | None] = []
        coverages: list[float | None] = []
        for number, prompts in enumerate(state.objects, start=1):
            if prompts.is_empty:
                objects.append(None)
                coverages.append(None)
                continue
            found = segment_object(self.predictor, image, prompts, state.settings)
            mask = object_mask(found, state.settings, image.encoded.size, shown)
            objects.append(found)
            coverages.append(_coverage(found, mask, image.encoded.size))
            if number > 1:
                _resolve_overlaps(mask, labels, objects)
            labels[mask] = number
        return ImageMasks(labels, objects, coverages)


def _coverage(found: SegmentedObject, mask: np.ndarray, image: tuple[int, int]) -> float | None:
    """The share of the object's box that is pet."""
    if found.prompt.box is None:
        return None
    inside = mask[box_slices(found.prompt.box, image, mask.shape)]
    return np.count_nonzero(inside) / inside.size if found.holds_pet else 0.0


def _resolve_overlaps(
    mask: np.ndarray, labels: np.ndarray, objects: list[SegmentedObject | None]
) -> None:
    """Remove from the newest object's mask the pixels where an earlier one has higher logits."""
    overlap = mask & (labels > 0)
    for number in np.unique(labels[overlap]):
        where = overlap & (labels == number)
        newest, earlier = (
            logits_at_size(found.logits, *labels.shape)[where]
            for found in (objects[-1], objects[number - 1])
        )
        mask[where] = newest > earlier


def shown_size(image: tuple[int, int], pixels: int) -> tuple[int, int]:
    """Height and width of at most so many pixels; the image's own if that is not larger."""
    shrink = min(1.0, math.sqrt(pixels / math.prod(image)))
    height, width = (max(1, math.floor(side * shrink)) for side in image)
    return height, width


def runs(labels: UInt8[np.ndarray, "h w"]) -> list[int]:
    """Label and length of each run of equal labels, row by row: small, and quick to draw."""
    flat = labels.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = np.diff(starts, append=flat.size)
    return np.stack([flat[starts].astype(np.int64), lengths], axis=1).ravel().tolist()
