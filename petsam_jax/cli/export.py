"""Export the averaged weights of a training run as a small checkpoint to share.

    petsam export runs/pets256_small OUT

In: a workdir or checkpoint. Out: a checkpoint with only its weights in float16, a tenth of the
run's size; opened, they are float32 again. Not bfloat16: weights lie within float16's range, which
keeps three more bits of each. No path of this machine is left in it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from ml_collections import ConfigDict

    from petsam_jax.models.params import Weights

# Orbax marks complete items with a file of this name and writes their path into it, but only checks
# that the file exists.
MARK = "commit_success.txt"


def halve(params: "Weights") -> dict[str, "np.ndarray"]:
    """The arrays in float16; raises ValueError with the names of those out of its range."""
    import numpy as np

    small = {name: np.asarray(array).astype(np.float16) for name, array in params.items()}
    if large := [name for name, array in small.items() if not np.isfinite(array).all()]:
        raise ValueError(f"not finite, or too large for float16: {', '.join(large)}")
    return small


def public_name(source: str) -> str:
    """The name of a source of images without its path: a folder is the last part of its path."""
    kind, colon, _ = source.partition(":")
    if kind in ("tfds", "shapes") and (colon or source == kind):
        return source if kind == "shapes" else kind
    return PurePath(source).name or source


def public_config(config: "ConfigDict") -> "ConfigDict":
    """The config without paths of this machine, to its sources and its first checkpoint."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.sources = tuple(map(public_name, config.data.sources))
        config.train.start_from = ""
    return config


def save_public(out: Path, params: "Weights", config: "ConfigDict") -> None:
    """Write a checkpoint that may be shared; raises as `checkpoint.save_weights` does."""
    from petsam_jax.checkpoint import save_weights

    save_weights(out, halve(params), public_config(config))
    for mark in out.rglob(MARK):
        mark.write_text("complete\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "petsam export",
        description="Export the weights of a run as a small checkpoint to share.",
    )
    parser.add_argument("source", type=Path, metavar="RUN", help="a workdir or checkpoint")
    parser.add_argument("out", type=Path, metavar="OUT", help="the checkpoint directory to create")
    parser.add_argument("--step", type=int, help="default: the latest")
    args = parser.parse_args(argv)
    # Imported late: it takes seconds, and help should be instant.
    from petsam_jax.checkpoint import load_weights

    try:
        config, params = load_weights(args.source, args.step)
        save_public(args.out, params, config)
    except (ValueError, OSError) as error:
        parser.exit(1, f"export: {error}\n")
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(
        f"{args.out}: {sum(array.size for array in params.values()):,} parameters, {size:,} bytes"
    )


if __name__ == "__main__":
    main()
