"""Evaluate a checkpoint on clips with known masks: scores, and videos to watch.

    petsam evaluate-video --ckpt runs/pets --data davis/dog --out report
    petsam evaluate-video --data my_clips --out report

DIR holds the folders frames/ and masks/, with a mask for each frame, as in DAVIS, or several
folders that do. OUT then holds metrics.json, byte for byte the same in every run on one machine,
and for each clip and each prompt or baseline a video with the masks laid over the frames.

Prompts are the first frame's mask (mask), one click (click1) and three clicks (click3). Baselines
are the image model prompted with the last mask's box on each frame (boxes), and the first mask
left where it is (still). Scores are J, the IoU; F, the contour; and their mean.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from petsam_jax.cli import arguments

# Of the figures in metrics.json.
DIGITS = 4


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "petsam evaluate-video",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_checkpoint(parser)
    arguments.add_device(parser)
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="clips with masks")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("video-report"),
        metavar="DIR",
        help="report folder (default: video-report)",
    )
    args = parser.parse_args(argv)
    try:
        arguments.check_checkpoint(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    arguments.use_device(args)
    try:
        figures = evaluate(args)
    # ValueError: a fault in the checkpoint or the clips.
    except (ValueError, OSError) as error:
        print(f"evaluate-video: {error}", file=sys.stderr)
        return 1
    print(table(figures))
    print(f"report: {args.out}")
    return 0


def evaluate(args: argparse.Namespace) -> dict:
    """Evaluate every clip with every prompt and baseline, write the report, return the figures."""
    # Imported here, since they take seconds to import and wrong flags are reported first.
    from petsam_jax.checkpoint import step_number, step_path
    from petsam_jax.evaluation.video import BASELINES, PROMPTS, find_known_clips, score_clip
    from petsam_jax.files.render import overlay
    from petsam_jax.files.video_writer import VideoWriter
    from petsam_jax.predict.video_predictor import VideoPredictor

    arguments.check_device(args)
    folder = step_path(args.ckpt, args.step) if args.ckpt else None
    step = step_number(folder) if folder else None
    clips = find_known_clips(args.data)
    predictor = VideoPredictor.from_checkpoint(folder, dtype=args.dtype)
    args.out.mkdir(parents=True, exist_ok=True)
    scores = {}
    for known in clips:
        scores[known.name] = {}
        for name, track in (PROMPTS | BASELINES).items():
            print(f"{known.name}: {name}, {known.clip.count} frames", file=sys.stderr, flush=True)
            path = args.out / f"{known.name}-{name}.mp4"
            with VideoWriter(path, known.clip.size, known.clip.fps) as video:

                def write(frame, masks, clip=known.clip, video=video):
                    video.write(overlay(clip.read(frame), masks))

                objects = score_clip(known, track(predictor, known), write)
            scores[known.name][name] = {number: each.means() for number, each in objects.items()}
    origin = {"checkpoint": args.ckpt, "step": step, "data": str(args.data)}
    origin["dtype"] = predictor.config.model.dtype
    figures = origin | {"means": means(scores), "clips": scores}
    (args.out / "metrics.json").write_text(json.dumps(_rounded(figures), indent=1) + "\n")
    return figures


def means(scores: dict) -> dict[str, dict[str, float]]:
    """The scores of each prompt and baseline, averaged over all objects of all clips."""
    names = list(next(iter(scores.values())))
    objects = {name: [o for clip in scores.values() for o in clip[name].values()] for name in names}
    return {
        name: {score: float(np.mean([o[score] for o in each])) for score in each[0]}
        for name, each in objects.items()
    }


def table(figures: dict) -> str:
    """The means, a line for each prompt and each baseline."""
    lines = [f"{'':<8}" + "".join(f"{name:>7}" for name in ("J", "F", "J&F"))]
    for name, scores in figures["means"].items():
        lines.append(f"{name:<8}" + "".join(f"{value:7.3f}" for value in scores.values()))
    return "\n".join(lines)


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, DIGITS) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
