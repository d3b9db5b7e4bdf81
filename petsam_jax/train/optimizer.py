"""AdamW with a learning rate, weight decay and warm-up for each parameter.

In: rules by parameter (param_rules.py), and parameters as a nested dict (`nnx.to_pure_dict`; list
indices are integer keys) or a flat one of dotted names. Out: an optax transformation over the same
tree, an average of weights, and a table of what is trained.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float32, Int

from petsam_jax.train.param_rules import OptimizerError, ParamRule

Params = Any
Schedule = Callable[[Int[Array, ""] | int], Float32[Array, ""]]
SCHEDULES = ("cosine", "constant")


# Trees as dotted names


def dotted_name(path: Iterable) -> str:
    """A key path of `jax.tree_util` as a name: blocks.0.norm1.scale."""
    return ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)


def flatten(params: Params) -> dict[str, Any]:
    """Dotted name -> array."""
    return {dotted_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def unflatten(flat: Mapping[str, Any]) -> dict:
    """The nested dict of dotted names; a number becomes an integer key."""
    nested: dict = {}
    for name, leaf in flat.items():
        *parents, last = [int(key) if key.isdigit() else key for key in name.split(".")]
        node = nested
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return nested


# The optimiser


def make_schedule(total: int, warmup: int, kind: str = "cosine", end: float = 0.1) -> Schedule:
    """The factor of the peak learning rate: warm-up, then constant or a cosine down to `end`.

    `total` counts all steps. A warm-up of n steps starts at 1/n, not at 0.
    """
    if kind not in SCHEDULES:
        raise OptimizerError(f"optim.schedule={kind!r}: expected one of {', '.join(SCHEDULES)}")
    if warmup >= total and warmup:
        raise OptimizerError(
            f"a warm-up of {warmup} steps takes all of the {total} steps: shorten it"
        )

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        # A branch keeps XLA from repeating the cosine in the loop of every parameter, which costs
        # nothing in training but seconds of compiling.
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

    Gradients are clipped to `clip_norm` over all trained parameters together (0: no clipping).
    Raises OptimizerError for an invalid schedule, and if nothing is trained.
    """
    if not any(rule.lr for rule in rules.values()):
        raise OptimizerError("optim.groups: lr is 0 in every group, so nothing would be trained")
    warmups = {rule.warmup for rule in rules.values() if rule.lr}
    schedules = {n: make_schedule(total_steps, n, schedule, end_factor) for n in sorted(warmups)}
    adam = optax.scale_by_adam(b1, b2, eps)
    if clip_norm:
        adam = optax.chain(_clip(clip_norm), adam)
    trained = optax.chain(adam, _decay_and_scale(rules, schedules))

    def labels(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "trained" if rules[dotted_name(path)].lr else "frozen", params
        )

    return optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, labels)


def _clip(max_norm: float) -> optax.GradientTransformation:
    """Clip to a norm of at most `max_norm`.

    Optax's own divides each array, for which XLA makes a loop and a copy; a product is fused with
    what follows.
    """

    def update(updates, state, params=None):
        factor = max_norm / jnp.maximum(optax.tree.norm(updates), max_norm)
        return jax.tree.map(lambda update: update * factor, updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def _decay_and_scale(
    rules: Mapping[str, ParamRule], schedules: Mapping[int, Schedule]
) -> optax.GradientTransformation:
    """-(learning rate) * (update + weight decay * parameter), each parameter by its own rule."""

    def init(params):
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update(updates, state, params):
        factors = {warmup: schedule(state.count) for warmup, schedule in schedules.items()}

        def scale(path, update, param):
            rule = rules[dotted_name(path)]
            return -rule.lr * factors[rule.warmup] * (update + rule.weight_decay * param)

        scaled = jax.tree_util.tree_map_with_path(scale, updates, params)
        return scaled, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


# Averages and the table


def ema_update(
    ema: Params, params: Params, decay: float | jax.Array, step: Int[Array, ""] | int | None = None
) -> Params:
    """The moving average after one more step.

    With `step` (0 for the first) the decay is at most (1 + step) / (10 + step), so that an early
    average forgets the random start.
    """
    if step is not None:
        decay = jnp.minimum(decay, (1 + step) / (10 + jnp.asarray(step, jnp.float32)))
    return jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), ema, params)


def summary(params: Params, rules: Mapping[str, ParamRule]) -> str:
    """A table: module, parameters, learning rate, weight decay, warm-up; then totals."""
    flat = flatten(params)
    rows = [("module", "parameters", "learning rate", "weight decay", "warm-up")]
    by_module: dict[tuple[str, str], list[str]] = {}
    for name in flat:
        by_module.setdefault((_module(name), rules[name].group), []).append(name)
    for (module, _), names in by_module.items():
        here = [rules[name] for name in names]
        lr = _range(rule.lr for rule in here) if any(rule.lr for rule in here) else "frozen"
        decay = _range(rule.weight_decay for rule in here)
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
    """The first part of a name, two parts within the image encoder."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "image_encoder" else parts[0]


def _range(values: Iterable[float]) -> str:
    values = set(values)
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} .. {high}"
