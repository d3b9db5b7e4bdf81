"""Polygons: filled, they are the mask again; no ring touches itself; holes belong to their part."""

import numpy as np
import pytest
from scipy import ndimage

from petsam_jax.files.polygons import joined, mask_polygons, signed_area


def crossings(ring, height, width):
    """How often the ring passes left of each pixel's centre."""
    y = np.arange(height) + 0.5
    x = np.arange(width) + 0.5
    passed = np.zeros((height, width), int)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        rows = np.flatnonzero((y0 > y) != (y1 > y))
        at = x0 + (y[rows] - y0) * (x1 - x0) / (y1 - y0 if y1 != y0 else 1)
        passed[rows] += at[:, None] < x
    return passed


def filled(rings, height, width):
    """The pixels whose centres are inside by the even-odd rule."""
    total = np.zeros((height, width), int)
    for ring in rings:
        total += crossings(ring, height, width)
    return total % 2 == 1


def rings_of(polygons):
    return [ring for polygon in polygons for ring in (polygon.outer, *polygon.holes)]


def noise(rng, number=40):
    for _ in range(number):
        yield rng.random(rng.integers(1, 14, 2)) < rng.choice([0.3, 0.5, 0.7, 1])


def pet(rng, size=(120, 160)):
    """A blob with holes and islands, as a model leaves them."""
    smooth = ndimage.gaussian_filter(rng.normal(size=size), 9)
    return smooth + 0.2 * ndimage.gaussian_filter(rng.normal(size=size), 2) > 0


def test_filled_polygons_equal_the_mask(rng):
    for mask in [*noise(rng), pet(rng), np.zeros((4, 5), bool)]:
        np.testing.assert_array_equal(filled(rings_of(mask_polygons(mask)), *mask.shape), mask)


def test_a_mask_with_a_hole_by_hand():
    mask = np.ones((4, 5), bool)
    mask[1:3, 2] = False
    (polygon,) = mask_polygons(mask)
    assert polygon.outer.tolist() == [[0, 0], [5, 0], [5, 4], [0, 4]]
    (hole,) = polygon.holes
    assert sorted(hole.tolist()) == [[2, 1], [2, 3], [3, 1], [3, 3]]
    assert signed_area(polygon.outer) == 20 and signed_area(hole) == -2


def test_the_rings_of_each_part_hold_its_pixels(rng):
    for mask in [*noise(rng), pet(rng)]:
        polygons = mask_polygons(mask)
        parts, number = ndimage.label(mask)
        areas = [signed_area(p.outer) + sum(map(signed_area, p.holes)) for p in polygons]
        assert sorted(areas) == sorted(np.bincount(parts.ravel())[1:].tolist())
        assert len(polygons) == number
        assert all(signed_area(hole) < 0 for p in polygons for hole in p.holes)
        sizes = [signed_area(polygon.outer) for polygon in polygons]
        assert sizes == sorted(sizes, reverse=True)


def test_no_ring_touches_itself_and_every_corner_turns(rng):
    for mask in [*noise(rng), pet(rng)]:
        for ring in rings_of(mask_polygons(mask)):
            assert len(np.unique(ring, axis=0)) == len(ring) >= 4
            sides = np.roll(ring, -1, axis=0) - ring
            assert ((sides == 0).sum(axis=1) == 1).all()
            horizontal = sides[:, 1] == 0
            assert (horizontal != np.roll(horizontal, 1)).all()


def test_pixels_that_touch_at_a_corner_are_parts_and_pockets_are_holes():
    assert len(mask_polygons(np.eye(3, dtype=bool))) == 3
    # The upper right corner of the pocket is open only where two corners touch.
    pocket = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1]], bool)
    (polygon,) = mask_polygons(pocket)
    assert signed_area(polygon.outer) == 8 and [signed_area(h) for h in polygon.holes] == [-1]


@pytest.mark.filterwarnings("ignore:__array__")
def test_joined_rings_equal_the_mask(rng):
    coco = pytest.importorskip("pycocotools.mask")
    for mask in [mask for mask in [*noise(rng), pet(rng)] if mask.any()]:
        ring = joined(rings_of(mask_polygons(mask)))
        np.testing.assert_array_equal(filled([ring], *mask.shape), mask)
        theirs = coco.frPyObjects([ring.ravel().tolist()], *mask.shape)[0]
        np.testing.assert_array_equal(coco.decode(theirs), mask)
    with pytest.raises(ValueError, match="an empty mask has no outline"):
        joined([])


@pytest.mark.parametrize("tolerance", [0.75, 3.0])
def test_a_tolerance_drops_corners_and_moves_no_side_farther_than_twice_that(rng, tolerance):
    mask = pet(rng)
    exact, rough = mask_polygons(mask), mask_polygons(mask, tolerance)
    assert len(exact) == len(rough)
    assert sum(len(p.holes) for p in exact) == sum(len(p.holes) for p in rough) > 0
    few, many = rings_of(rough), rings_of(exact)
    assert sum(map(len, few)) < 0.45 * sum(map(len, many))
    assert all(len(ring) >= 3 for ring in few)
    changed = filled(few, *mask.shape) != mask
    # The image's sides are sides of the mask too.
    padded = np.pad(mask, 1)
    depth = np.maximum(*(ndimage.distance_transform_edt(side) for side in (padded, ~padded)))
    assert 0 < depth[1:-1, 1:-1][changed].max() <= 2 * tolerance + 0.5


def test_polygons_of_a_tolerance_of_a_pixel_are_nearly_the_mask(rng):
    mask = ndimage.zoom(pet(rng).astype(float), 3, order=1) > 0.5
    found = filled(rings_of(mask_polygons(mask, 1.0)), *mask.shape)
    assert (found & mask).sum() / (found | mask).sum() > 0.98


def test_megapixels_cover_the_area_of_the_mask(rng):
    mask = np.zeros((2000, 1500), bool)
    mask[300:1700, 200:1300] = np.kron(pet(rng, (140, 110)), np.ones((10, 10), bool))
    assert sum(map(signed_area, rings_of(mask_polygons(mask)))) == mask.sum()
