"""Checks of a training config before a run starts: its numbers, and that a resumed run kept them.

Augmentation (`data/augment.py`), motion (`data/motion.py`), the model's sizes, the optimiser's
patterns and the kinds of loss are checked where they are used.
"""

import math
import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import jax
from ml_collections import ConfigDict

from petsam_jax.checkpoint import finished_steps
from petsam_jax.config import ConfigError, differences, fields, from_json, to_json
from petsam_jax.models.prompts import CLICK_SLOTS
from petsam_jax.train.guards import WorkdirError
from petsam_jax.train.validation import prompt_kinds

ANY = math.inf
# Pattern of fields -> their least and largest value.
LIMITS = {
    "data.num_threads": (0, ANY),
    # The first prompt may be a click too, and clicks beyond the slots would be dropped.
    "prompts.rounds": (0, CLICK_SLOTS - 1),
    "prompts.clip_rounds": (0, CLICK_SLOTS - 1),
    "prompts.longest_gap": (0, ANY),
    "prompts.refinements": (0, ANY),
    "prompts.*_prob": (0, 1),
    "prompts.*.*_prob": (0, 1),
    "prompts.first.box_jitter*": (0, ANY),
    "prompts.paint.radius": (0, 1),
    "loss.*_weight": (0, ANY),
    "loss.alpha": (0, 1),
    "loss.gamma": (0, ANY),
    "optim.groups.*.lr": (0, ANY),
    "optim.groups.*.weight_decay": (0, ANY),
    "optim.groups.*.layer_decay": (0, 1),
    "optim.end_factor": (0, 1),
    "optim.clip_norm": (0, ANY),
    "optim.b[12]": (0, 1),
    "train.batch_size": (1, ANY),
    "train.clip_batch_size": (1, ANY),
    "train.microbatches": (1, ANY),
    "train.clip_share": (0, 1),
    "train.ema_decay": (0, 1),
    "train.grad_parts_every": (0, ANY),
    "train.log_every": (1, ANY),
    "train.checkpoint_every": (1, ANY),
    "train.keep": (1, ANY),
    "eval.every": (1, ANY),
    "eval.examples": (1, ANY),
    "eval.batch_size": (1, ANY),
    "eval.clips": (0, ANY),
    "eval.box_jitter": (0, 1),
}
CONFIG = "config.json"
# Fields that may change when a run is resumed: nothing that is learned depends on them.
MAY_DIFFER = (
    *("train.log_every", "train.grad_parts_every", "train.checkpoint_every", "train.keep"),
    *("eval.*", "data.num_threads"),
    # Only fresh weights depend on this one.
    "model.prompt_encoder.mask_gain",
)
# Stride of the trunk's last stage.
STRIDE = 32


def check_limits(config: ConfigDict) -> None:
    """Raise ConfigError with every field whose value is out of range, and its range."""
    faults = [
        f"{name}={value}: set it to at least {low}" + (f" and at most {high}" if high < ANY else "")
        for name, value in fields(config).items()
        for pattern, (low, high) in LIMITS.items()
        if fnmatchcase(name, pattern) and not low <= value <= high
    ]
    if config.data.size < STRIDE or config.data.size % STRIDE:
        faults.append(f"data.size={config.data.size}: set it to a multiple of {STRIDE}")
    if not config.eval.clicks or min(config.eval.clicks) < 1:
        faults.append(f"eval.clicks={config.eval.clicks}: list at least one number, all above 0")
    elif config.eval.best not in higher_is_better(config):
        names = ", ".join(higher_is_better(config))
        faults.append(f"eval.best={config.eval.best!r}: this run's validation reports {names}")
    if faults:
        raise ConfigError("\n  ".join(["invalid config values:", *faults]))


def validates_clips(config: ConfigDict) -> bool:
    """Whether clips are validated too: only if the run trains on clips."""
    return bool(config.eval.clips and config.train.clip_share)


def higher_is_better(config: ConfigDict) -> list[str]:
    """The names of those scores of a validation of which higher values are better."""
    names = [f"iou_{kind}" for kind in prompt_kinds(config.eval.clicks)] + ["iou_mean"]
    return [*names, "iou_clip"] if validates_clips(config) else names


def check_config(workdir: str | Path, config: ConfigDict, may_differ: Iterable[str] = ()) -> None:
    """Save the config as WORKDIR/config.json; refuse a workdir that was trained with another.

    Fields that match a pattern of `may_differ` ("train.log_every") may change between starts, and
    any field may until there is a checkpoint: the config may be why a first start failed. Raises
    WorkdirError with every field that differs.
    """
    path = Path(workdir) / CONFIG
    if path.exists() and finished_steps(workdir):
        try:
            old = from_json(path.read_text())
            if not old:
                raise ValueError("it is empty")
        except (ValueError, AttributeError, TypeError) as error:
            raise WorkdirError(f"{path} is damaged ({error}); choose a new --workdir") from error
        may_differ = tuple(may_differ)
        refused = [
            line
            for line in differences(old, config)
            if not any(fnmatchcase(line.partition(":")[0], pattern) for pattern in may_differ)
        ]
        if refused:
            title = f"--workdir={workdir} holds a run with a different config ({path} -> now):"
            advice = "choose a new --workdir, or start with the config of that run"
            raise WorkdirError("\n  ".join([title, *refused, advice]))
    # Each process of a run writes a new file of its own.
    new = path.with_name(f"{path.name}.{jax.process_index()}.new")
    new.write_text(to_json(config))
    os.replace(new, path)
