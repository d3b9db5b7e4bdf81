"""Checkpoints: what was saved comes back on any number of devices, and nothing else ever does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from petsam_jax.checkpoint import (
    STEPS,
    CheckpointError,
    load_model,
    load_weights,
    model_shapes,
    model_with_weights,
    save_weights,
    step_number,
    step_path,
    weight_items,
)
from petsam_jax.config import differences, load_config
from petsam_jax.models.params import NamesError, weights

TINY = Path(__file__).parents[1] / "configs" / "tiny.py"


@pytest.fixture(scope="module")
def config():
    return load_config(TINY)


@pytest.fixture(scope="module")
def params(config):
    """Random arrays of the right shapes, which a fresh model's zeros and ones are not."""
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in model_shapes(config).items()
    }


@pytest.fixture
def saved(tmp_path, config, params):
    save_weights(tmp_path / "saved", params, config)
    return tmp_path / "saved"


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])


def test_saved_weights_are_loaded(saved, config, params):
    found, arrays = load_weights(saved)
    assert differences(config, found) == []
    assert_same(arrays, params)


@pytest.mark.slow
def test_a_model_is_loaded_from_its_path_alone(saved, config, params):
    found, model = load_model(saved)
    assert_same(weights(model), params)
    assert model.obj_ptr_proj.layers[0].kernel.shape == (found.model.d_model,) * 2
    image = jax.random.normal(jax.random.key(0), (1, 8, 12, 3))
    patches = [
        m.image_encoder.trunk.patch_embed(image)
        for m in (model, model_with_weights(config, params))
    ]
    np.testing.assert_array_equal(*patches)
    assert patches[0].shape == (1, 2, 3, 24)
    assert jnp.abs(patches[0]).max() > 0


def test_a_directory_that_is_not_empty_is_not_written_to(saved, config, params):
    with pytest.raises(FileExistsError, match="saved exists; choose another name"):
        save_weights(saved, params, config)


def test_arrays_of_another_model_are_not_saved(tmp_path, config, params):
    wrong = {**params, "extra": np.zeros(2), "no_obj_ptr": np.zeros(65)}
    del wrong["no_mem_embed"]
    with pytest.raises(NamesError) as error:
        save_weights(tmp_path / "wrong", wrong, config)
    for fault in (
        "missing: no_mem_embed (64,)",
        "unknown: extra (2,)",
        "misshapen: no_obj_ptr (65,)",
    ):
        assert fault in str(error.value)
    assert not (tmp_path / "wrong").exists()


# Training runs


@pytest.mark.slow
def test_averaged_weights_of_the_latest_step_are_opened(tmp_path, config, params):
    """As a training run writes them: several steps, more items, below its workdir."""
    averaged = {name: array + 1 for name, array in params.items() if "gaussian" not in name}
    with ocp.CheckpointManager(tmp_path / STEPS) as manager:
        for step in (10, 20):
            shifted = {name: array + step for name, array in averaged.items()}
            items = weight_items(config, params, shifted)
            more = {"optimizer": ocp.args.StandardSave({"count": jnp.zeros(3)})}
            manager.save(step, args=ocp.args.Composite(**items, **more))
    _, arrays = load_weights(tmp_path)
    expected = params | {name: array + 20 for name, array in averaged.items()}
    assert_same(arrays, expected)
    _, arrays = load_weights(tmp_path, step=10)
    np.testing.assert_array_equal(arrays["no_obj_ptr"], averaged["no_obj_ptr"] + 10)
    with pytest.raises(CheckpointError, match=r"no step 15; there are \[10, 20\]"):
        load_weights(tmp_path, step=15)
    # A diverged run and its log name the folder of one step.
    _, arrays = load_weights(tmp_path / STEPS / "10")
    np.testing.assert_array_equal(arrays["no_obj_ptr"], averaged["no_obj_ptr"] + 10)


def test_an_unfinished_step_is_ignored(saved):
    half = saved / "7.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "meta").mkdir()
    (half / "params").mkdir()
    assert step_path(saved).name == "0"
    with pytest.raises(CheckpointError, match="there is no finished step"):
        step_path(half)


# The folder of one step


@pytest.mark.parametrize("name", ["0", "0/", "../{saved}/0", "best"])
def test_the_folder_of_one_step_is_opened(saved, params, name, monkeypatch):
    (saved / "best").symlink_to(saved / "0")
    monkeypatch.chdir(saved)
    folder = Path(name.format(saved=saved.name))
    _, arrays = load_weights(folder)
    assert_same(arrays, params)
    assert step_number(folder) == (None if name == "best" else 0)
    assert step_path(saved / "0", 0) == saved / "0"


