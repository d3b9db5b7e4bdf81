"""The averaged weights of a training run as a small checkpoint to ship.

    petsam export runs/pets256_small OUT

In: a workdir or checkpoint. Out: a checkpoint of its weights alone in float16, a tenth of the
run's; whoever opens it gets float32. Float16 and not bfloat16, because weights lie within its
range and it keeps three more bits of each. Nothing in it tells of the folders of the machine that
it was made on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from ml_collections import ConfigDict

    from petsam_jax.models.params import Weights

# Orbax marks what it has written whole with a file of this name, and writes the path into it; it
# asks whether the file is there and never what is in it.
MARK = "commit_success.txt"


def halve(params: "Weights") -> dict[str, "np.ndarray"]:
    """The arrays in float16; raises ValueError with the names of those that do not fit in it."""
    import numpy as np

    small = {name: np.asarray(array).astype(np.float16) for name, array in params.items()}
    if large := [name for name, array in small.items() if not np.isfinite(array).all()]:
        raise ValueError(f"not numbers, or too large for float16: {', '.join(large)}")
    return small


def public_name(source: str) -> str:
    """What a stranger may call a source of pictures: a folder is the last part of its path."""
    kind, colon, _ = source.partition(":")
    if kind in ("tfds", "shapes") and (colon or source == kind):
        return source if kind == "shapes" else kind
    return PurePath(source).name or source


def public_config(config: "ConfigDict") -> "ConfigDict":
    """The config without what only this machine has: paths, and where the run was begun."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.sources = tuple(map(public_name, config.data.sources))
        config.train.start_from = ""
    return config


def save_public(out: Path, params: "Weights", config: "ConfigDict") -> None:
    """Write a checkpoint that may be given away; raises as `checkpoint.save_weights` does."""
    from petsam_jax.checkpoint import save_weights

    save_weights(out, halve(params), public_config(config))
    for mark in out.rglob(MARK):
        mark.write_text("whole\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "petsam export",
        description="The weights of a run as a checkpoint to ship.",
    )
    parser.add_argument("source", type=Path, metavar="RUN", help="a workdir or checkpoint")
    parser.add_argument("out", type=Path, metavar="OUT", help="the checkpoint directory to make")
    parser.add_argument("--step", type=int, help="default: the latest")
    args = parser.parse_args(argv)
    # Here, since it takes seconds to import, and help is there at once.
    from petsam_jax.checkpoint import load_weights

    try:
        config, params = load_weights(args.source, args.step)
        save_public(args.out, params, config)
    except (ValueError, OSError) as error:
        parser.exit(1, f"export: {error}\n")
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{args.out}: {sum(array.size for array in params.values()):,} numbers, {size:,} bytes")


if __name__ == "__main__":
    main()
