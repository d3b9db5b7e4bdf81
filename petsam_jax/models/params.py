"""A model's arrays by dotted name, as checkpoints and the converter know them.

In: a module, or arrays by name. Out: what fills a module, or every name that keeps it from being
filled.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Weights = Mapping[str, jax.Array | np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


class NamesError(ValueError):
    """Arrays that do not fit: missing, unknown or misshapen names, all of them in the message."""


def weights(model: nnx.Module) -> dict[str, jax.Array]:
    """Every array of a model, parameters and constants."""
    return {name: variable[...] for name, variable in _variables(nnx.state(model)).items()}


def shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of `weights`; the model may be an outline (`nnx.eval_shape`)."""
    return {name: variable.shape for name, variable in _variables(nnx.state(model)).items()}


def fill(model: nnx.Module, arrays: Weights) -> None:
    """Put arrays into a model, or into the outline of one; raises NamesError if they do not fit."""
    raise_faults("these arrays do not fit the model", differences(arrays, shapes(model)))
    state = nnx.state(model)
    for name, variable in _variables(state).items():
        variable.set_value(jnp.asarray(arrays[name]))
    nnx.update(model, state)


def differences(arrays: Weights, expected: Shapes) -> list[str]:
    """What keeps arrays from being those of a model: one line a name."""
    got = {name: np.shape(array) for name, array in arrays.items()}
    missing = [f"missing: {name} {tuple(expected[name])}" for name in expected if name not in got]
    extra = [f"unknown: {name} {got[name]}" for name in got if name not in expected]
    misshapen = [
        f"misshapen: {name} {got[name]}, the model has {tuple(expected[name])}"
        for name in expected
        if name in got and got[name] != tuple(expected[name])
    ]
    return missing + extra + misshapen


def raise_faults(title: str, faults: Iterable[str]) -> None:
    """Raise NamesError if there are faults, with all of them."""
    if faults := sorted(faults):
        raise NamesError("\n  ".join([f"{title} ({len(faults)} faults):", *faults]))


def _variables(state) -> dict[str, nnx.Variable]:
    return {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}
