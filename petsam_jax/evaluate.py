"""Evaluate a checkpoint on held-out pictures: figures, a plot and the best and worst pictures.

    python -m petsam_jax.evaluate --ckpt runs/pets --data tfds --out report
    python -m petsam_jax.evaluate --ckpt runs/pets --data oxford-iiit-pet --split valid --out report
    python -m petsam_jax.evaluate --data my_cats --split all --out report

OUT then holds metrics.json, the same bytes however often it is run on one machine; timings.json,
seconds for each click and each picture, which are not; pictures.csv, the scores of every picture;
clicks.png, IoU against clicks; worst.jpg and best.jpg, 16 pictures each.
"""

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from petsam_jax.checkpoint import step_path
from petsam_jax.data.official import LayoutError
from petsam_jax.data.open_source import SPLITS, SourceError, open_source
from petsam_jax.data.pictures import UnfitPicture
from petsam_jax.data.sources import PET, Example, Source, Subset
from petsam_jax.evaluation.floors import MEAN_MASK, judge_floors, mean_mask
from petsam_jax.evaluation.plot import plot_clicks
from petsam_jax.evaluation.protocol import TimedPredictor, judge
from petsam_jax.evaluation.robustness import judge_robustness
from petsam_jax.evaluation.sheets import ROWS, draw_sheet, ranked
from petsam_jax.evaluation.summary import DIGITS, Table, summarise, table_of

PROGRESS_SECONDS = 10


def evaluate(
    predictor: TimedPredictor,
    source: Source,
    mean: np.ndarray | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Table, Subset, dict[str, str]]:
    """Scores of all examples, these examples, and those left out with the reason.

    `mean` is `floors.mean_mask` of training pictures. Raises ValueError where nothing is left.
    """
    rows, chosen, left_out = [], [], {}
    start = told = time.monotonic()
    for index, name in enumerate(source.names):
        try:
            example = _with_pet(source[index])
            scores = judge(predictor, example) | judge_robustness(predictor, example)
        except UnfitPicture as unfit:
            left_out[name] = unfit.reason
            continue
        rows.append(scores | judge_floors(example, mean))
        chosen.append((index, float((example.mask == PET).mean())))
        now = time.monotonic()
        if now - told > PROGRESS_SECONDS:
            told, left = now, (now - start) / (index + 1) * (len(source) - index - 1)
            tell(f"{index + 1} of {len(source)} examples, {left / 60:.1f} minutes left")
    if not rows:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in [*left_out.items()][:3])
        raise ValueError(f"no example can be evaluated: {reasons}")
    subset = Subset(source, [index for index, _ in chosen])
    shares = [share for _, share in chosen]
    return table_of(subset.names, subset.groups, shares, rows), subset, left_out


def _with_pet(example: Example) -> Example:
    """Without a pet there is no box and no click to begin with."""
    if not (example.mask == PET).any():
        raise UnfitPicture(example.name, "no pet pixel in the mask")
    return example


def write_report(
    out: Path, figures: dict, table: Table, predictor: TimedPredictor, source: Source
) -> None:
    """All files of a report; `source` holds the table's examples."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n")
    (out / "timings.json").write_text(json.dumps(_timings(predictor), indent=1) + "\n")
    with open(out / "pictures.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "group", "share", *table.columns])
        columns = [np.round(column, DIGITS).tolist() for column in table.columns.values()]
        shares = np.round(table.shares, DIGITS).tolist()
        writer.writerows(zip(table.names, table.groups, shares, *columns, strict=True))
    plot_clicks(figures).save(out / "clicks.png")
    order = ranked(table)
    for name, rows in (("worst", order[:ROWS]), ("best", order[::-1][:ROWS])):
        draw_sheet(predictor, source, rows).save(out / f"{name}.jpg", quality=90)


def _timings(predictor: TimedPredictor) -> dict:
    """Seconds of one call, once everything is compiled, and how many calls there were."""
    named = {"seconds_per_click": "predict", "seconds_per_picture": "encode"}
    timings = {
        name: {
            "median": round(float(np.median(predictor.seconds[call])), 5),
            "least": round(min(predictor.seconds[call]), 5),
            "calls": len(predictor.seconds[call]),
        }
        for name, call in named.items()
    }
    return timings | {"cores": len(os.sched_getaffinity(0))}


def summary_lines(figures: dict) -> list[str]:
    """What one wants to know first, to be printed."""

    def line(name, value, interval):
        return f"{name:<16}{value:.3f}  ({interval[0]:.3f}-{interval[1]:.3f})"

    intervals = figures["intervals95"]
    plain = ("no_prompt_iou", "box_iou", "box_jitter_iou", "noc85", "noc90")
    lines = [line(name, figures[name], intervals[name]) for name in plain]
    for click in (1, 3, 5):
        interval = intervals["click_iou"][click - 1]
        lines.append(line(f"click{click}_iou", figures["click_iou"][click - 1], interval))
    floors = ", ".join(f"{name} {floor['iou']:.3f}" for name, floor in figures["floors"].items())
    return [f"{figures['n']} pets; 95 % intervals in brackets", *lines, f"floors: {floors}"]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m petsam_jax.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ckpt", metavar="DIR", help="default: the weights that ship")
    parser.add_argument("--step", type=int, metavar="N", help="default: the checkpoint's latest")
    parser.add_argument("--data", required=True, metavar="DIR|tfds", help="held-out pictures")
    parser.add_argument("--split", choices=SPLITS, default="test", help="default: test")
    parser.add_argument("--limit", type=int, metavar="N", help="only N of the pictures, spread out")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the report's folder"
    )
    args = parser.parse_args(argv)
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit {args.limit}: set it to at least 1")
    if args.step is not None and args.ckpt is None:
        parser.error("--step: say of which checkpoint, with --ckpt DIR")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
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
    # Here, so that wrong flags are told at once.
    from petsam_jax.image_predictor import ImagePredictor

    step = int(step_path(args.ckpt, args.step).name) if args.ckpt else None
    source = open_source(args.data, args.split)
    if args.limit is not None and args.limit < len(source):
        spread = np.linspace(0, len(source) - 1, args.limit).round().astype(int)
        source = Subset(source, spread.tolist())
    predictor = TimedPredictor(ImagePredictor.from_checkpoint(args.ckpt, step=step))
    _tell(f"{len(source)} examples of {args.data}, split {args.split}")
    table, kept, left_out = evaluate(predictor, source, _mean_of_training(args.data), _tell)
    origin = {"checkpoint": args.ckpt, "step": step, "data": args.data, "split": args.split}
    figures = origin | {"limit": args.limit} | summarise(table) | {"left_out": left_out}
    write_report(args.out, figures, table, predictor, kept)
    return figures


def _mean_of_training(data: str) -> np.ndarray | None:
    try:
        return mean_mask(open_source(data, "train"))
    except (SourceError, LayoutError) as error:
        _tell(f"no training part, so the floor {MEAN_MASK} is left out ({error})")
        return None


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
