"""One optimiser step as two pure functions, and the state that they turn into the next.

In: a state and a batch. Out: its gradient and numbers to log, and of those the next state. Plain
JAX throughout: the model is split once into its definition and a flat dict of arrays by dotted
name, the small ones of which are packed (packing.py), and put together again inside the jitted
step. Random numbers of step i come from the run's seed and i alone, so a run that was restored goes
on as if it had never stopped.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float32, Int32, PRNGKeyArray

from petsam_jax.models.params import shapes, weights
from petsam_jax.models.prompt_encoder import Constant
from petsam_jax.models.sam2 import SAM2
from petsam_jax.train.clip_objective import clip_outcome
from petsam_jax.train.flat_params import UNPACKED, FlatParams
from petsam_jax.train.losses import Losses, combine
from petsam_jax.train.objective import Objective, Outcome, image_outcome
from petsam_jax.train.optimizer import ema_update, unflatten

Arrays = dict[str, Array]


class TrainState(NamedTuple):
    """All that changes in training; arrays are packed."""

    step: Int32[Array, ""]
    trained: Arrays
    opt_state: optax.OptState
    ema: Arrays


class ModelTemplate(NamedTuple):
    """All that does not: how to build the model, and its arrays that are not trained."""

    definition: nnx.GraphDef
    frozen: Arrays
    packing: FlatParams = UNPACKED

    def model(self, trained: Mapping[str, Array]) -> SAM2:
        """The model with these packed weights; to be called under `jit`."""
        return nnx.merge(self.definition, unflatten(self.frozen | self.packing.unpack(trained)))


def create_state(
    model: SAM2,
    names: Iterable[str],
    packing: FlatParams,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, ModelTemplate]:
    """Step 0 of a fresh model, of which these arrays are trained; `optimizer` is for packed ones.

    The others' backward pass is saved, too.
    """
    definition, _ = nnx.split(model)
    # With types that are not weak, which the step's results are not: else it compiles twice.
    arrays = {name: jnp.asarray(array, array.dtype) for name, array in weights(model).items()}
    trained = {name: arrays.pop(name) for name in names}

    # One program, which is kept on disk; by itself each array is one or two to compile.
    @jax.jit
    def first(trained):
        trained = packing.pack(trained)
        state = TrainState(jnp.int32(0), trained, optimizer.init(trained), dict(trained))
        # No two leaves may share memory, or the step could not take them over.
        return jax.tree.map(jnp.copy, state)

    return first(trained), ModelTemplate(definition, arrays, packing)


def trainable(model: SAM2) -> dict[str, tuple[int, ...]]:
    """Names and shapes of parameters, constants are none; of an outline (`nnx.eval_shape`), too."""
    state = nnx.to_flat_state(nnx.state(model, Constant))
    constants = {".".join(map(str, path)) for path, _ in state}
    return {name: shape for name, shape in shapes(model).items() if name not in constants}


class CountedIous(NamedTuple):
    """IoUs by round or frame, 0 where an example does not count, and the share that does.

    Both are means over all examples, so that their means over parts are those of the whole batch.
    """

    total: Float32[Array, " s"]
    share: Float32[Array, " s"]

    def mean(self, place: int) -> float | None:
        """The IoU of those that count in one round or frame; None where none does."""
        share = float(self.share[place])
        return float(self.total[place]) / share if share else None


class Metrics(NamedTuple):
    """What one step has to say: losses as combined, IoUs by round or frame, and gradient size."""

    losses: Losses
    ious: CountedIous
    grad_norm: Float32[Array, ""]


class Microbatching(NamedTuple):
    """How a batch is worked through: in `microbatches` parts, one after another.

    Fewer where `devices` have too few examples each to be divided so.
    """

    microbatches: int = 1
    devices: int = 1

    def parts(self, examples: int) -> int:
        """Of a batch of so many examples, on all devices together."""
        return math.gcd(examples // self.devices, self.microbatches)


WHOLE_BATCH = Microbatching()


def make_gradient(
    template: ModelTemplate,
    objective: Objective,
    *,
    seed: int,
    microbatching: Microbatching = WHOLE_BATCH,
) -> Callable[..., tuple[Arrays, Losses, CountedIous]]:
    """A function of trained arrays, step, pictures (b h w 3) or clips (b t h w 3), masks, and which
    of `Losses` counts how much: the gradient of that, and what the step has to say; jit-safe.
    """

    def gradient(trained, step, image, mask, which: Float32[Array, " n"]):
        def loss(trained, image, mask, key):
            outcome = outcome_of(template.model(trained), image, mask, key, objective)
            losses = mean_losses(outcome)
            return jnp.sum(jnp.stack(losses) * which), (losses, counted_ious(outcome))

        key = step_key(seed, step)
        (losses, ious), grads = mean_gradient(loss, trained, (image, mask), key, microbatching)
        return grads, losses, ious

    return gradient


def make_update(
    optimizer: optax.GradientTransformation, ema_decay: float
) -> Callable[[TrainState, Arrays], tuple[TrainState, Float32[Array, ""]]]:
    """A function of a state and a gradient: the next state, and the gradient's norm; jit-safe."""

    def update(state: TrainState, grads):
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trained)
        trained = optax.apply_updates(state.trained, updates)
        ema = ema_update(state.ema, trained, ema_decay, state.step)
        return TrainState(state.step + 1, trained, opt_state, ema), optax.tree.norm(grads)

    return update


def mean_gradient(
    loss: Callable,
    trained: Arrays,
    batch: tuple[Array, ...],
    key: PRNGKeyArray,
    microbatching: Microbatching,
) -> tuple[Any, Arrays]:
    """What `loss(trained, *batch, key)` has to say besides, and its gradient: means over the parts
    of the batch, one worked through after another.

    In each part are examples of every device, so that none waits for another.
    """
    number = microbatching.parts(len(batch[0]))

    # Divided here rather than each array of the gradient, which would be a loop for each.
    def share(*part):
        total, said = loss(*part)
        return total / number, said

    gradient = jax.grad(share, has_aux=True)
    if number == 1:
        grads, said = gradient(trained, *batch, key)
        return said, grads
    parts = [rearrange(array, "(b p) ... -> p b ...", p=number) for array in batch]

    def add(total, part):
        key, *arrays = part
        grads, said = gradient(trained, *arrays, key)
        return jax.tree.map(jnp.add, total, grads), said

    zero = jax.tree.map(jnp.zeros_like, trained)
    grads, said = jax.lax.scan(add, zero, (jax.random.split(key, number), *parts))
    return jax.tree.map(lambda x: x.mean(axis=0), said), grads


def step_key(seed: int, step: Int32[Array, ""]) -> PRNGKeyArray:
    """What the random numbers of a step come from."""
    return jax.random.fold_in(jax.random.key(seed), step)


def outcome_of(model: SAM2, image, mask, key: PRNGKeyArray, objective: Objective) -> Outcome:
    """Pictures or clips, by the number of axes."""
    steps = clip_outcome if image.ndim == 5 else image_outcome
    return steps(model, image, mask, key, objective)


def mean_losses(outcome: Outcome) -> Losses:
    """Summed over rounds and frames, averaged over objects."""
    counted = jax.tree.map(lambda x: jnp.where(outcome.counted, x, 0.0), outcome.losses)
    return combine(counted, float(outcome.counted.shape[1]))


def counted_ious(outcome: Outcome) -> CountedIous:
    """Of each round or frame."""
    ious = jnp.where(outcome.counted, outcome.ious, 0.0)
    return CountedIous(ious.mean(axis=1), outcome.counted.astype(jnp.float32).mean(axis=1))
