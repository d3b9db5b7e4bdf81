"""Files to save from the image tab: the masks on the page, at full size.

In: a service, and a request with the page's state and the export options. Out: bytes.
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
from petsam_jax.ui.image_service import ImageMasks, ImageService
from petsam_jax.ui.page_state import ExportOptions, read_export
from petsam_jax.ui.request_fields import BadRequest

# Colours of boxes and of background, as on the page.
PET, BACKGROUND = (22, 163, 74), (220, 38, 38)
IMAGE_KINDS = ("overlay", "cutout", "white", "blur", "mask")
TEXT_KINDS = ("json", "coco", "yolo", "labelme")


class File(NamedTuple):
    data: bytes
    mime: str


@dataclasses.dataclass(frozen=True)
class FullSizeMasks:
    """An image, and the masks of the objects that have prompts."""

    image: UInt8[np.ndarray, "h w 3"]
    masks: Bool[np.ndarray, "n h w"]
    indices: list[int]  # of each mask's object in the state
    all: ImageMasks


def export_image(service: ImageService, request: object) -> File:
    """The requested file (see `read_export`).

    Raises BadRequest, and whatever `ImageService.segment` raises.
    """
    state, options = read_export(request, (*IMAGE_KINDS, *TEXT_KINDS))
    image = service.images.get(state.image)
    masks = service.masks(image, state, image.encoded.size)
    indices = [i for i, found in enumerate(masks.objects) if found]
    if not indices:
        raise BadRequest("objects: no prompts yet; click on the animal first")
    separate = np.stack([masks.labels == i + 1 for i in indices])
    full = FullSizeMasks(service.pixels(state.image), separate, indices, masks)
    if options.kind in IMAGE_KINDS:
        file = io.BytesIO()
        _render(full, options).save(file, "PNG", compress_level=4)
        return File(file.getvalue(), "image/png")
    mime = "text/plain" if options.kind == "yolo" else "application/json"
    return File(_annotations(full, options).encode(), mime)


def _render(full: FullSizeMasks, options: ExportOptions) -> Image.Image:
    if options.kind == "mask":
        return mask_image(full.masks)
    if options.kind == "overlay":
        return _overlay(full, options)
    mask = full.masks.any(axis=0)
    if options.kind == "cutout":
        return Image.fromarray(cutout(full.image, mask, trim=options.trim, soft=options.soft))
    return Image.fromarray(on_background(options.kind, full.image, mask, options.soft))


def _overlay(full: FullSizeMasks, options: ExportOptions) -> Image.Image:
    """With the boxes, which the page shows too."""
    objects = [full.all.objects[i] for i in full.indices]
    colours = [
        BACKGROUND if found.is_background else COLOURS[options.colour_index(i) % len(COLOURS)]
        for i, found in zip(full.indices, objects, strict=True)
    ]
    drawn = Image.fromarray(overlay(full.image, full.masks, colours, options.opacity))
    pen = ImageDraw.Draw(drawn)
    for found in objects:
        if found.prompt.box:
            width = max(2, round(max(drawn.size) / 400))
            pen.rectangle(
                found.prompt.box, outline=PET if found.holds_pet else BACKGROUND, width=width
            )
    return drawn


def _annotations(full: FullSizeMasks, options: ExportOptions) -> str:
    if options.kind == "json":
        return json.dumps(_json(full, options))
    # The other formats have no word for a background mask: every mask in them is a pet.
    pets = [n for n, i in enumerate(full.indices) if not full.all.objects[i].is_background]
    objects = [full.all.objects[full.indices[n]] for n in pets]
    ious = np.array([found.iou_pred for found in objects])
    scores = np.array([float(found.candidates.object_score) for found in objects])
    labelled = Labelled(options.name, full.masks[pets], ious, scores)
    if options.kind == "yolo":
        return yolo_text(labelled)
    if options.kind == "labelme":
        return json.dumps(labelme(labelled, "pet"), indent=1)
    coco = Coco("pet")
    coco.add(labelled)
    return json.dumps(coco.to_dict())


def _json(full: FullSizeMasks, options: ExportOptions) -> dict:
    height, width = full.masks.shape[1:]
    objects = [
        _object_json(full.all, i) | {"rle": encode_rle(mask), "area": int(mask.sum())}
        for i, mask in zip(full.indices, full.masks, strict=True)
    ]
    return {"name": options.name, "height": height, "width": width, "objects": objects}


def _object_json(masks: ImageMasks, i: int) -> dict:
    found = masks.objects[i]
    prompt = found.prompt
    return {
        "clicks": [
            {"x": x, "y": y, "label": label, "pet": round(prob, 4)}
            for (x, y), label, prob in zip(
                prompt.points, prompt.labels, found.pet_probs, strict=True
            )
        ],
        "box": prompt.box,
        "coverage": masks.coverages[i],
        "region": "background" if found.is_background else "pet",
        "iou_pred": round(found.iou_pred, 4),
    }
