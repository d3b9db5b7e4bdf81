"""The API `segment` for programs: an image and prompts in, masks out."""

import base64
import contextlib
import io
import logging
import math
from collections.abc import Callable, Iterator

import gradio as gr
import numpy as np
from PIL import Image

from petsam_jax.files.images import UnfitImage
from petsam_jax.files.rle import encode_rle
from petsam_jax.predict.prompt_arrays import check_points, read_points
from petsam_jax.predict.prompt_inputs import Prompt
from petsam_jax.ui.api_image import image_bytes
from petsam_jax.ui.cache import Expired
from petsam_jax.ui.click_labels import label_click
from petsam_jax.ui.http import INTERNAL_ERROR
from petsam_jax.ui.image_service import ImageService
from petsam_jax.ui.open_images import OpenImage
from petsam_jax.ui.page_state import Click, Settings
from petsam_jax.ui.request_fields import BadRequest

log = logging.getLogger(__name__)


def segment_function(service: ImageService) -> Callable:
    """The function that Gradio serves; its signature and docstring document the API."""

    # The argument keeps its public name, `picture`.
    def segment(
        picture: dict | str | list,
        points: list | None = None,
        labels: list | None = None,
        boxes: list | None = None,
    ) -> dict:
        """Masks of an image: one object for all points together, or one for each box.

        picture: a file (handle_file in Python), or its bytes in base64. points: [x, y] in pixels;
        labels: 1 pet, 0 background for each, or none to let the server decide. boxes: [x0, y0, x1,
        y1]; only one together with points. Without points and boxes, finds the pet. Returns size
        [height, width] and, for each object, its iou (predicted), labels, rle (COCO, compressed)
        and png (base64, 255 on the object).
        """
        with _errors():
            for name, value in (("points", points), ("labels", labels), ("boxes", boxes)):
                if not isinstance(value, list | None):
                    raise BadRequest(f"{name}: expected a list")
            return _segment(service, picture, points or [], labels, boxes or [])

    return segment


def _segment(
    service: ImageService, picture: object, points: list, labels: list | None, boxes: list
) -> dict:
    image = service.images.get(service.open(image_bytes(picture))["image"])
    size = image.encoded.size
    if points and labels is None:
        check_all_points(points, size)
        labels = auto_labels(image, points)
    prompts = read_prompts(points, labels, boxes)
    prediction = service.predictor.predict(prompt=prompts, image=image.encoded)
    masks, ious = prediction.masks.reshape(-1, *size), prediction.iou_pred.reshape(-1)
    given = [list(prompt.labels) for prompt in prompts]
    objects = [_object(*each) for each in zip(masks, ious.tolist(), given, strict=True)]
    return {"size": list(size), "objects": objects}


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """What is wrong with a request reaches the client in words, and no traceback the terminal."""
    try:
        yield
    except UnfitImage as error:
        raise gr.Error(f"picture: {error.reason}", print_exception=False) from error
    except (ValueError, Expired) as error:
        raise gr.Error(str(error), print_exception=False) from error
    except Exception as error:
        log.exception("segment failed")
        raise gr.Error(INTERNAL_ERROR, print_exception=False) from error


def read_prompts(points: list, labels: list | None, boxes: list) -> list[Prompt]:
    """One prompt for all points together, or one for each box. Raises ValueError.

    Points and labels may have a first axis of objects, and the only box may be four numbers.
    """
    if boxes and _depth(boxes) == 1:
        boxes = [boxes]
    if not points:
        return [Prompt.read(box=box) for box in boxes] or [Prompt()]
    if _depth(points) < 3:
        points, labels = [points], [labels]
        if len(boxes) > 1:
            raise BadRequest("boxes: only one together with points, which are all of one object")
    if _depth(labels) < 2 or len(labels) != len(points):
        raise BadRequest(f"labels: expected {len(points)} lists, one for each object of points")
    if boxes and len(boxes) != len(points):
        raise BadRequest(f"boxes: {len(boxes)} for the {len(points)} objects of points")
    columns = zip(points, labels, boxes or [None] * len(points), strict=True)
    return [Prompt.read(*each) for each in columns]


def _depth(value: object) -> int:
    """How many lists are nested: 2 for points of one object, 3 for points of several."""
    return 1 + _depth(value[0] if value else None) if isinstance(value, list) else 0


def check_all_points(points: list, size: tuple[int, int]) -> None:
    """Raise ValueError for points that are no numbers or lie outside an image of this size."""
    for group in points if _depth(points) > 2 else [points]:
        labels = [1] * len(group) if isinstance(group, list) else 1
        check_points(read_points(group, labels)[0], size)


def auto_labels(image: OpenImage, points: list) -> list:
    """The labels that the page would give to clicks at these points."""
    if _depth(points) > 2:
        return [auto_labels(image, group) for group in points]
    clicks = [Click(math.floor(x + 0.5), math.floor(y + 0.5), "auto") for x, y in points]
    size, settings = image.encoded.size, Settings()
    return [label_click(image.pet_logits, size, click, settings)[0] for click in clicks]


def _object(mask: np.ndarray, iou: float, labels: list[int]) -> dict:
    return {"iou": round(iou, 4), "labels": labels, "rle": encode_rle(mask), "png": _png(mask)}


def _png(mask: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
