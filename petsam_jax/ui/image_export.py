"""What a visitor takes home: files of the very masks that are on the page, at full size.

In: a studio and what the page says, its state and how the file should look. Out: bytes.
"""

import dataclasses
import io
import json
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from petsam_jax.files.annotations import Coco, Labelled, labelme, yolo_text
from petsam_jax.files.render import COLOURS, cutout, mask_image, overlay
from petsam_jax.files.rle import encode_rle
from petsam_jax.ui.backgrounds import on_background
from petsam_jax.ui.image_service import ImageService, Masks
from petsam_jax.ui.page_state import PageState, Style, read_result
from petsam_jax.ui.request_fields import BadRequest

# Of boxes and of background that is shown, as on the page.
PET, BACKGROUND = (22, 163, 74), (220, 38, 38)
PICTURES = ("overlay", "cutout", "white", "blur", "mask")
TEXTS = ("json", "coco", "yolo", "labelme")


class File(NamedTuple):
    data: bytes
    mime: str


@dataclasses.dataclass(frozen=True)
class Found:
    """Masks at full size, and what belongs to each."""

    picture: UInt8[np.ndarray, "h w 3"]
    masks: Bool[np.ndarray, "n h w"]
    objects: list[int]  # whose they are, by their place in the state
    all: Masks


def make_result(studio: ImageService, said: object) -> File:
    """The file that a request asks for (see `read_result`).

    Raises BadRequest, and whatever `ImageService.answer` raises.
    """
    state, style = read_result(said, (*PICTURES, *TEXTS))
    picture = studio.pictures.get(state.picture)
    masks = studio.masks(picture, state, picture.encoded.size)
    objects = [i for i, answer in enumerate(masks.answers) if answer]
    if not objects:
        raise BadRequest("objects: nothing was said about any; click on the animal first")
    apart = np.stack([masks.labels == i + 1 for i in objects])
    found = Found(studio.pixels(state.picture), apart, objects, masks)
    if style.kind in PICTURES:
        file = io.BytesIO()
        _picture(found, state, style).save(file, "PNG", compress_level=4)
        return File(file.getvalue(), "image/png")
    mime = "text/plain" if style.kind == "yolo" else "application/json"
    return File(_text(found, state, style).encode(), mime)


def _picture(found: Found, state: PageState, style: Style) -> Image.Image:
    if style.kind == "mask":
        return mask_image(found.masks)
    if style.kind == "overlay":
        return _overlay(found, state, style)
    mask = found.masks.any(axis=0)
    if style.kind == "cutout":
        return Image.fromarray(cutout(found.picture, mask, trim=style.trim, soft=style.soft))
    return Image.fromarray(on_background(style.kind, found.picture, mask, style.soft))


def _overlay(found: Found, state: PageState, style: Style) -> Image.Image:
    """Boxes stay in the final picture."""
    answers = [found.all.answers[i] for i in found.objects]
    colours = [
        BACKGROUND if answer.shows_background else COLOURS[style.colour(i) % len(COLOURS)]
        for i, answer in zip(found.objects, answers, strict=True)
    ]
    drawn = Image.fromarray(overlay(found.picture, found.masks, colours, style.opacity))
    pen = ImageDraw.Draw(drawn)
    for i, answer in zip(found.objects, answers, strict=True):
        if box := state.objects[i].box:
            width = max(2, round(max(drawn.size) / 400))
            pen.rectangle(box, outline=PET if answer.holds_pet else BACKGROUND, width=width)
    return drawn


def _text(found: Found, state: PageState, style: Style) -> str:
    # Other programs have no word for background that was asked for: to them a mask is a pet.
    pets = [n for n, i in enumerate(found.objects) if not found.all.answers[i].shows_background]
    answers = [found.all.answers[found.objects[n]] for n in pets]
    ious = np.array([answer.iou_pred for answer in answers])
    scores = np.array([float(answer.masks.object_score) for answer in answers])
    labelled = Labelled(style.name, found.masks[pets], ious, scores)
    if style.kind == "yolo":
        return yolo_text(labelled)
    if style.kind == "labelme":
        return json.dumps(labelme(labelled, "pet"), indent=1)
    if style.kind == "coco":
        coco = Coco("pet")
        coco.add(labelled)
        return json.dumps(coco.to_dict())
    height, width = found.masks.shape[1:]
    objects = [
        _facts(state, found.all, i) | {"rle": encode_rle(mask), "area": int(mask.sum())}
        for i, mask in zip(found.objects, found.masks, strict=True)
    ]
    return json.dumps({"name": style.name, "height": height, "width": width, "objects": objects})


def _facts(state: PageState, masks: Masks, i: int) -> dict:
    said, answer = state.objects[i], masks.answers[i]
    # Where each click stands alone, the last one is all that was read.
    clicks = said.clicks[len(said.clicks) - len(answer.labels) :]
    return {
        "clicks": [
            {"x": click.x, "y": click.y, "label": label, "pet": round(mean, 4)}
            for click, label, mean in zip(clicks, answer.labels, answer.means, strict=True)
        ],
        "box": said.box,
        "coverage": masks.coverages[i],
        "region": "background" if answer.shows_background else "pet",
        "iou_pred": round(answer.iou_pred, 4),
    }
