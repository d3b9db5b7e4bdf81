"""The golden arrays are there, read from where they should be, and put into modules strictly."""

import numpy as np
import pytest
from flax import nnx
from golden import (
    LIMITS,
    assert_close,
    close,
    folder,
    golden,
    golden_config,
    golden_params,
    load_part,
    nchw,
    nhwc,
    tiny_model,
)

from petsam_jax.models.layers import LayerNorm, Linear
from petsam_jax.names import NamesError, weights


def test_every_file_is_readable_and_has_limits():
    for name in LIMITS:
        assert len(golden(name)) > 0
    assert sum(array.size for array in golden("params").values()) == 625_882


def test_the_repository_keeps_less_than_6_mb():
    if folder().parent.name == "tests":
        assert sum(file.stat().st_size for file in folder().iterdir()) < 6e6


def test_the_environment_variable_points_elsewhere(tmp_path, monkeypatch):
    np.savez(tmp_path / "ops.npz", made_up=np.arange(3.0))
    monkeypatch.setenv("PETSAM_GOLDENS", str(tmp_path))
    assert list(golden("ops")) == ["made_up"]
    with pytest.raises(FileNotFoundError, match=r"hiera\.npz.*PETSAM_GOLDENS"):
        golden("hiera")


def test_arrays_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        golden("ops")["gelu.in"][0] = 1


def test_the_config_has_the_sizes_of_the_arrays():
    config, params = golden_config(), golden_params()
    trunk = config["image_encoder"]["trunk"]
    assert params["image_encoder.trunk.patch_embed.kernel"].shape == (7, 7, 3, trunk["embed_dim"])
    assert f"image_encoder.trunk.blocks.{sum(trunk['stages']) - 1}.norm1.scale" in params
    assert params["mask_decoder.mask_tokens"].shape == (4, config["d_model"])


def test_load_part_fills_a_module():
    norm = load_part(LayerNorm(32, eps=1e-5), "memory_attention.norm")
    want = golden("params")["memory_attention.norm.weight"]
    np.testing.assert_array_equal(weights(norm)["scale"], want)


def test_the_tiny_model_has_the_golden_parameters_only():
    arrays = weights(tiny_model())
    assert arrays.keys() == golden_params().keys()
    for name, array in golden_params().items():
        np.testing.assert_array_equal(arrays[name], array)


def test_load_part_lists_every_fault():
    module = LayerNorm(31, eps=1e-5)
    module.extra = Linear(2, 3, rngs=nnx.Rngs(0))
    with pytest.raises(NamesError) as error:
        load_part(module, "mask_decoder.upscale1")
    for fault in (
        "missing: scale (31,)",
        "missing: extra.kernel (2, 3)",
        "unknown: kernel (32, 2, 2, 8)",
        "misshapen: bias (8,), the model has (31,)",
    ):
        assert fault in str(error.value)


def test_layouts_round_trip(rng):
    x = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(nchw(nhwc(x)), x)


def test_close_is_the_limit_of_the_file():
    want = np.array([0.0, 100.0], np.float32)
    assert close("hiera", want + np.array([0.9e-4, 0.9e-2]), want)
    assert not close("hiera", want + np.array([1.2e-4, 0]), want)
    assert not close("ops", want + np.array([0.9e-4, 0]), want)
    assert not close("hiera", want[None], want)
    with pytest.raises(AssertionError, match="shape"):
        assert_close("hiera", want[None], want)
    with pytest.raises(AssertionError, match="block3"):
        assert_close("hiera", want + 1, want, "block3")
