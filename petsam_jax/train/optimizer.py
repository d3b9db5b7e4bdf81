"""AdamW with a learning rate, weight decay and warm-up for each module, from the config.

In: parameters as a nested dict (`nnx.to_pure_dict`; list indices are integer keys) or as a flat one
of dotted names, and the config's section `optim`. Out: an optax transformation over the same tree.

The section's `groups` are named by what they hold; each has

    pattern        of dotted parameter names, "*" standing for anything, or several patterns
    lr             peak learning rate; 0 freezes: no update, no optimiser memory
    weight_decay   times the learning rate; not for names that match `no_decay`
    warmup         "500 steps" or "1 epochs": the learning rate rises linearly over these
    layer_decay    1 for none; a trunk's block that is n below the top gets lr * layer_decay**(n+1),
                   its patch embedding one step less, its position embedding the whole lr (SAM 2)

A name belongs to the group whose pattern spells out most of it ("image_encoder.trunk.*" before
"image_encoder.*" before "*"), so that the order of groups means nothing.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float32, Int

from petsam_jax.train.no_decay import NO_DECAY

Params = Any
Schedule = Callable[[Int[Array, ""] | int], Float32[Array, ""]]
SCHEDULES = ("cosine", "constant")


class OptimizerError(ValueError):
    """A section `optim` that does not fit the model: the message lists names or fields."""


class ParamRule(NamedTuple):
    """How one parameter is trained."""

    group: str
    lr: float  # peak, with layer decay
    weight_decay: float
    warmup: int  # steps


# Trees as dotted names


def dotted(path: Iterable) -> str:
    """A key path of `jax.tree_util` as a name: blocks.0.norm1.scale."""
    return ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)


def flatten(params: Params) -> dict[str, Any]:
    """Dotted name -> array."""
    return {dotted(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def unflatten(flat: Mapping[str, Any]) -> dict:
    """The nested dict of dotted names; a number is an integer key."""
    nested = {}
    for name, leaf in flat.items():
        *parents, last = [int(key) if key.isdigit() else key for key in name.split(".")]
        node = nested
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return nested


# Rules from patterns


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

    Raises OptimizerError with the parameters that no pattern covers, and with patterns that cover
    nothing or tie.
    """
    names = list(names)
    patterns = [
        (pattern, group) for group, options in groups.items() for pattern in _patterns(options)
    ]
    unused = [
        f"{where}: {pattern} covers no parameter"
        for pattern, where in [
            *((p, f"optim.groups.{g}.pattern") for p, g in patterns),
            *((p, "optim.no_decay") for p in no_decay),
        ]
        if not any(fnmatchcase(name, pattern) for name in names)
    ]
    if unused:
        raise OptimizerError("\n  ".join(["patterns that do nothing:", *unused]))
    group_of = {name: _group(name, patterns) for name in names}
    if missed := [name for name, group in group_of.items() if group is None]:
        title = f"no pattern of optim.groups covers these {len(missed)} parameters:"
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
            f"{name} is covered alike by optim.groups {', '.join(sorted(best))}: make one of their "
            f"patterns more specific"
        )
    return best.pop()


def layer_scales(names: Iterable[str], layer_decay: float) -> dict[str, float]:
    """What the learning rate of each parameter of a trunk is multiplied by."""
    block = {name: re.search(r"(?:^|\.)blocks\.(\d+)\.", name) for name in names}
    depth = 1 + max((int(match[1]) for match in block.values() if match), default=-1)

    def scale(name):
        if block[name]:
            return layer_decay ** (depth - int(block[name][1]))
        return layer_decay ** (depth + 1) if "patch_embed." in name else 1.0

    return {name: scale(name) for name in block}


def trained_only(rules: Mapping[str, ParamRule]) -> dict[str, ParamRule]:
    """Those of the parameters that are not frozen."""
    return {name: rule for name, rule in rules.items() if rule.lr}


# The optimiser


def make_schedule(total: int, warmup: int, kind: str = "cosine", end: float = 0.1) -> Schedule:
    """Share of the peak learning rate at each step: warm-up, then level or a cosine down to `end`.

    `total` steps in all. The first step of a warm-up of n is 1/n, not a step that does nothing.
    """
    if kind not in SCHEDULES:
        raise OptimizerError(f"optim.schedule={kind!r}: want one of {', '.join(SCHEDULES)}")
    if warmup >= total and warmup:
        raise OptimizerError(f"a warm-up of {warmup} steps leaves nothing of {total}: shorten it")

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        # By a branch: XLA would compute a cosine anew in the loop of every parameter, which takes
        # no time in training but seconds to compile.
        return jax.lax.cond(step < warmup, rise, fall, step)

    def rise(step):
        return (step + 1) / max(warmup, 1)

    def fall(step):
        if kind == "constant":
            return jnp.ones_like(step)
        passed = jnp.minimum((step - warmup) / (total - warmup), 1.0)
        return end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * passed))

    return schedule


