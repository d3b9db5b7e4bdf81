"""Time and memory of a whole training step, and whether it waits for data.

    python -m benchmarks.train --size pets256 --dtype bfloat16
    python -m benchmarks.train --config my_configs/cats.py --data IMAGES

A step is the forward pass with all correction rounds, the backward pass, AdamW and the average of
the weights. It prints milliseconds per image (median, minimum, maximum), compile time and memory:
the peak of the process during the steps, and what one step needs. With `--data`, steps on a
constant batch alternate with steps on real images, read and augmented meanwhile as in the config;
batches prefetched during the other steps are used up before the clock starts.
"""

import argparse
import time
from collections.abc import Sequence
from itertools import cycle
from statistics import median

import jax
import numpy as np

from benchmarks import timing
from benchmarks.steps import SIZES, size_config
from petsam_jax import runtime
from petsam_jax.config import load_config
from petsam_jax.data.augment import Augmentation
from petsam_jax.data.load import load_source
from petsam_jax.data.pipeline import make_train_iterator
from petsam_jax.train.compiled_step import TrainStep
from petsam_jax.train.device_batches import make_shardings
from petsam_jax.train.objective import Objective
from petsam_jax.train.plan import initial_state
from petsam_jax.train.step import Microbatching

# Pictures in an epoch, by which the learning rate is planned.
EXAMPLES = 1000
# Batches that are kept ready, and steps that are timed together.
READ_AHEAD, STEPS = 2, 5
LEAST_ROUNDS = 3


def build(config, replicated):
    """The initial state of a run, on all devices, and its training step."""
    plan, state, template = initial_state(config, EXAMPLES)
    step = TrainStep(
        template,
        plan.optimizer,
        Objective.of(config.prompts, config.loss),
        seed=0,
        ema_decay=config.train.ema_decay,
        microbatching=Microbatching(config.train.microbatches, len(jax.devices())),
        sharding=replicated,
    )
    return jax.device_put(state, replicated), step


def constant_batch(size: int, batch_size: int):
    """Noise with a disc to find in each."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch_size, size, size, 3), np.uint8)
    y, x = np.mgrid[:size, :size] - size / 2
    disc = (np.hypot(y, x) < size / 4).astype(np.uint8)
    return image, np.stack([disc] * batch_size)


def measure(config, data: str | None, seconds: float) -> None:
    batch_size, size = config.train.batch_size, config.data.size
    constant = constant_batch(size, batch_size)
    # Before the compiling, which a wrong name should not have to wait for.
    source = load_source(data, "train") if data else None
    replicated, sharded = make_shardings()
    constant = jax.device_put(constant, sharded)
    state, step = build(config, replicated)
    runtime.clear_jit_caches()
    runtime.release_memory()
    start = time.perf_counter()
    gradient, update = step.programs(state, *constant)
    print(f"compiled in {time.perf_counter() - start:.1f} s", flush=True)
    batches = {"constant batch": cycle([constant])}
    if source:
        iterator = make_train_iterator(
            source,
            batch_size=batch_size,
            size=size,
            seed=0,
            augmentation=Augmentation(**config.data.augment.to_dict()),
            num_threads=config.data.num_threads,
            prefetch=READ_AHEAD,
        )
        batches["real data"] = (jax.device_put(batch[:2], sharded) for batch in iterator)

    def run(batch):
        nonlocal state
        state, metrics = step(state, *batch)
        jax.block_until_ready(metrics)

    timing.reset_peak()
    taken = {name: [] for name in batches}
    start, rounds = time.perf_counter(), 0
    while rounds < LEAST_ROUNDS or time.perf_counter() - start < seconds:
        for name, source_of in batches.items():
            for _ in range(READ_AHEAD + 1):
                run(next(source_of))
            before = time.perf_counter()
            for _ in range(STEPS):
                run(next(source_of))
            taken[name].append((time.perf_counter() - before) / STEPS / batch_size)
        rounds += 1
    took = {name: timing.Timing(median(t), min(t), max(t)) for name, t in taken.items()}
    for name, per_image in took.items():
        print(f"{name}: {per_image} ms an image, batch {batch_size}")
    if source:
        iterator.close()
        ratio = took["real data"].median / took["constant batch"].median
        print(f"real data takes {100 * (ratio - 1):+.1f} % of the time on a constant batch")
    state_size = update.memory_analysis().output_size_in_bytes
    needs = gradient.memory_analysis()
    scratch = needs.temp_size_in_bytes + needs.output_size_in_bytes
    print(
        f"memory: {timing.peak_megabytes():.0f} MB on {len(jax.devices())} devices; each needs "
        f"{state_size / 2**20:.0f} for the state, {scratch / 2**20:.0f} for a gradient"
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--size", choices=SIZES, default="pets256_small", help="and its recipe")
    which.add_argument("--config", help="a config file in place of a size")
    parser.add_argument("--rounds", type=int, help="corrections (default: the config's)")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--batch", type=int, default=8, help="images in a batch")
    parser.add_argument(
        "--microbatches",
        type=int,
        help="parts of a batch, one after another (default: the config's)",
    )
    parser.add_argument("--data", help="a source of real images, as in data.sources")
    parser.add_argument("--seconds", type=float, default=20.0, help="to measure for")
    parser.add_argument(
        "--devices", type=int, help="split the CPU into so many devices, as train.py does not"
    )
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    overrides = [f"model.dtype={args.dtype}", f"train.batch_size={args.batch}"]
    if args.microbatches is not None:
        overrides.append(f"train.microbatches={args.microbatches}")
    if args.rounds is not None:
        overrides.append(f"prompts.rounds={args.rounds}")
    print(timing.setting())
    config = (
        load_config(args.config, overrides) if args.config else size_config(args.size, overrides)
    )
    measure(config, args.data, args.seconds)


if __name__ == "__main__":
    flags = parse()
    runtime.prepare(flags.devices)
    main(flags)
