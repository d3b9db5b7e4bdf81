"""What each part of the recipe is worth: short runs of the same budget, one change each.

    python -m benchmarks.ablation                       # all rows, one after another
    python -m benchmarks.ablation base one-pet          # only these
    python -m benchmarks.ablation --list                # the command of each row, and nothing else
    python -m benchmarks.ablation --table               # the table of what is done

A row is a command of train.py with other values of config fields, so that each can be run by hand.
Stopped in the middle, the same command goes on: rows that are whole are not run again, and the row
that was under way goes on from its last checkpoint. Figures are the run's own validation at its
end: the averaged weights on held-out pictures, at the size that was trained on, border ignored.
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
# A quarter of the work of 256 pixels. Pictures alone, since pictures are what is judged.
BUDGET = (
    "train.batch_size=8",
    "eval.examples=100",
    f"eval.every={STEPS}",
    "train.checkpoint_every=200",
)
GROUPS = ("image_encoder", "prompt_encoder", "mask_decoder", "memory")
FIRST = "prompts.first"


class Row(NamedTuple):
    """A run: what differs from the first, in words and as fields of the config."""

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
# Of a validation -> its column.
SCORES = {
    "iou_none": "no prompt",
    "iou_box": "box",
    "iou_click1": "1 click",
    "iou_click3": "3 clicks",
    "iou_click5": "5 clicks",
}


def arguments(name: str, data: str, out: Path, steps: int = STEPS) -> list[str]:
    """Those of train.py for a row."""
    fields = (f"data.sources={data}", *BUDGET, f"train.duration={steps} steps")
    overrides = [f"--config.{field}" for field in (*fields, *ROWS[name].fields)]
    return [f"--config={CONFIG}", f"--workdir={out / name}", *overrides]


def command(name: str, data: str, out: Path, steps: int = STEPS) -> str:
    """A row's command for a shell."""
    return shlex.join(["python", "train.py", *arguments(name, data, out, steps)])


def logged(workdir: Path) -> list[dict]:
    """The lines of a run's log; none of a run that was not begun, or of a line half written."""
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
    """Validation at the last step, and the pace; None while the run is not whole."""
    lines = logged(workdir)
    last = [line for line in lines if line["step"] == steps and "valid/iou_none" in line]
    if not last:
        return None
    paces = sorted(line["images_per_second"] for line in lines if "images_per_second" in line)
    pace = {"images_per_second": paces[len(paces) // 2]} if paces else {}
    return {name: last[-1][f"valid/{name}"] for name in SCORES} | pace


def table(out: Path, steps: int) -> str:
    """Markdown: each row that is whole, and how far it is from the first."""
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
        pace = f"{found['images_per_second']:.1f}" if "images_per_second" in found else ""
        lines.append(f"| {name} | {row.words} | {' | '.join(cells)} | {pace} |")
    return "\n".join(lines)


def run(name: str, data: str, out: Path, steps: int, max_steps: int | None) -> int:
    """Train a row to its end, or to `max_steps`; the exit code of train.py."""
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
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {rows} (default: all)")
    parser.add_argument("--data", default="tfds", help="as train.py's data.sources (default: tfds)")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="a folder for each")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of a run (default: {STEPS})")
    parser.add_argument("--max-steps", type=int, metavar="N", help="stop each row there, to try it")
    parser.add_argument("--list", action="store_true", help="print the commands, and run nothing")
    parser.add_argument("--table", action="store_true", help="print the table, and run nothing")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.rows if name not in ROWS]:
        parser.error(f"no row {unknown[0]!r}; there are {rows}")
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
            print(f"ablation: {name} ended with {code}; the same command goes on", file=sys.stderr)
            return code
        # Stopped by Ctrl-C, training has saved and ends without an error.
        if not args.max_steps and not scores(args.out / name, args.steps):
            print(f"ablation: {name} was stopped; the same command goes on", file=sys.stderr)
            return 130
    print(table(args.out, args.steps))
    return 0


if __name__ == "__main__":
    sys.exit(main())
