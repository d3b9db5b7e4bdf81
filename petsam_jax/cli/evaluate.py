"""Evaluate a checkpoint on held-out images: scores, a plot, the best and the worst examples.

    petsam evaluate --ckpt runs/pets --data tfds --out report
    petsam evaluate --ckpt runs/pets --data oxford-iiit-pet --split valid --out report
    petsam evaluate --data my_cats --split all --out report

OUT then holds metrics.json, byte for byte the same in every run on one machine; timings.json, the
seconds for each click and each image, which vary; examples.csv, the scores of every example;
clicks.png, IoU against clicks, if matplotlib is installed; worst.jpg and best.jpg, 16 examples
each.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from petsam_jax.cli import arguments
from petsam_jax.data.load import SPLITS, SourceError, load_source
from petsam_jax.data.oxford_layout import LayoutError
from petsam_jax.data.sources import Subset


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "petsam evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_checkpoint(parser)
    arguments.add_device(parser)
    parser.add_argument("--data", required=True, metavar="DIR|tfds", help="held-out images")
    parser.add_argument("--split", choices=SPLITS, default="test", help="default: test")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="evaluate only N examples, evenly spread"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="report folder")
    args = parser.parse_args(argv)
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit {args.limit}: set it to at least 1")
    try:
        arguments.check_checkpoint(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    arguments.use_device(args)
    # Imported here and below, since they take seconds to import and wrong flags are reported first.
    from petsam_jax.evaluation.report import summary_lines

    try:
        for line in summary_lines(_run(args)):
            print(line)
    # ValueError: a fault in the checkpoint or the data.
    except (ValueError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    print(f"report: {args.out}")
    return 0


def _run(args: argparse.Namespace) -> dict:
    """Evaluate and write the report; returns the figures."""
    from petsam_jax.checkpoint import step_number, step_path
    from petsam_jax.evaluation.protocol import TimedPredictor
    from petsam_jax.evaluation.report import score_source, write_report
    from petsam_jax.evaluation.summary import summarise
    from petsam_jax.predict.image_predictor import ImagePredictor

    arguments.check_device(args)
    path = step_path(args.ckpt, args.step) if args.ckpt else None
    step = step_number(path) if path else None
    source = load_source(args.data, args.split)
    if args.limit is not None and args.limit < len(source):
        spread = np.linspace(0, len(source) - 1, args.limit).round().astype(int)
        source = Subset(source, spread.tolist())
    opened = ImagePredictor.from_checkpoint(path, dtype=args.dtype)
    predictor = TimedPredictor(opened)
    _log(f"{len(source)} examples of {args.data}, split {args.split}")
    table, scored, left_out = score_source(predictor, source, _mean_mask(args.data), _log)
    origin = {"checkpoint": args.ckpt, "step": step, "data": args.data, "split": args.split}
    origin["dtype"] = opened.config.model.dtype
    figures = origin | {"limit": args.limit} | summarise(table) | {"left_out": left_out}
    write_report(args.out, figures, table, predictor, scored, _log)
    return figures


def _mean_mask(data: str) -> np.ndarray | None:
    """The mean mask of the training split; None if there is none."""
    from petsam_jax.evaluation.baselines import MEAN_MASK, mean_mask

    try:
        return mean_mask(load_source(data, "train"))
    except (SourceError, LayoutError) as error:
        _log(f"no training split, so the baseline {MEAN_MASK} is left out ({error})")
        return None


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
