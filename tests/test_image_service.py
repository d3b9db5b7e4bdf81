"""The image service, without HTTP, on images of a red box."""

import io
import json
import threading

import numpy as np
import pytest
from PIL import Image
from scipy import special

from petsam_jax.files.images import UnfitImage
from petsam_jax.files.rle import decode_rle
from petsam_jax.predict.postprocess import logits_at_size
from petsam_jax.ui.cache import ByteLimitedCache, Expired
from petsam_jax.ui.click_labels import label_click, patch_mean
from petsam_jax.ui.image_export import export_image
from petsam_jax.ui.image_service import ImageService, runs, shown_size
from petsam_jax.ui.limits import Limits
from petsam_jax.ui.messages import percent
from petsam_jax.ui.open_images import MAX_PREDICTIONS, OpenImages
from petsam_jax.ui.page_state import Click, Settings, read_state
from petsam_jax.ui.request_fields import BadRequest
from tests.red_predictor import CELLS, RedPredictor, red_image

RED = (300, 100, 420, 220)
PIXELS = 640 * 360


@pytest.fixture(scope="module")
def service():
    return ImageService(RedPredictor())


@pytest.fixture(scope="module")
def image(service):
    return service.open(red_image(640, 360, RED))["image"]


def segment(service, image, *objects, settings=None, active=0):
    state = {"image": image, "objects": list(objects), "active": active}
    return service.segment(read_state(state | {"settings": settings or {}}))


def unpacked(masks):
    values, lengths = np.array(masks["runs"]).reshape(-1, 2).T
    return np.repeat(values, lengths).reshape(masks["height"], masks["width"])


# Labels of clicks


@pytest.mark.parametrize("side", [1, 2, 5, 31])
@pytest.mark.parametrize("place", [(0, 0), (639, 359), (17, 200), (320, 358)])
def test_a_patch_is_the_mean_of_the_enlarged_map(rng, side, place):
    logits = rng.normal(0, 4, (CELLS, CELLS)).astype(np.float32)
    x, y = place
    reach = (side - 1) // 2
    large = special.expit(logits_at_size(logits, 360, 640))
    rows = slice(max(0, y - reach), y + side - reach)
    patch = large[rows, max(0, x - reach) : x + side - reach]
    assert patch_mean(logits, (360, 640), x, y, side) == pytest.approx(patch.mean(), abs=1e-5)


@pytest.mark.parametrize(
    ("given", "threshold", "label"),
    [("auto", 0.5, 1), ("auto", 0.8, 0), ("opposite", 0.5, 0), ("opposite", 0.8, 1)]
    + [("pet", 0.9, 1), ("background", 0.1, 0)],
)
def test_a_click_is_labelled_from_the_map_unless_it_has_a_label(given, threshold, label):
    # 0.73 everywhere.
    logits = np.ones((CELLS, CELLS), np.float32)
    settings = Settings(pet_threshold=threshold)
    assert label_click(logits, (50, 40), Click(3, 4, given), settings)[0] == label


# Opening


def test_opening_gives_an_id_by_content_and_the_upright_size(service):
    file = red_image(640, 360, RED)
    first, again = service.open(file), service.open(file)
    assert first == again
    assert (first["width"], first["height"], first["browser_shows_it"]) == (640, 360, True)
    assert service.open(red_image(640, 360, (1, 1, 2, 2)))["image"] != first["image"]
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = red_image(640, 360, RED, format="PNG", exif=exif)
    # Not all browsers turn a PNG.
    assert service.open(turned)["browser_shows_it"] is False
    assert service.open(turned)["width"] == 360


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "an empty file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS files are not supported"),
        (red_image(640, 360, RED)[:700], "damaged or truncated"),
        (red_image(1100, 1000, RED), "1100 x 1000 pixels is more than 1,000,000"),
        (bytes(200_001), "larger than 0.2 MB"),
    ],
    ids=["empty", "eps", "cut-off", "pixels", "bytes"],
)
def test_files_that_are_no_image_or_too_large_are_refused(file, reason):
    small = ImageService(RedPredictor(), Limits(max_pixels=1_000_000, max_upload=200_000))
    with pytest.raises(UnfitImage, match=reason):
        small.open(file)
    assert len(small.images) == 0


