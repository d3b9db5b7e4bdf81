"""compute_dtype.py: what a model computes in where it is used, and that answers stay the same."""

import jax
import numpy as np
import pytest
from PIL import Image

from petsam_jax.checkpoint import load_model, load_weights, save_weights
from petsam_jax.cli import segment, track
from petsam_jax.models import compute_dtype
from petsam_jax.models.compute_dtype import fastest_dtype
from petsam_jax.predict.image_predictor import ImagePredictor
from petsam_jax.predict.video_predictor import VideoPredictor
from tests.small_model import random_arrays, small_config

ZEN3 = "processor\t: 0\nmodel name\t: AMD\nflags\t\t: fpu sse2 avx2 fma\n\nprocessor\t: 1\n"
ZEN4 = ZEN3.replace("avx2", "avx2 avx512_bf16 avx512f")
M1 = "processor\t: 0\nFeatures\t: fp asimd fphp\nCPU part\t: 0x022\n"
M2 = M1.replace("fphp", "fphp bf16")


@pytest.fixture
def processor(tmp_path, monkeypatch):
    def is_now(text):
        path = tmp_path / "cpuinfo"
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(compute_dtype, "CPUINFO", path)

    return is_now


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config = small_config()
    config.model.dtype = "bfloat16"
    path = tmp_path_factory.mktemp("weights")
    save_weights(path, random_arrays(config), config)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [(ZEN3, "float32"), (ZEN4, "bfloat16"), (M1, "float32"), (M2, "bfloat16"), (None, "float32")],
    ids=["x86 without", "x86 with", "ARM without", "ARM with", "no Linux"],
)
def test_bfloat16_where_the_processor_has_instructions_for_it(processor, text, expected):
    processor(text)
    assert fastest_dtype("bfloat16") == expected
    assert fastest_dtype("float32") == "float32"


def test_other_devices_keep_what_was_trained(processor, monkeypatch):
    processor(ZEN3)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert fastest_dtype("bfloat16") == "bfloat16"


@pytest.mark.slow
@pytest.mark.parametrize("text", [ZEN3, ZEN4], ids=["without", "with"])
def test_a_checkpoint_opens_in_the_fastest_or_the_requested_dtype(processor, checkpoint, text):
    processor(text)
    faster = "float32" if text == ZEN3 else "bfloat16"
    for requested, expected in ((None, faster), ("float32", "float32"), ("bfloat16", "bfloat16")):
        config, model = load_model(checkpoint, dtype=requested)
        assert config.model.dtype == expected
        assert model.image_encoder.conv_s0.dtype == expected
    assert ImagePredictor.from_checkpoint(checkpoint).config.model.dtype == faster
    # Weights to train on from are what they are.
    assert load_weights(checkpoint)[0].model.dtype == "bfloat16"


@pytest.mark.slow
def test_results_differ_by_rounding_only(checkpoint, rng):
    image = rng.integers(0, 256, (50, 70, 3), np.uint8)
    results = {}
    for dtype in ("float32", "bfloat16"):
        predictor = ImagePredictor.from_checkpoint(checkpoint, dtype=dtype)
        predictor.set_image(image)
        results[dtype] = predictor.predict(points=[(30, 20)], labels=[1], return_logits=True)
    exact, rounded = (results[dtype].masks for dtype in ("float32", "bfloat16"))
    assert not np.array_equal(exact, rounded)
    assert np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max()


@pytest.mark.slow
def test_a_session_opens_in_the_other_dtype(checkpoint, tmp_path, rng):
    frames = rng.integers(0, 256, (3, 64, 64, 3), np.uint8)
    session = VideoPredictor.from_checkpoint(checkpoint, dtype="float32").open(frames)
    mask = session.add_box(0, 1, (10, 10, 50, 50))
    session.save_session(tmp_path / "dog.npz")
    other = VideoPredictor.from_checkpoint(checkpoint, dtype="bfloat16")
    np.testing.assert_array_equal(
        other.load_session(tmp_path / "dog.npz", frames).masks(0).masks[0], mask
    )


@pytest.mark.parametrize("command", [segment, track])
def test_commands_pass_the_flag_on(command, tmp_path, monkeypatch):
    class Opened(Exception):
        pass

    def opened(directory, *, step, dtype):
        raise Opened(dtype)

    (tmp_path / "clip").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "clip" / "0.png")
    for predictor in (ImagePredictor, VideoPredictor):
        monkeypatch.setattr(predictor, "from_checkpoint", opened)
    flags = ["--point", "3,3", "--dtype", "bfloat16", "--out", str(tmp_path / "out")]
    if command is track:
        flags[-1] += ".mp4"
    with pytest.raises(Opened, match="bfloat16"):
        command.main([str(tmp_path / "clip"), *flags])
