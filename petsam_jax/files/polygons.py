"""Masks as polygons with holes, and as single rings for formats without holes.

Coordinates are (x, y) of the corners of pixels: the image reaches from 0 to its width and height,
as in COCO, YOLO and labelme, so they are half a pixel more than the pixel indices of clicks and
boxes. With zero tolerance a polygon runs along the pixels' sides: filled, it is the mask again.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import ndimage
from scipy.spatial import cKDTree

Ring = Float64[np.ndarray, "_ 2"]


class Polygon(NamedTuple):
    """A part of a mask, connected by the sides of its pixels.

    No ring touches itself; two rings may touch at a corner. The outer ring runs clockwise as
    displayed, holes run counterclockwise.
    """

    outer: Ring
    holes: list[Ring]


def mask_polygons(mask: Bool[np.ndarray, "h w"], tolerance: float = 0.0) -> list[Polygon]:
    """The polygons of a mask, the largest first; none for an empty one.

    `tolerance` in pixels: how far a removed corner may lie from the polygon. Smaller rings stay as
    they are, so no part and no hole is lost.
    """
    window = ndimage.find_objects(mask.astype(np.uint8))
    if not window:
        return []
    rows, columns = window[0]
    parts, number = ndimage.label(mask[rows, columns])
    outers, holes = {}, {part: [] for part in range(1, number + 1)}
    for corners in _rings(mask[rows, columns]):
        part = parts[_pixel_inside(corners)]
        ring = _simplified(corners + np.array([columns.start, rows.start], np.float64), tolerance)
        if signed_area(corners.astype(np.float64)) > 0:
            outers[part] = ring
        else:
            holes[part].append(ring)
    polygons = [Polygon(ring, holes[part]) for part, ring in outers.items()]
    return sorted(polygons, key=lambda polygon: -signed_area(polygon.outer))


def signed_area(ring: Ring) -> float:
    """In square pixels; positive for a ring that runs clockwise as displayed."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def joined(rings: list[Ring]) -> Ring:
    """Join several rings to one by cuts of zero width between their nearest corners.

    Filled by the even-odd rule, it covers the same pixels. Raises ValueError for no ring.
    """
    if not rings:
        raise ValueError("rings: none; an empty mask has no outline")
    whole = rings[0]
    for ring in rings[1:]:
        distance, nearest = cKDTree(whole).query(ring)
        from_ring = int(distance.argmin())
        at = int(nearest[from_ring])
        turned = np.roll(ring, -from_ring, axis=0)
        whole = np.concatenate([whole[: at + 1], turned, turned[:1], whole[at:]])
    return whole


# Outlines


def _rings(mask: Bool[np.ndarray, "h w"]) -> list[Int64[np.ndarray, "_ 2"]]:
    """The corners of every outline, in the order of a walk with the mask to its right."""
    padded = np.pad(mask, 1)
    # The four pixels around each corner: above and below, left and right of it.
    al, ar, bl, br = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    crossing = (al == br) & (ar == bl) & (al != ar)
    y, x = np.nonzero((al ^ ar ^ bl ^ br) | crossing)
    # Where two pixels of the mask touch only at a corner, both outlines turn: one corner for each.
    twice = crossing[y, x]
    number = np.repeat(np.arange(len(y)), 1 + twice)
    second = np.diff(number, prepend=-1) == 0
    y, x = y[number], x[number]
    successor = _successors(
        y, x, second, above_right=ar[y, x] & twice[number], below_right=br[y, x]
    )
    corners = np.stack([x, y], axis=1)
    return [corners[walk] for walk in _walks(successor, number)]


def _successors(
    y: Int64[np.ndarray, " n"],
    x: Int64[np.ndarray, " n"],
    second: Bool[np.ndarray, " n"],
    above_right: Bool[np.ndarray, " n"],
    below_right: Bool[np.ndarray, " n"],
) -> Int64[np.ndarray, " n"]:
    """The index of the corner after each; corners are sorted by rows.

    In a row, an outline's horizontal sides reach from the first corner to the second, from the
    third to the fourth and so on; in a column likewise. Where two corners coincide, the first ends
    the side to the left and the second the side to the right. The corner of the upper pixel gets
    the upper vertical side: that is the second corner if this pixel is to the right.
    """
    index = np.arange(len(y))
    by_column = np.lexsort((second ^ above_right, y, x))
    successor = np.empty_like(index)
    successor[by_column] = by_column[index ^ 1]
    # To the right along the top of a pixel, to the left along the bottom of one.
    left, right = index[0::2], index[1::2]
    sets_out = np.where(below_right[left], left, right)
    successor[sets_out] = sets_out ^ 1
    return successor


def _walks(successor: Int64[np.ndarray, " n"], place: Int64[np.ndarray, " n"]) -> list[list[int]]:
    """Closed walks through all corners; none visits a place twice."""
    following, place = successor.tolist(), place.tolist()
    walks, seen = [], [False] * len(following)
    for start in range(len(following)):
        walk, position, here = [], {}, start
        while not seen[here]:
            seen[here] = True
            if place[here] in position:
                # The corners between the two visits are a walk of their own.
                since = position[place[here]]
                walks.append(walk[since:])
                for corner in walks[-1]:
                    del position[place[corner]]
                del walk[since:]
            position[place[here]] = len(walk)
            walk.append(here)
            here = following[here]
        if walk:
            walks.append(walk)
    return walks


def _pixel_inside(corners: Int64[np.ndarray, "_ 2"]) -> tuple[int, int]:
    """Row and column of a mask pixel beside a ring."""
    first = 0 if corners[0, 1] == corners[1, 1] else 1
    (x, y), (next_x, _) = corners[first].tolist(), corners[(first + 1) % len(corners)].tolist()
    return (y, x) if next_x > x else (y - 1, x - 1)


# Simplification


def _simplified(ring: Ring, tolerance: float) -> Ring:
    """Douglas and Peucker's algorithm: add the farthest corner until all are within tolerance."""
    if tolerance <= 0:
        return ring
    points = ring @ np.array([1, 1j])
    closed = np.append(points, points[0])
    far = int(np.abs(points - points[0]).argmax())
    kept, stretches = {0, far}, [(0, far), (far, len(ring))]
    while stretches:
        start, end = stretches.pop()
        if end - start < 2:
            continue
        along = closed[end] - closed[start]
        # Scaled so that the stretch is the line from 0 to 1.
        scaled = (closed[start + 1 : end] - closed[start]) / along
        distance = np.abs(scaled - np.minimum(np.maximum(scaled.real, 0.0), 1.0))
        worst = int(distance.argmax())
        if distance[worst] * abs(along) > tolerance:
            kept.add(start + 1 + worst)
            stretches += [(start, start + 1 + worst), (start + 1 + worst, end)]
    return ring[sorted(kept)] if len(kept) > 2 else ring
