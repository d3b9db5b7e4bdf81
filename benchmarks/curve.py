"""Validation IoU over hours of training, from the logs of consecutive runs.

    python -m benchmarks.curve runs/small runs/full runs/memory

It prints a table and a Mermaid chart, both in Markdown. Only the time in which steps were logged
counts, not the time while a run was stopped. Other work on the machine is not accounted for.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.ablation import SCORES, logged

KINDS = SCORES | {"iou_mean": "mean"}
# A gap between two log lines of this many times the median means that the run was stopped.
STOPPED = 20


class Point(NamedTuple):
    """A validation: the run, its step, hours of training so far, and IoUs by kind."""

    run: str
    step: int
    hours: float
    ious: dict[str, float]


def points(runs: Sequence[Path]) -> list[Point]:
    """All validations of consecutive runs. Raises ValueError for a run without any."""
    found, seconds = [], 0.0
    for run in runs:
        path = run / "metrics.jsonl"
        if not (lines := logged(run)):
            raise ValueError(f"{path}: not found; expected workdirs of train.py")
        gaps = [b["time"] - a["time"] for a, b in zip(lines, lines[1:], strict=False)]
        typical = sorted(gaps)[len(gaps) // 2] if gaps else 0.0
        before = len(found)
        for line, gap in zip(lines, [typical, *gaps], strict=True):
            seconds += gap if gap < STOPPED * typical else typical
            ious = {kind: line[f"valid/{kind}"] for kind in KINDS if f"valid/{kind}" in line}
            if ious:
                found.append(Point(run.name, line["step"], seconds / 3600, ious))
        if len(found) == before:
            raise ValueError(f"{path}: no validation yet; see eval.every of the config")
    return found


def table(found: Sequence[Point]) -> str:
    """A row for each validation."""
    lines = [
        f"| run | step | hours | {' | '.join(KINDS.values())} |",
        "| --- |" + " ---: |" * (len(KINDS) + 2),
    ]
    for point in found:
        ious = " | ".join(f"{point.ious.get(kind, float('nan')):.3f}" for kind in KINDS)
        lines.append(f"| {point.run} | {point.step:,} | {point.hours:.2f} | {ious} |")
    return "\n".join(lines)


def chart(found: Sequence[Point], kinds: Sequence[str] = ("iou_box", "iou_mean")) -> str:
    """A Mermaid chart of these kinds."""
    hours = ", ".join(f'"{point.hours:.1f}"' for point in found)
    names = " and ".join(KINDS[kind] for kind in kinds)
    series = [
        f"    line [{', '.join(f'{point.ious[kind]:.3f}' for point in found)}]" for kind in kinds
    ]
    head = [
        "```mermaid",
        "xychart-beta",
        f'    title "validation IoU, {names}"',
        f'    x-axis "hours" [{hours}]',
        '    y-axis "IoU" 0.4 --> 1.0',
    ]
    return "\n".join([*head, *series, "```"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.curve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="workdirs, in order")
    args = parser.parse_args(argv)
    try:
        found = points(args.runs)
    except (ValueError, OSError) as error:
        print(f"curve: {error}", file=sys.stderr)
        return 1
    print(table(found), chart(found), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
