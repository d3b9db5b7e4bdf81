"""The weights that the page runs on, and what it shows about them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from petsam_jax.checkpoint import METRICS, STEPS, model_shapes, step_path
from petsam_jax.predict.image_predictor import SHIPPED
from petsam_jax.predict.video_predictor import VideoPredictor

# Written by `petsam_jax.cli.evaluate`, and stored beside the shipped weights.
REPORT = "metrics.json"


class ModelInfo(NamedTuple):
    """One line each."""

    checkpoint: str
    size: str
    quality: str  # empty if it was not measured


def open_predictor(
    directory: str | None = None, step: int | None = None, dtype: str | None = None
) -> tuple[VideoPredictor, ModelInfo]:
    """The predictor of a checkpoint or a run's workdir; None for the shipped weights.

    Raises FileNotFoundError or ValueError with what is wrong, and how to get a checkpoint.
    """
    predictor = VideoPredictor.from_checkpoint(directory, step=step, dtype=dtype)
    path = step_path(directory or SHIPPED, step)
    parameters = sum(math.prod(shape) for shape in model_shapes(predictor.config).values())
    stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    size = (
        f"{parameters / 1e6:.1f} M parameters, {stored / 1e6:.0f} MB on disk, "
        f"images at {predictor.images.size} x {predictor.images.size}"
    )
    return predictor, ModelInfo(str(path), size, measured_quality(path))


def measured_quality(path: Path) -> str:
    """From a report beside the checkpoint, else the last validation of its training, or empty."""
    workdir = path.parent.parent if path.parent.name == STEPS else path.parent
    try:
        if (workdir / REPORT).is_file():
            return _quality_in_report(json.loads((workdir / REPORT).read_text("utf-8")))
        if (workdir / METRICS).is_file():
            return _quality_in_log((workdir / METRICS).read_text("utf-8"), int(path.name))
    # A report in another format, or a log cut off in a line, is no reason not to start.
    except (ValueError, LookupError, TypeError, OSError):
        pass
    return ""


def _quality_in_report(report: dict) -> str:
    clicks = report["click_iou"]
    ious = {"no prompt": report["no_prompt_iou"], "a box": report["box_iou"]}
    ious |= {"1 click": clicks[0], "3 clicks": clicks[2], "5 clicks": clicks[4]}
    return f"{_list(ious)} on {report['n']:,} pets that it never saw"


def _quality_in_log(text: str, step: int) -> str:
    names = {"no prompt": "none", "a box": "box", "1 click": "click1", "3 clicks": "click3"}
    logged = (json.loads(line) for line in text.splitlines() if '"valid/iou_none"' in line)
    last = [line for line in logged if line["step"] <= step][-1]
    ious = {name: last[f"valid/iou_{key}"] for name, key in names.items()}
    return f"{_list(ious)} on validation images, step {last['step']:,} of its training"


def _list(ious: Mapping[str, float]) -> str:
    return "IoU " + ", ".join(f"{iou:.2f} with {prompt}" for prompt, iou in ious.items())
