"""Which learning rate, weight decay and warm-up each parameter gets, by patterns of its name.

In: parameter names and the config's section `optim`. Out: a `ParamRule` for each name. No JAX here:
configs read it, and a wrong command line should fail before JAX has been imported.

The section's `groups` are named after the part of the model they train; each has

    pattern        of dotted parameter names, "*" matching anything, or several patterns
    lr             peak learning rate; 0 freezes: no update, no optimiser memory
    weight_decay   times the learning rate; not for names that match `no_decay`
    warmup         "500 steps" or "1 epochs" over which the learning rate rises linearly
    layer_decay    1 for none; a trunk's block that is n below the top gets lr * layer_decay**(n+1),
                   its patch embedding one step less, its position embedding the full lr (SAM 2)

A name belongs to the group with the most specific matching pattern ("image_encoder.trunk.*" before
"image_encoder.*" before "*"); the order of groups does not matter.
"""

import math
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

# Parameters without weight decay: biases, norms, layer scales and learned vectors.
NO_DECAY = (
    *("*bias*", "*.scale", "*.gamma", "*pos_embed*", "*point_embed", "*mask_embed"),
    *("*mem_embed", "*_embed_spatial", "*_token", "*_tokens", "*_tpos_enc", "*no_obj_ptr"),
)
# Those of the official recipe: biases and what PyTorch calls LayerNorm. There the norms of
# convolutions, layer scales and learned vectors do decay.
REFERENCE_NO_DECAY = (
    "*bias*",
    "image_encoder.trunk.*norm*.scale",
    "mask_decoder.transformer.*norm*.scale",
    "memory_attention.*norm*.scale",
)


class OptimizerError(ValueError):
    """A section `optim` that does not fit the model: the message lists names or fields."""


class ParamRule(NamedTuple):
    """How one parameter is trained."""

    group: str
    lr: float  # peak, with layer decay
    weight_decay: float
    warmup: int  # steps


def to_steps(duration: str, steps_per_epoch: float) -> int:
    """Steps in "500 steps" or "1.5 epochs", rounded up. Raises OptimizerError for other text."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(step|epoch)s?\s*", duration)
    if not match:
        raise OptimizerError(f"{duration!r}: write a duration as '500 steps' or '1.5 epochs'")
    number = float(match[1]) * (steps_per_epoch if match[2] == "epoch" else 1)
    return math.ceil(round(number, 6))


def make_rules(
    names: Iterable[str],
    groups: Mapping[str, Mapping],
    no_decay: Iterable[str] = NO_DECAY,
    steps_per_epoch: float = 1.0,
) -> dict[str, ParamRule]:
    """The rule of each parameter.

    Raises OptimizerError with all parameters that no pattern matches, and with patterns that match
    nothing or tie.
    """
    names = list(names)
    patterns = [
        (pattern, group) for group, options in groups.items() for pattern in _patterns(options)
    ]
    unused = [
        f"{where}: {pattern} matches no parameter"
        for pattern, where in [
            *((p, f"optim.groups.{g}.pattern") for p, g in patterns),
            *((p, "optim.no_decay") for p in no_decay),
        ]
        if not any(fnmatchcase(name, pattern) for name in names)
    ]
    if unused:
        raise OptimizerError("\n  ".join(["patterns that match nothing:", *unused]))
    group_of = {name: _group(name, patterns) for name in names}
    if missed := [name for name, group in group_of.items() if group is None]:
        title = f"no pattern of optim.groups matches these {len(missed)} parameters:"
        raise OptimizerError("\n  ".join([title, *missed]))

    rules = {}
    for group, options in groups.items():
        inside = [name for name in names if group_of[name] == group]
        scales = layer_scales(inside, options.get("layer_decay", 1.0))
        warmup = to_steps(options.get("warmup", "0 steps"), steps_per_epoch)
        for name in inside:
            exempt = any(fnmatchcase(name, pattern) for pattern in no_decay)
            decay = 0.0 if exempt else options["weight_decay"]
            rules[name] = ParamRule(group, options["lr"] * scales[name], decay, warmup)
    return {name: rules[name] for name in names}


def _patterns(options) -> tuple[str, ...]:
    pattern = options["pattern"]
    return (pattern,) if isinstance(pattern, str) else tuple(pattern)


def _group(name: str, patterns: list[tuple[str, str]]) -> str | None:
    found = [
        (len(pattern.replace("*", "")), group)
        for pattern, group in patterns
        if fnmatchcase(name, pattern)
    ]
    if not found:
        return None
    most = max(found)[0]
    best = {group for length, group in found if length == most}
    if len(best) > 1:
        raise OptimizerError(
            f"{name} matches optim.groups {', '.join(sorted(best))} equally: make one of "
            f"their patterns more specific"
        )
    return best.pop()


def layer_scales(names: Iterable[str], layer_decay: float) -> dict[str, float]:
    """The factor of the learning rate of each parameter of a trunk."""
    block = {name: re.search(r"(?:^|\.)blocks\.(\d+)\.", name) for name in names}
    depth = 1 + max((int(match[1]) for match in block.values() if match), default=-1)

    def scale(name):
        if block[name]:
            return layer_decay ** (depth - int(block[name][1]))
        return layer_decay ** (depth + 1) if "patch_embed." in name else 1.0

    return {name: scale(name) for name in block}


def trained_only(rules: Mapping[str, ParamRule]) -> dict[str, ParamRule]:
    """The rules of parameters that are not frozen."""
    return {name: rule for name, rule in rules.items() if rule.lr}
