"""Masks and strokes as prompts: kept small, drawn, and as the logits that the model reads."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image, ImageDraw
from scipy import ndimage

from petsam_jax.files.rle import decode_rle, encode_rle
from petsam_jax.predict.postprocess import logits_at_size

# Whole pixels or parts of them, which some type checkers keep apart.
Coordinate = float | int
Point = tuple[Coordinate, Coordinate]

# Logits on and off the object, as in training.
LOGIT = 10.0
# Pixels of the longer side that strokes are drawn on: finer than any model's mask input.
DRAWN_SIDE = 512


class Stroke(NamedTuple):
    """A painted line; one that closes also covers what it encloses."""

    radius: float  # of the brush, in pixels
    points: tuple[Point, ...]


class PackedMask(NamedTuple):
    """A mask as COCO's run lengths: small, hashable and ready for JSON."""

    size: tuple[int, int]  # height and width
    counts: str

    @classmethod
    def of(cls, mask: Bool[np.ndarray, "h w"]) -> "PackedMask":
        """Pack a mask."""
        return cls(mask.shape, encode_rle(mask)["counts"])

    def unpack(self) -> Bool[np.ndarray, "h w"]:
        """The mask as an array."""
        return np.ascontiguousarray(decode_rle(self._asdict()))


def mask_logits(mask: Bool[np.ndarray, "H W"], cells: int) -> Float32[np.ndarray, "h w"]:
    """A mask of any size as logits of `cells` x `cells`."""
    return logits_at_size(np.where(mask, np.float32(LOGIT), np.float32(-LOGIT)), cells, cells)


def draw(strokes: Sequence[Stroke], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Strokes on an image of this height and width, at a size that may be smaller."""
    scale = min(1.0, DRAWN_SIDE / max(size))
    height, width = (max(1, round(length * scale)) for length in size)
    drawing = Image.new("1", (width, height))
    pen = ImageDraw.Draw(drawing)
    for stroke in strokes:
        reach = max(1.0, stroke.radius * scale)
        line = [((x + 0.5) * scale, (y + 0.5) * scale) for x, y in stroke.points]
        pen.line(line, fill=1, width=round(2 * reach), joint="curve")
        for x, y in (line[0], line[-1]):
            pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=1)
    return ndimage.binary_fill_holes(np.asarray(drawing))
