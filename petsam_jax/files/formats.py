"""Which formats there are and what their files are called; nothing here is slow to import.

mask       STEM_mask.png     white on black; of several objects their numbers, in colours
cutout     STEM_cutout.png   transparent around the object; of several a file each, _cutout_1
overlay    STEM_overlay.jpg  the image with its objects tinted and outlined
yolo       STEM.txt          polygons, each a line of shares of the image's sides
labelme    STEM.json         polygons, with the way to the image
coco       coco.json         of all images: run lengths, exact
polygons   polygons.json     of all images: the same with polygons
"""

from collections.abc import Collection
from typing import NamedTuple

# Formats whose files a later run would take for images of its input.
IMAGES = ("mask", "cutout", "overlay")
TEXTS = {"yolo": ".txt", "labelme": ".json"}
WHOLE_RUN = {"coco": "coco.json", "polygons": "polygons.json"}
FORMATS = (*IMAGES, *TEXTS, *WHOLE_RUN)


class Style(NamedTuple):
    """What the formats leave open."""

    category: str = "pet"  # of COCO and labelme
    tolerance: float = 1.0  # of polygons, in pixels
    trim: bool = True  # of cut-outs, as are those that follow
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
    """All files that may be made of an image with so many objects."""
    names = [mask_name(stem)] if "mask" in formats else []
    names += cutout_names(stem, objects) if "cutout" in formats else []
    names += [overlay_name(stem)] if "overlay" in formats else []
    return names + [stem + suffix for name, suffix in TEXTS.items() if name in formats]
