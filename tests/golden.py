"""Golden arrays of the official SAM 2.1: reading them, loading them into modules, comparing.

Tests of parity compare ours with them: they take what is called golden_..., from the folder that
the environment variable PETSAM_GOLDENS names (the same files and array names with other numbers),
or else from tests/goldens (README.md there). Tests of behaviour only need some model and image:
they take what is called shipped_..., from tests/goldens always, since what a model sees and where
depends on its numbers.
"""

import json
import os
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np
from einops import rearrange
from flax import nnx

from petsam_jax.models.params import fill
from petsam_jax.models.sam2_weights import from_official

if __name__ != "tests.golden":
    raise ImportError("import tests.golden: by another name, every file would be read once more")

SHIPPED = Path(__file__).parent / "goldens"
# Largest difference in float32, absolute and relative, per file: 10 to 30 times what two ways to
# run the official code differ by.
LIMITS = {
    "ops": (2e-5, 1e-5),
    "losses": (2e-5, 1e-5),
    "prompt_encoder": (2e-5, 1e-5),
    "hiera": (1e-4, 1e-4),
    "image_encoder": (1e-4, 1e-4),
    "rope_attention": (1e-4, 1e-4),
    "memory_encoder": (1e-4, 1e-4),
    "mask_decoder": (5e-4, 1e-4),
    "memory_attention": (5e-4, 1e-4),
    "sam_heads": (5e-4, 1e-4),
    "track_step": (2e-3, 1e-3),
    "train_image": (2e-3, 1e-3),
    "train_video": (2e-3, 1e-3),
}
# Gradient norms of train_image and train_video: relative, of all parameters together and of one.
GLOBAL_NORM_LIMIT, NORM_LIMIT = 2e-3, 1e-2


def folder() -> Path:
    """Where the goldens of parity tests lie."""
    return Path(os.environ.get("PETSAM_GOLDENS") or SHIPPED)


def golden(name: str) -> Mapping[str, np.ndarray]:
    """The arrays of `name`.npz; FileNotFoundError names the file and the variable to set."""
    return _read(_path(f"{name}.npz"))


def shipped(name: str) -> Mapping[str, np.ndarray]:
    """The arrays of `name`.npz in tests/goldens, whatever PETSAM_GOLDENS names."""
    return _read(SHIPPED / f"{name}.npz")


def outputs(name: str, inputs: set[str]) -> list[str]:
    """The arrays of `name`.npz that ours have to equal: all but the `inputs`.

    A test that takes its cases from here compares every array, and misses none that is added.
    """
    names = golden(name).keys()
    assert inputs <= names, f"{name}.npz has no {inputs - names}"
    return [each for each in names if each not in inputs]


def golden_json(name: str) -> dict:
    """`name`.json: `config`, the sizes of the official model, or `optim_groups`."""
    return json.loads(_path(f"{name}.json").read_text())


def _path(name: str) -> Path:
    path = folder() / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such golden file; PETSAM_GOLDENS must name a folder with the files of "
            f"tests/goldens, or be unset"
        )
    return path


@cache
def _read(path: Path) -> Mapping[str, np.ndarray]:
    with np.load(path) as arrays:
        read = {name: arrays[name] for name in arrays.files}
    for array in read.values():
        array.flags.writeable = False
    return MappingProxyType(read)


def golden_config() -> dict:
    """The golden model as the `model` section of a config: the keywords of `SAM2`."""
    return _to_config(golden_json("config"))


def shipped_config() -> dict:
    return _to_config(json.loads((SHIPPED / "config.json").read_text()))


