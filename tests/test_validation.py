"""Validation: the protocol on a model with known predictions, its scores and its sheet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange, repeat
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from petsam_jax.checkpoint import build_model
from petsam_jax.config import load_config
from petsam_jax.data.shapes import ShapesSource
from petsam_jax.mask_values import IGNORE, PET
from petsam_jax.models.image_encoder import ImageFeatures
from petsam_jax.models.mask_ops import MaskOutput
from petsam_jax.models.params import weights
from petsam_jax.models.prompts import EMPTY, POSITIVE
from petsam_jax.models.sam2 import SAM2
from petsam_jax.predict.video_predictor import VideoPredictor
from petsam_jax.train.objective import Objective
from petsam_jax.train.plan import make_validation
from petsam_jax.train.step import ModelTemplate
from petsam_jax.train.validation import predict_all, track_clips
from tests.golden import shipped_model
from tests.golden_video import shipped_frame

pytestmark = pytest.mark.slow

SIZE = 64


class Echo(SAM2):
    """Predictions with what is painted in its mask input."""

    def __init__(self):
        self.nothing = nnx.Param(jnp.zeros(1))

    def encode_image(self, image, key=None):
        b, h, w, _ = image.shape
        fine = jnp.zeros((b, h // 4, w // 4, 1)), jnp.zeros((b, h // 8, w // 8, 1))
        return ImageFeatures(jnp.zeros((b, h // 16, w // 16, 1)), fine)

    def attend_memory(self, image_embed):
        return image_embed

    def decode(self, pix_feat, fine, points, labels, mask_input, has_mask, *, gated, multimask):
        logits = rearrange(mask_input, "b h w 1 -> b 1 h w") + self.nothing[0]
        one = jnp.ones((len(labels), 1))
        every = repeat(logits, "b 1 h w -> b 4 h w"), jnp.ones((len(labels), 4))
        return MaskOutput(logits, one, one, one, *every, has_mask)


@pytest.fixture(scope="module")
def objective():
    config = load_config("configs/tiny.py")
    return Objective.of(config.prompts, config.loss)


def squares():
    """A square of 32 pixels, one with an ignored rim of 4, and no pet at all."""
    mask = np.zeros((3, SIZE, SIZE), np.uint8)
    mask[0, 16:48, 16:48] = 1
    mask[1, 12:52, 12:52] = 2
    mask[1, 16:48, 16:48] = 1
    return jnp.zeros((3, SIZE, SIZE, 3), jnp.uint8), jnp.asarray(mask)


@pytest.fixture(scope="module")
def predictions(objective):
    return jax.jit(
        lambda image, mask: predict_all(Echo(), image, mask, jax.random.key(0), objective, 3, 0.0)
    )(*squares())


def test_nothing_finds_nothing_and_a_box_finds_a_square(predictions):
    ious = np.asarray(predictions.ious)
    assert ious.shape == (5, 3)
    assert ious[0].tolist() == [0, 0, 1]
    # The half cell around it that bilinear logits lose, no more.
    assert 0.75 < ious[1, 0] < 1 and ious[1, 1] >= ious[1, 0]


def test_clicks_are_positive_in_the_middle_first_and_then_where_it_is_wrong(predictions):
    labels, points = np.asarray(predictions.prompts.labels), np.asarray(predictions.prompts.points)
    assert labels[0].max() == EMPTY and (labels[1, :2, -2:] == [2, 3]).all()
    assert [(row[0] != EMPTY).sum() for row in labels[2:]] == [1, 2, 3]
    assert labels[2, 0, 0] == POSITIVE and np.abs(points[2, 0, 0] - 31.5).max() <= 0.5
    mask, masks = np.asarray(squares()[1]), np.asarray(predictions.masks)
    for number in (3, 4):
        x, y = points[number, 0, number - 2].astype(int)
        label = labels[number, 0, number - 2]
        assert masks[number - 1, 0, y, x] != (mask[0, y, x] == 1) and label == mask[0, y, x]


def test_masks_are_fed_back_so_that_clicks_add_up(predictions):
    ious = np.asarray(predictions.ious)[2:, 0]
    assert 0 < ious[0] < ious[1] < ious[2]


def test_the_loss_is_that_of_training_and_least_for_the_best_mask(predictions, objective):
    losses, ious = np.asarray(predictions.losses), np.asarray(predictions.ious)
    assert losses.shape == ious.shape and np.isfinite(losses).all()
    # Of the square: nothing, then a click more each, then the whole box.
    assert (np.diff(losses[[0, 2, 3, 4, 1], 0]) < 0).all()
    # Without a pet there is but the score, here that of one who is sure that there is one.
    absent = objective.loss["object_weight"] * np.log1p(np.exp(1.0))
    np.testing.assert_allclose(losses[:, 2], absent, rtol=1e-5)


def test_an_image_without_pet_gets_no_box_and_no_click(predictions):
    assert (np.asarray(predictions.prompts.labels)[:, 2] == EMPTY).all()
    assert (np.asarray(predictions.ious)[:, 2] == 1).all()


def test_scores_are_means_over_images_without_padding():
    config = load_config("configs/tiny.py", ["data.size=64", "eval.examples=5"])
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.eval.update(batch_size=4, clicks=(1, 3))
    definition, _ = nnx.split(Echo())
    mesh = Mesh(np.array(jax.devices()), ("data",))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    source = ShapesSource(20, 64)
    check = make_validation(config, source, ModelTemplate(definition, {}), spread)
    scores, sheet = check({"nothing": jnp.zeros(1)})
    means = ["iou_mean", "loss"]
    assert list(scores) == ["iou_none", "iou_box", "iou_click1", "iou_click3", *means]
    # Shapes always have a pet, which no prompt does not find; the padding's IoU of 1 is left out.
    assert scores["iou_none"] == 0 and scores["iou_box"] > 0.5
    assert scores["iou_mean"] == pytest.approx(np.mean(list(scores.values())[:4]))
    assert sheet.size == (6 * 64, 5 * (64 + 14))
    assert check({"nothing": jnp.zeros(1)})[0] == scores


def test_clips_are_tracked_as_by_the_video_predictor():
    config = load_config("configs/tiny.py")
    with config.unlocked():
        # With it a cell that differs, as below, is handed from frame to frame.
        config.prompts.carried = False
    model = shipped_model()
    rng = np.random.default_rng(0)
    image = np.stack([shipped_frame(number) for number in range(3)])
    y, x = np.mgrid[: image.shape[1], : image.shape[2]]
    mask = np.stack([np.hypot(y - 60 - 3 * t, x - 60 - 2 * t) < 30 for t in range(3)])
    mask = mask.astype(np.uint8)
    mask[1:][rng.random(mask[1:].shape) < 0.1] = IGNORE

    # Beside a clip whose first frame has nothing to follow.
    both = np.stack([image, image]), np.stack([mask, np.zeros_like(mask)])
    outcome = jax.jit(
        lambda *clip: track_clips(model, *clip, Objective.of(config.prompts, config.loss))
    )(*both)
    assert outcome.ious.shape == (2, 2) and outcome.counted.all()

    session = VideoPredictor(config, model).open(list(image))
    session.add_mask(0, 1, mask[0] > 0)
    found = {frame: masks[0] for frame, _, masks in session.propagate()}
    for t in (1, 2):
        counts = mask[t] != IGNORE
        pet, seen = (mask[t] == PET)[counts], found[t][counts]
        expected = (pet & seen).sum() / (pet | seen).sum()
        assert 0 < expected < 1
        # The predictor remembers a given mask at the image's size, training at that of logits.
        assert outcome.ious[t - 1, 0] == pytest.approx(expected, abs=0.01)


def test_a_run_on_clips_is_validated_on_clips_too():
    config = load_config("configs/tiny.py", ["data.size=64", "eval.examples=4", "eval.clips=3"])
    with config.unlocked():
        config.train.update(clip_share=0.5, clip_batch_size=2)
        config.eval.update(batch_size=4, clicks=(1,))
    model = build_model(config)
    definition, _ = nnx.split(model)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    source = ShapesSource(20, 64)
    check = make_validation(config, source, ModelTemplate(definition, {}), spread)
    arrays = weights(model)
    scores, _ = check(arrays)
    names = ["iou_none", "iou_box", "iou_click1", "iou_mean", "loss", "iou_clip"]
    assert list(scores) == names
    assert 0 < scores["iou_clip"] < 1
    # The mean is over images only, so that runs with and without clips compare.
    assert scores["iou_mean"] == pytest.approx(np.mean(list(scores.values())[:3]))
    assert check(arrays)[0] == scores
