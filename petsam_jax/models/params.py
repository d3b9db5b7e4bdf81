"""A model's arrays by dotted name, as checkpoints and the converter use them.

In: a module, or arrays by name. Out: arrays by name, or a filled module; an error lists every name
that does not fit.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Weights = Mapping[str, jax.Array | np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


class NamesError(ValueError):
    """Arrays that do not fit; the message lists all missing, unknown and misshapen names."""


def weights(model: nnx.Module) -> dict[str, jax.Array]:
    """All arrays of a model, parameters and constants."""
    return {name: variable[...] for name, variable in _variables(nnx.state(model)).items()}


def shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of `weights`; the model may be abstract (`nnx.eval_shape`)."""
    return {name: variable.shape for name, variable in _variables(nnx.state(model)).items()}


def fill(model: nnx.Module, arrays: Weights) -> None:
    """Set the arrays of a model, which may be abstract; raises NamesError if they do not fit."""
    raise_faults("these arrays do not fit the model", differences(arrays, shapes(model)))
    state = nnx.state(model)
    for name, variable in _variables(state).items():
        variable.set_value(jnp.asarray(arrays[name]))
    nnx.update(model, state)


def differences(arrays: Weights, expected: Shapes) -> list[str]:
    """One line for each name whose array is missing, unknown or misshapen."""
    found = {name: np.shape(array) for name, array in arrays.items()}
    missing = [f"missing: {name} {tuple(expected[name])}" for name in expected if name not in found]
    extra = [f"unknown: {name} {found[name]}" for name in found if name not in expected]
    misshapen = [
        f"misshapen: {name} {found[name]}, the model has {tuple(expected[name])}"
        for name in expected
        if name in found and found[name] != tuple(expected[name])
    ]
    return missing + extra + misshapen


def raise_faults(title: str, faults: Iterable[str]) -> None:
    """Raise NamesError with all faults, if there are any."""
    if faults := sorted(faults):
        raise NamesError("\n  ".join([f"{title} ({len(faults)} faults):", *faults]))


def _variables(state) -> dict[str, nnx.Variable]:
    return {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}