def _to_config(theirs: dict) -> dict:
    trunk, heads, memory = theirs["trunk"], theirs["sam_heads"], theirs["memory_attention"]
    return {
        "image_encoder": {
            "trunk": {
                "embed_dim": trunk["embed_dim"],
                "num_heads": trunk["num_heads"],
                "stages": tuple(trunk["stages"]),
                "window_sizes": tuple(trunk["window_spec"]),
                "global_att_blocks": tuple(trunk["global_att_blocks"]),
                "drop_path_rate": trunk["drop_path_rate"],
                "mlp_ratio": trunk["mlp_ratio"],
                "pos_embed_size": tuple(trunk["window_pos_embed_bkg_spatial_size"]),
            },
        },
        "d_model": theirs["neck"]["d_model"],
        "prompt_encoder": {"mask_channels": heads["mask_in_chans"]},
        "mask_decoder": {
            "depth": heads["two_way_depth"],
            "num_heads": heads["two_way_num_heads"],
            "mlp_dim": heads["two_way_mlp_dim"],
            "iou_hidden": heads["iou_head_hidden_dim"],
        },
        "memory_encoder": {"out_dim": theirs["memory_encoder"]["out_dim"]},
        "memory_attention": {
            "num_layers": memory["num_layers"],
            "mlp_dim": memory["dim_feedforward"],
            "dropout": memory["dropout"],
        },
        "num_memories": theirs["sam2_base"]["num_maskmem"],
        "max_obj_ptrs": theirs["sam2_base"]["max_obj_ptrs_in_encoder"],
    }


def golden_params() -> dict[str, np.ndarray]:
    """The golden model's arrays, dotted path of ours -> array in our layout."""
    return from_official(golden("params"))


def shipped_params() -> dict[str, np.ndarray]:
    return from_official(shipped("params"))


def load_part(module: nnx.Module, arrays: Mapping, prefix: str = "") -> nnx.Module:
    """Put those of `arrays` below `prefix` into a module's parameters and constants; returns it.

    NamesError lists missing, unknown and misshapen names.
    """
    start = f"{prefix}." if prefix else ""
    part = {name[len(start) :]: array for name, array in arrays.items() if name.startswith(start)}
    fill(module, part)
    return module


def golden_model(**changes):
    """`SAM2` with the golden sizes, or some `changes` of them, and the golden parameters."""
    return _model(golden_config() | changes, golden_params())


def shipped_model(**changes):
    return _model(shipped_config() | changes, shipped_params())


def _model(config, params):
    # Late, so that the parts' own tests need no other part.
    from petsam_jax.models.sam2 import SAM2

    # An outline has no random weights: drawing them takes seconds, and they are replaced anyway.
    return load_part(nnx.eval_shape(lambda: SAM2(**config, rngs=nnx.Rngs(0))), params)


@partial(jax.jit, static_argnums=(0, 1))
def _run(graph, static, state, *args):
    return nnx.merge(graph, state)(*args, **dict(static))


def run(module: nnx.Module, *args, **static):
    """The module called under jit, compiled once for each kind of module, shape and keyword."""
    graph, state = nnx.split(module)
    return _run(graph, tuple(static.items()), state, *args)


def nhwc(x: np.ndarray) -> np.ndarray:
    """A map of the reference, n c h w, in our layout."""
    return rearrange(x, "n c h w -> n h w c")


def nchw(x: jax.Array) -> np.ndarray:
    """A map of ours in the reference's layout."""
    return rearrange(np.asarray(x), "n h w c -> n c h w")


def b_hw_c(x: np.ndarray) -> np.ndarray:
    """Tokens of the reference, hw b c, batch first as ours."""
    return rearrange(x, "hw b c -> b hw c")


def hw_b_c(x: jax.Array) -> np.ndarray:
    """Tokens of ours, batch first, in the reference's layout."""
    return rearrange(np.asarray(x), "b hw c -> hw b c")


def assert_close(file: str, got, want, what: str = "") -> None:
    """`got` equals an array of `file` within the file's limits, and in shape.

    If not, the error has `what`, the largest difference and its place.
    """
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{file} {what}: shape {got.shape}, want {want.shape}"
    atol, rtol = LIMITS[file]
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol, err_msg=f"{file} {what}")
