"""Checkpoints: a model's arrays, saved by Orbax together with its config, so a path is enough.

A directory holds numbered steps. Each has the items

    params   every array of the model, trained or not: dotted name -> array
    ema      averaged weights of a training run under the same names, if the run keeps them
    meta     JSON: the whole config, and the shape and checksum of each array of params and ema

Converted and exported (float16) weights are step 0 with `params` and `meta`. A training run writes
further items (optimiser, iterators) beside these through one CheckpointManager: `weight_items`
makes the items above for it, `load_weights` opens either kind. Orbax writes a step under a
temporary name and renames it when complete, so a killed writer leaves no partial checkpoint.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from petsam_jax.config import from_json, to_json
from petsam_jax.models.compute_dtype import fastest_dtype
from petsam_jax.models.params import Weights, differences, fill, raise_faults, shapes
from petsam_jax.models.sam2 import SAM2

# Of a run's workdir: the folder with its steps, and the log with a line of JSON a logged step.
STEPS, METRICS = "checkpoints", "metrics.jsonl"


class CheckpointError(ValueError):
    """Not a checkpoint, or a damaged one: the message names the directory and the fault."""


# Models from configs and arrays


def build_model(config: ConfigDict, seed: int = 0) -> SAM2:
    """The model of a config with random weights."""
    return SAM2(**config.model.to_dict(), rngs=nnx.Rngs(seed))


def model_shapes(config: ConfigDict) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays of a config's model by name, without building it."""
    return shapes(_abstract_model(config))


def model_with_weights(config: ConfigDict, arrays: Weights) -> SAM2:
    """The model of a config with these arrays; raises NamesError if they do not fit."""
    return _filled(_abstract_model(config), arrays)


def _filled(model: SAM2, arrays: Weights) -> SAM2:
    fill(model, arrays)
    return model


def _abstract_model(config: ConfigDict) -> SAM2:
    return nnx.eval_shape(lambda: SAM2(**config.model.to_dict(), rngs=_OneKey()))


class _OneKey(nnx.Rngs):
    """One key for all of an abstract model: counting keys, never used here, takes NNX seconds."""

    def params(self):
        return jax.random.key(0)


# Writing


def weight_items(config: ConfigDict, params: Weights, ema: Weights | None = None) -> dict:
    """The items of one step as keywords of `ocp.args.Composite`.

    `params` has all arrays; `ema` may leave out those that are not trained.
    """
    trees = {"params": to_host(dict(params))} | ({} if ema is None else {"ema": to_host(dict(ema))})
    meta = {
        "config": to_json(config),
        "arrays": {item: describe_arrays(tree) for item, tree in trees.items()},
    }
    saved = {item: ocp.args.StandardSave(tree) for item, tree in trees.items()}
    return {"meta": ocp.args.JsonSave(meta), **saved}


def to_host(tree):
    """Copy replicated arrays to the host's memory, so that later steps may overwrite them.

    Numpy arrays are not copied. Given arrays on several devices, Orbax would have each device write
    its share, and compile a program per shape to slice it: 20 s for the smallest model on 8.
    """
    return jax.tree.map(lambda a: a if isinstance(a, np.ndarray) else np.array(a), tree)


def describe_arrays(tree: Weights) -> dict[str, dict]:
    """Shape, dtype and checksum of each array: Orbax itself does not notice a flipped bit."""
    described = {}
    for name, array in tree.items():
        array = np.ascontiguousarray(array)
        described[name] = {
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "crc32": zlib.crc32(array.view(np.uint8).reshape(-1)),
        }
    return described


def save_weights(directory: str | Path, params: Weights, config: ConfigDict) -> None:
    """Write weights and their config as a new checkpoint, completely or not at all.

    Raises FileExistsError for a directory that is not empty, and NamesError for arrays that do not
    fit the config's model.
    """
    directory = Path(directory).absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} exists; choose another name or remove it")
    raise_faults("the arrays do not fit the config", differences(params, model_shapes(config)))
    with ocp.CheckpointManager(directory) as manager:
        manager.save(0, args=ocp.args.Composite(**weight_items(config, params)))


# Reading


def load_model(
    directory: str | Path, step: int | None = None, dtype: str | None = None
) -> tuple[ConfigDict, SAM2]:
    """Config and model of a checkpoint; see `load_weights`.

    The model computes in `dtype`, and its config says so; None is what `compute_dtype` finds
    fastest here.
    """
    config, model, arrays = _load(directory, step, lambda own: dtype or fastest_dtype(own))
    return config, _filled(model, arrays)