def make_optimizer(
    rules: Mapping[str, ParamRule],
    total_steps: int,
    *,
    schedule: str = "cosine",
    end_factor: float = 0.1,
    clip_norm: float = 0.1,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """AdamW by `rules` over any tree with their dotted names.

    Gradients are clipped to `clip_norm` over all trained parameters together (0: not at all).
    Raises OptimizerError for a schedule that cannot be, and when nothing is trained.
    """
    if not any(rule.lr for rule in rules.values()):
        raise OptimizerError("optim.groups: lr is 0 in every group, so nothing would be trained")
    warmups = {rule.warmup for rule in rules.values() if rule.lr}
    shares = {n: make_schedule(total_steps, n, schedule, end_factor) for n in sorted(warmups)}
    adam = optax.scale_by_adam(b1, b2, eps)
    if clip_norm:
        adam = optax.chain(_clip(clip_norm), adam)
    trained = optax.chain(adam, _decay_and_scale(rules, shares))

    def labels(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "trained" if rules[dotted(path)].lr else "frozen", params
        )

    return optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, labels)


def _clip(max_norm: float) -> optax.GradientTransformation:
    """To a norm of at most `max_norm`.

    Optax's divides each array, which XLA gives a loop and memory of its own; a product is fused
    with what comes after it.
    """

    def update(updates, state, params=None):
        factor = max_norm / jnp.maximum(optax.tree.norm(updates), max_norm)
        return jax.tree.map(lambda update: update * factor, updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def _decay_and_scale(
    rules: Mapping[str, ParamRule], shares: Mapping[int, Schedule]
) -> optax.GradientTransformation:
    """-(learning rate) * (update + weight decay * parameter), each parameter by its own rule."""

    def init(params):
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update(updates, state, params):
        now = {warmup: share(state.count) for warmup, share in shares.items()}

        def scale(path, update, param):
            rule = rules[dotted(path)]
            return -rule.lr * now[rule.warmup] * (update + rule.weight_decay * param)

        scaled = jax.tree_util.tree_map_with_path(scale, updates, params)
        return scaled, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


# Averages and the table


def ema_update(
    ema: Params, params: Params, decay: float, step: Int[Array, ""] | int | None = None
) -> Params:
    """The moving average after one more step.

    With `step` (0 for the first) the decay is at most (1 + step) / (10 + step), so that a young
    average does not remember the random start.
    """
    if step is not None:
        decay = jnp.minimum(decay, (1 + step) / (10 + jnp.asarray(step, jnp.float32)))
    return jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), ema, params)


def summary(params: Params, rules: Mapping[str, ParamRule]) -> str:
    """A table: module, parameters, learning rate, weight decay, warm-up; then totals."""
    flat = flatten(params)
    rows = [("module", "parameters", "learning rate", "weight decay", "warm-up")]
    by_module = {}
    for name in flat:
        by_module.setdefault((_module(name), rules[name].group), []).append(name)
    for (module, _), names in by_module.items():
        here = [rules[name] for name in names]
        lr = _span(rule.lr for rule in here) if any(rule.lr for rule in here) else "frozen"
        decay = _span(rule.weight_decay for rule in here)
        size = sum(flat[name].size for name in names)
        rows.append((module, f"{size:,}", lr, decay, f"{here[0].warmup} steps"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    trained = sum(leaf.size for name, leaf in flat.items() if rules[name].lr)
    total = sum(leaf.size for leaf in flat.values())
    memory = 8 * trained / 2**20
    lines += [
        "",
        f"{total:,} parameters: {trained:,} trained, {total - trained:,} frozen; "
        f"AdamW keeps {memory:,.1f} MiB",
    ]
    return "\n".join(lines)


def _module(name: str) -> str:
    """The first part of a name; the image encoder's and single arrays' own rows."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "image_encoder" else parts[0]


def _span(values: Iterable[float]) -> str:
    values = set(values)
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} .. {high}"
