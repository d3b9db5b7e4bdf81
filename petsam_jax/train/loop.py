"""The training loop: from a config to trained weights, logs and validation sheets in a workdir.

`train_and_evaluate` is a whole run. It resumes from the workdir's last checkpoint and uses the
devices of all its processes; each process reads its share of every batch, the first one writes the
log.
"""

from contextlib import closing
from pathlib import Path

from ml_collections import ConfigDict

from petsam_jax import runtime
from petsam_jax.checkpoint import finished_steps
from petsam_jax.data.load import load_train_and_valid
from petsam_jax.data.sources import Source
from petsam_jax.models.compute_dtype import fastest_dtype
from petsam_jax.train.checkpoints import RunCheckpoints
from petsam_jax.train.compiled_step import TrainStep
from petsam_jax.train.config_checks import MAY_DIFFER, check_config, check_limits
from petsam_jax.train.device_batches import (
    BATCH_SIZE_FIELDS,
    batch_kinds,
    count_of_kind,
    make_shardings,
)
from petsam_jax.train.guards import check_workdir, lock_workdir, tree_bytes
from petsam_jax.train.monitor import Monitor
from petsam_jax.train.objective import Objective
from petsam_jax.train.plan import initial_state, make_batches, make_validation
from petsam_jax.train.step import Microbatching


def train_and_evaluate(
    config: ConfigDict,
    workdir: str | Path,
    *,
    max_steps: int | None = None,
    sources: tuple[Source, Source] | None = None,
) -> dict[str, float]:
    """Train to the end of `train.duration`, or to step `max_steps`; return the last scores.

    `sources` are those of the config, if `load_train_and_valid` has already opened them.
    SIGTERM and Ctrl-C save and return early. Raises the errors of `load_source` for missing data,
    ConfigError, OptimizerError, WorkdirError, and TrainingDiverged.
    """
    check_limits(config)
    source, held_out = sources or load_train_and_valid(config.data)
    check_workdir(workdir, 0)
    # Before config.json is written: that of a live run must not be overwritten.
    with lock_workdir(workdir):
        check_config(workdir, config, MAY_DIFFER)
        replicated, sharded = make_shardings()
        resumed = bool(finished_steps(workdir))
        plan, state, template = initial_state(config, len(source), resumed)
        check_workdir(workdir, tree_bytes(state, template.frozen) * (config.train.keep + 2))
        with (
            closing(make_batches(config, source, sharded)) as batches,
            RunCheckpoints(config, workdir) as checkpoints,
            runtime.StopSignal() as stop,
        ):
            state, template, iterators = checkpoints.restore(state, template, replicated)
            runtime.clear_jit_caches()
            runtime.release_memory()
            batches.set_states(iterators)
            run = _Run(
                config, Path(workdir), plan, template, batches, checkpoints, stop, replicated
            )
            validation = make_validation(config, held_out, template, sharded)
            return run.loop(state, validation, min(plan.steps, max_steps or plan.steps))


class _Run:
    """The parts of a run that its loop uses."""

    def __init__(self, config, workdir, plan, template, batches, checkpoints, stop, replicated):
        self.config, self.workdir, self.template = config, workdir, template
        self.batches, self.checkpoints = batches, checkpoints
        self.stop, self.total = stop, plan.steps
        train = config.train
        self.microbatching = Microbatching(train.microbatches, batches.devices)
        self.train_step = TrainStep(
            template,
            plan.optimizer,
            Objective.of(config.prompts, config.loss),
            seed=train.seed,
            ema_decay=train.ema_decay,
            microbatching=self.microbatching,
            sharding=replicated,
        )

    def loop(self, state, validation, end: int) -> dict[str, float]:
        """Train up to step `end`; return the scores of the last validation."""
        step, scores = int(state.step), {}
        with self._monitor(step) as monitor:
            for line in self._opening_messages(step):
                monitor.print(line)
            # The run was stopped before this validation, or ended during it.
            missed = self._is_validated(step) and not self.checkpoints.has_scores(step)
            if missed and not self.stop.agreed(step):
                scores = self._validate(step, state, monitor, validation)
                monitor.pause()
            batch = self.batches.take(step) if step < end else None
            stopped = self.stop.agreed(step)
            while batch is not None and not stopped:
                norms = self._part_grad_norms(step, state, batch)
                state, metrics = self.train_step(state, batch.image, batch.mask)
                step += 1
                done, batch = batch, self.batches.take(step) if step < end else None
                monitor.add(step, done, metrics, norms)
                stopped = self.stop.agreed(step)
                last, validated = step == end or bool(stopped), self._is_validated(step)
                if not (validated or last or step % self.config.train.checkpoint_every == 0):
                    continue
                monitor.flush()
                self.checkpoints.save(state, self.template, done.iterators)
                stopped = self.stop.agreed(step)
                # A stop does not wait for a validation: the next start catches up on it.
                if validated and not stopped:
                    scores = self._validate(step, state, monitor, validation)
                    stopped = self.stop.agreed(step)
                monitor.pause()
            self.checkpoints.wait()
            monitor.print(self._final_message(step, stopped))
        return scores

    def _monitor(self, step: int) -> Monitor:
        log_every = self.config.train.log_every
        return Monitor(self.workdir, self.total, step, self.checkpoints, log_every)

    def _is_validated(self, step: int) -> bool:
        """Whether the config asks for a validation after this step."""
        return step > 0 and (step % self.config.eval.every == 0 or step == self.total)

    def _validate(self, step, state, monitor, validation) -> dict[str, float]:
        """Validate a saved step: if the validation ends the program, no step is lost."""
        self.checkpoints.wait()
        scores = monitor.validate(step, validation, state.ema)
        self.checkpoints.add_scores(step, scores)
        return scores

    def _opening_messages(self, step: int) -> list[str]:
        dtype = self.config.model.dtype
        lines = [f"resumed from {self.checkpoints.last}"] if step else []
        if fastest_dtype(dtype) != dtype:
            lines.append(
                f"model.dtype={dtype}: this processor has no instructions for it; float32 is "
                "faster here (--config.model.dtype=float32, in a new workdir)"
            )
        return lines + self._microbatch_warnings()

    def _microbatch_warnings(self) -> list[str]:
        """A line for each kind of batch that is split into fewer microbatches than configured."""
        train, lines = self.config.train, []
        for field in (BATCH_SIZE_FIELDS[kind] for kind in batch_kinds(train.clip_share)):
            count = self.microbatching.count_for(train[field])
            if count < train.microbatches:
                lines.append(
                    f"train.microbatches={train.microbatches}: train.{field}={train[field]} on "
                    f"{self.microbatching.devices} devices is split into {count}; a larger number "
                    "must divide each device's share"
                )
        return lines

    def _part_grad_norms(self, step, state, batch):
        """Gradient norms of each loss part, every `train.grad_parts_every` steps of a kind."""
        train = self.config.train
        every = train.grad_parts_every
        if not every or count_of_kind(step, train.clip_share) % every:
            return {}
        return self.train_step.part_norms(state, batch.image, batch.mask)

    def _final_message(self, step: int, stopped: str) -> str:
        """`stopped` is the agreed signal, which another process may have received."""
        where = f"step {step:,} of {self.total:,}; last checkpoint {self.checkpoints.last}"
        if self.checkpoints.best:
            where += f", best by {self.config.eval.best} {self.checkpoints.best}"
        if stopped:
            return f"{stopped}: saved and stopped at {where}; start again to resume"
        return f"done: {where}"
