"""Prepare Oxford-IIIT Pet for training, without TensorFlow.

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
    """Returns 0 if the data set is ready."""
    parser = argparse.ArgumentParser(
        prog="petsam prepare",
        description="Prepare Oxford-IIIT Pet for training, without TensorFlow.",
    )
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument("--download", action="store_true", help="download the archives (811 MB)")
    origin.add_argument(
        "--src",
        type=Path,
        metavar="DIR",
        help=f"folder that holds {' and '.join(ARCHIVES)}, or these "
        "extracted (images/, annotations/), complete or in part",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        default=default_data_dir(),
        help="where to write it (default: %(default)s)",
    )
    flags = parser.parse_args(argv)
    for path in leftovers(flags.data_dir.expanduser()):
        print(f"left by an interrupted run, safe to delete: {path}", file=sys.stderr)
    try:
        report = prepare(flags.data_dir, flags.src, flags.download)
    except (PrepareError, LayoutError, DamagedData, OSError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("prepare: interrupted; the incomplete data set was removed", file=sys.stderr)
        return 130
    print(report.text())
    print(f"Use it with --source tfds:{flags.data_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
