"""The golden arrays are there, read from where they should be, and put into modules strictly."""

import numpy as np
import pytest
from flax import nnx

from petsam_jax.models.layers import LayerNorm, Linear
from petsam_jax.models.params import NamesError, weights
from tests.golden import (
    LIMITS,
    SHIPPED,
    assert_close,
    golden,
    golden_config,
    golden_model,
    golden_params,
    load_part,
    nchw,
    nhwc,
    outputs,
    shipped,
    shipped_model,
    shipped_params,
)


def test_every_file_is_readable_and_has_limits():
    for name in LIMITS:
        assert len(shipped(name)) > 0
    assert sum(array.size for array in shipped("params").values()) == 625_882


@pytest.mark.parametrize("name", [*LIMITS, "params"])
def test_another_folder_has_the_same_arrays_of_other_numbers(name):
    """So that no test has less to compare there."""
    assert golden(name).keys() == shipped(name).keys()


def test_the_repository_keeps_less_than_6_mb():
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 6e6


def test_the_environment_variable_points_elsewhere_but_for_what_is_shipped(tmp_path, monkeypatch):
    np.savez(tmp_path / "ops.npz", made_up=np.arange(3.0))
    monkeypatch.setenv("PETSAM_GOLDENS", str(tmp_path))
    assert list(golden("ops")) == ["made_up"]
    assert "gelu.in" in shipped("ops")
    with pytest.raises(FileNotFoundError, match=r"hiera\.npz.*PETSAM_GOLDENS"):
        golden("hiera")
    with pytest.raises(FileNotFoundError, match=r"config\.json.*PETSAM_GOLDENS"):
        golden_model()
    assert shipped_model().mask_decoder.mask_tokens.shape == (4, 32)


def test_outputs_are_all_but_the_inputs(tmp_path, monkeypatch):
    np.savez(tmp_path / "ops.npz", a=np.arange(3.0), b=np.arange(3.0), new=np.arange(3.0))
    monkeypatch.setenv("PETSAM_GOLDENS", str(tmp_path))
    assert outputs("ops", {"a"}) == ["b", "new"]
    with pytest.raises(AssertionError, match=r"ops\.npz has no {'c'}"):
        outputs("ops", {"a", "c"})


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
    norm = load_part(LayerNorm(32, eps=1e-5), shipped_params(), "memory_attention.norm")
    want = shipped("params")["memory_attention.norm.weight"]
    np.testing.assert_array_equal(weights(norm)["scale"], want)


@pytest.mark.slow
@pytest.mark.parametrize(
    "build, read", [(golden_model, golden_params), (shipped_model, shipped_params)]
)
def test_a_model_has_the_parameters_of_its_folder_only(build, read):
    arrays, want = weights(build()), read()
    assert arrays.keys() == want.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(arrays[name], array)


def test_load_part_lists_every_fault():
    module = LayerNorm(31, eps=1e-5)
    module.extra = Linear(2, 3, rngs=nnx.Rngs(0))
    with pytest.raises(NamesError) as error:
        load_part(module, shipped_params(), "mask_decoder.upscale1")
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


def test_what_is_close_depends_on_the_file():
    want = np.array([0.0, 100.0], np.float32)
    assert_close("hiera", want + np.array([0.9e-4, 0.9e-2]), want)
    for file, difference in (("hiera", 1.2e-4), ("ops", 0.9e-4)):
        with pytest.raises(AssertionError, match=file):
            assert_close(file, want + np.array([difference, 0]), want)
    with pytest.raises(AssertionError, match="shape"):
        assert_close("hiera", want[None], want)
    with pytest.raises(AssertionError, match="block3"):
        assert_close("hiera", want + 1, want, "block3")
