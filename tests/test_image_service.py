"""What the page is answered, asked without any web: the studio on pictures of a red box."""

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
from petsam_jax.ui.cache import Expired
from petsam_jax.ui.click_labels import patch_mean, read_click
from petsam_jax.ui.image_export import make_result
from petsam_jax.ui.image_service import ImageService, runs, shown_size
from petsam_jax.ui.limits import Limits
from petsam_jax.ui.messages import percent
from petsam_jax.ui.open_images import REMEMBERED, OpenPictures
from petsam_jax.ui.page_state import Click, Settings, read_state
from petsam_jax.ui.request_fields import BadRequest
from tests.red_predictor import CELLS, RedPredictor, red_picture

RED = (300, 100, 420, 220)
PIXELS = 640 * 360


@pytest.fixture(scope="module")
def studio():
    return ImageService(RedPredictor())


@pytest.fixture(scope="module")
def picture(studio):
    return studio.open(red_picture(640, 360, RED))["picture"]


def asked(studio, picture, *objects, settings=None, active=0):
    said = {"picture": picture, "objects": list(objects), "active": active}
    return studio.answer(read_state(said | {"settings": settings or {}}))


def unpacked(answer):
    values, lengths = np.array(answer["runs"]).reshape(-1, 2).T
    return np.repeat(values, lengths).reshape(answer["height"], answer["width"])


# Reading clicks


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
    ("say", "threshold", "label"),
    [("auto", 0.5, 1), ("auto", 0.8, 0), ("other", 0.5, 0), ("other", 0.8, 1), ("pet", 0.9, 1)]
    + [("background", 0.1, 0)],
)
def test_a_click_is_read_unless_it_is_told(say, threshold, label):
    # 0.73 everywhere.
    logits = np.ones((CELLS, CELLS), np.float32)
    settings = Settings(pet_threshold=threshold)
    assert read_click(logits, (50, 40), Click(3, 4, say), settings)[0] == label


# Opening


def test_opening_gives_an_id_by_content_and_the_upright_size(studio):
    file = red_picture(640, 360, RED)
    first, again = studio.open(file), studio.open(file)
    assert first == again
    assert (first["width"], first["height"], first["browser_shows_it"]) == (640, 360, True)
    assert studio.open(red_picture(640, 360, (1, 1, 2, 2)))["picture"] != first["picture"]
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = red_picture(640, 360, RED, format="PNG", exif=exif)
    # Not all browsers turn a PNG.
    assert studio.open(turned)["browser_shows_it"] is False
    assert studio.open(turned)["width"] == 360


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "an empty file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS files are not taken"),
        (red_picture(640, 360, RED)[:700], "damaged or truncated"),
        (red_picture(1100, 1000, RED), "1100 x 1000 pixels is more than 1,000,000"),
        (bytes(200_001), "more than 0.2 MB"),
    ],
    ids=["empty", "eps", "cut-off", "pixels", "bytes"],
)
def test_what_is_no_picture_or_too_large_is_refused(file, reason):
    small = ImageService(RedPredictor(), Limits(max_pixels=1_000_000, max_upload=200_000))
    with pytest.raises(UnfitImage, match=reason):
        small.open(file)
    assert len(small.pictures) == 0


# Answers


def test_a_click_on_the_pet_finds_it_and_says_how_it_was_read(studio, picture):
    answer = asked(studio, picture, {"clicks": [[360, 160, "auto"]]})
    labels = unpacked(answer)
    assert labels.shape == (360, 640)
    assert labels[160, 360] == 1 and labels[20, 20] == 0
    assert (labels > 0).sum() == pytest.approx(121 * 121, rel=0.1)
    (told,) = answer["objects"]
    assert told["reads"] == [{"label": 1, "pet": pytest.approx(1, abs=0.01)}]
    assert told["region"] == "pet" and told["holds_pet"] is None and told["coverage"] is None
    assert [candidate["iou"] for candidate in told["candidates"]] == [0.9, 0.6, 0.3]
    assert told["words"].startswith("Read as pet: ")
    assert told["share"] == pytest.approx((labels > 0).mean(), abs=1e-6)


def test_nothing_said_of_an_object_is_no_answer(studio, picture):
    answer = asked(studio, picture, {}, {"find": True})
    assert answer["objects"][0] is None
    assert set(np.unique(unpacked(answer))) == {0, 2}


