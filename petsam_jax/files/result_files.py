"""The files of `petsam segment`: of each image with its masks, and of all images of a run."""

import io
import json
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from petsam_jax.files.annotations import Coco, Labelled, labelme, yolo_text
from petsam_jax.files.find_images import ImageFile, replace_file
from petsam_jax.files.formats import (
    TEXTS,
    WHOLE_RUN,
    Style,
    cutout_names,
    mask_name,
    overlay_name,
)
from petsam_jax.files.render import cutout, mask_image, overlay

JPEG_QUALITY = 92
# A little larger than the smallest, in a third of the time.
PNG_EFFORT = 4


def write_files(
    out: Path,
    file: ImageFile,
    formats: Collection[str],
    image: UInt8[np.ndarray, "h w 3"],
    found: Labelled,
    style: Style,
) -> None:
    """All formats but those of the whole run. An empty mask has no cut-out."""
    stem = file.stem
    if "mask" in formats:
        replace_file(out / mask_name(stem), _png(mask_image(found.masks, found.iou_pred)))
    if "cutout" in formats:
        look = {"trim": style.trim, "soft": style.soft, "background": style.background}
        names = cutout_names(stem, len(found.masks))
        for name, mask in zip(names, found.masks, strict=True):
            if mask.any():
                replace_file(out / name, _png(Image.fromarray(cutout(image, mask, **look))))
    if "overlay" in formats:
        buffer = io.BytesIO()
        Image.fromarray(overlay(image, found.masks)).save(buffer, "JPEG", quality=JPEG_QUALITY)
        replace_file(out / overlay_name(stem), buffer.getvalue())
    if "yolo" in formats:
        text = yolo_text(found, style.tolerance)
        replace_file(out / (stem + TEXTS["yolo"]), text.encode())
    if "labelme" in formats:
        path = out / (stem + TEXTS["labelme"])
        # The path from the label file to the image.
        relative = found._replace(name=Path(os.path.relpath(file.path, path.parent)).as_posix())
        record = labelme(relative, style.category, style.tolerance)
        replace_file(path, json.dumps(record, indent=1).encode())


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=PNG_EFFORT)
    return buffer.getvalue()


class WholeRun:
    """The label files that hold all images of a run."""

    def __init__(self, formats: Collection[str], style: Style):
        tolerances = {"coco": None, "polygons": style.tolerance}
        self._sets = {
            WHOLE_RUN[name]: Coco(style.category, tolerance)
            for name, tolerance in tolerances.items()
            if name in formats
        }

    def add(self, found: Labelled) -> None:
        """Add an image's objects."""
        for coco in self._sets.values():
            coco.add(found)

    def write(self, out: Path) -> None:
        """Write the files into a folder."""
        for name, coco in self._sets.items():
            replace_file(out / name, json.dumps(coco.to_dict()).encode())
