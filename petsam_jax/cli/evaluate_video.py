"""Evaluate a checkpoint on clips whose masks are known: figures, and a video to watch.

    petsam evaluate-video --ckpt runs/pets --data davis/dog --out report
    petsam evaluate-video --data my_clips --out report

DIR has the folders frames/ and masks/ with a mask for each frame, as DAVIS has them, or is a folder
of such folders. OUT then holds metrics.json, the same bytes however often it is run on one machine,
and for each clip and each way to prompt it a video with the masks laid over it. What the ways and
the two baselines are is in `petsam_jax/evaluation/video.py`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from petsam_jax.cli import model_flags

# Of the figures in metrics.json.
DIGITS = 4


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "petsam evaluate-video",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    model_flags.add_checkpoint(parser)
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="clips with masks")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("video-report"),
        metavar="DIR",
        help="the report's folder (default: video-report)",
    )
    args = parser.parse_args(argv)
    try:
        model_flags.check_checkpoint(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        figures = evaluate(args)
    # ValueError: what is wrong with the checkpoint or the clips.
    except (ValueError, OSError) as error:
        print(f"evaluate_video: {error}", file=sys.stderr)
        return 1
    print(table(figures))
    print(f"report: {args.out}")
    return 0


def evaluate(args: argparse.Namespace) -> dict:
    """Judge all clips in all ways, and write the report; returns the figures."""
    # Here, since they take seconds to import, and wrong flags are told at once.
    from petsam_jax.checkpoint import step_path
    from petsam_jax.evaluation.video import BASELINES, WAYS, judge, known_clips
    from petsam_jax.files.render import overlay
    from petsam_jax.files.video_writer import VideoWriter
    from petsam_jax.predict.video_predictor import VideoPredictor

    step = int(step_path(args.ckpt, args.step).name) if args.ckpt else None
    clips = known_clips(args.data)
    predictor = VideoPredictor.from_checkpoint(args.ckpt, step=step)
    args.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for known in clips:
        found[known.name] = {}
        for way, answer in (WAYS | BASELINES).items():
            print(f"{known.name}: {way}, {known.clip.count} frames", file=sys.stderr, flush=True)
            path = args.out / f"{known.name}-{way}.mp4"
            with VideoWriter(path, known.clip.size, known.clip.fps) as video:

                def look(frame, masks, clip=known.clip, video=video):
                    video.write(overlay(clip.read(frame), masks))

                scores = judge(known, answer(predictor, known), look)
            found[known.name][way] = {number: each.means() for number, each in scores.items()}
    origin = {"checkpoint": args.ckpt, "step": step, "data": str(args.data)}
    origin["dtype"] = predictor.config.model.dtype
    figures = origin | {"means": means(found), "clips": found}
    (args.out / "metrics.json").write_text(json.dumps(_rounded(figures), indent=1) + "\n")
    return figures


def means(found: dict) -> dict[str, dict[str, float]]:
    """Of each way over all objects of all clips."""
    ways = {way for clip in found.values() for way in clip}
    order = list(next(iter(found.values())))
    objects = {way: [o for clip in found.values() for o in clip[way].values()] for way in ways}
    return {
        way: {name: float(np.mean([o[name] for o in objects[way]])) for name in objects[way][0]}
        for way in order
    }


def table(figures: dict) -> str:
    """The means, a line for each way and each baseline."""
    lines = [f"{'':<8}" + "".join(f"{name:>7}" for name in ("J", "F", "J&F"))]
    for way, scores in figures["means"].items():
        lines.append(f"{way:<8}" + "".join(f"{value:7.3f}" for value in scores.values()))
    return "\n".join(lines)


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, DIGITS) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
