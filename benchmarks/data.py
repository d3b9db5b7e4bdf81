"""How many images per second the data pipeline delivers: plain, augmented, and as clips.

    python -m benchmarks.data --source "$PETSAM_DATA/oxford-iiit-pet"

Without --source it uses generated shapes of 128 pixels, only to show that it runs: drawing them
takes most of the time, so targets apply to photographs only. Each figure is the median over
--windows of --seconds each, with minimum and maximum; batches prefetched before the clock starts
are discarded. Clips count frames. On photographs of about 500 x 375 pixels, 2 cores and 2 threads
gave 386 plain, 196 augmented and 256 clip frames per second.
"""

import argparse
import statistics
import time
from collections.abc import Sequence

import numpy as np

from petsam_jax.data import augment, motion
from petsam_jax.data.load import load_source
from petsam_jax.data.pipeline import make_train_iterator
from petsam_jax.data.sources import Source

# Images per second to reach, for photographs at 256 pixels on two cores.
TARGETS = {"plain": 300, "augmented": 150}


def measure(
    source: Source,
    settings: dict,
    *,
    batch_size: int,
    size: int,
    num_threads: int,
    windows: int,
    seconds: float,
) -> list[float]:
    """Images (or frames) per second in each window; `settings` goes to `make_train_iterator`."""
    prefetch = 2 * num_threads
    iterator = make_train_iterator(
        source,
        batch_size=batch_size,
        size=size,
        seed=0,
        num_threads=num_threads,
        prefetch=prefetch,
        **settings,
    )
    try:
        for _ in range(prefetch + 1):
            next(iterator)
        return [_rate(iterator, seconds) for _ in range(windows)]
    finally:
        iterator.close()


def _rate(iterator, seconds: float) -> float:
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        # All but the last three axes count images: b, or b and t.
        images += int(np.prod(next(iterator).image.shape[:-3]))
    return images / (time.perf_counter() - start)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--source", default="shapes", help="shapes, tfds or a folder")
    parser.add_argument("--split", default="train", help="part of the source (default: train)")
    parser.add_argument("--size", type=int, default=256, help="pixels a side (default: 256)")
    parser.add_argument("--batch-size", type=int, default=16, help="examples (default: 16)")
    parser.add_argument("--threads", type=int, default=2, help="reading threads (default: 2)")
    parser.add_argument("--windows", type=int, default=5, help="repetitions (default: 5)")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="length of each window (default: 2)"
    )
    flags = parser.parse_args(argv)
    source = load_source(flags.source, flags.split)
    print(f"{flags.source}, {flags.split}: {len(source)} examples, {flags.threads} threads")
    print(f"{'':10} {'median':>7} {'min':>7} {'max':>7}  images/s at {flags.size} px")
    kinds = {
        "plain": {},
        "augmented": {"augmentation": augment.FULL},
        "clips": {"augmentation": augment.FULL, "motion": motion.FULL},
    }
    for kind, settings in kinds.items():
        rates = measure(
            source,
            settings,
            batch_size=flags.batch_size,
            size=flags.size,
            num_threads=flags.threads,
            windows=flags.windows,
            seconds=flags.seconds,
        )
        has_target = kind in TARGETS and not flags.source.startswith("shapes")
        target = f"  (target: {TARGETS[kind]})" if has_target else ""
        middle = statistics.median(rates)
        print(f"{kind:10} {middle:7.0f} {min(rates):7.0f} {max(rates):7.0f}{target}")


if __name__ == "__main__":
    main()
