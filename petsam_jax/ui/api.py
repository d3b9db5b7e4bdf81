"""The API `segment`, for programs: a picture and prompts in, masks out."""

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
from petsam_jax.ui.click_labels import read_click
from petsam_jax.ui.image_service import ImageService
from petsam_jax.ui.page_state import Click, Settings
from petsam_jax.ui.request_fields import BadRequest


def segment_function(studio: ImageService) -> Callable:
    """The function that Gradio serves; its signature and docstring are what the API tells."""

    def segment(
        picture: dict | str,
        points: list[list[float | int]] | None = None,
        labels: list[int] | None = None,
        boxes: list[list[float | int]] | None = None,
    ) -> dict:
        """Masks of a picture: of the object at all points together, or one in each box.

        picture: a file (handle_file in Python), or its bytes in base64. points: [x, y] in pixels;
        labels: 1 pet, 0 background for each, read from the picture if left out. boxes: [x0, y0, x1,
        y1]; beside points just one. With neither, the pet is found. Comes back: size [height,
        width] and for each object its iou (predicted), labels, rle (COCO, compressed) and png
        (base64, 255 where the object is).
        """
        name = studio.open(picture_bytes(picture))["picture"]
        opened = studio.pictures.get(name)
        size = opened.encoded.size
        # Points of another make are for the predictor to refuse.
        if points and labels is None and np.shape(points) == (len(points), 2):
            clicks = [Click(math.floor(x + 0.5), math.floor(y + 0.5), "auto") for x, y in points]
            labels = [read_click(opened.pet_logits, size, c, Settings())[0] for c in clicks]
        if points and boxes and len(boxes) > 1:
            raise BadRequest("boxes: beside points just one, since all points are of one object")
        said = studio.predictor.predict(
            points or None,
            labels if points else None,
            (boxes[0] if points else boxes) if boxes else None,
            image=opened.encoded,
        )
        masks, ious = said.masks.reshape(-1, *size), said.iou_pred.reshape(-1)
        objects = [
            {
                "iou": round(float(iou), 4),
                "labels": labels or [],
                "rle": encode_rle(mask),
                "png": _png(mask),
            }
            for mask, iou in zip(masks, ious, strict=True)
        ]
        return {"size": list(size), "objects": objects}

    return segment


def picture_bytes(picture: dict | str) -> bytes:
    """Of what a client sent: a file that it uploaded, and no other, or base64.

    Raises BadRequest for anything else.
    """
    if isinstance(picture, str):
        try:
            return base64.b64decode(picture.partition("base64,")[2] or picture, validate=True)
        except binascii.Error as error:
            raise BadRequest("picture: want a file, or its bytes in base64") from error
    path = picture.get("path")
    if not isinstance(path, str):
        raise BadRequest("picture: want a file, or its bytes in base64")
    file = Path(path).resolve()
    if not file.is_relative_to(Path(get_upload_folder()).resolve()) or not file.is_file():
        raise BadRequest("picture: no such upload")
    data = file.read_bytes()
    # Nobody asks for it again: what was uploaded for one call ends with it.
    file.unlink(missing_ok=True)
    return data


def _png(mask: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