def test_another_step_than_that_of_the_folder_is_refused(saved):
    with pytest.raises(CheckpointError, match="0 is the folder of one step, so there is no step 5"):
        step_path(saved / "0", 5)


# What is no checkpoint


def test_a_missing_or_empty_directory_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such checkpoint directory"):
        load_weights(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="there is no finished step"):
        load_weights(tmp_path)


def test_a_foreign_checkpoint_is_refused(tmp_path):
    with ocp.CheckpointManager(tmp_path / "foreign") as manager:
        manager.save(3, args=ocp.args.Composite(state=ocp.args.StandardSave({"w": jnp.ones(2)})))
    with pytest.raises(CheckpointError, match="not a checkpoint of this program"):
        load_weights(tmp_path / "foreign")


def meta_file(saved):
    return saved / "0" / "meta" / "metadata"


def test_arrays_that_do_not_fit_the_config_are_listed(saved):
    meta = json.loads(meta_file(saved).read_text())
    config = json.loads(meta["config"])
    config["model"]["d_model"] = 128
    meta["config"] = json.dumps(config)
    meta_file(saved).write_text(json.dumps(meta))
    with pytest.raises(NamesError, match=r"misshapen: no_obj_ptr \(64,\), the model has \(128,\)"):
        load_weights(saved)


@pytest.mark.parametrize("text", ["", "{", '{"config": "{}"}', '{"config": 3, "arrays": {}}'])
def test_damaged_metadata_is_named(saved, text):
    meta_file(saved).write_text(text)
    with pytest.raises(CheckpointError, match=r"meta: damaged"):
        load_weights(saved)


def largest_file(saved):
    return max((saved / "0" / "params").rglob("*"), key=lambda path: path.stat().st_size)


def test_flipped_bits_are_detected_and_named(saved):
    file = largest_file(saved)
    data = bytearray(file.read_bytes())
    for place in range(len(data) // 3, len(data) // 3 + 2000, 7):
        data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        load_weights(saved)


OPEN = """
import sys
from petsam_jax.checkpoint import CheckpointError, load_weights
for directory in sys.argv[1:]:
    try:
        load_weights(directory)
    except CheckpointError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_truncated_or_missing_file_is_detected(tmp_path, config, params):
    """In another process, as Orbax leaves reads that it had begun unfinished, with warnings."""
    kinds = {"empty": 0, "half": 0.5, "missing": None}
    for kind, share in kinds.items():
        save_weights(tmp_path / kind, params, config)
        file = largest_file(tmp_path / kind)
        if share is None:
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    command = [sys.executable, "-c", OPEN, *(str(tmp_path / kind) for kind in kinds)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    lines = run.stdout.splitlines()
    assert len(lines) == 3, run.stderr
    for kind, line in zip(kinds, lines, strict=True):
        assert line.startswith(f"{tmp_path / kind / '0' / 'params'}: damaged or incomplete: ")


# Devices

SAVE = """
import jax, numpy as np, sys
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from petsam_jax.checkpoint import load_weights, model_shapes, save_weights
from petsam_jax.config import load_config
assert jax.device_count() == int(sys.argv[1])
action, config, directory = sys.argv[2:]
if action == "save":
    config = load_config(config)
    everywhere = NamedSharding(Mesh(np.array(jax.devices()), "b"), PartitionSpec())
    draw = np.random.default_rng(0).standard_normal
    params = {name: draw(shape, np.float32) for name, shape in model_shapes(config).items()}
    params = jax.device_put(params, everywhere)
    save_weights(directory, params, config)
else:
    _, params = load_weights(directory)
    assert all(len(array.devices()) == 1 for array in params.values())
for name in ("no_obj_ptr", "prompt_encoder.gaussian", "mask_decoder.hypernetworks.kernel0"):
    print(name, np.asarray(params[name]).tobytes().hex())
"""


def on_devices(count, *args):
    env = os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", SAVE, str(count), *map(str, args)]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("saving", "opening"), [(8, 1), (1, 8)])
def test_the_number_of_devices_does_not_matter(tmp_path, saving, opening):
    written = on_devices(saving, "save", TINY, tmp_path / "c")
    assert len(written) > 1000
    assert on_devices(opening, "open", TINY, tmp_path / "c") == written