# Masks


def test_a_click_on_the_pet_finds_it_and_is_labelled(service, image):
    masks = segment(service, image, {"clicks": [[360, 160, "auto"]]})
    labels = unpacked(masks)
    assert labels.shape == (360, 640)
    assert labels[160, 360] == 1 and labels[20, 20] == 0
    assert (labels > 0).sum() == pytest.approx(121 * 121, rel=0.1)
    (found,) = masks["objects"]
    assert found["clicks"] == [{"label": 1, "pet_prob": pytest.approx(1, abs=0.01)}]
    assert found["region"] == "pet" and found["holds_pet"] is None and found["coverage"] is None
    assert [candidate["iou"] for candidate in found["candidates"]] == [0.9, 0.6, 0.3]
    assert found["message"].startswith("Added: this looks like a pet (")
    assert found["share"] == pytest.approx((labels > 0).mean(), abs=1e-6)


def test_an_object_without_prompts_has_no_mask(service, image):
    masks = segment(service, image, {}, {"find": True})
    assert masks["objects"][0] is None
    assert set(np.unique(unpacked(masks))) == {0, 2}


def test_clicks_are_predicted_one_after_the_other_and_undo_computes_nothing(service, image):
    clicks = [[360, 160, "auto"], [100, 300, "pet"], [310, 110, "background"]]
    states = [segment(service, image, {"clicks": clicks[:n]}) for n in (1, 2, 3)]
    before = service.predictor.predicted
    assert [segment(service, image, {"clicks": clicks[:n]}) for n in (1, 2, 3)] == states
    assert service.predictor.predicted == before
    # Sent at once or one by one, the clicks give the same masks.
    other = ImageService(RedPredictor())
    other.open(red_image(640, 360, RED))
    assert segment(other, image, {"clicks": clicks}) == states[2]


def test_the_chosen_mask_is_what_the_next_click_starts_from(service, image):
    click = [360, 160, "auto"]
    sizes = [
        (unpacked(segment(service, image, {"clicks": [click], "choices": [None, k]})) > 0).sum()
        for k in (None, 0, 2)
    ]
    assert sizes[0] == sizes[1] < sizes[2]
    two = {"clicks": [click, [20, 20, "auto"]]}
    grown = unpacked(segment(service, image, two | {"choices": [None, 2]})) > 0
    assert grown.sum() > (unpacked(segment(service, image, two)) > 0).sum()


def test_a_box_limits_the_mask_and_reports_its_coverage(service, image):
    # Its upper left quarter is red.
    masks = segment(service, image, {"box": [361, 161, 480, 280]})
    labels, (found,) = unpacked(masks), masks["objects"]
    assert labels[:161].sum() == labels[281:].sum() == labels[:, :361].sum() == 0
    assert found["holds_pet"] is True
    assert found["coverage"] == pytest.approx(0.25, abs=0.05)
    assert found["message"] == f"Found a pet in the box ({percent(found['coverage'])})."
    assert segment(service, image, {"box": [480, 280, 361, 161]}) == masks


def test_a_box_of_background_is_background_until_a_click_adds_a_pet(service, image):
    masks = segment(service, image, {"box": [20, 250, 120, 300]})
    labels, (found,) = unpacked(masks), masks["objects"]
    assert (labels[250:301, 20:121] == 1).all() and labels.sum() == 51 * 101
    assert found["region"] == "background" and found["coverage"] == 0 and not found["candidates"]
    assert found["message"].startswith("No pet found in this box.")
    with_click = {"box": [20, 250, 120, 300], "clicks": [[70, 275, "pet"]]}
    (found,) = segment(service, image, with_click)["objects"]
    assert found["holds_pet"] is True and found["coverage"] > 0


