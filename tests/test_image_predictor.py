"""ImagePredictor: the model's own masks, at any image's size, without recompilation."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from petsam_jax.checkpoint import model_with_weights, save_weights
from petsam_jax.files.images import UnfitImage
from petsam_jax.models.params import weights
from petsam_jax.models.prompting import Prompting
from petsam_jax.models.prompts import EMPTY, set_mask
from petsam_jax.predict import image_predictor
from petsam_jax.predict.image_predictor import ImagePredictor
from petsam_jax.predict.model_parts import rounded_model
from petsam_jax.predict.postprocess import fill_holes, masks_at_size, remove_islands
from petsam_jax.predict.prompt_inputs import Prompt, model_prompts, read_prompts
from petsam_jax.train.objective import Objective
from petsam_jax.train.validation import predict_all
from tests.small_model import SIZE, random_arrays, small_config

CELLS, REFINEMENTS = 16, 2
CLICK = dict(points=[(20, 30)], labels=[1])
CLICKS = dict(points=[(20, 30), (50.5, 7), (3, 60)], labels=[1, 0, 1])
BOX = dict(boxes=(10, 5, 40, 50))
CLICKS_IN_40 = dict(points=[(20, 20), (30, 7)], labels=[1, 0])
PAGE = 4096


@pytest.fixture(scope="module")
def config():
    config = small_config()
    with config.unlocked():
        config.prompts.refinements = REFINEMENTS
    return config


@pytest.fixture(scope="module")
def model(config):
    return model_with_weights(config, random_arrays(config))


@pytest.fixture(scope="module")
def predictor(config, model):
    return ImagePredictor(config, model)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(5).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def direct(model, predictor, pixels):
    """The model itself on the image, from encoded prompts."""

    @jax.jit
    def decode(features, prompts, single):
        pix_feat = model.attend_memory(features.image_embed)
        few = ((prompts.labels != EMPTY).sum(axis=1) <= 1) & ~single
        return model.decode(pix_feat, features.high_res_feats, *prompts, multimask=few, gated=False)

    def predict(prompts, single=False):
        return decode(predictor.encode(pixels).features, prompts, single)

    return predict


@pytest.fixture(scope="module")
def encode_prompts(config):
    return jax.jit(Prompting.of(config.prompts).encode)


@pytest.fixture
def compiled():
    """Names of what is compiled from here on."""
    names = []

    def listen(event, seconds, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(about.get("fun_name", event))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def read(given):
    given = dict(points=None, labels=None, boxes=None, mask_input=None) | given
    prompts, logits, _ = read_prompts(**given, cells=CELLS)
    return model_prompts(prompts, (SIZE, SIZE), SIZE, logits)


def assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


# The model's masks


@pytest.mark.slow
@pytest.mark.parametrize("given", [{}, CLICK, CLICKS, BOX], ids=["none", "click", "3", "box"])
@pytest.mark.parametrize("fed_back", [False, True])
def test_masks_are_those_of_the_model(
    predictor, direct, encode_prompts, pixels, rng, given, fed_back
):
    if fed_back:
        given = given | dict(mask_input=rng.normal(0, 5, (CELLS, CELLS)))
    prompts = jax.tree.map(jnp.asarray, read(given))
    first = expected = direct(encode_prompts(prompts))
    if "points" not in given and not fed_back:
        for _ in range(REFINEMENTS):
            last = jnp.moveaxis(expected.mask_logits, 1, -1)
            expected = direct(encode_prompts(set_mask(prompts, last)), single=True)
        assert not np.allclose(expected.mask_logits, first.mask_logits, atol=1e-2)
    image = predictor.encode(pixels)
    result = predictor.predict(**given, image=image)
    assert_close(result.low_res_logits, expected.mask_logits[0])
    assert_close(result.iou_pred, expected.iou_pred[0])
    assert_close(result.object_score, jax.nn.sigmoid(expected.object_logit[0, 0]))
    np.testing.assert_array_equal(result.masks, masks_at_size(result.low_res_logits, SIZE, SIZE))
    three = predictor.predict(**given, multimask=True, image=image)
    assert_close(three.low_res_logits, first.all_logits[0, 1:])
    assert_close(three.iou_pred, first.all_ious[0, 1:])
    assert three.masks.shape == (3, SIZE, SIZE) and three.masks.dtype == bool


def test_prompts_that_are_not_painted_stay_as_they_are(config, model, predictor, direct, pixels):
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.prompts.painted = False
    plain = ImagePredictor(config, model)
    result = plain.predict(**CLICKS, image=predictor.encode(pixels))
    assert_close(result.low_res_logits, direct(read(CLICKS)).mask_logits[0])


@pytest.mark.slow
def test_validation_finds_the_same_masks(config, model, predictor, pixels):
    mask = np.zeros((1, SIZE, SIZE), np.uint8)
    mask[0, 10:50, 20:45] = 1
    objective = Objective.of(config.prompts, config.loss)
    clicks = 3
    run = jax.jit(
        lambda image, mask: predict_all(
            model, image, mask, jax.random.key(0), objective, clicks, 0.0
        )
    )
    expected = jax.tree.map(np.asarray, run(pixels[None], mask))
    predictor.set_image(pixels)
    found = [predictor.predict_pet(), predictor.predict(boxes=(20, 10, 44, 49))]
    logits = None
    for number in range(1, clicks + 1):
        points, labels = (x[1 + number, 0, :number] for x in expected.prompts[:2])
        found.append(predictor.predict(points, labels, mask_input=logits))
        logits = found[-1].low_res_logits[0]
    for number, one in enumerate(found):
        # But for pixels whose logit is 0 within rounding.
        assert (one.masks[0] != expected.masks[number, 0]).mean() < 1e-3, number
    assert any(one.masks.any() and not one.masks.all() for one in found)


def test_kernels_are_rounded_as_in_their_products(config, model):
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.model.dtype = "bfloat16"
    model = model_with_weights(config, weights(model))
    rounded = rounded_model(model)
    assert rounded.mask_decoder.iou_head.layers[0].kernel.dtype == jnp.bfloat16
    assert rounded.mask_decoder.hypernetworks.kernel0.dtype == jnp.float32
    assert model.mask_decoder.iou_head.layers[0].kernel.dtype == jnp.float32
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32)), jnp.float32)
    np.testing.assert_array_equal(model.mask_decoder.iou_head(x), rounded.mask_decoder.iou_head(x))


def test_a_prompt_gives_what_its_arrays_give(predictor, pixels, rng):
    image = predictor.encode(pixels)
    logits = rng.normal(size=(CELLS, CELLS))
    prompt = Prompt.read(**CLICKS, box=BOX["boxes"])
    one = predictor.predict(prompt=prompt, mask_input=logits, image=image)
    other = predictor.predict(**CLICKS, **BOX, mask_input=logits, image=image)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    boxes = [(10, 5, 40, 50), (1, 2, 30, 40)]
    two = predictor.predict(prompt=[Prompt.read(box=box) for box in boxes], image=image)
    jax.tree.map(np.testing.assert_array_equal, two, predictor.predict(boxes=boxes, image=image))
    mask = rng.random((SIZE, SIZE)) > 0.5
    one = predictor.predict(prompt=Prompt.read(mask=mask), image=image)
    other = predictor.predict(mask_input=predictor.mask_prompt(mask), image=image)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_one_point_gets_the_best_of_three_and_more_get_the_single_mask(predictor, pixels):
    image = predictor.encode(pixels)
    best, three = (predictor.predict(**CLICK, multimask=m, image=image) for m in (None, True))
    assert best.iou_pred[0] == three.iou_pred.max() and best.masks.shape == (1, SIZE, SIZE)
    np.testing.assert_array_equal(best.masks[0], three.masks[three.iou_pred.argmax()])
    for given in (CLICKS, BOX):
        alone, one = (predictor.predict(**given, multimask=m, image=image) for m in (None, False))
        np.testing.assert_array_equal(alone.low_res_logits, one.low_res_logits)


def test_logits_are_clipped_at_32(predictor, pixels, rng):
    image = predictor.encode(pixels)
    signs = np.sign(rng.normal(size=(CELLS, CELLS)))
    strong, stronger = (
        predictor.predict(**CLICKS, mask_input=limit * signs, image=image) for limit in (32, 1e6)
    )
    np.testing.assert_array_equal(strong.low_res_logits, stronger.low_res_logits)
    assert np.abs(strong.low_res_logits).max() <= 32


# Shapes, and what is compiled


def test_other_sizes_and_further_clicks_compile_nothing(predictor, rng, compiled):
    predictor.set_image(rng.integers(0, 256, (50, 70, 3), np.uint8))
    result = predictor.predict(**CLICK)
    assert set(compiled) <= {"_encode_step", "_decode_step"}
    compiled.clear()
    for height, width in ((16, 16), (301, 77), (33, 1000), (1, 5), (720, 1280)):
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        encoded = predictor.set_image(image)
        assert encoded.size == (height, width)
        for number in range(1, 17):
            points = rng.uniform(-0.5, (width - 0.5, height - 0.5), (number, 2))
            labels = rng.integers(0, 2, number)
            result = predictor.predict(points, labels, mask_input=result.low_res_logits[0])
            assert result.masks.shape == (1, height, width)
        box = predictor.predict(boxes=(0, 0, width - 1, height - 1), multimask=True)
        assert box.masks.shape == (3, height, width)
        assert predictor.predict_pet().low_res_logits.shape == (1, CELLS, CELLS)
    assert compiled == []


def test_more_slots_for_points_change_no_mask(predictor, pixels):
    image = predictor.encode(pixels)
    few = predictor.predict(**CLICKS, image=image)
    padded = dict(points=CLICKS["points"] + [(0, 0)] * 20, labels=CLICKS["labels"] + [-1] * 20)
    many = predictor.predict(**padded, image=image)
    assert_close(many.low_res_logits, few.low_res_logits)


def test_objects_together_get_the_masks_that_each_gets_alone(predictor, pixels, rng, compiled):
    image = predictor.encode(pixels)
    points = rng.uniform(0, SIZE - 1, (3, 2, 2))
    labels = np.array([[1, 0], [1, -1], [0, -1]])
    boxes = np.sort(rng.uniform(0, SIZE - 1, (3, 2, 2)), axis=1).reshape(3, 4)
    logits = rng.normal(0, 3, (3, CELLS, CELLS))
    together = predictor.predict(points, labels, boxes, logits, multimask=True, image=image)
    assert together.masks.shape == (3, 3, SIZE, SIZE) and together.object_score.shape == (3,)
    for number in range(3):
        given = (points[number], labels[number], boxes[number], logits[number])
        alone = predictor.predict(*given, multimask=True, image=image)
        assert alone.object_score.shape == ()
        for one, all_ in zip(alone[1:], together[1:], strict=True):
            assert_close(all_[number], one)
    compiled.clear()
    four = predictor.predict(boxes=np.repeat(boxes[:1], 4, 0), image=image)
    assert four.masks.shape == (4, 1, SIZE, SIZE) and compiled == []
    none = predictor.predict(boxes=boxes[:0], image=image)
    assert none.masks.shape == (0, 1, SIZE, SIZE) and none.iou_pred.shape == (0, 1)
    assert predictor.predict(boxes=boxes[:1], image=image).masks.shape == (1, 1, SIZE, SIZE)


def test_logits_thresholds_and_small_parts(predictor, rng):
    image = predictor.encode(rng.integers(0, 256, (90, 120, 3), np.uint8))
    given = CLICK | dict(multimask=True, image=image)
    plain, logits = predictor.predict(**given), predictor.predict(**given, return_logits=True)
    assert logits.masks.dtype == np.float32
    np.testing.assert_array_equal(plain.masks, logits.masks > 0)
    middle = float(np.median(logits.masks))
    masks = predictor.predict(**given, mask_threshold=middle).masks
    np.testing.assert_array_equal(masks, logits.masks > np.float32(middle))
    cleaned = predictor.predict(
        **given, mask_threshold=middle, fill_hole_area=30, max_sprinkle_area=20
    )
    np.testing.assert_array_equal(cleaned.masks, remove_islands(fill_holes(masks, 30), 20))
    with pytest.raises(ValueError, match="return_logits: logits have no holes or islands"):
        predictor.predict(**given, return_logits=True, fill_hole_area=1)


def test_a_mask_becomes_a_mask_input(predictor):
    mask = np.zeros((100, 200), bool)
    mask[:, :100] = True
    logits = predictor.mask_prompt(mask)
    assert logits.shape == (CELLS, CELLS)
    np.testing.assert_allclose(logits[:, :7], 10, atol=1e-5)
    np.testing.assert_allclose(logits[:, 9:], -10, atol=1e-5)


# Images


def test_exif_is_applied_to_size_and_pixels(predictor, tmp_path, rng):
    pixels = rng.integers(0, 256, (40, 90, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "turned.png", exif=exif)
    turned, upright = predictor.encode(tmp_path / "turned.png"), predictor.encode(pixels)
    assert turned.size == upright.size == (40, 90)
    jax.tree.map(np.testing.assert_array_equal, turned.features, upright.features)


def test_images_of_different_sizes_are_encoded_together(predictor, rng, monkeypatch):
    images = [rng.integers(0, 256, (20 + i, 90 - i, 3), np.uint8) for i in range(3)]
    alone = [predictor.encode(image) for image in images]
    # As an accelerator does it: three images in a batch of four.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    together = predictor.set_images(images)
    assert [one.size for one in together] == [(20, 90), (21, 89), (22, 88)]
    for one, other in zip(alone, together, strict=True):
        jax.tree.map(assert_close, one.features, other.features)
    assert predictor.predict(**CLICK | dict(points=[(2, 2)])).masks.shape == (1, 22, 88)
    assert predictor.set_images([]) == []


def test_calls_without_an_image_and_bad_images_are_errors(config, model, predictor, pixels):
    new = ImagePredictor(config, model)
    with pytest.raises(RuntimeError, match="no image yet: call set_image first, or pass image="):
        new.predict_pet()
    predictor.set_image(pixels)
    with pytest.raises(UnfitImage, match="no/such.jpg: cannot be read"):
        predictor.set_image("no/such.jpg")
    assert predictor.predict_pet().masks.shape == (1, SIZE, SIZE)
    with pytest.raises(ValueError, match="outside the image"):
        predictor.predict(points=[(SIZE, 0)], labels=[1])


def test_an_encoded_image_knows_its_memory_and_does_not_change(predictor, pixels):
    encoded = predictor.encode(pixels)
    assert encoded.nbytes == 4 * (4 * 4 * 32 + 8 * 8 * 8 + 16 * 16 * 4)
    with pytest.raises(AttributeError):
        encoded.size = (1, 1)


def test_threads_with_images_of_their_own_do_not_interfere(predictor, rng):
    images = rng.integers(0, 256, (4, 30, 40, 3), np.uint8)
    expected = [predictor.predict(**CLICKS_IN_40, image=predictor.encode(x)) for x in images]
    wrong = []

    def work(number):
        for _ in range(20):
            encoded = predictor.set_image(images[number])
            result = predictor.predict(**CLICKS_IN_40, image=encoded)
            if not np.array_equal(result.low_res_logits, expected[number].low_res_logits):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and len({x.low_res_logits.tobytes() for x in expected}) == 4


@pytest.mark.slow
def test_memory_stays_flat_over_a_thousand_images(predictor, rng, compiled):
    images = rng.integers(0, 256, (7, 60, 90, 3), np.uint8)
    resident = {}
    for number in range(1000):
        image = images[number % 7, : 20 + number % 40, : 30 + number % 60]
        predictor.set_image(image)
        predictor.predict(**CLICK | dict(points=[(5, 5)]))
        if number in (199, 999):
            resident[number] = _resident_bytes(), len(jax.live_arrays())
        if number == 199:
            compiled.clear()
    # An embedding that is kept would be an array, a function for each size a compilation.
    assert resident[999][1] == resident[199][1] and compiled == []
    assert resident[999][0] - resident[199][0] < 20e6


def _resident_bytes():
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * PAGE
    except FileNotFoundError:
        return 0


# Checkpoints


def test_a_checkpoint_opens_with_its_config_and_arrays(config, model, predictor, tmp_path):
    save_weights(tmp_path / "weights", weights(model), config)
    opened = ImagePredictor.from_checkpoint(tmp_path / "weights")
    assert opened.config == config and opened.size == SIZE
    for program in ("encode", "decode"):
        arrays = opened._programs.parts[program], predictor._programs.parts[program]
        jax.tree.map(np.testing.assert_array_equal, *arrays)


def test_missing_weights_are_reported_with_how_to_train_some(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no such checkpoint directory"):
        ImagePredictor.from_checkpoint(tmp_path / "none")
    monkeypatch.setattr(image_predictor, "SHIPPED", tmp_path / "shipped")
    with pytest.raises(FileNotFoundError, match="shipped: no weights came .* train some with"):
        ImagePredictor.from_checkpoint()
