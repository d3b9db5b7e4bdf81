"""Runs that start from a checkpoint, to fine-tune it on other images."""

import numpy as np
import pytest

from petsam_jax.checkpoint import build_model, save_weights
from petsam_jax.config import ConfigError, load_config
from petsam_jax.models.params import weights
from petsam_jax.train.plan import initial_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    config = load_config("configs/tiny.py")
    arrays = {name: np.asarray(array) for name, array in weights(build_model(config, 3)).items()}
    folder = tmp_path_factory.mktemp("start") / "weights"
    save_weights(folder, arrays, config)
    return folder, arrays


def test_the_first_weights_are_those_of_the_checkpoint(saved):
    folder, arrays = saved
    # Another precision of products is no other model.
    config = load_config(
        "configs/tiny.py", (f"train.start_from={folder}", "model.dtype=bfloat16", "train.seed=5")
    )
    for name, array in weights(initial_model(config)).items():
        np.testing.assert_array_equal(array, arrays[name])


def test_without_a_checkpoint_they_are_drawn_from_the_seed(saved):
    fresh = weights(initial_model(load_config("configs/tiny.py", ("train.seed=3",))))
    name = "image_encoder.trunk.patch_embed.kernel"
    np.testing.assert_array_equal(fresh[name], saved[1][name])


def test_weights_without_mask_gain_in_their_config_start_a_run(saved, tmp_path):
    """As those that ship are: the gain is of fresh weights alone."""
    old = load_config("configs/tiny.py").copy_and_resolve_references()
    with old.unlocked():
        del old.model.prompt_encoder.mask_gain
    save_weights(tmp_path / "old", saved[1], old)
    model = initial_model(load_config("configs/tiny.py", (f"train.start_from={tmp_path / 'old'}",)))
    name = "prompt_encoder.mask_conv3.kernel"
    np.testing.assert_array_equal(weights(model)[name], saved[1][name])


def test_a_run_starts_from_the_folder_of_one_step(saved):
    config = load_config("configs/tiny.py", (f"train.start_from={saved[0]}/0",))
    name = "prompt_encoder.mask_conv3.kernel"
    np.testing.assert_array_equal(weights(initial_model(config))[name], saved[1][name])


def test_another_architecture_is_refused_with_its_differences(saved):
    config = load_config(
        "configs/tiny.py", (f"train.start_from={saved[0]}", "model.mask_decoder.num_heads=4")
    )
    with pytest.raises(ConfigError, match=r"start_from=.*mask_decoder.num_heads: 2 -> 4"):
        initial_model(config)


def test_a_missing_checkpoint_is_named(tmp_path):
    config = load_config("configs/tiny.py", (f"train.start_from={tmp_path / 'no'}",))
    with pytest.raises(FileNotFoundError, match="no: no such checkpoint"):
        initial_model(config)
