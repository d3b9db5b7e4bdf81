"""What a visitor takes home: pictures at full size and JSON, as files.

In: a studio and the page's state. Out: bytes, always of the very masks that the predictor gave.
"""

import io
import json
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from petsam_jax.outputs.rle import encode_rle
from petsam_jax.ui.page_state import BadRequest, PageState
from petsam_jax.ui.studio import Masks, Studio

# Objects' colours in their order, as in `browser/store.js`; kept away from the green and red of
# clicks and boxes.
COLOURS = (
    (59, 130, 246),
    (245, 158, 11),
    (168, 85, 247),
    (236, 72, 153),
    (6, 182, 212),
    (132, 204, 22),
)
PET, BACKGROUND = (22, 163, 74), (220, 38, 38)


class File(NamedTuple):
    data: bytes
    mime: str


def make_result(studio: Studio, state: PageState, kind: str) -> File:
    """One of KINDS; raises BadRequest for others, and as `Studio.answer` does."""
    if kind not in KINDS:
        raise BadRequest(f"kind: {kind!r:.40}; there are {', '.join(KINDS)}")
    picture = studio.pictures.get(state.picture)
    masks = studio.masks(picture, state, picture.encoded.size)
    if kind == "json":
        return File(json.dumps(_facts(state, masks), indent=1).encode(), "application/json")
    if kind == "mask":
        made = _stencil(masks)
    else:
        made = KINDS[kind](Image.fromarray(studio.pixels(state.picture)), masks, state)
    file = io.BytesIO()
    made.save(file, "PNG", compress_level=4)
    return File(file.getvalue(), "image/png")


def _stencil(masks: Masks) -> Image.Image:
    return Image.fromarray(np.where(masks.labels > 0, np.uint8(255), np.uint8(0)))


def _overlay(picture: Image.Image, masks: Masks, state: PageState) -> Image.Image:
    palette = np.array([(0, 0, 0), *COLOURS * 2], np.uint8)
    for number, answer in enumerate(masks.answers, start=1):
        if answer and answer.shows_background:
            palette[number] = BACKGROUND
    colour = Image.fromarray(palette[masks.labels])
    picture.paste(Image.blend(picture, colour, 0.5), mask=_stencil(masks))
    pen = ImageDraw.Draw(picture)
    width = max(2, round(max(picture.size) / 400))
    for said, answer in zip(state.objects, masks.answers, strict=True):
        if said.box and answer:
            pen.rectangle(said.box, outline=PET if answer.holds_pet else BACKGROUND, width=width)
    return picture


def _cutout(picture: Image.Image, masks: Masks, state: PageState) -> Image.Image:
    picture.putalpha(_stencil(masks))
    return picture


def _white(picture: Image.Image, masks: Masks, state: PageState) -> Image.Image:
    return Image.composite(picture, Image.new("RGB", picture.size, "white"), _stencil(masks))


def _blur(picture: Image.Image, masks: Masks, state: PageState) -> Image.Image:
    blurred = picture.filter(ImageFilter.GaussianBlur(max(picture.size) / 60))
    return Image.composite(picture, blurred, _stencil(masks))


def _facts(state: PageState, masks: Masks) -> dict:
    height, width = masks.labels.shape
    objects = []
    for number, (said, answer) in enumerate(zip(state.objects, masks.answers, strict=True), 1):
        if answer is None:
            continue
        clicks = zip(said.clicks, answer.labels, answer.means, strict=False)
        objects.append(
            {
                "clicks": [
                    {"x": c.x, "y": c.y, "label": label, "pet": round(mean, 4)}
                    for c, label, mean in clicks
                ],
                "box": said.box,
                "region": "background" if answer.shows_background else "pet",
                "iou_pred": round(answer.iou_pred, 4),
                "area": int(np.count_nonzero(masks.labels == number)),
                "rle": encode_rle(masks.labels == number),
            }
        )
    return {"height": height, "width": width, "objects": objects}


KINDS = {
    "overlay": _overlay,
    "cutout": _cutout,
    "white": _white,
    "blur": _blur,
    "mask": None,
    "json": None,
}