def test_clicks_add_up_one_after_the_other_and_undoing_computes_nothing(studio, picture):
    clicks = [[360, 160, "auto"], [100, 300, "pet"], [310, 110, "background"]]
    states = [asked(studio, picture, {"clicks": clicks[:n]}) for n in (1, 2, 3)]
    before = studio.predictor.predicted
    assert [asked(studio, picture, {"clicks": clicks[:n]}) for n in (1, 2, 3)] == states
    assert studio.predictor.predicted == before
    # At once or one by one, it is the same question.
    other = ImageService(RedPredictor())
    other.open(red_picture(640, 360, RED))
    assert asked(other, picture, {"clicks": clicks}) == states[2]


def test_the_chosen_mask_is_what_the_next_click_starts_from(studio, picture):
    click = [360, 160, "auto"]
    sizes = [
        (unpacked(asked(studio, picture, {"clicks": [click], "choices": [None, k]})) > 0).sum()
        for k in (None, 0, 2)
    ]
    assert sizes[0] == sizes[1] < sizes[2]
    two = {"clicks": [click, [20, 20, "auto"]]}
    grown = unpacked(asked(studio, picture, two | {"choices": [None, 2]})) > 0
    assert grown.sum() > (unpacked(asked(studio, picture, two)) > 0).sum()


def test_a_box_limits_the_mask_and_tells_its_coverage(studio, picture):
    # Its upper left quarter is red.
    answer = asked(studio, picture, {"box": [361, 161, 480, 280]})
    labels, (told,) = unpacked(answer), answer["objects"]
    assert labels[:161].sum() == labels[281:].sum() == labels[:, :361].sum() == 0
    assert told["holds_pet"] is True
    assert told["coverage"] == pytest.approx(0.25, abs=0.05)
    assert told["words"] == f"Pet covers {percent(told['coverage'])} of the box."
    assert asked(studio, picture, {"box": [480, 280, 361, 161]}) == answer


def test_a_box_of_background_is_shown_as_such_until_a_click_insists(studio, picture):
    answer = asked(studio, picture, {"box": [20, 250, 120, 300]})
    labels, (told,) = unpacked(answer), answer["objects"]
    assert (labels[250:301, 20:121] == 1).all() and labels.sum() == 51 * 101
    assert told["region"] == "background" and told["coverage"] == 0 and not told["candidates"]
    assert told["words"].startswith("Only background in this box")
    insisted = {"box": [20, 250, 120, 300], "clicks": [[70, 275, "pet"]]}
    (told,) = asked(studio, picture, insisted)["objects"]
    assert told["holds_pet"] is True and told["coverage"] > 0


def test_each_click_alone_is_the_last_one_or_the_background_around_it(studio, picture):
    clicks = [[360, 160, "auto"], [30, 30, "auto"]]
    answer = asked(studio, picture, {"clicks": clicks}, settings={"alone": True})
    labels, (told,) = unpacked(answer), answer["objects"]
    assert labels[30, 30] == 1 and labels[160, 360] == 0
    assert told["region"] == "background" and len(told["reads"]) == 1
    alone = asked(studio, picture, {"clicks": clicks[:1]}, settings={"alone": True})
    assert unpacked(alone)[160, 360] == 1


def test_objects_do_not_overlap(studio, picture):
    # The second wants all that the first has, and a disc elsewhere; the third is surer of all.
    first, second = {"find": True}, {"clicks": [[100, 300, "pet"]]}
    third = {"find": True, "choices": [2, None]}
    alone = unpacked(asked(studio, picture, second)) > 0
    labels = unpacked(asked(studio, picture, first, second))
    assert (labels[160, 360], labels[300, 100]) == (1, 2)
    np.testing.assert_array_equal(labels > 0, alone)
    labels = unpacked(asked(studio, picture, first, second, third))
    assert (labels[160, 360], labels[300, 100]) == (3, 2) and not (labels == 1).any()


def test_holes_and_islands_of_some_size_go(studio, picture):
    clicks = [[360, 160, "pet"], [360, 160, "background"], [100, 300, "pet"]]
    plain = unpacked(asked(studio, picture, {"clicks": clicks}))
    assert plain[160, 360] == 0 and plain[300, 100] == 1
    settings = {"fill_holes": 5000, "remove_islands": 5000}
    tidy = unpacked(asked(studio, picture, {"clicks": clicks}, settings=settings))
    assert tidy[160, 360] == 1 and tidy[300, 100] == 0


def test_a_threshold_moves_the_edge(studio, picture):
    sizes = [
        (unpacked(asked(studio, picture, {"find": True}, settings={"mask_threshold": t})) > 0).sum()
        for t in (0.05, 0.5, 0.95)
    ]
    assert sizes[0] > sizes[1] > sizes[2] > 0


