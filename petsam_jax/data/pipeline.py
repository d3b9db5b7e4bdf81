"""Batches with Grain: shuffled, augmented and prefetched by threads, exactly reproducible.

Batch number i of a run depends only on the source, the seed and i, so an iterator whose state is
saved and restored (`get_state`, `set_state`, or Grain's Orbax handlers) continues as if it had
never stopped, random augmentation included. Close an iterator after use: `it.close()`.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import Bool, UInt8

from petsam_jax.data.augment import Augmentation, augment, resize
from petsam_jax.data.clips import make_clip
from petsam_jax.data.motion import Motion
from petsam_jax.data.sources import Example, Source
from petsam_jax.mask_values import PET


class Batch(NamedTuple):
    """A training batch; images are normalised on the device, by `normalise.normalise`."""

    image: UInt8[np.ndarray, "b *t h w 3"]  # t frames in a batch of clips only
    mask: UInt8[np.ndarray, "b *t h w"]  # 0 background, 1 pet, 2 ignore
    visible: Bool[np.ndarray, "b *t"]  # whether the mask has any pet pixel
    name: tuple[str, ...]  # b names, for reports


class EvalBatch(NamedTuple):
    """An evaluation batch: the model's input, and each example at its own resolution."""

    image: UInt8[np.ndarray, "b h w 3"]
    mask: UInt8[np.ndarray, "b h w"]
    valid: Bool[np.ndarray, " b"]  # False for the filling of the last batch
    example: tuple[Example, ...]  # the valid ones, as the source returned them


def make_train_iterator(
    source: Source,
    *,
    batch_size: int,
    size: int,
    seed: int,
    augmentation: Augmentation | None = None,
    motion: Motion | None = None,
    shard_index: int = 0,
    shard_count: int = 1,
    num_threads: int = 2,
    prefetch: int = 4,
) -> grain.DatasetIterator:
    """Endless `Batch`es of `size` x `size` images, or of clips if `motion` is given.

    Process `shard_index` of `shard_count` sees its own part of each pass over the shuffled source;
    `batch_size` is per process. Every pass has its own order and augmentation. `num_threads`
    threads keep `prefetch` batches ready; with 0 the caller's thread does the work.
    """
    if not 0 <= shard_index < shard_count or len(source) < shard_count:
        raise ValueError(
            f"shard_index={shard_index}, shard_count={shard_count}: expected "
            f"0 <= shard_index < shard_count <= {len(source)}, the number of examples"
        )
    if batch_size < 1 or size < 1:
        raise ValueError(f"batch_size={batch_size}, size={size}: set both to at least 1")
    vary = functools.partial(
        _vary, size=size, settings=augmentation or Augmentation(), motion=motion, others=source
    )
    # Sharded after the random map, so that each shard has random numbers of its own.
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().random_map(vary)
    dataset = dataset[shard_index::shard_count].repeat(None)
    # Batched before the threads, so that each thread makes whole batches.
    dataset = dataset.batch(batch_size, drop_remainder=True, batch_fn=_collate)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    return iter(dataset.to_iter_dataset(options))


def make_eval_iterator(
    source: Source, *, batch_size: int, size: int, num_threads: int = 2, prefetch: int = 4
) -> Iterator[EvalBatch]:
    """One pass in the source's order, resized but not augmented, in batches of one shape.

    The last batch is filled up with black images without a pet, which are not `valid`.
    """
    if batch_size < 1 or size < 1:
        raise ValueError(f"batch_size={batch_size}, size={size}: set both to at least 1")
    dataset = grain.MapDataset.source(source).map(functools.partial(_plain, size=size))
    fill = functools.partial(_fill_up, batch_size=batch_size, size=size)
    dataset = dataset.batch(batch_size, batch_fn=fill)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    iterator = iter(dataset.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()


def _vary(
    example: Example,
    rng: np.random.Generator,
    *,
    size: int,
    settings: Augmentation,
    motion: Motion | None,
    others: Source,
):
    if motion is None:
        return (*augment(example, rng, size, settings, others), example.name)
    return (*make_clip(example, rng, size, settings, motion, others), example.name)


def _collate(items) -> Batch:
    image, mask, name = zip(*items, strict=True)
    masks = np.stack(mask)
    return Batch(np.stack(image), masks, (masks == PET).any(axis=(-2, -1)), name)


def _plain(example: Example, size: int):
    return (*resize(example, size), example)


def _fill_up(items, batch_size: int, size: int) -> EvalBatch:
    image, mask, example = zip(*items, strict=True)
    batch = EvalBatch(
        np.zeros((batch_size, size, size, 3), np.uint8),
        np.zeros((batch_size, size, size), np.uint8),
        np.arange(batch_size) < len(items),
        example,
    )
    batch.image[: len(items)], batch.mask[: len(items)] = image, mask
    return batch
