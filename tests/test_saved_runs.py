"""What version 0.1.0 saved still opens: config files, a run's config.json and its checkpoint.

`saved/run_0.1.0.zip` is a run of a narrow tiny model at step 4. Each of its arrays has a value of
its own, by name, which keeps the file small.
"""

import sys
import zipfile
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from petsam_jax.checkpoint import load_model, load_weights, model_shapes
from petsam_jax.config import MOVED, differences, from_json, load_config
from petsam_jax.models.params import weights
from petsam_jax.train.checkpoints import RunCheckpoints, flatten_by_path
from petsam_jax.train.config_checks import check_config
from petsam_jax.train.device_batches import make_shardings
from petsam_jax.train.plan import initial_state

SAVED = Path(__file__).with_name("saved")
CONFIGS = SAVED / "configs_0.1.0"


def value_of(item, name):
    return np.float32(zlib.crc32(f"{item}.{name}".encode()) % 1000 / 1000)


def assert_values(item, arrays):
    for name, array in arrays.items():
        if jnp.issubdtype(array.dtype, jnp.floating):
            np.testing.assert_array_equal(array, value_of(item, name), err_msg=name)


@pytest.fixture
def run(tmp_path):
    with zipfile.ZipFile(SAVED / "run_0.1.0.zip") as file:
        file.extractall(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "spec", ["pets256", "pets256:seed", "pets256_small", "pets256_small:memory-128px"]
)
def test_config_files_of_0_1_0_load(spec):
    name, colon, variant = spec.partition(":")
    config = load_config(f"{CONFIGS / name}.py{colon}{variant}")
    # The figures of the recipe have not changed since.
    assert differences(config, load_config(spec)) == []
    assert not set(MOVED) & set(sys.modules)


def test_its_config_json_opens_and_resumes(run):
    config = from_json((run / "config.json").read_text())
    now = load_config("tiny")
    assert differences(config, now) and not any("not there" in x for x in differences(config, now))
    # Raises WorkdirError for a field that changed or is missing.
    check_config(run, config)


def test_its_weights_open(run):
    config, arrays = load_weights(run)
    assert arrays.keys() == model_shapes(config).keys()
    trained = {name: x for name, x in arrays.items() if name != "prompt_encoder.gaussian"}
    assert_values("ema", trained)
    assert_values("params", {"prompt_encoder.gaussian": arrays["prompt_encoder.gaussian"]})
    _, model = load_model(run)
    for name, array in weights(model).items():
        np.testing.assert_array_equal(array, arrays[name], err_msg=name)


@pytest.mark.slow
def test_its_training_state_is_restored(run):
    config = from_json((run / "config.json").read_text())
    replicated, _ = make_shardings()
    plan, *fresh = initial_state(config, 100, resumed=True)
    with RunCheckpoints(config, run) as checkpoints:
        assert checkpoints.best.name == "4" and checkpoints.has_scores(4)
        state, template, iterators = checkpoints.restore(*fresh, replicated)
    assert int(state.step) == 4 and iterators == {"image": {"next_index": 7}}
    assert_values("params", template.frozen | plan.packing.unpack(state.trained))
    assert_values("ema", plan.packing.unpack(state.ema))
    optimizer = flatten_by_path(plan.packing.unpack_within(state.opt_state))
    assert_values("optimizer", optimizer)
    counts = [x for x in optimizer.values() if jnp.issubdtype(x.dtype, jnp.integer)]
    assert counts and all(int(count) == 4 for count in counts)
    assert jax.tree.structure(state) == jax.tree.structure(fresh[0])