def test_a_scribbled_circle_counts_with_all_inside(studio, picture):
    turns = np.linspace(0, 2 * np.pi, 40)
    circle = np.stack([120 + 60 * np.cos(turns), 240 + 60 * np.sin(turns)], axis=1)
    stroke = {"radius": 4, "points": circle.ravel().tolist()}
    labels = unpacked(asked(studio, picture, {"strokes": [stroke]}))
    assert labels[240, 120] == 1 and labels[160, 360] == 0
    assert (labels > 0).sum() == pytest.approx(np.pi * 64**2, rel=0.1)


def test_large_pictures_are_shown_smaller_and_saved_whole():
    studio = ImageService(RedPredictor(), Limits(shown_pixels=40_000))
    picture = studio.open(red_picture(640, 360, RED))["picture"]
    answer = asked(studio, picture, {"find": True, "box": [300, 100, 420, 220]})
    assert (answer["height"], answer["width"]) == shown_size((360, 640), 40_000) == (150, 266)
    assert answer["objects"][0]["coverage"] == pytest.approx(1, abs=0.1)
    state = {"picture": picture, "objects": [{"find": True}]}
    file = make_result(studio, {"state": state, "kind": "mask"})
    assert Image.open(io.BytesIO(file.data)).size == (640, 360)


def test_runs_give_back_all_labels(rng):
    labels = rng.integers(0, 3, (37, 41)).astype(np.uint8)
    told = runs(labels)
    values, lengths = np.array(told).reshape(-1, 2).T
    np.testing.assert_array_equal(np.repeat(values, lengths).reshape(labels.shape), labels)
    assert runs(np.zeros((2, 3), np.uint8)) == [0, 6]


def test_per_cents_are_never_falsely_none_or_all():
    shares = {0.0: "0 %", 0.001: "less than 1 %", 0.5: "50 %", 0.999: "more than 99 %", 1: "100 %"}
    assert {share: percent(float(share)) for share in shares} == shares


# Requests


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"objects": [{}], "active": 1}, "active: 1; want a number from 0 to 0"),
        ({"objects": [{}] * 13}, "objects: 13 of them; at most 12"),
        ({"objects": [{"clicks": [[1, 2]]}]}, r"objects\[0\].clicks\[0\]: want \[x, y"),
        ({"objects": [{"clicks": [[1, 2, "cat"]]}]}, "auto, other, pet, background"),
        ({"objects": [{"clicks": [[1.5, 2, "pet"]]}]}, "want a whole number"),
        ({"objects": [{"clicks": [[float("nan"), 2, "pet"]]}]}, "nan; want a number from 0"),
        ({"objects": [{"clicks": [[True, 2, "pet"]]}]}, "True; want a number"),
        ({"objects": [{"box": [5, 5, 5, 90]}]}, "this box has no area"),
        ({"objects": [{"box": [5, 5, 5]}]}, r"want \[x0, y0, x1, y1\]"),
        ({"objects": [{"strokes": [{"radius": 2, "points": [1]}]}]}, "want x, y, x, y"),
        ({"objects": [{"choices": [None, 3]}]}, "3; want a number from 0 to 2"),
        ({"objects": [{"find": 1}]}, "find: want true or false"),
        ({"objects": [{"colour": 1}]}, "unknown colour"),
        ({"objects": [], "settings": {"patch": 0}}, "settings.patch: 0; want a number from 1"),
        ({"objects": [], "settings": {"mask_threshold": 1}}, "from 0.01 to 0.99"),
        ({"objects": {}}, "objects: want a list"),
        ({"objects": [], "picture": 7}, "picture: want the id"),
        ([], "request: want a dictionary"),
    ],
)
def test_what_the_page_would_not_say_is_refused_by_name(said, words):
    with pytest.raises(BadRequest, match=words):
        read_state({"picture": "x"} | said if isinstance(said, dict) else said)


def test_prompts_outside_the_picture_are_refused(studio, picture):
    with pytest.raises(BadRequest, match="outside"):
        asked(studio, picture, {"clicks": [[640, 10, "auto"]]})
    with pytest.raises(BadRequest, match="outside"):
        asked(studio, picture, {"box": [700, 10, 800, 20]})


# What stays in memory


