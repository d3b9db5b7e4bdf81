"""The training step that a run calls: two compiled programs, one behind the other.

The first computes the gradient, and is compiled once for images and once for clips; the second
updates the state. Gradients of single loss parts reuse the first and compile nothing.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Sharding
from jaxtyping import Array, Float32, UInt8

from petsam_jax import runtime
from petsam_jax.train.losses import Losses
from petsam_jax.train.objective import Objective
from petsam_jax.train.step import (
    WHOLE_BATCH,
    Metrics,
    Microbatching,
    ModelTemplate,
    TrainState,
    make_gradient,
    make_update,
)

# The parts of the loss, whose gradients can be computed separately.
PARTS = tuple(name for name in Losses._fields if name != "total")


class TrainStep:
    """Call it with a state, which is donated, and a batch to get the next state and its metrics."""

    def __init__(
        self,
        template: ModelTemplate,
        optimizer: optax.GradientTransformation,
        objective: Objective,
        *,
        seed: int,
        ema_decay: float,
        microbatching: Microbatching = WHOLE_BATCH,
        sharding: Sharding | None = None,
    ):
        """`sharding` is that of the state."""
        gradient = make_gradient(template, objective, seed=seed, microbatching=microbatching)
        update = make_update(optimizer, ema_decay)

        def in_place(old_grads, *batch):
            return gradient(*batch)

        self._gradient = jax.jit(
            in_place, donate_argnums=0, keep_unused=True, out_shardings=sharding
        )
        self._update = jax.jit(update, donate_argnums=0, out_shardings=sharding)
        self._zeros = jax.jit(partial(jax.tree.map, jnp.zeros_like), out_shardings=sharding)
        self._norm = jax.jit(optax.tree.norm, out_shardings=sharding)
        self._compiled: dict[int | str, jax.stages.Compiled] = {}
        # Each gradient takes the memory of the one before: freed and allocated again at each step,
        # such arrays fragment the heap, which costs as much again.
        self._grads = None

    def __call__(
        self, state: TrainState, image: UInt8[Array, "..."], mask: UInt8[Array, "..."]
    ) -> tuple[TrainState, Metrics]:
        """Images (b h w 3) or clips (b t h w 3), and their masks."""
        gradient, update = self.programs(state, image, mask)
        losses, ious = self._compute_gradient(gradient, state, image, mask, "total")
        state, norm = update(state, self._grads)
        return state, Metrics(losses, ious, norm)

    def part_norms(
        self, state: TrainState, image: UInt8[Array, "..."], mask: UInt8[Array, "..."]
    ) -> dict[str, Float32[Array, ""]]:
        """The norm of the gradient of each loss part alone, before weighting.

        Prompts and random numbers are those of the step from this state. Takes as long as four
        steps and no more memory.
        """
        gradient, _ = self.programs(state, image, mask)
        norms = {}
        for part in PARTS:
            self._compute_gradient(gradient, state, image, mask, part)
            norms[part] = self._norm(self._grads)
        return norms

    def _compute_gradient(self, gradient, state, image, mask, part):
        old, self._grads = self._grads, None
        if old is None:
            old = self._zeros(state.trained)
        self._grads, *aux = gradient(old, state.trained, state.step, image, mask, _one_hot(part))
        return aux

    def programs(
        self, state: TrainState, image: UInt8[Array, "..."], mask: UInt8[Array, "..."]
    ) -> tuple[jax.stages.Compiled, jax.stages.Compiled]:
        """The programs that compute the gradient of such a batch and update the state."""
        batch = (state.trained, state.trained, state.step, image, mask, _one_hot("total"))
        return (
            self._compiled_once(image.ndim, self._gradient, *batch),
            self._compiled_once("update", self._update, state, state.trained),
        )

    def _compiled_once(self, name, program, *arguments):
        """Compile ahead of the first call: compiling leaves gigabytes of freed memory behind.

        As part of the first call, the call's own memory would come on top of that.
        """
        if name not in self._compiled:
            self._compiled[name] = program.lower(*arguments).compile()
            runtime.release_memory()
        return self._compiled[name]


def _one_hot(name: str) -> Float32[np.ndarray, " n"]:
    """Weights of the fields of `Losses`: 1 for `name`, 0 for the others."""
    return np.array([field == name for field in Losses._fields], np.float32)
