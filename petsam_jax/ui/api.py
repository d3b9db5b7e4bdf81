"""The API `segment` for programs: an image and prompts in, masks out."""

import base64
import binascii
import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image

from petsam_jax.files.rle import encode_rle
from petsam_jax.predict.prompt_inputs import Prompt
from petsam_jax.ui.click_labels import label_click
from petsam_jax.ui.image_service import ImageService
from petsam_jax.ui.open_images import OpenImage
from petsam_jax.ui.page_state import Click, Settings
from petsam_jax.ui.request_fields import BadRequest


def segment_function(service: ImageService) -> Callable:
    """The function that Gradio serves; its signature and docstring document the API."""

    # The argument keeps its public name, `picture`.
    def segment(
        picture: dict | str,
        points: list[list[float | int]] | None = None,
        labels: list[int] | None = None,
        boxes: list[list[float | int]] | None = None,
    ) -> dict:
        """Masks of an image: one object for all points together, or one for each box.

        picture: a file (handle_file in Python), or its bytes in base64. points: [x, y] in pixels;
        labels: 1 pet, 0 background for each, or none to let the server decide. boxes: [x0, y0, x1,
        y1]; only one together with points. Without points and boxes, finds the pet. Returns size
        [height, width] and, for each object, its iou (predicted), labels, rle (COCO, compressed)
        and png (base64, 255 on the object).
        """
        image = service.images.get(service.open(image_bytes(picture))["image"])
        size = image.encoded.size
        # `read_prompts` refuses points of another shape.
        if points and labels is None and np.shape(points) == (len(points), 2):
            labels = auto_labels(image, points)
        prompts = read_prompts(points or None, labels if points else None, boxes or [])
        prediction = service.predictor.predict(prompt=prompts, image=image.encoded)
        masks, ious = prediction.masks.reshape(-1, *size), prediction.iou_pred.reshape(-1)
        objects = [_object(*each, labels or []) for each in zip(masks, ious.tolist(), strict=True)]
        return {"size": list(size), "objects": objects}

    return segment


def read_prompts(
    points: list | None, labels: list[int] | None, boxes: list
) -> Prompt | list[Prompt]:
    """One prompt for all points together, or one for each box. Raises ValueError."""
    if points and len(boxes) > 1:
        raise BadRequest("boxes: only one together with points, which are all of one object")
    if points or not boxes:
        return Prompt.read(points, labels, boxes[0] if boxes else None)
    return [Prompt.read(box=box) for box in boxes]


def auto_labels(image: OpenImage, points: list[list[float | int]]) -> list[int]:
    """The labels that the page would give to clicks at these points."""
    clicks = [Click(math.floor(x + 0.5), math.floor(y + 0.5), "auto") for x, y in points]
    size, settings = image.encoded.size, Settings()
    return [label_click(image.pet_logits, size, click, settings)[0] for click in clicks]


def image_bytes(image: dict | str) -> bytes:
    """The bytes that a client sent as base64 or as an upload; no other file of the server.

    Raises BadRequest for anything else.
    """
    if isinstance(image, str):
        try:
            return base64.b64decode(image.partition("base64,")[2] or image, validate=True)
        except binascii.Error as error:
            raise BadRequest("picture: expected a file, or its bytes in base64") from error
    path = image.get("path")
    if not isinstance(path, str):
        raise BadRequest("picture: expected a file, or its bytes in base64")
    file = Path(path).resolve()
    if not file.is_relative_to(Path(get_upload_folder()).resolve()) or not file.is_file():
        raise BadRequest("picture: no such upload")
    data = file.read_bytes()
    # An upload is for one call and is not needed again.
    file.unlink(missing_ok=True)
    return data


def _object(mask: np.ndarray, iou: float, labels: list[int]) -> dict:
    return {"iou": round(iou, 4), "labels": labels, "rle": encode_rle(mask), "png": _png(mask)}


def _png(mask: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
