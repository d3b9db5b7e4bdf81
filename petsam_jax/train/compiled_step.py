"""A training step as a run takes it: two programs, compiled when they are first wanted.

One makes the gradient, of pictures or of clips; the other, which serves both, what becomes of the
state. The gradient of each loss part alone is by the first as well, and costs no compiling.
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

# The parts of the loss, each of which has a gradient of its own.
PARTS = tuple(name for name in Losses._fields if name != "total")


class TrainStep:
    """Call it with a state, which it takes over, and a batch; the next state comes back."""

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
        """`sharding` is that of the state, of all devices."""
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
        self._compiled = {}
        # Each gradient takes the place of the one before: let go and allocated anew at each step,
        # such arrays leave holes that cost as much again.
        self._grads = None

    def __call__(
        self, state: TrainState, image: UInt8[Array, "..."], mask: UInt8[Array, "..."]
    ) -> tuple[TrainState, Metrics]:
        """Pictures (b h w 3) or clips (b t h w 3), and their masks."""
        gradient, update = self.programs(state, image, mask)
        losses, ious = self._differentiate(gradient, state, image, mask, "total")
        state, norm = update(state, self._grads)
        return state, Metrics(losses, ious, norm)

    def part_norms(
        self, state: TrainState, image: UInt8[Array, "..."], mask: UInt8[Array, "..."]
    ) -> dict[str, Float32[Array, ""]]:
        """How large the gradient of each loss part alone is, before weighting.

        Of the same prompts and random numbers as the step from that state. Takes as long as four
        steps, in no more memory.
        """
        gradient, _ = self.programs(state, image, mask)
        norms = {}
        for part in PARTS:
            self._differentiate(gradient, state, image, mask, part)
            norms[part] = self._norm(self._grads)
        return norms

    def _differentiate(self, gradient, state, image, mask, part):
        old, self._grads = self._grads, None
        if old is None:
            old = self._zeros(state.trained)
        self._grads, *said = gradient(old, state.trained, state.step, image, mask, _only(part))
        return said

    def programs(
        self, state: TrainState, image: UInt8[Array, "..."], mask: UInt8[Array, "..."]
    ) -> tuple[jax.stages.Compiled, jax.stages.Compiled]:
        """What makes the gradient of such a batch and what updates the state."""
        batch = (state.trained, state.trained, state.step, image, mask, _only("total"))
        return (
            self._once(image.ndim, self._gradient, *batch),
            self._once("update", self._update, state, state.trained),
        )

    def _once(self, name, program, *arguments):
        """Compiled here, since that leaves gigabytes behind.

        As part of the first call, that call would need its own memory on top of them.
        """
        if name not in self._compiled:
            self._compiled[name] = program.lower(*arguments).compile()
            runtime.release_memory()
        return self._compiled[name]


def _only(name: str) -> Float32[np.ndarray, " n"]:
    """The weights of `Losses` where one of them is all that counts."""
    return np.array([field == name for field in Losses._fields], np.float32)
