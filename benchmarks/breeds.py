"""A table of scores by breed from a report of `petsam evaluate`.

    petsam evaluate --data DIR_OF_OXFORD_IIIT_PET --split valid --out report
    python -m benchmarks.breeds report

Prints Markdown: a row for each breed, the lowest IoU from a box 5 % off first, and one for all. A
source without breeds has a row for each of its groups.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

SCORES = {
    "no_prompt_iou": "no prompt",
    "box_iou": "tight box",
    "box_jitter_iou": "box 5 % off",
    "click1_iou": "1 click",
    "click3_iou": "3 clicks",
    "click5_iou": "5 clicks",
}


def table(report: Mapping) -> str:
    """`report` is the content of metrics.json. Raises KeyError for that of another command."""
    rows = report["breakdown"]["breed"]
    clicks = report["click_iou"]
    overall = {"n": report["n"]} | {f"click{n}_iou": clicks[n - 1] for n in (1, 3, 5)}
    overall |= {name: report[name] for name in SCORES if name in report}
    lines = [
        f"| breed | pets | {' | '.join(SCORES.values())} |",
        "| --- |" + " ---: |" * (len(SCORES) + 1),
    ]
    worst_first = sorted(rows.items(), key=lambda row: row[1]["box_jitter_iou"])
    for breed, row in [*worst_first, ("all", overall)]:
        cells = " | ".join(f"{row[name]:.3f}" for name in SCORES)
        lines.append(f"| {breed.replace('_', ' ')} | {row['n']} | {cells} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.breeds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("report", type=Path, metavar="DIR", help="report folder of petsam evaluate")
    path = parser.parse_args(argv).report / "metrics.json"
    try:
        text = table(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, KeyError) as error:
        print(
            f"breeds: {path}: {error!r}; expected a report folder of `petsam evaluate`",
            file=sys.stderr,
        )
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
