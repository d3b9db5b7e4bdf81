"""The output formats and their file names; quick to import.

mask       STEM_mask.png     white on black; several objects as numbers, shown in colours
cutout     STEM_cutout.png   transparent around the object; several objects as _cutout_1, ...
overlay    STEM_overlay.jpg  the image with its objects tinted and outlined
yolo       STEM.txt          a polygon per line, in shares of the image's sides
labelme    STEM.json         polygons, with the image's relative path
coco       coco.json         all images, masks as exact run lengths
polygons   polygons.json     all images, masks as polygons
"""

from collections.abc import Collection
from typing import NamedTuple

# Formats whose files a later run would take for input images.
IMAGES = ("mask", "cutout", "overlay")
TEXTS = {"yolo": ".txt", "labelme": ".json"}
WHOLE_RUN = {"coco": "coco.json", "polygons": "polygons.json"}
FORMATS = (*IMAGES, *TEXTS, *WHOLE_RUN)


class Style(NamedTuple):
    """The options of the formats."""

    category: str = "pet"  # of COCO and labelme
    tolerance: float = 1.0  # of polygons, in pixels
    # Of cut-outs:
    trim: bool = True
    soft: float = 0.0
    background: tuple[int, int, int] | None = None


def mask_name(stem: str) -> str:
    return f"{stem}_mask.png"


def cutout_names(stem: str, objects: int) -> list[str]:
    if objects == 1:
        return [f"{stem}_cutout.png"]
    return [f"{stem}_cutout_{number}.png" for number in range(1, objects + 1)]


def overlay_name(stem: str) -> str:
    return f"{stem}_overlay.jpg"


def file_names(stem: str, formats: Collection[str], objects: int) -> list[str]:
    """All files that may be written for an image with this number of objects."""
    names = [mask_name(stem)] if "mask" in formats else []
    names += cutout_names(stem, objects) if "cutout" in formats else []
    names += [overlay_name(stem)] if "overlay" in formats else []
    return names + [stem + suffix for name, suffix in TEXTS.items() if name in formats]
