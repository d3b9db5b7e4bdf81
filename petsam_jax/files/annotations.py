"""Masks in the annotation formats of other programs: COCO, YOLO and labelme.

None of these formats has polygons with holes: a hole is joined to the outline around it by a cut of
zero width, which fills the same pixels. Coordinates are corners of pixels (see `polygons`), and a
box reaches from the left side of its first pixel to the right side of its last.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from petsam_jax.files.polygons import Ring, joined, mask_polygons
from petsam_jax.files.rle import encode_rle

LABELME_VERSION = "5.5.0"


class Labelled(NamedTuple):
    """An image's objects. An empty mask is no object and left out of every file."""

    name: str  # the image's file name in the annotations
    masks: Bool[np.ndarray, "n h w"]
    iou_pred: Float[np.ndarray, " n"]
    object_score: Float[np.ndarray, " n"]


class Coco:
    """A COCO data set that grows image by image, without keeping masks as arrays."""

    def __init__(self, category: str, tolerance: float | None = None):
        """Run lengths if `tolerance` is None, else polygons of this tolerance in pixels."""
        self._category, self._tolerance = category, tolerance
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, labelled: Labelled) -> None:
        """`score` is the predicted IoU, since COCO's tools rank by it."""
        height, width = labelled.masks.shape[1:]
        image = {"id": len(self.images) + 1, "file_name": labelled.name}
        self.images.append(image | {"width": width, "height": height})
        for mask, iou, object_score in zip(
            labelled.masks, labelled.iou_pred, labelled.object_score, strict=True
        ):
            if not mask.any():
                continue
            annotation = {
                "id": len(self.annotations) + 1,
                "image_id": image["id"],
                "category_id": 1,
                "segmentation": self._segmentation(mask),
                "area": int(mask.sum()),
                "bbox": _box(mask),
                "iscrowd": 0,
                "score": round(float(iou), 4),
                "object_score": round(float(object_score), 4),
            }
            self.annotations.append(annotation)

    def _segmentation(self, mask: Bool[np.ndarray, "h w"]) -> dict[str, Any] | list[list[int]]:
        if self._tolerance is None:
            return encode_rle(mask)
        return [_integers(ring).ravel().tolist() for ring in _outlines(mask, self._tolerance)]

    def to_dict(self) -> dict[str, Any]:
        """The data set as JSON."""
        categories = [{"id": 1, "name": self._category, "supercategory": ""}]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}


def yolo_text(labelled: Labelled, tolerance: float = 1.0, category: int = 0) -> str:
    """A line per object: the category's number, then x and y of each corner as shares of the sides.

    A line holds one outline, so the parts of an object are joined as its holes are.
    """
    height, width = labelled.masks.shape[1:]
    lines = []
    for mask in labelled.masks:
        if outlines := _outlines(mask, tolerance):
            shares = (joined(outlines) / (width, height)).ravel()
            lines.append(" ".join([str(category), *(f"{share:.6g}" for share in shares)]) + "\n")
    return "".join(lines)


def labelme(labelled: Labelled, label: str, tolerance: float = 1.0) -> dict[str, Any]:
    """The annotation as JSON; the parts of an object share a `group_id`, counted from 1."""
    height, width = labelled.masks.shape[1:]
    shapes = [
        {
            "label": label,
            "points": _integers(ring).tolist(),
            "group_id": number,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
        }
        for number, mask in enumerate(labelled.masks, start=1)
        for ring in _outlines(mask, tolerance)
    ]
    return {
        "version": LABELME_VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": labelled.name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _outlines(mask: Bool[np.ndarray, "h w"], tolerance: float) -> list[Ring]:
    """A ring for each part of the mask, with its holes joined to it."""
    return [joined([part.outer, *part.holes]) for part in mask_polygons(mask, tolerance)]


def _integers(ring: Ring) -> np.ndarray:
    """Corners of pixels as integers, which are shorter in text."""
    return ring.astype(np.int64)


def _box(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """x, y, width and height of the mask's pixels."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
