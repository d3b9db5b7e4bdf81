"""The averaged weights of a training run as a small checkpoint to ship.

    python -m petsam_jax.export runs/pets256_small OUT

In: a workdir or checkpoint. Out: a checkpoint of its weights alone in float16, a tenth of the
run's; whoever opens it gets float32. Float16 and not bfloat16, because weights lie within its
range and it keeps three more bits of each.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from petsam_jax.checkpoint import load_weights, save_weights
from petsam_jax.names import Weights


def halve(params: Weights) -> dict[str, np.ndarray]:
    """The arrays in float16; raises ValueError with the names of those that do not fit in it."""
    small = {name: np.asarray(array).astype(np.float16) for name, array in params.items()}
    if large := [name for name, array in small.items() if not np.isfinite(array).all()]:
        raise ValueError(f"not numbers, or too large for float16: {', '.join(large)}")
    return small


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m petsam_jax.export", description="The weights of a run as a checkpoint to ship."
    )
    parser.add_argument("source", type=Path, metavar="RUN", help="a workdir or checkpoint")
    parser.add_argument("out", type=Path, metavar="OUT", help="the checkpoint directory to make")
    parser.add_argument("--step", type=int, help="default: the latest")
    args = parser.parse_args(argv)
    try:
        config, params = load_weights(args.source, args.step)
        # They are shipped, so where they were begun is of no use to whoever trains on.
        with config.unlocked():
            config.train.start_from = ""
        save_weights(args.out, halve(params), config)
    except (ValueError, OSError) as error:
        parser.exit(1, f"export: {error}\n")
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{args.out}: {sum(array.size for array in params.values()):,} numbers, {size:,} bytes")


if __name__ == "__main__":
    main()
