"""The weights that the page runs on, and what there is to say about them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from petsam_jax.checkpoint import STEPS, model_shapes, step_path
from petsam_jax.predict.image_predictor import SHIPPED
from petsam_jax.predict.video_predictor import VideoPredictor
from petsam_jax.train.metric_log import METRICS

# What `petsam_jax.cli.evaluate` writes; weights that ship have it beside them.
REPORT = "metrics.json"


class Facts(NamedTuple):
    """In words."""

    checkpoint: str
    size: str
    quality: str  # empty if nobody measured it


def open_weights(
    directory: str | None = None, step: int | None = None, dtype: str | None = None
) -> tuple[VideoPredictor, Facts]:
    """The predictor of a checkpoint or a run's workdir, None for the weights that ship.

    Raises FileNotFoundError or ValueError with what is wrong, and how to get a checkpoint.
    """
    predictor = VideoPredictor.from_checkpoint(directory, step=step, dtype=dtype)
    path = step_path(directory or SHIPPED, step)
    parameters = sum(math.prod(shape) for shape in model_shapes(predictor.config).values())
    stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    size = (
        f"{parameters / 1e6:.1f} M parameters, {stored / 1e6:.0f} MB on disk, "
        f"pictures at {predictor.images.size} x {predictor.images.size}"
    )
    return predictor, Facts(str(path), size, measured_quality(path))


def measured_quality(path: Path) -> str:
    """What a report beside a step says, else the last validation of its training, or nothing."""
    workdir = path.parent.parent if path.parent.name == STEPS else path.parent
    try:
        if (workdir / REPORT).is_file():
            said = json.loads((workdir / REPORT).read_text("utf-8"))
            clicks = said["click_iou"]
            ious = {"no prompt": said["no_prompt_iou"], "a box": said["box_iou"]}
            ious |= {"1 click": clicks[0], "3 clicks": clicks[2], "5 clicks": clicks[4]}
            return f"{_list(ious)} on {said['n']:,} pets that it never saw"
        if (workdir / METRICS).is_file():
            names = {"no prompt": "none", "a box": "box", "1 click": "click1", "3 clicks": "click3"}
            lines = (workdir / METRICS).read_text("utf-8").splitlines()
            logged = (json.loads(line) for line in lines if '"valid/iou_none"' in line)
            last = [line for line in logged if line["step"] <= int(path.name)][-1]
            ious = {name: last[f"valid/iou_{key}"] for name, key in names.items()}
            return f"{_list(ious)} on validation pictures, step {last['step']:,} of its training"
    # A report of another make, or a log with half a line: no reason not to start.
    except (ValueError, LookupError, TypeError, OSError):
        pass
    return ""


def _list(ious: Mapping[str, float]) -> str:
    return "IoU " + ", ".join(f"{iou:.2f} with {prompt}" for prompt, iou in ious.items())
