"""What a config says about a run: its length, how each parameter is trained, and where it starts.

In: a config and sources of images. Out: a `Plan`, the initial model and training state, the batches
and the validation of a run, and the table that `--summary` prints.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from petsam_jax.checkpoint import build_model, load_weights, model_with_weights
from petsam_jax.config import ConfigError, differences
from petsam_jax.data.augment import Augmentation
from petsam_jax.data.load import load_mix
from petsam_jax.data.motion import Motion
from petsam_jax.data.pipeline import Batch, make_eval_iterator, make_train_iterator
from petsam_jax.data.sources import Source, Subset
from petsam_jax.models.sam2 import SAM2
from petsam_jax.train.config_checks import check_limits, validates_clips
from petsam_jax.train.device_batches import BATCH_SIZE_FIELDS, DeviceBatches
from petsam_jax.train.flat_params import FlatParams, pack_small
from petsam_jax.train.objective import Objective
from petsam_jax.train.optimizer import make_optimizer, summary, unflatten
from petsam_jax.train.param_rules import ParamRule, make_rules, to_steps, trained_only
from petsam_jax.train.step import ModelTemplate, TrainState, create_state, trainable
from petsam_jax.train.validation import Validation

# Fields of a model that may differ from those of the checkpoint it starts from: none changes what a
# weight means. Windows that tile smaller images allow a short run on those before one at full size.
MAY_DIFFER_FROM_START = (
    *("dtype", "image_encoder.trunk.window_sizes", "max_cond_frames"),
    *("image_encoder.trunk.drop_path_rate", "memory_attention.dropout"),
    *("max_obj_ptrs", "prompt_encoder.mask_gain"),
)
# The same clips at every validation.
CLIP_SEED = 0


class Plan(NamedTuple):
    """How long a run is and how each parameter is trained."""

    steps: int
    rules: dict[str, ParamRule]
    packing: FlatParams
    optimizer: optax.GradientTransformation  # of packed arrays


def make_plan(config: ConfigDict, shapes: Mapping[str, tuple[int, ...]], examples: int) -> Plan:
    """For parameters of these shapes.

    `examples` images are an epoch, in batches of images; a step on clips counts as one of them.
    """
    optim = config.optim
    per_epoch = examples / config.train.batch_size
    steps = to_steps(config.train.duration, per_epoch)
    if steps < 1:
        raise ConfigError(f"train.duration={config.train.duration!r}: set it to at least one step")
    rules = _make_rules(config, shapes, per_epoch)
    packing = pack_small(shapes, trained_only(rules))
    options = optim.to_dict()
    for name in ("groups", "no_decay"):
        del options[name]
    optimizer = make_optimizer(packing.rules(rules), steps, **options)
    return Plan(steps, rules, packing, optimizer)


def summarize(config: ConfigDict) -> str:
    """The table of modules, sizes and learning rates, without building the model."""
    check_limits(config)
    model = nnx.eval_shape(lambda: build_model(config))
    sizes = trainable(model)
    per_epoch = 1.0
    if any("epoch" in group.warmup for group in config.optim.groups.values()):
        source = load_mix(config.data.sources, config.data.weights, "train")
        per_epoch = len(source) / config.train.batch_size
    rules = _make_rules(config, sizes, per_epoch)
    abstract = {name: jax.ShapeDtypeStruct(size, "float32") for name, size in sizes.items()}
    return summary(unflatten(abstract), rules)


def _make_rules(
    config: ConfigDict, names: Iterable[str], steps_per_epoch: float
) -> dict[str, ParamRule]:
    optim = config.optim
    return make_rules(names, optim.groups.to_dict(), optim.no_decay, steps_per_epoch)


def initial_state(
    config: ConfigDict, examples: int, resumed: bool = False
) -> tuple[Plan, TrainState, ModelTemplate]:
    """The plan of a run on this many examples, and its state before the first step.

    With `resumed` a checkpoint of the run itself will replace all arrays, so `train.start_from` is
    not read. The model is dropped: its arrays are in the state, and would be held twice.
    """
    model = build_model(config) if resumed else initial_model(config)
    plan = make_plan(config, trainable(model), examples)
    return plan, *create_state(model, trained_only(plan.rules), plan.packing, plan.optimizer)


def initial_model(config: ConfigDict) -> SAM2:
    """With random weights, or with those of the checkpoint `train.start_from`."""
    if not config.train.start_from:
        return build_model(config, config.train.seed)
    loaded, arrays = load_weights(config.train.start_from)
    found = [
        line
        for line in differences(loaded.model, config.model)
        if line.partition(":")[0] not in MAY_DIFFER_FROM_START
    ]
    if found:
        raise ConfigError(
            f"train.start_from={config.train.start_from}: the checkpoint has a different "
            f"architecture: {'; '.join(found)}"
        )
    return model_with_weights(config, arrays)


# Data


def make_batches(config: ConfigDict, source: Source, sharding: NamedSharding) -> DeviceBatches:
    """The training batches of a run."""
    train = config.train
    return DeviceBatches(
        source,
        sharding,
        batch_sizes={kind: train[field] for kind, field in BATCH_SIZE_FIELDS.items()},
        clip_share=train.clip_share,
        seed=train.seed,
        **_variation(config),
    )


def make_validation(
    config: ConfigDict, source: Source, template: ModelTemplate, sharding: NamedSharding
) -> Validation:
    """At most `eval.examples` images, spread over the source, and `eval.clips` clips of them."""
    count = min(len(source), config.eval.examples)
    spread = np.linspace(0, len(source) - 1, count).round().astype(int)
    source = Subset(source, spread.tolist())
    # A multiple of the devices, since incomplete batches are padded anyway.
    devices = sharding.mesh.size
    images = partial(
        make_eval_iterator,
        source,
        batch_size=-(-config.eval.batch_size // devices) * devices,
        size=config.data.size,
        num_threads=config.data.num_threads,
    )
    return Validation(
        Objective.of(config.prompts, config.loss),
        template,
        sharding,
        images,
        partial(_validation_clips, config, source) if validates_clips(config) else None,
        clicks=config.eval.clicks,
        box_jitter=config.eval.box_jitter,
    )


def _validation_clips(config: ConfigDict, source: Source) -> Iterator[Batch]:
    size = config.train.clip_batch_size
    batches = make_train_iterator(source, batch_size=size, seed=CLIP_SEED, **_variation(config))
    try:
        for _ in range(-(-config.eval.clips // size)):
            yield next(batches)
    finally:
        batches.close()


def _variation(config: ConfigDict) -> dict:
    """What every iterator of augmented clips takes."""
    data = config.data
    return dict(
        size=data.size,
        augmentation=Augmentation(**data.augment.to_dict()),
        motion=Motion(**data.motion.to_dict()),
        num_threads=data.num_threads,
    )
