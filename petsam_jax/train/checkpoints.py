"""Saving a run so that no kill loses it, and taking it up again where it was.

In: a training state and the states of its data iterators. Out: a step under WORKDIR/checkpoints
with the weights as `petsam_jax.checkpoint` reads them, and beside them

    optimizer   every array of the optimiser's state, unpacked, by its place in it
    progress    JSON: the step, how far each iterator is, and the optimiser's checksums
    metrics     JSON: the scores of its validation, once there was one

A step is written by a thread of Orbax while training goes on, under a name that is no step's until
it is whole. All of it is exact, so that a run goes on as if it had never stopped.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
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
    """The checkpoints of one run; use as a context manager, which waits for the last to be done."""

    def __init__(self, config: ConfigDict, workdir: str | Path):
        """The newest `train.keep` and the best by `eval.best` are kept."""
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
        """The newest whole step's folder."""
        return self.last_before(None)

    def last_before(self, step: int | None) -> Path | None:
        """The folder of the newest whole step that is older than `step`."""
        # Orbax counts the one that is being written.
        folders = {s: self.directory / str(s) for s in self._manager.all_steps()}
        whole = [s for s, folder in folders.items() if folder.is_dir()]
        older = [s for s in whole if step is None or s < step]
        return folders[max(older)] if older else None

    @property
    def best(self) -> Path | None:
        """The folder of the step that was best in validation."""
        step = self._manager.best_step()
        return None if step is None else self.directory / str(step)

    def save(
        self,
        state: TrainState,
        template: ModelTemplate,
        iterators: Mapping[str, Any],
    ) -> None:
        """Start to write the state; it may be overwritten as soon as this returns.

        A step that is there already is left as it is. Raises WorkdirError when this or the step
        before could not be written.
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
        self._told(self._manager.save, step, args=ocp.args.Composite(**items))

    def add_scores(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the scores of a validation to a step, which may then be the best; raises as `save`.

        Not written with the step itself: that is there before its validation, which takes long and
        may fail.
        """
        self.wait()
        old = self._manager.best_step()

        def add():
            with ocp.Checkpointer(ocp.JsonCheckpointHandler(filename=METRICS)) as writer:
                scores = ocp.args.JsonSave(dict(metrics))
                writer.save(self.directory / str(step) / METRICS, args=scores, force=True)
            self._manager.reload()
            newest = sorted(self._manager.all_steps())[-self._config.train.keep :]
            if old not in (None, self._manager.best_step(), *newest):
                self._manager.delete(old)

        self._told(add)

    def has_scores(self, step: int) -> bool:
        """Whether a step has scores."""
        return self._manager.metrics(step) is not None

    def restore(
        self, state: TrainState, template: ModelTemplate, sharding: NamedSharding
    ) -> tuple[TrainState, ModelTemplate, dict[str, Any]]:
        """The newest step in place of a fresh `state` and `template`, and its iterators' states.

        Without any step: the arguments themselves, placed by `sharding`, and {}.
        """
        step = self._manager.latest_step()
        if step is None:
            return jax.device_put(state, sharding), template, {}
        packing = template.packing
        trained = jax.eval_shape(packing.unpack, state.trained)
        opt_state = jax.eval_shape(packing.unpack_within, state.opt_state)
        outlines = {
            "params": template.frozen | trained,
            "ema": trained,
            "optimizer": flatten_by_path(opt_state),
        }
        fault = None
        try:
            progress = self._read(step, progress=ocp.args.JsonRestore())["progress"]
            self._check_version(step, progress, outlines["optimizer"])
            arrays = self._read_arrays(step, outlines, progress)
        except WorkdirError:
            raise
        except Exception as error:  # Orbax raises plain Exception for some kinds of damage.
            fault = _in_short(error)
        # Not within `except`: the cause is pages long, and holds on to what was read.
        if fault is not None:
            before = self.last_before(step)
            then = f"go on from {before}" if before else "begin anew, since there is none before it"
            raise WorkdirError(
                f"{self.directory / str(step)}: this checkpoint cannot be read ({fault}); remove "
                f"that folder and start again with the same --workdir to {then}"
            )
        restored = TrainState(
            np.int32(progress["step"]),
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
        """Raise WorkdirError where the optimiser was not of the same arrays."""
        if (saved := progress.get("optimizer")) is not None and saved.keys() != optimizer.keys():
            raise WorkdirError(
                f"{self.directory / str(step)}: written by another version of this program, whose "
                "optimiser had other arrays; to go on with its weights, begin a run in another "
                f"--workdir with --config.train.start_from={self.directory.parent}"
            )

    def _read_arrays(self, step: int, outlines: Mapping[str, Mapping], progress: Mapping) -> dict:
        """Items of arrays like these; an error where a checksum is wrong."""

        def target(tree):
            return ocp.args.StandardRestore(
                jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
            )

        found = self._read(
            step,
            meta=ocp.args.JsonRestore(),
            **{item: target(tree) for item, tree in outlines.items()},
        )
        # A step of an earlier version has none of the optimiser.
        sums = found["meta"]["arrays"] | {"optimizer": progress.get("optimizer")}
        arrays = {item: to_host(found[item]) for item in outlines}
        for item, tree in arrays.items():
            if sums[item] is not None and (wrong := wrong_checksums(tree, sums[item])):
                raise ValueError(f"{item}: checksums are wrong: {', '.join(wrong)}")
        return arrays

    def wait(self) -> None:
        """Until the step that is being written is whole; raises as `save` does."""
        self._told(self._manager.wait_until_finished)

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._told(self._manager.close)

    def _told(self, action, *args, **options) -> None:
        try:
            action(*args, **options)
        except Exception as error:  # Orbax raises what its writing threads raised, of any kind.
            fault = _in_short(error)
            last = f"the last good one is {self.last}" if self.last else "there is none before it"
            raise WorkdirError(
                f"{self.directory}: a checkpoint could not be written ({fault}); {last}. Make room "
                "or mend the disk, then start again with the same --workdir to resume"
            ) from error


def _in_short(error: Exception) -> str:
    """The first line; TensorStore's has the reason behind long paths, and settings behind that."""
    line = (str(error).strip() or repr(error)).splitlines()[0].partition(" [tensorstore_spec=")[0]
    return line if len(line) <= 300 else f"{line[:120]} ... {line[-175:]}"


def flatten_by_path(tree: Any) -> dict[str, Any]:
    """The leaves of any tree by where they are: names of fields, keys and numbers."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def unflatten_like(tree: Any, leaves: Mapping[str, Any]) -> Any:
    """A tree like `tree` with the leaves that `flatten_by_path` took out of one."""
    return jax.tree.unflatten(
        jax.tree.structure(tree), [leaves[place] for place in flatten_by_path(tree)]
    )
