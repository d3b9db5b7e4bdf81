"""Batches on the devices, in the order of a run's steps.

In: a source. Out: batches of images and of clips; each process of the run reads its own share.
Whether step i trains on clips or on images depends on i only.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from petsam_jax.config import ConfigError
from petsam_jax.data.augment import Augmentation
from petsam_jax.data.motion import Motion
from petsam_jax.data.pipeline import make_train_iterator
from petsam_jax.data.sources import Source


def is_clip_step(step: int, share: float) -> bool:
    """Whether step `step` (from 0) trains on clips: a `share` of all steps, evenly spread."""
    return math.floor((step + 1) * share) > math.floor(step * share)


def count_of_kind(step: int, share: float) -> int:
    """How many of the steps 0 to `step` train on what `step` trains on, images or clips."""
    clips = math.floor((step + 1) * share)
    return clips if is_clip_step(step, share) else step + 1 - clips


class DeviceBatch(NamedTuple):
    """A batch on the devices, and the states of the iterators after it."""

    image: jax.Array
    mask: jax.Array
    names: tuple[str, ...]
    kind: str  # "image" or "clip"
    iterators: dict[str, Any]


# Kind of batch -> the field of `config.train` with its size.
BATCH_SIZE_FIELDS = {"image": "batch_size", "clip": "clip_batch_size"}


def batch_kinds(share: float) -> list[str]:
    """The kinds of batch in a run in which a `share` of the steps trains on clips."""
    return [kind for kind, part in (("image", 1 - share), ("clip", share)) if part > 0]


def make_shardings() -> tuple[NamedSharding, NamedSharding]:
    """Over the devices of all processes: replicated, and sharded along the first axis."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))


class DeviceBatches:
    """Batches of images and of clips in the order of the steps; call `close` when done.

    A kind of batch that does not occur is not read, and its size is not checked.
    """

    def __init__(
        self,
        source: Source,
        sharding: NamedSharding,
        *,
        batch_sizes: Mapping[str, int],
        clip_share: float,
        size: int,
        seed: int,
        augmentation: Augmentation,
        motion: Motion,
        num_threads: int,
    ):
        """`batch_sizes` by kind, over all devices. Raises ConfigError if one does not divide."""
        self._share, self._sharding = clip_share, sharding
        self.devices = devices = sharding.mesh.size
        self._iterators = {}
        for kind in batch_kinds(self._share):
            batch_size = batch_sizes[kind]
            if batch_size % devices:
                raise ConfigError(
                    f"train.{BATCH_SIZE_FIELDS[kind]}={batch_size} does not divide among {devices} "
                    f"devices; set it to a multiple of {devices}"
                )
            self._iterators[kind] = make_train_iterator(
                source,
                batch_size=batch_size // jax.process_count(),
                size=size,
                seed=seed + list(BATCH_SIZE_FIELDS).index(kind),
                augmentation=augmentation,
                motion=motion if kind == "clip" else None,
                shard_index=jax.process_index(),
                shard_count=jax.process_count(),
                num_threads=num_threads,
            )

    def states(self) -> dict[str, Any]:
        return {kind: iterator.get_state() for kind, iterator in self._iterators.items()}

    def set_states(self, states: dict[str, Any]) -> None:
        """Resume from what `states` returned; {} stays at the start."""
        for kind, iterator in self._iterators.items() if states else ():
            iterator.set_state(states[kind])

    def take(self, step: int) -> DeviceBatch:
        kind = "clip" if is_clip_step(step, self._share) else "image"
        batch = next(self._iterators[kind])
        image, mask = (
            jax.make_array_from_process_local_data(self._sharding, array)
            for array in (batch.image, batch.mask)
        )
        return DeviceBatch(image, mask, tuple(batch.name), kind, self.states())

    def close(self) -> None:
        for iterator in self._iterators.values():
            iterator.close()