def test_with_last_click_only_a_click_selects_the_pet_or_the_background(service, image):
    clicks = [[360, 160, "auto"], [30, 30, "auto"]]
    masks = segment(service, image, {"clicks": clicks}, settings={"last_click_only": True})
    labels, (found,) = unpacked(masks), masks["objects"]
    assert labels[30, 30] == 1 and labels[160, 360] == 0
    assert found["region"] == "background" and len(found["clicks"]) == 1
    alone = segment(service, image, {"clicks": clicks[:1]}, settings={"last_click_only": True})
    assert unpacked(alone)[160, 360] == 1


def test_objects_do_not_overlap(service, image):
    # The second has the pixels of the first and a disc; the third has higher logits everywhere.
    first, second = {"find": True}, {"clicks": [[100, 300, "pet"]]}
    third = {"find": True, "choices": [2, None]}
    alone = unpacked(segment(service, image, second)) > 0
    labels = unpacked(segment(service, image, first, second))
    assert (labels[160, 360], labels[300, 100]) == (1, 2)
    np.testing.assert_array_equal(labels > 0, alone)
    labels = unpacked(segment(service, image, first, second, third))
    assert (labels[160, 360], labels[300, 100]) == (3, 2) and not (labels == 1).any()


def test_holes_and_islands_up_to_a_size_are_removed(service, image):
    clicks = [[360, 160, "pet"], [360, 160, "background"], [100, 300, "pet"]]
    plain = unpacked(segment(service, image, {"clicks": clicks}))
    assert plain[160, 360] == 0 and plain[300, 100] == 1
    settings = {"fill_holes": 5000, "remove_islands": 5000}
    clean = unpacked(segment(service, image, {"clicks": clicks}, settings=settings))
    assert clean[160, 360] == 1 and clean[300, 100] == 0


def test_a_threshold_moves_the_edge(service, image):
    sizes = [
        (
            unpacked(segment(service, image, {"find": True}, settings={"mask_threshold": t})) > 0
        ).sum()
        for t in (0.05, 0.5, 0.95)
    ]
    assert sizes[0] > sizes[1] > sizes[2] > 0


def test_a_scribbled_circle_includes_its_inside(service, image):
    turns = np.linspace(0, 2 * np.pi, 40)
    circle = np.stack([120 + 60 * np.cos(turns), 240 + 60 * np.sin(turns)], axis=1)
    stroke = {"radius": 4, "points": circle.ravel().tolist()}
    labels = unpacked(segment(service, image, {"strokes": [stroke]}))
    assert labels[240, 120] == 1 and labels[160, 360] == 0
    assert (labels > 0).sum() == pytest.approx(np.pi * 64**2, rel=0.1)


def test_large_images_are_shown_smaller_and_saved_whole():
    service = ImageService(RedPredictor(), Limits(shown_pixels=40_000))
    image = service.open(red_image(640, 360, RED))["image"]
    masks = segment(service, image, {"find": True, "box": [300, 100, 420, 220]})
    assert (masks["height"], masks["width"]) == shown_size((360, 640), 40_000) == (150, 266)
    assert masks["objects"][0]["coverage"] == pytest.approx(1, abs=0.1)
    state = {"image": image, "objects": [{"find": True}]}
    file = export_image(service, {"state": state, "kind": "mask"})
    assert Image.open(io.BytesIO(file.data)).size == (640, 360)


def test_runs_hold_all_labels(rng):
    labels = rng.integers(0, 3, (37, 41)).astype(np.uint8)
    values, lengths = np.array(runs(labels)).reshape(-1, 2).T
    np.testing.assert_array_equal(np.repeat(values, lengths).reshape(labels.shape), labels)
    assert runs(np.zeros((2, 3), np.uint8)) == [0, 6]


def test_percentages_are_never_a_false_0_or_100():
    shares = {0.0: "0 %", 0.001: "less than 1 %", 0.5: "50 %", 0.999: "more than 99 %", 1: "100 %"}
    assert {share: percent(float(share)) for share in shares} == shares


