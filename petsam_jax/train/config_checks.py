"""Checks of a training config's numbers before a run starts.

Augmentation (`data/augment.py`), motion (`data/motion.py`), the model's sizes, the optimiser's
patterns and the kinds of loss are checked where they are used.
"""

import math
from fnmatch import fnmatchcase

from ml_collections import ConfigDict

from petsam_jax.config import ConfigError, fields
from petsam_jax.models.prompts import CLICK_SLOTS
from petsam_jax.train.validation import higher_is_better

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