def load_weights(
    directory: str | Path, step: int | None = None
) -> tuple[ConfigDict, dict[str, jax.Array]]:
    """Config and arrays of a checkpoint, a training run's workdir or the folder of one step.

    They are on this process's device: the averaged weights if there are any; of the latest step
    unless `step` is given. The number of
    devices that the checkpoint was written on does not matter.

    Raises FileNotFoundError if there is no such directory, CheckpointError if it is not a
    checkpoint or damaged, and NamesError with the names of arrays that are damaged or do not fit
    the config.
    """
    config, _, arrays = _load(directory, step)
    return config, arrays


def _load(directory, step, choose_dtype=None) -> tuple[ConfigDict, SAM2, dict[str, jax.Array]]:
    path = step_path(directory, step)
    config, described = _read_meta(path)
    if choose_dtype is not None:
        with config.unlocked():
            config.model.dtype = choose_dtype(config.model.get("dtype", "float32"))
    model, arrays = _abstract_model(config), {}
    for item in ("params", "ema"):
        if item in described:
            arrays |= _read_arrays(path / item, described[item])
    # Exported weights are float16; parameters are float32 everywhere. Converted by numpy, since JAX
    # would compile a program for each shape.
    arrays = {
        name: array if array.dtype == np.float32 else jax.device_put(np.asarray(array, np.float32))
        for name, array in arrays.items()
    }
    raise_faults(f"{path}: the arrays do not fit the config", differences(arrays, shapes(model)))
    return config, model, arrays


def step_path(directory: str | Path, step: int | None = None) -> Path:
    """The folder of a step (default: the latest); raises as `load_weights` does.

    `directory` may be that folder itself, such as runs/pets/checkpoints/300, under any name.
    """
    directory = Path(directory).absolute()
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: no such checkpoint directory")
    steps = finished_steps(directory)
    if not steps and _is_step(directory):
        if step is not None and directory.name != str(step):
            raise CheckpointError(
                f"{directory} is the folder of one step, so there is no step {step}"
            )
        return directory
    if not steps:
        raise CheckpointError(f"{directory}: not a checkpoint: there is no finished step in it")
    if step is None:
        return steps[-1]
    named = {int(path.name): path for path in steps}
    if step not in named:
        raise CheckpointError(f"{directory}: no step {step}; there are {list(named)}")
    return named[step]


def _is_step(directory: Path) -> bool:
    has_items = all((directory / item).is_dir() for item in ("meta", "params"))
    # Orbax writes a step under a temporary name.
    return has_items and not ocp.utils.is_tmp_checkpoint(directory)


def step_number(path: Path) -> int | None:
    """The number of the step in that folder; None if the folder was renamed."""
    return int(path.name) if path.name.isdecimal() else None


def finished_steps(directory: str | Path) -> list[Path]:
    """The folders of the complete steps of a checkpoint or a run's workdir, oldest first."""
    directory = Path(directory)
    if (directory / STEPS).is_dir():
        directory /= STEPS
    if not directory.is_dir():
        return []
    return [directory / str(step) for step in sorted(ocp.utils.checkpoint_steps(directory))]


def _read_meta(path: Path) -> tuple[ConfigDict, dict]:
    if not (path / "meta").is_dir():
        raise CheckpointError(f"{path}: not a checkpoint of this program: it has no item `meta`")
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            meta = reader.restore(path / "meta")
        return from_json(meta["config"]), meta["arrays"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"{path / 'meta'}: damaged: {error!r}") from error


def _read_arrays(path: Path, described: Mapping[str, Mapping]) -> dict[str, jax.Array]:
    device = SingleDeviceSharding(jax.local_devices()[0])
    target = {
        name: jax.ShapeDtypeStruct(tuple(array["shape"]), array["dtype"], sharding=device)
        for name, array in described.items()
    }
    fault = None
    try:
        with ocp.StandardCheckpointer() as reader:
            arrays = reader.restore(path, target)
    except Exception as error:  # Orbax raises plain Exception for some kinds of damage.
        fault = (str(error).strip() or repr(error)).splitlines()[0][:300]
    # Outside `except`: the cause is pages long and keeps all pending reads alive.
    if fault is not None:
        raise CheckpointError(f"{path}: damaged or incomplete: {fault}")
    raise_faults(f"{path}: damaged, checksums are wrong", wrong_checksums(arrays, described))
    return arrays


def wrong_checksums(arrays: Weights, described: Mapping[str, Mapping]) -> list[str]:
    """The names of arrays whose checksum differs from that in `described`."""
    found = describe_arrays(arrays)
    return [name for name in found if found[name]["crc32"] != described[name]["crc32"]]
