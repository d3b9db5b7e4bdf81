"""One optimiser step as two pure functions (gradient, update) and the state that they advance.

In: a state and a batch. Out: the gradient, numbers to log, and the next state. Plain JAX
throughout: the model is split once into its definition and a flat dict of arrays by dotted name,
whose small arrays are packed (flat_params.py), and is put together again inside the jitted step.
The random numbers of step i depend on the run's seed and i only, so a restored run continues as if
it had never stopped.
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
    """Everything that training changes; arrays are packed."""

    step: Int32[Array, ""]
    trained: Arrays
    opt_state: optax.OptState
    ema: Arrays


class ModelTemplate(NamedTuple):
    """Everything it does not: how to build the model, and the arrays that are not trained."""

    definition: nnx.GraphDef
    frozen: Arrays
    packing: FlatParams = UNPACKED

    def model(self, trained: Mapping[str, Array]) -> SAM2:
        """The model with these packed weights; call it under `jit`."""
        return nnx.merge(self.definition, unflatten(self.frozen | self.packing.unpack(trained)))


def create_state(
    model: SAM2,
    names: Iterable[str],
    packing: FlatParams,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, ModelTemplate]:
    """The state at step 0 and the template of a model, to train its arrays `names`.

    `optimizer` is one of packed arrays. Arrays that are not trained cost no backward pass.
    """
    definition, _ = nnx.split(model)
    # Types must not be weak, as the step's results are not: otherwise it compiles twice.
    arrays = {name: jnp.asarray(array, array.dtype) for name, array in weights(model).items()}
    trained = {name: arrays.pop(name) for name in names}

    # One program, which the cache on disk keeps; array by array it would be one or two for each.
    @jax.jit
    def init(trained):
        trained = packing.pack(trained)
        state = TrainState(jnp.int32(0), trained, optimizer.init(trained), dict(trained))
        # No two leaves may share memory, or the step could not donate them.
        return jax.tree.map(jnp.copy, state)

    return init(trained), ModelTemplate(definition, arrays, packing)


def trainable(model: SAM2) -> dict[str, tuple[int, ...]]:
    """Names and shapes of parameters without constants; abstract models work, too."""
    state = nnx.to_flat_state(nnx.state(model, Constant))
    constants = {".".join(map(str, path)) for path, _ in state}
    return {name: shape for name, shape in shapes(model).items() if name not in constants}


class CountedIous(NamedTuple):
    """IoUs by round or frame, 0 where an example does not count, and the share that counts.

    Both are means over all examples, so that a mean over microbatches is that of the whole batch.
    """

    total: Float32[Array, " s"]
    share: Float32[Array, " s"]

    def mean(self, place: int) -> float | None:
        """The mean IoU of the examples that count in a round or frame; None if there are none."""
        share = float(self.share[place])
        return float(self.total[place]) / share if share else None


class Metrics(NamedTuple):
    """What one step logs: combined losses, IoUs by round or frame, and the gradient's norm."""

    losses: Losses
    ious: CountedIous
    grad_norm: Float32[Array, ""]


class Microbatching(NamedTuple):
    """How a batch is split into parts that are computed one after another.

    There are `microbatches` parts, or fewer if that does not divide each device's examples.
    """

    microbatches: int = 1
    devices: int = 1

    def count_for(self, examples: int) -> int:
        """The number of parts of a batch of `examples`, over all devices."""
        return math.gcd(examples // self.devices, self.microbatches)


WHOLE_BATCH = Microbatching()


def make_gradient(
    template: ModelTemplate,
    objective: Objective,
    *,
    seed: int,
    microbatching: Microbatching = WHOLE_BATCH,
) -> Callable[..., tuple[Arrays, Losses, CountedIous]]:
    """The function (trained arrays, step, images (b h w 3) or clips (b t h w 3), masks, weights of
    the fields of `Losses`) -> (gradient of the weighted sum, losses, IoUs); jit-safe.
    """

    def gradient(trained, step, image, mask, loss_weights: Float32[Array, " n"]):
        def loss(trained, image, mask, key):
            outcome = outcome_of(template.model(trained), image, mask, key, objective)
            losses = mean_losses(outcome)
            return jnp.sum(jnp.stack(losses) * loss_weights), (losses, counted_ious(outcome))

        key = step_key(seed, step)
        (losses, ious), grads = mean_gradient(loss, trained, (image, mask), key, microbatching)
        return grads, losses, ious

    return gradient


def make_update(
    optimizer: optax.GradientTransformation, ema_decay: float
) -> Callable[[TrainState, Arrays], tuple[TrainState, Float32[Array, ""]]]:
    """The function (state, gradient) -> (next state, the gradient's norm); jit-safe."""

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
    """The auxiliary output of `loss(trained, *batch, key)` and its gradient, as means over the
    microbatches, which are computed one after another.

    Each microbatch has examples of every device, so that none waits for another.
    """
    number = microbatching.count_for(len(batch[0]))

    # Dividing each array of the gradient instead would be a loop for each.
    def scaled_loss(*part):
        total, aux = loss(*part)
        return total / number, aux

    gradient = jax.grad(scaled_loss, has_aux=True)
    if number == 1:
        grads, aux = gradient(trained, *batch, key)
        return aux, grads
    parts = [rearrange(array, "(b p) ... -> p b ...", p=number) for array in batch]

    def add(total, part):
        key, *arrays = part
        grads, aux = gradient(trained, *arrays, key)
        return jax.tree.map(jnp.add, total, grads), aux

    zero = jax.tree.map(jnp.zeros_like, trained)
    grads, aux = jax.lax.scan(add, zero, (jax.random.split(key, number), *parts))
    return jax.tree.map(lambda x: x.mean(axis=0), aux), grads


def step_key(seed: int, step: Int32[Array, ""]) -> PRNGKeyArray:
    """The key of all random numbers of a step."""
    return jax.random.fold_in(jax.random.key(seed), step)


def outcome_of(model: SAM2, image, mask, key: PRNGKeyArray, objective: Objective) -> Outcome:
    """The outcome on images or on clips, by the number of axes."""
    compute = clip_outcome if image.ndim == 5 else image_outcome
    return compute(model, image, mask, key, objective)


def mean_losses(outcome: Outcome) -> Losses:
    """Summed over rounds and frames, averaged over objects."""
    counted = jax.tree.map(lambda x: jnp.where(outcome.counted, x, 0.0), outcome.losses)
    return combine(counted, float(outcome.counted.shape[1]))


def counted_ious(outcome: Outcome) -> CountedIous:
    """The IoUs of each round or frame."""
    ious = jnp.where(outcome.counted, outcome.ious, 0.0)
    return CountedIous(ious.mean(axis=1), outcome.counted.astype(jnp.float32).mean(axis=1))