# Requests


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"objects": [{}], "active": 1}, "active: 1; expected a number from 0 to 0"),
        ({"objects": [{}] * 13}, "objects: 13 elements; the limit is 12"),
        ({"objects": [{"clicks": [[1, 2]]}]}, r"objects\[0\].clicks\[0\]: expected \[x, y"),
        ({"objects": [{"clicks": [[1, 2, "cat"]]}]}, "auto, opposite, pet, background"),
        ({"objects": [{"clicks": [[1.5, 2, "pet"]]}]}, "expected a whole number"),
        ({"objects": [{"clicks": [[float("nan"), 2, "pet"]]}]}, "nan; expected a number from 0"),
        ({"objects": [{"clicks": [[True, 2, "pet"]]}]}, "True; expected a number"),
        ({"objects": [{"box": [5, 5, 5, 90]}]}, "this box has no area"),
        ({"objects": [{"box": [5, 5, 5]}]}, r"expected \[x0, y0, x1, y1\]"),
        ({"objects": [{"strokes": [{"radius": 2, "points": [1]}]}]}, "expected x, y, x, y"),
        ({"objects": [{"choices": [None, 3]}]}, "3; expected a number from 0 to 2"),
        ({"objects": [{"find": 1}]}, "find: expected true or false"),
        ({"objects": [{"colour": 1}]}, "unknown colour"),
        ({"objects": [], "settings": {"patch": 0}}, "settings.patch: 0; expected a number from 1"),
        ({"objects": [], "settings": {"mask_threshold": 1}}, "from 0.01 to 0.99"),
        ({"objects": {}}, "objects: expected a list"),
        ({"objects": [], "image": 7}, "image: expected the id"),
        ([], "request: expected a dictionary"),
    ],
)
def test_invalid_states_are_refused_by_field(state, message):
    with pytest.raises(BadRequest, match=message):
        read_state({"image": "x"} | state if isinstance(state, dict) else state)


def test_prompts_outside_the_image_are_refused(service, image):
    with pytest.raises(BadRequest, match="outside"):
        segment(service, image, {"clicks": [[640, 10, "auto"]]})
    with pytest.raises(BadRequest, match="outside"):
        segment(service, image, {"box": [700, 10, 800, 20]})


# Memory


def test_images_are_closed_by_bytes_and_by_age():
    now = [0.0]
    files = [red_image(40, 30, (1, 1, 2 + i, 3)) for i in range(4)]
    one = ImageService(RedPredictor())
    one.open(files[0])
    limits = Limits(cache_bytes=int(2.5 * one.images.nbytes), keep_seconds=100.0)
    service = ImageService(RedPredictor(), limits)
    service.images = OpenImages(limits, clock=lambda: now[0])
    names = [service.open(files[i])["image"] for i in (0, 1)]
    service.images.get(names[0])
    names.append(service.open(files[2])["image"])
    # The least recently used was closed.
    with pytest.raises(Expired, match="send it again"):
        service.images.get(names[1])
    assert len(service.images) == 2 and service.images.nbytes <= limits.cache_bytes
    now[0] = 99.0
    service.images.get(names[0])
    now[0] = 150.0
    service.images.get(names[0])
    with pytest.raises(Expired):
        service.images.get(names[2])
    now[0] = 300.0
    service.images.sweep()
    assert len(service.images) == 0 and service.images.nbytes == 0


class Item:
    """For the cache: `close` reports whether another thread could use the cache meanwhile."""

    nbytes = 10

    def close(self):
        thread = threading.Thread(target=len, args=(self.cache,))
        thread.start()
        thread.join(5)
        self.closed = not thread.is_alive()


@pytest.mark.parametrize(
    "use",
    [
        len,
        lambda cache: cache.nbytes,
        lambda cache: "old" in cache,
        lambda cache: cache.get("new"),
        lambda cache: cache.put("newest", Item()),
        lambda cache: cache.drop("new"),
        ByteLimitedCache.clear,
    ],
    ids=["len", "nbytes", "in", "get", "put", "drop", "clear"],
)
def test_expired_items_are_closed_by_any_call_and_without_the_lock(use):
    now = [0.0]
    cache, old, new = ByteLimitedCache("item", 100, 5.0, clock=lambda: now[0]), Item(), Item()
    old.cache = new.cache = cache
    cache.put("old", old)
    now[0] = 3.0
    cache.put("new", new)
    now[0] = 6.0
    use(cache)
    assert old.closed
    with pytest.raises(Expired, match="this item is no longer open; send it again"):
        cache.get("old")


