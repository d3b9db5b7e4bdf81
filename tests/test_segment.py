"""`petsam segment`: its files hold the predictor's masks, and bad images stop nothing."""

import json
import weakref

import jax
import numpy as np
import pytest
from PIL import Image

from petsam_jax.checkpoint import model_shapes, model_with_weights
from petsam_jax.cli import segment
from petsam_jax.config import load_config
from petsam_jax.files.masks import decode_mask
from petsam_jax.files.rle import decode_rle
from petsam_jax.predict import segment_images
from petsam_jax.predict.image_predictor import ImagePredictor

ALL = "mask,cutout,overlay,yolo,labelme,coco,polygons"


@pytest.fixture(scope="module")
def model():
    """A predictor with random weights of the smallest model."""
    config = load_config("tiny", ["data.size=64"])
    rng = np.random.default_rng(0)
    shapes = model_shapes(config)
    params = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    return ImagePredictor(config, model_with_weights(config, params))


@pytest.fixture
def predictor(model, monkeypatch):
    """The predictor that every checkpoint opens as."""
    monkeypatch.setattr(
        ImagePredictor, "from_checkpoint", lambda directory, step=None, dtype=None: model
    )
    return model


@pytest.fixture
def photos(tmp_path, rng):
    """A folder with three images of different sizes, one of them in a subfolder."""
    folder = tmp_path / "photos"
    (folder / "tabby").mkdir(parents=True)
    for name, size in (("a.png", (40, 50)), ("b.png", (64, 48)), ("tabby/a.png", (33, 21))):
        pixels = rng.integers(0, 256, (*size[::-1], 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def run(*argv):
    return segment.main([str(arg) for arg in argv])


def predicted(predictor, path, **prompts):
    """The predictor's own result."""
    return predictor.predict(image=predictor.encode(path), **prompts)


def mask_of(path):
    return decode_mask(path) == 1


def test_all_formats_hold_the_masks_of_the_predictor(predictor, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(photos, "--auto", "--out", out, "--format", ALL) == 0
    made = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*"))
    each = ["{}.json", "{}.txt", "{}_cutout.png", "{}_mask.png", "{}_overlay.jpg"]
    stems = ("a", "b", "tabby/a")
    assert made == sorted(
        ["coco.json", "polygons.json", *(name.format(stem) for stem in stems for name in each)]
    )
    coco = json.loads((out / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.png", "b.png", "tabby/a.png"]
    for stem, annotation in zip(stems, coco["annotations"], strict=True):
        result = predicted(predictor, photos / f"{stem}.png")
        np.testing.assert_array_equal(mask_of(out / f"{stem}_mask.png"), result.masks[0])
        np.testing.assert_array_equal(decode_rle(annotation["segmentation"]), result.masks[0])
        assert annotation["score"] == pytest.approx(float(result.iou_pred[0]), abs=1e-4)
        pixels = np.asarray(Image.open(photos / f"{stem}.png"))
        alpha = np.asarray(Image.open(out / f"{stem}_cutout.png"))[..., 3]
        assert (alpha == 255).sum() == result.masks[0].sum()
        assert Image.open(out / f"{stem}_overlay.jpg").size == pixels.shape[1::-1]
        label = json.loads((out / f"{stem}.json").read_text())
        path = (out / f"{stem}.json").parent / label["imagePath"]
        assert path.resolve() == photos / f"{stem}.png"
    printed = capsys.readouterr()
    assert printed.out == f"{out}: 3 of 3 images as {ALL.replace(',', ', ')}\n"
    assert [line[:4] for line in printed.err.splitlines()] == ["[1/3", "[2/3", "[3/3"]


def test_points_and_a_box_are_of_one_object(predictor, photos, tmp_path):
    flags = ["--point", "20,10", "--point", "3,4,0", "--box", "2,2,30,40"]
    assert run(photos / "b.png", *flags, "--out", tmp_path, "--format", "mask") == 0
    result = predicted(predictor, photos / "b.png", points=[(20, 10), (3, 4)], labels=[1, 0],
                 boxes=(2, 2, 30, 40))  # fmt: skip
    np.testing.assert_array_equal(mask_of(tmp_path / "b_mask.png"), result.masks[0])


def test_several_boxes_are_an_object_each(predictor, photos, tmp_path):
    boxes = [(2, 2, 30, 40), (20, 5, 60, 45)]
    flags = [f"--box={','.join(map(str, box))}" for box in boxes]
    flags += ["--out", tmp_path, "--format", "coco,cutout,mask", "--full-size"]
    assert run(photos / "b.png", *flags) == 0
    result = predicted(predictor, photos / "b.png", boxes=boxes)
    read = json.loads((tmp_path / "coco.json").read_text())["annotations"]
    for number, (annotation, masks) in enumerate(zip(read, result.masks, strict=True), start=1):
        np.testing.assert_array_equal(decode_rle(annotation["segmentation"]), masks[0])
        alpha = np.asarray(Image.open(tmp_path / f"b_cutout_{number}.png"))[..., 3]
        np.testing.assert_array_equal(alpha > 0, masks[0])
    assert set(np.unique(decode_mask(tmp_path / "b_mask.png"))) <= {0, 1, 2}


def test_a_mask_is_a_first_guess(predictor, photos, tmp_path):
    guess = np.zeros((48, 64), bool)
    guess[10:40, 5:50] = True
    Image.fromarray(guess).save(tmp_path / "guess.png")
    assert run(photos / "b.png", "--mask", tmp_path / "guess.png", "--out", tmp_path / "out") == 0
    result = predicted(predictor, photos / "b.png", mask_input=predictor.mask_prompt(guess))
    np.testing.assert_array_equal(mask_of(tmp_path / "out" / "b_mask.png"), result.masks[0])


def test_a_mask_of_another_size_is_an_error_with_both_sizes(predictor, photos, tmp_path, capsys):
    Image.new("1", (10, 12)).save(tmp_path / "guess.png")
    assert run(photos / "b.png", "--mask", tmp_path / "guess.png", "--out", tmp_path / "out") == 1
    assert "has 64 x 48 pixels and the mask 10 x 12" in capsys.readouterr().err


def test_bad_images_stop_nothing_and_are_listed(predictor, photos, tmp_path, capsys):
    (photos / "aa.jpg").write_text("no image")
    data = (photos / "b.png").read_bytes()
    (photos / "cut.png").write_bytes(data[: len(data) // 2])
    (photos / "notes.txt").write_text("ignored without a message")
    # Inside the two larger images, outside the third.
    assert run(photos, "--point", "35,10", "--out", tmp_path / "out", "--format", "mask,coco") == 1
    printed = capsys.readouterr()
    assert "2 of 5 images" in printed.out
    failed = [line for line in printed.err.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 3 and all(str(photos) in line for line in failed)
    assert f"{photos / 'aa.jpg'}: not an image" in failed[0]
    assert f"{photos / 'cut.png'}: damaged or truncated PNG" in failed[1]
    assert "(35, 10) is outside the image" in failed[2]
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["a_mask.png", "b_mask.png", "coco.json"]
    assert len(json.loads((tmp_path / "out" / "coco.json").read_text())["images"]) == 2


def test_images_of_the_same_name_get_numbers(predictor, photos, tmp_path, capsys):
    Image.open(photos / "b.png").transpose(Image.Transpose.ROTATE_90).save(photos / "a.bmp")
    out = tmp_path / "out"
    assert run(photos / "a.png", photos / "a.bmp", photos / "tabby" / "a.png", "--out", out) == 0
    sizes = [Image.open(out / f"{stem}_mask.png").size for stem in ("a", "a-2", "a-3")]
    assert sizes == [(40, 50), (48, 64), (33, 21)]
    assert f"{photos / 'a.bmp'}: another image has this name; results are named a-2" in (
        capsys.readouterr().err
    )


def test_objects_with_too_low_a_score_are_dropped(predictor, photos, tmp_path):
    flags = ["--min-score", "1", "--format", ALL, "--out", tmp_path]
    assert run(photos / "b.png", *flags) == 0
    assert not mask_of(tmp_path / "b_mask.png").any()
    assert json.loads((tmp_path / "coco.json").read_text())["annotations"] == []
    assert (tmp_path / "b.txt").read_text() == ""
    assert not list(tmp_path.glob("b_cutout*"))


def test_masks_are_cleaned_as_the_flags_say(predictor, photos, tmp_path):
    flags = ["--fill-holes", "50", "--remove-islands", "60", "--mask-threshold", "-0.5"]
    assert run(photos / "b.png", *flags, "--out", tmp_path) == 0
    result = predicted(predictor, photos / "b.png", mask_threshold=-0.5, fill_hole_area=50,
                 max_sprinkle_area=60)  # fmt: skip
    np.testing.assert_array_equal(mask_of(tmp_path / "b_mask.png"), result.masks[0])


def test_an_accelerator_gets_several_images_at_once(predictor, photos, tmp_path, monkeypatch):
    encode, sizes = predictor.encode_many, []

    def one_by_one(images):
        sizes.append(len(images))
        return [encode([image])[0] for image in images]

    monkeypatch.setattr(predictor, "encode_many", one_by_one)
    monkeypatch.setattr(segment_images, "BATCH", 2)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    (photos / "aa.png").write_text("no image")
    assert run(photos, "--out", tmp_path / "out") == 1
    assert sizes == [1, 2]
    for stem in ("a", "b", "tabby/a"):
        result = predicted(predictor, photos / f"{stem}.png").masks[0]
        np.testing.assert_array_equal(mask_of(tmp_path / "out" / f"{stem}_mask.png"), result)


def test_only_a_few_images_are_held_at_a_time(predictor, tmp_path, monkeypatch):
    photos, number = tmp_path / "photos", 100
    photos.mkdir()
    for i in range(number):
        Image.new("RGB", (20 + i % 23, 30 + i % 37)).save(photos / f"{i}.bmp")
    find, masks, held, arrays = segment_images.find_objects, [], [], []

    def watched(*args):
        found = find(*args)
        masks.append(weakref.ref(found.masks))
        held.append(sum(mask() is not None for mask in masks))
        arrays.append(len(jax.live_arrays()))
        return found

    monkeypatch.setattr(segment_images, "find_objects", watched)
    assert run(photos, "--quiet", "--out", tmp_path / "out", "--format", "mask,coco") == 0
    assert len(masks) == number and max(held) <= 4
    # Those of the current image, and of images whose program still runs.
    assert max(arrays) - min(arrays) <= 10
    assert len(json.loads((tmp_path / "out" / "coco.json").read_text())["images"]) == number


def test_ctrl_c_keeps_what_is_done(predictor, photos, tmp_path, capsys, monkeypatch):
    encode, left = predictor.encode_many, [2]

    def interrupted(images):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return encode(images)

    monkeypatch.setattr(predictor, "encode_many", interrupted)
    assert run(photos, "--out", tmp_path / "out", "--format", "coco,mask") == 130
    assert "stopped after 2 of 3 images" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "out" / "coco.json").read_text())["images"]) == 2
    assert (tmp_path / "out" / "b_mask.png").is_file()


def test_results_inside_the_folder_are_not_segmented_the_next_time(predictor, photos, capsys):
    for _ in range(2):
        assert run(photos, "--out", photos / "out", "--format", "mask,overlay") == 0
        assert "3 of 3 images" in capsys.readouterr().out


def nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    return ["empty", "--out", "out"], "no images found"


def missing(tmp_path):
    return ["photos/c.png", "--out", "out"], "photos/c.png: no such file or folder"


def file_for_out(tmp_path):
    (tmp_path / "file").touch()
    return ["photos", "--out", "file/out"], "--out file/out: not writable"


def among_the_images(tmp_path):
    return ["photos", "--out", "photos"], "is an input folder: the next run would segment mask"


def over_an_image(tmp_path):
    (tmp_path / "photos" / "a.png").rename(tmp_path / "photos" / "b_mask.png")
    images = ["photos/b.png", "photos/b_mask.png"]
    return [*images, "--out", "photos"], "photos/b_mask.png is one of the images"


def twice(tmp_path):
    (tmp_path / "photos" / "a.png").rename(tmp_path / "photos" / "coco.png")
    return [
        "photos",
        "--out",
        "out",
        "--format",
        "coco,labelme",
    ], "coco.json would be written twice"


@pytest.mark.parametrize(
    "prepare", [nothing, missing, file_for_out, among_the_images, over_an_image, twice]
)
def test_bad_paths_are_reported_before_a_model_is_opened(
    prepare, photos, tmp_path, capsys, monkeypatch
):
    def opened(*args, **options):
        raise AssertionError("a model was opened")

    monkeypatch.setattr(ImagePredictor, "from_checkpoint", opened)
    monkeypatch.chdir(tmp_path)
    flags, words = prepare(tmp_path)
    assert run(*flags) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--point", "3"], "'3': expected X,Y or X,Y,0, in pixels"),
        (["--point", "3,4,2"], "the third number is 1, in, or 0, out"),
        (["--point", "3,nan"], "expected X,Y"),
        (["--box", "1,2,3"], "expected X0,Y0,X1,Y1"),
        (["--format", "mask,cutuot"], "no format 'cutuot'; did you mean cutout?"),
        (["--format", "gif"], "no format 'gif'; there are mask, cutout"),
        (["--auto", "--box", "1,2,3,4"], "--auto: cannot be combined with --box"),
        (
            ["--box", "1,2,3,4", "--box", "1,2,3,4", "--point", "1,2"],
            "--point: cannot be combined with more than one --box",
        ),
        (["--min-score", "2"], "expected a number from 0 to 1"),
        (["--soft", "-1"], "expected a number of 0 or more"),
        (["--fill-holes", "-1"], "expected a number of pixels, 0 or more"),
        (["--background", "whit"], "not a colour; write white"),
        (["--step", "3"], "--step: name its checkpoint with --ckpt DIR"),
        (["clip.mp4"], "clip.mp4 is a video: petsam track"),
    ],
)
def test_wrong_flags_are_errors_with_what_is_expected(flags, words, capsys):
    with pytest.raises(SystemExit) as ended:
        run("cat.jpg", "--out", "out", *flags)
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_a_missing_checkpoint_is_named(photos, tmp_path, capsys):
    assert run(photos, "--out", tmp_path / "out", "--ckpt", tmp_path / "none") == 1
    assert f"{tmp_path / 'none'}: no such checkpoint directory" in capsys.readouterr().err
