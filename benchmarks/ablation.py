"""What each part of the recipe is worth: short runs of equal length with one change each.

    python -m benchmarks.ablation                       # all rows, one after another
    python -m benchmarks.ablation base one-pet          # some rows
    python -m benchmarks.ablation --list                # print the command of each row
    python -m benchmarks.ablation --table               # print the results so far

Each row is a command of train.py with other config values, so it can also be run by hand. If
stopped, run the same command again to resume: finished rows are skipped, and the interrupted one
continues from its last checkpoint. Scores are each run's own validation at its end: the averaged
weights on held-out images, at training resolution, border ignored.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

CONFIG = "configs/pets256_small.py:128px"
STEPS = 600
# A quarter of the work of 256 pixels; images only, since the scores are of images.
BUDGET = (
    "train.batch_size=8",
    "eval.examples=100",
    f"eval.every={STEPS}",
    "train.checkpoint_every=200",
)
GROUPS = ("image_encoder", "prompt_encoder", "mask_decoder", "memory")
FIRST = "prompts.first"


class Row(NamedTuple):
    """A run: how it differs from the first, in words and as config fields."""

    words: str
    fields: tuple[str, ...] = ()


ROWS = {
    "base": Row("the recipe"),
    "another-seed": Row("the recipe with another random seed", ("train.seed=1",)),
    "seed-rates": Row(
        "learning rates of `pets256.py:seed`: 5e-6, constant, no warm-up",
        (
            *(f"optim.groups.{group}.lr=5e-6" for group in GROUPS),
            *(f"optim.groups.{group}.warmup=0 steps" for group in GROUPS),
            "optim.schedule=constant",
        ),
    ),
    "no-corrections": Row("no correction clicks", ("prompts.rounds=0",)),
    "always-prompted": Row(
        "a prompt for every image",
        (f"{FIRST}.click_prob=0.38", f"{FIRST}.box_prob=0.56", f"{FIRST}.mask_prob=0.06")
        + (f"{FIRST}.none_prob=0.0",),
    ),
    "tokens-only": Row("prompts as tokens, not painted", ("prompts.painted=false",)),
    "one-pet": Row("no other pets pasted beside the pet", ("data.augment.others_prob=0.0",)),
    "many-pets": Row(
        "up to three others in three of four images",
        ("data.augment.others_prob=0.75", "data.augment.max_others=3"),
    ),
    "no-paste": Row(
        "no cut-and-paste at all",
        ("data.augment.paste_prob=0.0", "data.augment.others_prob=0.0"),
    ),
    "no-scenes": Row("no small pets in wide scenery", ("data.augment.scene_prob=0.0",)),
    "no-silence": Row("a click in every correction round", ("prompts.correction.silent_prob=0.0",)),
    "float32": Row("float32 instead of bfloat16", ("model.dtype=float32",)),
    "clips": Row("a quarter of the batches are clips", ("train.clip_share=0.25",)),
    "focal": Row("SAM 2's focal loss", ("loss.mask_kind=focal", "loss.mask_weight=20.0")),
    "balanced": Row("balanced cross-entropy", ("loss.mask_kind=balanced",)),
}
# Validation score -> column.
SCORES = {
    "iou_none": "no prompt",
    "iou_box": "box",
    "iou_click1": "1 click",
    "iou_click3": "3 clicks",
    "iou_click5": "5 clicks",
}


def arguments(name: str, data: str, out: Path, steps: int = STEPS) -> list[str]:
    """The arguments of train.py for a row."""
    fields = (f"data.sources={data}", *BUDGET, f"train.duration={steps} steps")
    overrides = [f"--config.{field}" for field in (*fields, *ROWS[name].fields)]
    return [f"--config={CONFIG}", f"--workdir={out / name}", *overrides]


def command(name: str, data: str, out: Path, steps: int = STEPS) -> str:
    """A row's shell command."""
    return shlex.join(["python", "train.py", *arguments(name, data, out, steps)])


def logged(workdir: Path) -> list[dict]:
    """The lines of a run's log, without any that is incomplete."""
    path = workdir / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def scores(workdir: Path, steps: int) -> dict[str, float] | None:
    """Validation at the last step, and images per second; None for an unfinished run."""
    lines = logged(workdir)
    last = [line for line in lines if line["step"] == steps and "valid/iou_none" in line]
    if not last:
        return None
    rates = sorted(line["images_per_second"] for line in lines if "images_per_second" in line)
    rate = {"images_per_second": rates[len(rates) // 2]} if rates else {}
    return {name: last[-1][f"valid/{name}"] for name in SCORES} | rate


def table(out: Path, steps: int) -> str:
    """A Markdown table of all finished rows, with differences from the first."""
    base = scores(out / "base", steps)
    lines = [
        "| row | what is changed | " + " | ".join(SCORES.values()) + " | images/s |",
        "| --- | --- |" + " ---: |" * (len(SCORES) + 1),
    ]
    for name, row in ROWS.items():
        if (found := scores(out / name, steps)) is None:
            continue
        cells = [f"{found[key]:.3f}" for key in SCORES]
        if base and name != "base":
            cells = [
                f"{cell} ({found[key] - base[key]:+.3f})"
                for cell, key in zip(cells, SCORES, strict=True)
            ]
        rate = f"{found['images_per_second']:.1f}" if "images_per_second" in found else ""
        lines.append(f"| {name} | {row.words} | {' | '.join(cells)} | {rate} |")
    return "\n".join(lines)


def run(name: str, data: str, out: Path, steps: int, max_steps: int | None) -> int:
    """Train a row to its end or to `max_steps`; return the exit code of train.py."""
    limit = [] if max_steps is None else [f"--max-steps={max_steps}"]
    program = [sys.executable, "-m", "petsam_jax.cli.train"]
    return subprocess.run([*program, *arguments(name, data, out, steps), *limit]).returncode


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rows = ", ".join(ROWS)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"any of {rows} (default: all)")
    parser.add_argument("--data", default="tfds", help="data.sources of train.py (default: tfds)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/ablation"), help="folder of the runs"
    )
    parser.add_argument(
        "--steps", type=int, default=STEPS, help=f"length of a run (default: {STEPS})"
    )
    parser.add_argument(
        "--max-steps", type=int, metavar="N", help="stop each row at step N, to try it out"
    )
    parser.add_argument(
        "--list", action="store_true", help="print the commands without running them"
    )
    parser.add_argument(
        "--table", action="store_true", help="print the table without running anything"
    )
    args = parser.parse_args(argv)
    if unknown := [name for name in args.rows if name not in ROWS]:
        parser.error(f"unknown row {unknown[0]!r}; expected one of {rows}")
    if args.steps < 1:
        parser.error(f"--steps {args.steps}: set it to at least 1")
    args.rows = args.rows or list(ROWS)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.list:
        print("\n".join(command(name, args.data, args.out, args.steps) for name in args.rows))
        return 0
    for name in () if args.table else args.rows:
        if scores(args.out / name, args.steps):
            continue
        print(f"== {name}: {ROWS[name].words}", flush=True)
        if code := run(name, args.data, args.out, args.steps, args.max_steps):
            print(
                f"ablation: {name} ended with exit code {code}; run the same command to resume",
                file=sys.stderr,
            )
            return code
        # After Ctrl-C training saves and exits without an error.
        if not args.max_steps and not scores(args.out / name, args.steps):
            print(f"ablation: {name} was stopped; run the same command to resume", file=sys.stderr)
            return 130
    print(table(args.out, args.steps))
    return 0


if __name__ == "__main__":
    sys.exit(main())
