"""The training loop: a config and a workdir in, trained weights, logs and pictures out.

`train_and_evaluate` is all of a run. It goes on where the workdir's last checkpoint is, on the
devices of all its processes, each with its part of every batch; the first process keeps the log.
"""

from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import nnx
from ml_collections import ConfigDict

from petsam_jax import runtime
from petsam_jax.checkpoint import build_model, finished_steps, load_weights, model_with_weights
from petsam_jax.config import ConfigError, differences
from petsam_jax.data.load import load_mix, load_train_and_valid
from petsam_jax.data.sources import Source
from petsam_jax.models.compute_dtype import fastest_dtype
from petsam_jax.models.sam2 import SAM2
from petsam_jax.train.checkpoints import RunCheckpoints
from petsam_jax.train.compiled_step import TrainStep
from petsam_jax.train.config_checks import check_limits
from petsam_jax.train.device_batches import (
    BATCH_SIZE_FIELDS,
    DeviceBatches,
    batch_kinds,
    count_of_kind,
    make_shardings,
)
from petsam_jax.train.flat_params import FlatParams, pack_small
from petsam_jax.train.guards import check_config, check_workdir, lock_workdir, tree_bytes
from petsam_jax.train.monitor import Monitor
from petsam_jax.train.objective import Objective
from petsam_jax.train.optimizer import (
    ParamRule,
    make_optimizer,
    make_rules,
    summary,
    to_steps,
    trained_only,
    unflatten,
)
from petsam_jax.train.step import (
    Microbatching,
    ModelTemplate,
    TrainState,
    create_state,
    trainable,
)
from petsam_jax.train.validation import Validation

# What may change when a run is taken up again: nothing that is learned depends on it.
MAY_DIFFER = ("train.log_every", "train.grad_parts_every", "train.checkpoint_every", "train.keep")
MAY_DIFFER += ("eval.*", "data.num_threads")
# Fresh weights alone depend on it.
MAY_DIFFER += ("model.prompt_encoder.mask_gain",)
# What a model may have otherwise than the one its first weights are from: none of it changes what a
# weight means. Windows that tile smaller pictures make a short run on those, before one at full
# size, possible.
MAY_DIFFER_FROM_START = ("dtype", "image_encoder.trunk.window_sizes", "max_cond_frames")
MAY_DIFFER_FROM_START += ("image_encoder.trunk.drop_path_rate", "memory_attention.dropout")
MAY_DIFFER_FROM_START += ("max_obj_ptrs", "prompt_encoder.mask_gain")


# What a config says


class Plan(NamedTuple):
    """How long a run is and how each parameter is trained."""

    steps: int
    rules: dict[str, ParamRule]
    packing: FlatParams
    optimizer: Any  # of packed arrays


def make_plan(config: ConfigDict, shapes: Mapping[str, tuple[int, ...]], examples: int) -> Plan:
    """For parameters of these shapes.

    `examples` pictures are an epoch, in batches of pictures; a step of clips counts as one.
    """
    optim = config.optim
    per_epoch = examples / config.train.batch_size
    steps = to_steps(config.train.duration, per_epoch)
    if steps < 1:
        raise ConfigError(f"train.duration={config.train.duration!r}: set it to at least one step")
    rules = _rules(config, shapes, per_epoch)
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
    rules = _rules(config, sizes, per_epoch)
    outline = {name: jax.ShapeDtypeStruct(size, "float32") for name, size in sizes.items()}
    return summary(unflatten(outline), rules)


def _rules(
    config: ConfigDict, names: Iterable[str], steps_per_epoch: float
) -> dict[str, ParamRule]:
    optim = config.optim
    return make_rules(names, optim.groups.to_dict(), optim.no_decay, steps_per_epoch)


# The loop


def train_and_evaluate(
    config: ConfigDict,
    workdir: str | Path,
    *,
    max_steps: int | None = None,
    sources: tuple[Source, Source] | None = None,
) -> dict[str, float]:
    """Train to the end of `train.duration`, or to step `max_steps`; the last validation's metrics.

    `sources`: those of the config, where `load_train_and_valid` has opened them already.
    SIGTERM and Ctrl-C save and return early. Raises the errors of `load_source` for missing data,
    ConfigError, OptimizerError, WorkdirError, and TrainingDiverged.
    """
    check_limits(config)
    source, held_out = sources or load_train_and_valid(config.data)
    check_workdir(workdir, 0)
    # From before config.json is written: that of a run that is under way may not be another's.
    with lock_workdir(workdir):
        check_config(workdir, config, MAY_DIFFER)
        replicated, spread = make_shardings()
        resumed = bool(finished_steps(workdir))
        plan, state, template = initial_state(config, len(source), resumed)
        check_workdir(workdir, tree_bytes(state, template.frozen) * (config.train.keep + 2))
        with (
            closing(DeviceBatches(config, source, spread)) as batches,
            RunCheckpoints(config, workdir) as checkpoints,
            runtime.StopSignal() as stop,
        ):
            state, template, iterators = checkpoints.restore(state, template, replicated)
            runtime.forget_programs()
            runtime.release_memory()
            batches.go_to(iterators)
            run = _Run(
                config, Path(workdir), plan, template, batches, checkpoints, stop, replicated
            )
            validation = Validation(config, held_out, Objective.of(config), template, spread)
            return run.loop(state, validation, min(plan.steps, max_steps or plan.steps))


