"""A model's arrays as compiled programs take them: the parts that each reads, already rounded."""

from collections.abc import Iterable, Mapping

import jax
import numpy as np
from flax import nnx

from petsam_jax.models.layers import Conv, Linear, UpConv
from petsam_jax.models.sam2 import SAM2


class ModelParts:
    """The arrays that each of several programs reads of a model.

    Every array that is passed to a program costs more than a microsecond a call.
    """

    def __init__(self, model: SAM2, programs: Mapping[str, Iterable[str]]):
        """`programs` names the parts that each program reads."""
        self._definition, state = nnx.split(rounded_model(model))
        arrays = nnx.to_pure_dict(state)
        self._outline = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays)
        self._programs = {
            name: {part: arrays[part] for part in parts} for name, parts in programs.items()
        }

    def __getitem__(self, program: str) -> dict:
        """The arrays of a program, by part."""
        return self._programs[program]

    def model(self, arrays: dict) -> SAM2:
        """The model within a program that was given these arrays; it must read no others."""
        return nnx.merge(self._definition, self._outline | arrays)


def rounded_model(model: SAM2) -> SAM2:
    """A copy with its kernels in the dtype of their products, so that no call rounds them again."""
    definition, state = nnx.split(model)
    # By way of the bare arrays: with `state` itself the copy would share the model's variables.
    rounded = nnx.merge(definition, nnx.to_pure_dict(state))
    for _, module in nnx.iter_modules(rounded):
        if isinstance(module, Linear | Conv | UpConv) and module.kernel.dtype != module.dtype:
            # By numpy, since JAX would compile a program for each shape.
            kernel = np.asarray(module.kernel[...], module.dtype)
            module.kernel.set_value(jax.device_put(kernel))
    return rounded
