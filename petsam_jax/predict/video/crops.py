"""Which part of a frame the model is shown, and how masks go from one such view to another.

SAM 2 is shown whole frames, stretched to a square. But the place of a tracked object is known, and
most are small: a square around one shows more of its detail at the model's input size, and has the
shape of the training images. Where frames have no more detail than that, they are shown whole. A
click on a frame where nothing is known is tried on the whole frame and on a square of it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped
from PIL import Image

# Logits outside a view, where masks are fed back: those outside of a mask prompt.
OUTSIDE = -10.0
# Share of a mask, on each side, that may stick out of its box: specks do not widen the view.
SPECKS = 0.01
# How many times as wide as the objects a new view is, and within which bounds it is kept; how near
# they may come to its sides, as a share of it. Views that follow every step lose parts of a pet,
# one after another: J on DAVIS' dog is then 0.60 to 0.70, 0.71 with whole frames and 0.75 so.
ZOOM, LEAST, MOST, EDGE = 1.5, 1.25, 2.0, 0.05

Box = tuple[float, float, float, float]


class View(NamedTuple):
    """A rectangle of a frame's pixels."""

    left: int
    top: int
    width: int
    height: int

    def crop(self, frame: Shaped[np.ndarray, "h w *c"]) -> Shaped[np.ndarray, "H W *c"]:
        """The pixels of a frame, or of a mask of it, that are in view."""
        return frame[self.top : self.top + self.height, self.left : self.left + self.width]

    def contains(self, points: np.ndarray) -> bool:
        """Whether all points (x, y), as pixel indices, are in view."""
        low = np.array([self.left, self.top]) - 0.5
        return bool(((points >= low) & (points <= low + (self.width, self.height))).all())


class MaskInView(NamedTuple):
    """An object's mask on a frame, as logits of a view."""

    logits: Float32[np.ndarray, "h4 w4"]
    view: View
    present: bool  # whether the object is there at all
    memory_view: View | None  # the view in which the frame is remembered, if it is

    def box(self) -> Box | None:
        """x0 y0 x1 y1 in the frame's pixels, leaving out `SPECKS`; None without a mask."""
        mask = self.logits > 0
        if not (self.present and mask.any()):
            return None
        ends = []
        cells, sides = mask.shape[::-1], self.view[2:]
        for axis, (start, side, number) in enumerate(zip(self.view[:2], sides, cells, strict=True)):
            share = np.cumsum(mask.sum(axis=axis)) / mask.sum()
            first, last = (
                np.searchsorted(share, SPECKS, "right"),
                np.searchsorted(share, 1 - SPECKS),
            )
            ends.append((start + side / number * first, start + side / number * (last + 1)))
        (x0, x1), (y0, y1) = ends
        return x0, y0, x1, y1

    def in_view(self, view: View) -> Float32[np.ndarray, "h4 w4"]:
        """The logits in another view, of the same frame or of the next."""
        if view == self.view:
            return self.logits
        rows, columns = self.logits.shape
        across, down = view.width / self.view.width, view.height / self.view.height
        right = (view.left - self.view.left) / self.view.width * columns
        below = (view.top - self.view.top) / self.view.height * rows
        moved = Image.fromarray(self.logits).transform(
            (columns, rows),
            Image.Transform.AFFINE,
            (across, 0, right, 0, down, below),
            Image.Resampling.BILINEAR,
            fillcolor=OUTSIDE,
        )
        return np.asarray(moved, np.float32)


def full_view(size: tuple[int, int]) -> View:
    """All of a frame of this height and width."""
    return View(0, 0, size[1], size[0])


def first_views(
    points: Float[np.ndarray, "p 2"], boxed: bool, size: tuple[int, int], side: int
) -> list[View]:
    """The views to try for points (x, y) on a frame where nothing else is known.

    Around a box, whose corners are among the points, the view of a tracked object. Clicks do not
    tell an object's size: the whole frame is tried and, where that is not square, a square of it,
    in which nothing is stretched. On 870 photographs, IoU from a box is 0.71 with its view and 0.68
    with whole images.
    """
    if not len(points):
        return [full_view(size)]
    low, high = points.min(axis=0), points.max(axis=0)
    if boxed:
        return [next_view([(*low, *high)], [], size, side)]
    square = _around(low, high, np.array([min(size)] * 2), size)
    if square == full_view(size) or not square.contains(points):
        return [full_view(size)]
    return [full_view(size), square]


def is_cut_off(mask: MaskInView, size: tuple[int, int]) -> bool:
    """Whether a mask reaches a side of its view beyond which the frame continues."""
    box = mask.box()
    if box is None:
        return False
    cell = np.array(mask.view[2:]) / mask.logits.shape[::-1]
    return not _inside(mask.view, np.array(box[:2]), np.array(box[2:]), cell, size)


def next_view(boxes: Sequence[Box], last: Sequence[View], size: tuple[int, int], side: int) -> View:
    """The view for objects that were in these boxes, in a frame of this height and width.

    One of the `last` views as long as it fits, so that the memories keep their places. Else a
    square around the boxes, as far as the frame reaches, and no smaller than `side`, that of the
    model's input: the frame has no more detail.
    """
    if not boxes:
        return full_view(size)
    corners = np.array(boxes)
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    for view in last:
        if _fits(view, low, high, size, side):
            return view
    sides = np.minimum(max(side, round(ZOOM * float((high - low).max()))), size[::-1])
    return _around(low, high, sides, size)


def _around(low, high, sides, size: tuple[int, int]) -> View:
    """A view with these sides around corners `low` and `high`, moved into the frame."""
    corner = np.clip(np.round((low + high - sides) / 2), 0, size[::-1] - sides)
    return View(*map(int, (*corner, *sides)))


def _inside(view: View, low, high, away, size: tuple[int, int]) -> bool:
    """Whether corners `low` and `high` are at least `away` from the view's sides.

    The frame's own sides do not count: beyond them nothing is cut off.
    """
    begin, end = np.array(view[:2]), np.array(view[:2]) + view[2:]
    after = (low >= begin + away) | (begin == 0)
    before = (high <= end - away) | (end == size[::-1])
    return bool((after & before).all())


def _fits(view: View, low, high, size: tuple[int, int], side: int) -> bool:
    """Whether objects from corner `low` to `high` are well inside, and of a suitable size."""
    larger = max(view[2:])
    inside = _inside(view, low, high, EDGE * larger, size)
    times = larger / float((high - low).max())
    near = times >= LEAST or view == full_view(size)
    return inside and near and (times <= MOST or larger <= side)


def uncrop(
    masks: Bool[np.ndarray, "*n H W"], view: View, size: tuple[int, int]
) -> Bool[np.ndarray, "*n h w"]:
    """Masks of a view as masks of the frame, empty outside the view."""
    if view == full_view(size):
        return masks
    large = np.zeros((*masks.shape[:-2], *size), bool)
    rows = slice(view.top, view.top + view.height)
    large[..., rows, view.left : view.left + view.width] = masks
    return large
