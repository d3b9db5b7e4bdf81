"""Evaluate a checkpoint on held-out pictures: figures, a plot and the best and worst pictures.

    petsam evaluate --ckpt runs/pets --data tfds --out report
    petsam evaluate --ckpt runs/pets --data oxford-iiit-pet --split valid --out report
    petsam evaluate --data my_cats --split all --out report

OUT then holds metrics.json, the same bytes however often it is run on one machine; timings.json,
seconds for each click and each picture, which are not; pictures.csv, the scores of every picture;
clicks.png, IoU against clicks; worst.jpg and best.jpg, 16 pictures each.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from petsam_jax.cli import model_flags
from petsam_jax.data.load import SPLITS, SourceError, load_source
from petsam_jax.data.oxford_layout import LayoutError
from petsam_jax.data.sources import Subset


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "petsam evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    model_flags.add_checkpoint(parser)
    parser.add_argument("--data", required=True, metavar="DIR|tfds", help="held-out pictures")
    parser.add_argument("--split", choices=SPLITS, default="test", help="default: test")
    parser.add_argument("--limit", type=int, metavar="N", help="only N of the pictures, spread out")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the report's folder"
    )
    args = parser.parse_args(argv)
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit {args.limit}: set it to at least 1")
    try:
        model_flags.check_checkpoint(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    # Here and below, since they take seconds to import, and wrong flags are told at once.
    from petsam_jax.evaluation.report import summary_lines

    try:
        for line in summary_lines(_run(args)):
            print(line)
    # ValueError: what is wrong with the checkpoint or the data.
    except (ValueError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    print(f"report: {args.out}")
    return 0


def _run(args: argparse.Namespace) -> dict:
    """Everything that the flags ask for; returns the figures."""
    from petsam_jax.checkpoint import step_path
    from petsam_jax.evaluation.protocol import TimedPredictor
    from petsam_jax.evaluation.report import judge_all, write_report
    from petsam_jax.evaluation.summary import summarise
    from petsam_jax.predict.image_predictor import ImagePredictor

    step = int(step_path(args.ckpt, args.step).name) if args.ckpt else None
    source = load_source(args.data, args.split)
    if args.limit is not None and args.limit < len(source):
        spread = np.linspace(0, len(source) - 1, args.limit).round().astype(int)
        source = Subset(source, spread.tolist())
    opened = ImagePredictor.from_checkpoint(args.ckpt, step=step)
    predictor = TimedPredictor(opened)
    _tell(f"{len(source)} examples of {args.data}, split {args.split}")
    table, kept, left_out = judge_all(predictor, source, _mean_of_training(args.data), _tell)
    origin = {"checkpoint": args.ckpt, "step": step, "data": args.data, "split": args.split}
    origin["dtype"] = opened.config.model.dtype
    figures = origin | {"limit": args.limit} | summarise(table) | {"left_out": left_out}
    write_report(args.out, figures, table, predictor, kept)
    return figures


def _mean_of_training(data: str) -> np.ndarray | None:
    from petsam_jax.evaluation.baselines import MEAN_MASK, mean_mask

    try:
        return mean_mask(load_source(data, "train"))
    except (SourceError, LayoutError) as error:
        _tell(f"no training part, so the floor {MEAN_MASK} is left out ({error})")
        return None


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
