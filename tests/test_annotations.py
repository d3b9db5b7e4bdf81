"""Label files: boxes, areas and outlines lead back to the masks; empty masks are not mentioned."""

import contextlib
import io
import json

import numpy as np
import pytest
from scipy import ndimage
from test_polygons import filled

from petsam_jax.files.annotations import Coco, Labelled, labelme, yolo_text
from petsam_jax.files.rle import decode_rle


@pytest.fixture
def pets(rng):
    """Two ragged masks with holes, and an empty one."""
    smooth = [ndimage.gaussian_filter(rng.normal(size=(48, 64)), 3) for _ in range(2)]
    masks = np.stack([smooth[0] > 0.02, smooth[1] > 0.05, np.zeros((48, 64), bool)])
    ious, there = np.array([0.91239, 0.5, 0.1]), np.array([0.99, 0.75, 0.2])
    return Labelled("cats/a.jpg", masks, ious, there)


def test_coco_has_masks_boxes_and_scores(pets):
    coco = Coco("pet")
    coco.add(pets)
    coco.add(pets._replace(name="b.jpg"))
    made = json.loads(json.dumps(coco.to_dict()))
    assert [image["file_name"] for image in made["images"]] == ["cats/a.jpg", "b.jpg"]
    assert made["images"][0] == {"id": 1, "file_name": "cats/a.jpg", "width": 64, "height": 48}
    assert [a["id"] for a in made["annotations"]] == [1, 2, 3, 4]
    assert [a["image_id"] for a in made["annotations"]] == [1, 1, 2, 2]
    for annotation, mask in zip(made["annotations"][:2], pets.masks[:2], strict=True):
        np.testing.assert_array_equal(decode_rle(annotation["segmentation"]), mask)
        x, y, width, height = annotation["bbox"]
        assert annotation["area"] == mask.sum() == mask[y : y + height, x : x + width].sum()
        inside = mask[y : y + height, x : x + width]
        assert inside[[0, -1]].any(axis=1).all() and inside[:, [0, -1]].any(axis=0).all()
    assert [a["score"] for a in made["annotations"][:2]] == [0.9124, 0.5]
    assert made["annotations"][1]["object_score"] == 0.75
    assert made["categories"] == [{"id": 1, "name": "pet", "supercategory": ""}]


@pytest.mark.filterwarnings("ignore:__array__")
@pytest.mark.parametrize("tolerance", [None, 0.0])
def test_pycocotools_reads_the_same_masks(pets, tolerance, tmp_path):
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO

    coco = Coco("pet", tolerance)
    coco.add(pets)
    file = tmp_path / "coco.json"
    file.write_text(json.dumps(coco.to_dict()))
    with contextlib.redirect_stdout(io.StringIO()):
        read = COCO(str(file))
    for number, mask in enumerate(pets.masks[:2], start=1):
        np.testing.assert_array_equal(read.annToMask(read.loadAnns(number)[0]), mask)


def test_yolo_has_a_line_per_object_with_shares_of_the_sides(pets):
    lines = yolo_text(pets, tolerance=0.0).splitlines()
    assert len(lines) == 2
    for line, mask in zip(lines, pets.masks[:2], strict=True):
        category, *numbers = line.split()
        shares = np.array(numbers, float).reshape(-1, 2)
        assert category == "0" and (shares >= 0).all() and (shares <= 1).all()
        corners = shares * (64, 48)
        np.testing.assert_allclose(corners, np.rint(corners), atol=1e-3)
        np.testing.assert_array_equal(filled([np.rint(corners)], *mask.shape), mask)
    assert yolo_text(pets._replace(masks=pets.masks[2:])) == ""


def test_labelme_has_a_polygon_per_part_and_groups_parts_by_object(pets):
    made = json.loads(json.dumps(labelme(pets, "cat", tolerance=0.0)))
    assert made["imagePath"] == "cats/a.jpg" and made["imageData"] is None
    assert (made["imageHeight"], made["imageWidth"]) == (48, 64)
    assert {shape["label"] for shape in made["shapes"]} == {"cat"}
    for number, mask in enumerate(pets.masks, start=1):
        shapes = [shape for shape in made["shapes"] if shape["group_id"] == number]
        assert len(shapes) == ndimage.label(mask)[1]
        rings = [np.array(shape["points"]) for shape in shapes]
        np.testing.assert_array_equal(filled(rings, *mask.shape), mask)


def test_a_tolerance_makes_files_shorter(pets):
    assert len(yolo_text(pets, 1.0)) < 0.5 * len(yolo_text(pets, 0.0))
    assert len(json.dumps(labelme(pets, "cat", 1.0))) < 0.6 * len(
        json.dumps(labelme(pets, "cat", 0.0))
    )