def test_pictures_go_by_bytes_and_by_age():
    now = [0.0]
    files = [red_picture(40, 30, (1, 1, 2 + i, 3)) for i in range(4)]
    one = ImageService(RedPredictor())
    one.open(files[0])
    limits = Limits(cache_bytes=int(2.5 * one.pictures.nbytes), keep_seconds=100.0)
    studio = ImageService(RedPredictor(), limits)
    studio.pictures = OpenPictures(limits, clock=lambda: now[0])
    names = [studio.open(files[i])["picture"] for i in (0, 1)]
    studio.pictures.get(names[0])
    names.append(studio.open(files[2])["picture"])
    # The one that was used last but one had to go.
    with pytest.raises(Expired, match="send it again"):
        studio.pictures.get(names[1])
    assert len(studio.pictures) == 2 and studio.pictures.nbytes <= limits.cache_bytes
    now[0] = 99.0
    studio.pictures.get(names[0])
    now[0] = 150.0
    studio.pictures.get(names[0])
    with pytest.raises(Expired):
        studio.pictures.get(names[2])
    now[0] = 300.0
    studio.pictures.sweep()
    assert len(studio.pictures) == 0 and studio.pictures.nbytes == 0


def test_a_picture_remembers_so_many_answers(studio, picture):
    opened = studio.pictures.get(picture)
    for x in range(REMEMBERED + 20):
        asked(studio, picture, {"clicks": [[x, 5, "pet"]]})
    assert len(opened._answers) == REMEMBERED


def test_threads_do_not_mix_their_pictures():
    studio = ImageService(RedPredictor(), Limits(cache_bytes=1))
    studio.limits, boxes = Limits(), [(10 * i, 10, 10 * i + 60, 80) for i in range(6)]
    studio.pictures = OpenPictures(studio.limits)
    found = {}

    def visit(box):
        picture = studio.open(red_picture(160, 90, box))["picture"]
        found[box] = [asked(studio, picture, {"find": True}) for _ in range(5)]

    threads = [threading.Thread(target=visit, args=(box,)) for box in boxes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for box in boxes:
        masks = [unpacked(answer) for answer in found[box]]
        columns = np.flatnonzero(masks[0].any(axis=0))
        assert abs(columns.min() - box[0]) <= 3 and abs(columns.max() - box[2]) <= 3
        assert all((mask == masks[0]).all() for mask in masks)


# What is taken home


def made(studio, kind, *objects, **style):
    picture = studio.open(red_picture(640, 360, RED))["picture"]
    state = {"picture": picture, "objects": list(objects)}
    return make_result(studio, {"state": state, "kind": kind} | style)


def test_pictures_to_take_home_have_the_very_mask(studio, picture):
    said = {"clicks": [[360, 160, "auto"]], "box": [290, 90, 500, 200]}
    mask = unpacked(asked(studio, picture, said)) > 0
    shots = {
        kind: np.asarray(Image.open(io.BytesIO(made(studio, kind, said, trim=False).data)))
        for kind in ("mask", "cutout", "white", "blur", "overlay")
    }
    np.testing.assert_array_equal(shots["mask"] == 255, mask)
    np.testing.assert_array_equal(shots["cutout"][..., 3] == 255, mask)
    assert (shots["white"][~mask] == 255).all() and (shots["white"][mask][:, 1] < 200).all()
    assert (shots["blur"][mask] == shots["white"][mask]).all()
    assert (shots["overlay"][90, 300:490] == (22, 163, 74)).all()
    trimmed = np.asarray(Image.open(io.BytesIO(made(studio, "cutout", said).data)))
    assert trimmed.shape[0] < 130 and trimmed.shape[1] < 140


def test_label_files_leave_out_background_and_json_says_all(studio, picture):
    pet, empty = {"clicks": [[360, 160, "auto"]]}, {"box": [20, 250, 120, 300]}
    said = json.loads(made(studio, "json", pet, {}, empty, name="cat.jpg").data)
    assert (said["name"], said["width"], said["height"]) == ("cat.jpg", 640, 360)
    assert [one["region"] for one in said["objects"]] == ["pet", "background"]
    mask = unpacked(asked(studio, picture, pet)) > 0
    np.testing.assert_array_equal(decode_rle(said["objects"][0]["rle"]), mask)
    assert said["objects"][0]["area"] == mask.sum()
    coco = json.loads(made(studio, "coco", pet, {}, empty).data)
    assert len(coco["annotations"]) == 1
    assert len(made(studio, "yolo", pet, {}, empty).data.splitlines()) == 1
    assert json.loads(made(studio, "labelme", pet, empty).data)["imageWidth"] == 640


def test_results_of_nothing_or_of_no_kind_are_refused(studio):
    with pytest.raises(BadRequest, match="nothing was said"):
        made(studio, "mask", {})
    with pytest.raises(BadRequest, match="kind: 'exe'"):
        made(studio, "exe", {"find": True})
    with pytest.raises(BadRequest, match="opacity: 2"):
        made(studio, "overlay", {"find": True}, opacity=2)