def initial_state(
    config: ConfigDict, examples: int, resumed: bool = False
) -> tuple[Plan, TrainState, ModelTemplate]:
    """The plan of a run on so many examples, and where it begins.

    `resumed`: a checkpoint of the run itself will take the place of all arrays, so that the one
    that it started from is not wanted any more. The model goes: its arrays, which are in the state,
    would be kept a second time.
    """
    model = build_model(config) if resumed else initial_model(config)
    plan = make_plan(config, trainable(model), examples)
    return plan, *create_state(model, trained_only(plan.rules), plan.packing, plan.optimizer)


def initial_model(config: ConfigDict) -> SAM2:
    """With random weights, or with those of the checkpoint `train.start_from`."""
    if not config.train.start_from:
        return build_model(config, config.train.seed)
    theirs, arrays = load_weights(config.train.start_from)
    found = [
        line
        for line in differences(theirs.model, config.model)
        if line.partition(":")[0] not in MAY_DIFFER_FROM_START
    ]
    if found:
        raise ConfigError(
            f"train.start_from={config.train.start_from}: its model is another: {'; '.join(found)}"
        )
    return model_with_weights(config, arrays)


class _Run:
    """What a loop needs at hand."""

    def __init__(self, config, workdir, plan, template, batches, checkpoints, stop, replicated):
        self.config, self.workdir, self.template = config, workdir, template
        self.batches, self.checkpoints, self.stop, self.total = (
            batches,
            checkpoints,
            stop,
            plan.steps,
        )
        objective, seed = Objective.of(config), config.train.seed
        self.microbatching = microbatching = Microbatching(
            config.train.microbatches, batches.devices
        )
        self.train_step = TrainStep(
            template,
            plan.optimizer,
            objective,
            seed=seed,
            ema_decay=config.train.ema_decay,
            microbatching=microbatching,
            sharding=replicated,
        )

    def loop(self, state, validation, end: int) -> dict[str, float]:
        step, scores = int(state.step), {}
        with Monitor(self.config, self.workdir, self.total, step, self.checkpoints) as monitor:
            if step:
                monitor.say(f"resumed from {self.checkpoints.last}")
            dtype = self.config.model.dtype
            if fastest_dtype(dtype) != dtype:
                monitor.say(
                    f"model.dtype={dtype}: this processor has no instructions for it; float32 is "
                    "faster here (--config.model.dtype=float32, in a new workdir)"
                )
            for line in self._microbatch_warnings():
                monitor.say(line)
            undone = self._is_due(step) and not self.checkpoints.has_scores(step)
            if undone and not self.stop.agreed(step):
                # A stop came before this validation, or the program ended during it.
                scores = self._validate(step, state, monitor, validation)
                monitor.pause()
            batch = self.batches.take(step) if step < end else None
            stopped = self.stop.agreed(step)
            while step < end and not stopped:
                norms = self._part_grad_norms(step, state, batch)
                state, metrics = self.train_step(state, batch.image, batch.mask)
                step += 1
                done, batch = batch, self.batches.take(step) if step < end else None
                monitor.add(step, done, metrics, norms)
                stopped = self.stop.agreed(step)
                last, due = step == end or bool(stopped), self._is_due(step)
                if not (due or last or step % self.config.train.checkpoint_every == 0):
                    continue
                monitor.flush()
                self.checkpoints.save(state, self.template, done.iterators)
                stopped = self.stop.agreed(step)
                # Who asks for a stop may not wait for long: the next start validates.
                if due and not stopped:
                    scores = self._validate(step, state, monitor, validation)
                    stopped = self.stop.agreed(step)
                monitor.pause()
            self.checkpoints.wait()
            monitor.say(self._final_message(step, stopped))
        return scores

    def _is_due(self, step: int) -> bool:
        """Whether a validation belongs to a step."""
        return step > 0 and (step % self.config.eval.every == 0 or step == self.total)

    def _validate(self, step, state, monitor, validation) -> dict[str, float]:
        """Of a step that is saved: should the validation end the program, no step is lost."""
        self.checkpoints.wait()
        scores = monitor.validate(step, validation, state.ema)
        self.checkpoints.add_scores(step, scores)
        return scores

    def _microbatch_warnings(self) -> list[str]:
        """What to say of batches that are worked through in fewer parts than asked for."""
        train, lines = self.config.train, []
        for field in (BATCH_SIZE_FIELDS[kind] for kind in batch_kinds(train.clip_share)):
            parts = self.microbatching.parts(train[field])
            if parts < train.microbatches:
                lines.append(
                    f"train.microbatches={train.microbatches}: train.{field}={train[field]} on "
                    f"{self.microbatching.devices} devices is worked through in {parts}; more must divide "
                    "each device's share"
                )
        return lines

    def _part_grad_norms(self, step, state, batch):
        """Gradient norms of the loss parts, each alone, at the steps that ask for them."""
        train = self.config.train
        every = train.grad_parts_every
        if not every or count_of_kind(step, train.clip_share) % every:
            return {}
        return self.train_step.part_norms(state, batch.image, batch.mask)

    def _final_message(self, step: int, stopped: str) -> str:
        """`stopped` is the signal that the processes agreed on, which others may have got."""
        where = f"step {step:,} of {self.total:,}; last checkpoint {self.checkpoints.last}"
        if self.checkpoints.best:
            where += f", best by {self.config.eval.best} {self.checkpoints.best}"
        if stopped:
            return f"{stopped}: saved and stopped at {where}; start again to resume"
        return f"done: {where}"