def test_an_image_keeps_a_limited_number_of_predictions(service, image):
    opened = service.images.get(image)
    for x in range(MAX_PREDICTIONS + 20):
        segment(service, image, {"clicks": [[x, 5, "pet"]]})
    assert len(opened._predictions) == MAX_PREDICTIONS


def test_threads_do_not_mix_their_images():
    service = ImageService(RedPredictor(), Limits(cache_bytes=1))
    service.limits, boxes = Limits(), [(10 * i, 10, 10 * i + 60, 80) for i in range(6)]
    service.images = OpenImages(service.limits)
    found = {}

    def visit(box):
        image = service.open(red_image(160, 90, box))["image"]
        found[box] = [segment(service, image, {"find": True}) for _ in range(5)]

    threads = [threading.Thread(target=visit, args=(box,)) for box in boxes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for box in boxes:
        masks = [unpacked(each) for each in found[box]]
        columns = np.flatnonzero(masks[0].any(axis=0))
        assert abs(columns.min() - box[0]) <= 3 and abs(columns.max() - box[2]) <= 3
        assert all((mask == masks[0]).all() for mask in masks)


# Export


def exported(service, kind, *objects, **options):
    image = service.open(red_image(640, 360, RED))["image"]
    state = {"image": image, "objects": list(objects)}
    return export_image(service, {"state": state, "kind": kind} | options)


def test_exported_images_have_the_same_mask_as_the_page(service, image):
    prompts = {"clicks": [[360, 160, "auto"]], "box": [290, 90, 500, 200]}
    mask = unpacked(segment(service, image, prompts)) > 0
    shots = {
        kind: np.asarray(Image.open(io.BytesIO(exported(service, kind, prompts, trim=False).data)))
        for kind in ("mask", "cutout", "white", "blur", "overlay")
    }
    np.testing.assert_array_equal(shots["mask"] == 255, mask)
    np.testing.assert_array_equal(shots["cutout"][..., 3] == 255, mask)
    assert (shots["white"][~mask] == 255).all() and (shots["white"][mask][:, 1] < 200).all()
    assert (shots["blur"][mask] == shots["white"][mask]).all()
    assert (shots["overlay"][90, 300:490] == (22, 163, 74)).all()
    trimmed = np.asarray(Image.open(io.BytesIO(exported(service, "cutout", prompts).data)))
    assert trimmed.shape[0] < 130 and trimmed.shape[1] < 140


def test_annotations_leave_out_background_and_json_has_everything(service, image):
    pet, empty = {"clicks": [[360, 160, "auto"]]}, {"box": [20, 250, 120, 300]}
    saved = json.loads(exported(service, "json", pet, {}, empty, name="cat.jpg").data)
    assert (saved["name"], saved["width"], saved["height"]) == (
        "cat.jpg",
        640,
        360,
    )
    assert [one["region"] for one in saved["objects"]] == ["pet", "background"]
    mask = unpacked(segment(service, image, pet)) > 0
    np.testing.assert_array_equal(decode_rle(saved["objects"][0]["rle"]), mask)
    assert saved["objects"][0]["area"] == mask.sum()
    coco = json.loads(exported(service, "coco", pet, {}, empty).data)
    assert len(coco["annotations"]) == 1
    assert len(exported(service, "yolo", pet, {}, empty).data.splitlines()) == 1
    assert json.loads(exported(service, "labelme", pet, empty).data)["imageWidth"] == 640


def test_exports_without_prompts_or_of_an_unknown_kind_are_refused(service):
    with pytest.raises(BadRequest, match="no prompts yet"):
        exported(service, "mask", {})
    with pytest.raises(BadRequest, match="kind: 'exe'"):
        exported(service, "exe", {"find": True})
    with pytest.raises(BadRequest, match="opacity: 2"):
        exported(service, "overlay", {"find": True}, opacity=2)
