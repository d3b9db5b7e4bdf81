"""What the page asks, answered without any web around it: bytes and states in, plain data out.

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
from petsam_jax.ui.messages import tell_object
from petsam_jax.ui.object_masks import ObjectAnswer, answer_object, box_slices, object_mask
from petsam_jax.ui.open_images import OpenPicture, OpenPictures
from petsam_jax.ui.page_state import ObjectPrompts, PageState

# What people have and Pillow reads safely, by Pillow's names.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# The formats that all browsers turn as EXIF says.
TURNED_BY_BROWSERS = ("JPEG", "MPO")


class Masks(NamedTuple):
    """All objects' answers, and each pixel's object: 0 none, i + 1 objects[i]."""

    labels: UInt8[np.ndarray, "h w"]
    answers: list[ObjectAnswer | None]  # None for an object about which nothing was said
    coverages: list[float | None]  # of each box, by its object's pet, whoever has the pixels


class ImageService:
    """A predictor and the pictures that visitors have open."""

    def __init__(self, predictor: ImagePredictor, limits: Limits | None = None):
        self.predictor, self.limits = predictor, limits or Limits()
        self.pictures = OpenPictures(self.limits)

    def warm_up(self) -> None:
        """Compile what visitors would wait for: a picture, a click, and many clicks."""
        blank = self.predictor.encode(np.zeros((64, 64, 3), np.uint8))
        for clicks in (1, MAX_POINTS):
            self.predictor.predict_low_res([(1, 1)] * clicks, [1] * clicks, image=blank)

    def open(self, file: bytes) -> dict:
        """Encode the picture in a file's bytes: its id, its size, and how it is best shown.

        Raises UnfitImage, a ValueError, for what is no picture, is damaged or too large.
        """
        pixels, browser_shows_it = self._decode(file)
        encoded = self.predictor.encode(pixels)
        pet = self.predictor.predict_low_res(multimask=True, image=encoded)
        name = self.pictures.add(OpenPicture(file, encoded, pet))
        height, width = encoded.size
        return {
            "picture": name,
            "width": width,
            "height": height,
            "browser_shows_it": browser_shows_it,
        }

    def pixels(self, name: str) -> UInt8[np.ndarray, "h w 3"]:
        """An open picture, turned as EXIF says; raises Expired."""
        return self._decode(self.pictures.get(name).file)[0]

    def _decode(self, file: bytes) -> tuple[UInt8[np.ndarray, "h w 3"], bool]:
        """RGB, and whether the page may show the file itself instead of what we make of it."""
        if len(file) > self.limits.max_upload:
            limit = self.limits.max_upload / MEGA
            raise UnfitImage("picture", f"more than {limit:g} MB; make it smaller first")
        picture = open_image(file)
        if picture.format not in FORMATS:
            reason = f"{picture.format} files are not taken here; save it as JPEG or PNG"
            raise UnfitImage("picture", reason)
        check_size(picture, self.limits.max_pixels)
        as_stored = "exif" not in picture.info or picture.format in TURNED_BY_BROWSERS
        return upright_rgb(picture), as_stored

    def answer(self, state: PageState) -> dict:
        """Masks as runs of labels, and what there is to say about each object.

        Raises Expired for a picture that is not open, BadRequest for prompts outside of it.
        """
        picture = self.pictures.get(state.picture)
        shown = shown_size(picture.encoded.size, self.limits.shown_pixels)
        masks = self.masks(picture, state, shown)
        told = [
            tell_object(said, answer, masks.labels == number, coverage, state.settings)
            if answer
            else None
            for number, (said, answer, coverage) in enumerate(
                zip(state.objects, masks.answers, masks.coverages, strict=True), start=1
            )
        ]
        return {"height": shown[0], "width": shown[1], "runs": runs(masks.labels), "objects": told}

    def masks(self, picture: OpenPicture, state: PageState, shown: tuple[int, int]) -> Masks:
        """All objects at the size that is shown, none over another."""
        labels = np.zeros(shown, np.uint8)
        answers: list[ObjectAnswer | None] = []
        coverages: list[float | None] = []
        for number, said in enumerate(state.objects, start=1):
            if said.is_empty:
                answers.append(None)
                coverages.append(None)
                continue
            answers.append(answer_object(self.predictor, picture, said, state.settings))
            mask = object_mask(said, answers[-1], state.settings, picture.encoded.size, shown)
            coverages.append(_coverage(said, answers[-1], mask, picture.encoded.size))
            if number > 1:
                _give_way(mask, labels, answers)
            labels[mask] = number
        return Masks(labels, answers, coverages)


def _coverage(
    said: ObjectPrompts, answer: ObjectAnswer, mask: np.ndarray, picture: tuple[int, int]
) -> float | None:
    """How much of the object's box is pet."""
    if said.box is None:
        return None
    inside = mask[box_slices(said.box, picture, mask.shape)]
    return np.count_nonzero(inside) / inside.size if answer.holds_pet else 0.0


def _give_way(mask: np.ndarray, labels: np.ndarray, answers: list[ObjectAnswer | None]) -> None:
    """Take from a new mask what another object has already and has better reason to."""
    clash = mask & (labels > 0)
    for number in np.unique(labels[clash]):
        where = clash & (labels == number)
        mine, other = (
            logits_at_size(answer.logits, *labels.shape)[where]
            for answer in (answers[-1], answers[number - 1])
        )
        mask[where] = mine > other


def shown_size(picture: tuple[int, int], pixels: int) -> tuple[int, int]:
    """Height and width with at most so many pixels; the picture's own if that is not larger."""
    shrink = min(1.0, math.sqrt(pixels / math.prod(picture)))
    height, width = (max(1, math.floor(side * shrink)) for side in picture)
    return height, width


def runs(labels: UInt8[np.ndarray, "h w"]) -> list[int]:
    """Row by row, label and length of each run in turn: small, quick to make and to paint."""
    flat = labels.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = np.diff(starts, append=flat.size)
    return np.stack([flat[starts].astype(np.int64), lengths], axis=1).ravel().tolist()
