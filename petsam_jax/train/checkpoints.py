"""Checkpoints of a training run: written so that a kill loses no step, restored exactly.

In: a training state and the states of its data iterators. Out: a step under WORKDIR/checkpoints
with the weights as `petsam_jax.checkpoint` reads them, and beside them

    optimizer   every array of the optimiser's state, unpacked, by its path in the state
    progress    JSON: the step, the iterators' states, and the optimiser's checksums
    metrics     JSON: the scores of the step's validation, once it has been run

A thread of Orbax writes a step while training continues, under a temporary name until it is
complete. Everything is restored to the bit, so a run continues as if it had never stopped.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy

from petsam_jax.checkpoint import STEPS, describe_arrays, to_host, weight_items, wrong_checksums
from petsam_jax.train.guards import WorkdirError
from petsam_jax.train.step import ModelTemplate, TrainState

# Where Orbax looks for the scores of a step.
METRICS = "metrics"


class RunCheckpoints:
    """The checkpoints of one run; a context manager that waits for the last write on exit."""

    def __init__(self, config: ConfigDict, workdir: str | Path):
        """Keeps the newest `train.keep` steps and the best by `eval.best`."""
        self.directory = Path(workdir).absolute() / STEPS
        self._config = config
        best = config.eval.best
        policies = [
            preservation_policy.LatestN(config.train.keep),
            preservation_policy.BestN(
                get_metric_fn=lambda metrics: metrics[best],
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
        ]
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
                best_fn=lambda metrics: metrics[best],
                cleanup_tmp_directories=True,
            ),
        )

    @property
    def last(self) -> Path | None:
        """The folder of the newest complete step."""
        return self.last_before(None)

    def last_before(self, step: int | None) -> Path | None:
        """The folder of the newest complete step before `step` (None: of all)."""
        # Orbax also lists the step that is being written.
        folders = {s: self.directory / str(s) for s in self._manager.all_steps()}
        complete = [s for s, folder in folders.items() if folder.is_dir()]
        older = [s for s in complete if step is None or s < step]
        return folders[max(older)] if older else None

    @property
    def best(self) -> Path | None:
        """The folder of the step with the best validation score."""
        step = self._manager.best_step()
        return None if step is None else self.directory / str(step)

    def save(
        self,
        state: TrainState,
        template: ModelTemplate,
        iterators: Mapping[str, Any],
    ) -> None:
        """Start to write the state; it may be overwritten as soon as this returns.

        Does nothing if the step already exists. Raises WorkdirError if this or the previous step
        could not be written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        state, packing = to_host(state), template.packing
        weights = template.frozen | packing.unpack(state.trained)
        items = weight_items(self._config, weights, packing.unpack(state.ema))
        optimizer = flatten_by_path(packing.unpack_within(state.opt_state))
        items["optimizer"] = ocp.args.StandardSave(optimizer)
        progress = {
            "step": step,
            "iterators": dict(iterators),
            "optimizer": describe_arrays(optimizer),
        }
        items["progress"] = ocp.args.JsonSave(progress)
        self._reraise(self._manager.save, step, args=ocp.args.Composite(**items))

    def add_scores(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add validation scores to a saved step, which may make it the best; raises as `save`.

        They are not written with the step: it is saved before its validation, which takes long and
        may fail.
        """
        self.wait()
        old = self._manager.best_step()

        def write_scores():
            with ocp.Checkpointer(ocp.JsonCheckpointHandler(filename=METRICS)) as writer:
                scores = ocp.args.JsonSave(dict(metrics))
                writer.save(self.directory / str(step) / METRICS, args=scores, force=True)
            self._manager.reload()
            newest = sorted(self._manager.all_steps())[-self._config.train.keep :]
            if old not in (None, self._manager.best_step(), *newest):
                self._manager.delete(old)

        self._reraise(write_scores)

    def has_scores(self, step: int) -> bool:
        """Whether a step has validation scores."""
        return self._manager.metrics(step) is not None

    def restore(
        self, state: TrainState, template: ModelTemplate, sharding: NamedSharding
    ) -> tuple[TrainState, ModelTemplate, dict[str, Any]]:
        """The state and template of the newest step, like the fresh ones given, and its iterators'.

        Without any step: the arguments themselves, placed by `sharding`, and {}.
        """
        step = self._manager.latest_step()
        if step is None:
            return jax.device_put(state, sharding), template, {}
        packing = template.packing
        trained = jax.eval_shape(packing.unpack, state.trained)
        opt_state = jax.eval_shape(packing.unpack_within, state.opt_state)
        abstract = {
            "params": template.frozen | trained,
            "ema": trained,
            "optimizer": flatten_by_path(opt_state),
        }
        fault = None
        try:
            progress = self._read(step, progress=ocp.args.JsonRestore())["progress"]
            self._check_version(step, progress, abstract["optimizer"])
            arrays = self._read_arrays(step, abstract, progress)
        except WorkdirError:
            raise
        except Exception as error:  # Orbax raises plain Exception for some kinds of damage.
            fault = _shorten(error)
        # Outside `except`: the cause is pages long and keeps what was read alive.
        if fault is not None:
            before = self.last_before(step)
            then = (
                f"go on from {before}"
                if before
                else "start from scratch, as there is no earlier one"
            )
            raise WorkdirError(
                f"{self.directory / str(step)}: this checkpoint cannot be read ({fault}); remove "
                f"that folder and start again with the same --workdir to {then}"
            )
        restored = TrainState(
            jnp.int32(progress["step"]),
            packing.pack({name: arrays["params"][name] for name in trained}),
            packing.pack_within(unflatten_like(opt_state, arrays["optimizer"])),
            packing.pack(arrays["ema"]),
        )
        frozen = {name: jax.numpy.asarray(arrays["params"][name]) for name in template.frozen}
        restored = jax.device_put(restored, sharding)
        return restored, template._replace(frozen=frozen), progress["iterators"]

    def _read(self, step: int, **items: Any) -> Mapping[str, Any]:
        return self._manager.restore(step, args=ocp.args.Composite(**items))

    def _check_version(self, step: int, progress: Mapping, optimizer: Mapping) -> None:
        """Raise WorkdirError if the saved optimiser state has other arrays."""
        if (saved := progress.get("optimizer")) is not None and saved.keys() != optimizer.keys():
            raise WorkdirError(
                f"{self.directory / str(step)}: written by a version of this program with a "
                "different optimiser state; to continue from its weights, start a run in another "
                f"--workdir with --config.train.start_from={self.directory.parent}"
            )

    def _read_arrays(self, step: int, abstract: Mapping[str, Mapping], progress: Mapping) -> dict:
        """Items with arrays of these shapes; raises ValueError if a checksum is wrong."""

        def target(tree):
            return ocp.args.StandardRestore(
                jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
            )

        found = self._read(
            step,
            meta=ocp.args.JsonRestore(),
            **{item: target(tree) for item, tree in abstract.items()},
        )
        # Steps of early versions have no checksums of the optimiser.
        sums = found["meta"]["arrays"] | {"optimizer": progress.get("optimizer")}
        arrays = {item: to_host(found[item]) for item in abstract}
        for item, tree in arrays.items():
            if sums[item] is not None and (wrong := wrong_checksums(tree, sums[item])):
                raise ValueError(f"{item}: checksums are wrong: {', '.join(wrong)}")
        return arrays

    def wait(self) -> None:
        """Wait until the step being written is complete; raises as `save` does."""
        self._reraise(self._manager.wait_until_finished)

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._reraise(self._manager.close)

    def _reraise(self, action, *args, **options) -> None:
        """Call `action`; raise WorkdirError with what to do for any error."""
        try:
            action(*args, **options)
        except Exception as error:  # Orbax raises what its writing threads raised, of any kind.
            fault = _shorten(error)
            last = f"the last good one is {self.last}" if self.last else "there is no earlier one"
            raise WorkdirError(
                f"{self.directory}: a checkpoint could not be written ({fault}); {last}. Free up "
                "space or fix the disk, then start again with the same --workdir to resume"
            ) from error


def _shorten(error: Exception) -> str:
    """The first line without TensorStore's settings; its middle, a long path, is cut out."""
    line = (str(error).strip() or repr(error)).splitlines()[0].partition(" [tensorstore_spec=")[0]
    return line if len(line) <= 300 else f"{line[:120]} ... {line[-175:]}"


def flatten_by_path(tree: Any) -> dict[str, Any]:
    """Dotted path (fields, keys and indices) -> leaf of any tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def unflatten_like(tree: Any, leaves: Mapping[str, Any]) -> Any:
    """A tree of the structure of `tree` with the leaves that `flatten_by_path` returned."""
    return jax.tree.unflatten(
        jax.tree.structure(tree), [leaves[path] for path in flatten_by_path(tree)]
    )
