"""Make Oxford-IIIT Pet ready for training, without TensorFlow.

petsam prepare --download        # the two official archives, 811 MB
petsam prepare --src DIR         # DIR: extracted, or holding the archives
"""

import argparse
import sys
from pathlib import Path

from petsam_jax.data.oxford_layout import ARCHIVES, LayoutError
from petsam_jax.data.pets import DamagedData, default_data_dir
from petsam_jax.data.pets_builder import PrepareError
from petsam_jax.data.prepare import leftovers, prepare


def main(argv: list[str] | None = None) -> int:
    """The command; 0 if the data set is there afterwards."""
    parser = argparse.ArgumentParser(
        prog="petsam prepare",
        description="Make Oxford-IIIT Pet ready for training, without TensorFlow.",
    )
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument("--download", action="store_true", help="fetch the official archives")
    origin.add_argument(
        "--src",
        type=Path,
        metavar="DIR",
        help=f"a folder with {' and '.join(ARCHIVES)}, or them "
        "extracted (images/, annotations/), whole or in part",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        default=default_data_dir(),
        help="where to (default: %(default)s)",
    )
    flags = parser.parse_args(argv)
    for path in leftovers(flags.data_dir.expanduser()):
        print(f"left by an interrupted run, can be deleted: {path}", file=sys.stderr)
    try:
        report = prepare(flags.data_dir, flags.src, flags.download)
    except (PrepareError, LayoutError, DamagedData, OSError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("prepare: interrupted; no half-made data set was kept", file=sys.stderr)
        return 130
    print(report.text())
    print(f"Use it with --source tfds:{flags.data_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
