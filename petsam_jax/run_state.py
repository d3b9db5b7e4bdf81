"""Saving a run so that no kill loses it, and taking it up again where it was.

In: a training state and the states of its data iterators. Out: a step under WORKDIR/checkpoints
with the weights as `petsam_jax.checkpoint` reads them, and beside them

    optimizer   every array of the optimiser's state, by its place in it
    progress    JSON: the step, and how far each iterator is

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

from petsam_jax.checkpoint import STEPS, host, weight_items
from petsam_jax.run_guard import WorkdirError
from petsam_jax.training import Fixed, TrainState


class Keeper:
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
        step = self._manager.latest_step()
        return None if step is None else self.directory / str(step)

    @property
    def best(self) -> Path | None:
        """The folder of the step that was best in validation."""
        step = self._manager.best_step()
        return None if step is None else self.directory / str(step)

    def save(
        self,
        state: TrainState,
        fixed: Fixed,
        iterators: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Start to write the state; it may be overwritten as soon as this returns.

        `metrics` are those of a validation. A step that is there already is left as it is. Raises
        WorkdirError when this or the step before could not be written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = weight_items(self._config, fixed.frozen | state.trained, state.ema)
        items["optimizer"] = ocp.args.StandardSave(host(by_place(state.opt_state)))
        items["progress"] = ocp.args.JsonSave({"step": step, "iterators": dict(iterators)})
        self._told(
            self._manager.save,
            step,
            args=ocp.args.Composite(**items),
            metrics=None if metrics is None else dict(metrics),
        )

    def restore(
        self, state: TrainState, fixed: Fixed, sharding: NamedSharding
    ) -> tuple[TrainState, Fixed, dict[str, Any]]:
        """The newest step in place of a fresh `state` and `fixed`, and its iterators' states.

        Without any step: the arguments themselves, placed by `sharding`, and {}.
        """
        step = self._manager.latest_step()
        if step is None:
            return jax.device_put(state, sharding), fixed, {}

        def target(tree):
            return ocp.args.StandardRestore(
                jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), host(tree))
            )

        found = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=target(fixed.frozen | state.trained),
                ema=target(state.ema),
                optimizer=target(by_place(state.opt_state)),
                progress=ocp.args.JsonRestore(),
            ),
        )
        arrays = {item: host(found[item]) for item in ("params", "ema", "optimizer")}
        restored = TrainState(
            np.int32(found["progress"]["step"]),
            {name: arrays["params"][name] for name in state.trained},
            in_place(state.opt_state, arrays["optimizer"]),
            arrays["ema"],
        )
        frozen = {name: jax.numpy.asarray(arrays["params"][name]) for name in fixed.frozen}
        iterators = found["progress"]["iterators"]
        return jax.device_put(restored, sharding), Fixed(fixed.definition, frozen), iterators

    def wait(self) -> None:
        """Until the step that is being written is whole; raises as `save` does."""
        self._told(self._manager.wait_until_finished)

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._manager.close()

    def _told(self, action, *args, **options) -> None:
        try:
            action(*args, **options)
        except Exception as error:  # Orbax raises what its writing threads raised, of any kind.
            fault = (str(error).strip() or repr(error)).splitlines()[0][:300]
            last = f"the last good one is {self.last}" if self.last else "there is none before it"
            raise WorkdirError(
                f"{self.directory}: a checkpoint could not be written ({fault}); {last}. Make room "
                "or mend the disk, then start again with the same --workdir to resume"
            ) from error


def by_place(tree: Any) -> dict[str, Any]:
    """The leaves of any tree by where they are: names of fields, keys and numbers."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def in_place(tree: Any, leaves: Mapping[str, Any]) -> Any:
    """A tree like `tree` with the leaves that `by_place` took out of one."""
    return jax.tree.unflatten(jax.tree.structure(tree), [leaves[place] for place in by_place(tree)])
