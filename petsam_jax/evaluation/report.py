"""Evaluation of a whole source, and the files of its report.

In: a predictor and a source. Out: a table of scores, and from it the files of a report.
"""

import csv
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from petsam_jax.data.sources import Example, Source, Subset
from petsam_jax.evaluation.baselines import score_baselines
from petsam_jax.evaluation.plot import has_matplotlib, plot_clicks
from petsam_jax.evaluation.protocol import TimedPredictor, score_example
from petsam_jax.evaluation.robustness import score_robustness
from petsam_jax.evaluation.sheets import ROWS, draw_sheet, ranked
from petsam_jax.evaluation.summary import DIGITS, Table, make_table
from petsam_jax.files.images import UnfitImage
from petsam_jax.mask_values import PET

PROGRESS_SECONDS = 10

Log = Callable[[str], None]


def score_source(
    predictor: TimedPredictor,
    source: Source,
    mean: Float[np.ndarray, "s s"] | None = None,
    log: Log = lambda line: None,
) -> tuple[Table, Subset, dict[str, str]]:
    """Scores of all examples, these examples, and the reason for each that was left out.

    `mean` is `baselines.mean_mask` of training examples. Raises ValueError if none is left.
    """
    rows, chosen, left_out = [], [], {}
    start = logged = time.monotonic()
    for index, name in enumerate(source.names):
        try:
            example = _check_pet(source[index])
            scores = score_example(predictor, example) | score_robustness(predictor, example)
        except UnfitImage as unfit:
            left_out[name] = unfit.reason
            continue
        rows.append(scores | score_baselines(example, mean))
        chosen.append((index, float((example.mask == PET).mean())))
        now = time.monotonic()
        if now - logged > PROGRESS_SECONDS:
            logged, left = now, (now - start) / (index + 1) * (len(source) - index - 1)
            log(f"{index + 1} of {len(source)} examples, {left / 60:.1f} minutes left")
    if not rows:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in [*left_out.items()][:3])
        raise ValueError(f"no example can be evaluated: {reasons}")
    subset = Subset(source, [index for index, _ in chosen])
    shares = [share for _, share in chosen]
    return make_table(subset.names, subset.groups, shares, rows), subset, left_out


def _check_pet(example: Example) -> Example:
    """Without a pet there is no box, and no first click."""
    if not (example.mask == PET).any():
        raise UnfitImage(example.name, "no pet pixel in the mask")
    return example


def write_report(
    out: Path,
    figures: dict,
    table: Table,
    predictor: TimedPredictor,
    source: Source,
    log: Log = lambda line: None,
) -> None:
    """All files of a report; `source` holds the table's examples."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n")
    (out / "timings.json").write_text(json.dumps(_timings(predictor), indent=1) + "\n")
    with open(out / "examples.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "group", "share", *table.columns])
        columns = [np.round(column, DIGITS).tolist() for column in table.columns.values()]
        shares = np.round(table.shares, DIGITS).tolist()
        writer.writerows(zip(table.names, table.groups, shares, *columns, strict=True))
    if has_matplotlib():
        plot_clicks(figures).savefig(out / "clicks.png")
    else:
        log("clicks.png is left out: it needs matplotlib; run `pip install matplotlib`")
    order = ranked(table)
    for name, rows in (("worst", order[:ROWS]), ("best", order[::-1][:ROWS])):
        draw_sheet(predictor, source, rows).save(out / f"{name}.jpg", quality=90)


def _timings(predictor: TimedPredictor) -> dict:
    """Seconds of one call (median and least), and the number of calls."""
    calls = {"seconds_per_click": "predict", "seconds_per_image": "encode"}
    timings = {
        name: {
            "median": round(float(np.median(predictor.seconds[call])), 5),
            "least": round(min(predictor.seconds[call]), 5),
            "calls": len(predictor.seconds[call]),
        }
        for name, call in calls.items()
    }
    return timings | {"cores": len(os.sched_getaffinity(0))}


def summary_lines(figures: dict) -> list[str]:
    """The main figures, to be printed."""

    def line(name, value, interval):
        return f"{name:<16}{value:.3f}  ({interval[0]:.3f}-{interval[1]:.3f})"

    intervals = figures["intervals95"]
    plain = ("no_prompt_iou", "box_iou", "box_jitter_iou", "noc85", "noc90")
    lines = [line(name, figures[name], intervals[name]) for name in plain]
    for click in (1, 3, 5):
        interval = intervals["click_iou"][click - 1]
        lines.append(line(f"click{click}_iou", figures["click_iou"][click - 1], interval))
    ious = {name: each["iou"] for name, each in figures["baselines"].items()}
    baselines = ", ".join(f"{name} {iou:.3f}" for name, iou in ious.items())
    return [f"{figures['n']} pets; 95 % intervals in brackets", *lines, f"baselines: {baselines}"]
