"""How long each step of the model takes to compile and to run, and how much memory it needs.

    python -m benchmarks.model --size pets256
    python -m benchmarks.model --size pets256 --what encoder --backward

It prints a table for 256 pixels: milliseconds, the median with minimum and maximum, after two
warm-up calls. Beside them are the target, for the faster of both number formats, and the time of
the official PyTorch code on 2 cores of the same kind (batch 1, float32, with bfloat16 in brackets).
Kernels are rounded once, as in a predictor. Memory is XLA's scratch for the step, and the peak of
the process while it was compiled and run.

With `--backward` each step alternates with the same step and the gradient of all parameters that it
reads, which stay float32; the last number is the ratio of both times. Memory is allocated as in
train.py (`runtime.prepare`).
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks import timing
from benchmarks.steps import SIZES, WHAT, Step, model_steps, random_model, size_config
from petsam_jax import runtime
from petsam_jax.models.sam2 import SAM2
from petsam_jax.predict.model_parts import rounded_model

DTYPES = ("float32", "bfloat16")
BACKWARD = ", forward+backward"
# (target, official) milliseconds.
FIGURES = {
    "pets256": {
        "image encoder": ("160", "259 (232)"),
        "image encoder, batch 8" + BACKWARD: ("3.2x", ""),
        "click": ("4", "7"),
        "memory encoder": ("5", "6.6"),
        "memory attention": ("22", "38"),
        "tracked frame": ("190", "314"),
    },
    "hiera_tiny": {
        "image encoder": ("65", "113-129 (88-98)"),
        "image encoder, batch 8" + BACKWARD: ("3.2x", ""),
    },
    "pets256_small": {},
}


class Measured(NamedTuple):
    timing: timing.Timing
    times_forward: float | None  # of a step with its gradient
    compile_seconds: float
    scratch_megabytes: float
    process_megabytes: float


def measure(step: Step, model: SAM2, backward: bool, seconds: float) -> dict[str, Measured]:
    """Compile and time the step, with `backward` also its gradient, by name."""
    graph, state = nnx.split(model)
    arrays = nnx.to_pure_dict(state)
    params = {part: arrays[part] for part in step.parts or arrays}

    def call(params, *inputs):
        return step.function(nnx.merge(graph, arrays | params), *inputs)

    def loss(params, *inputs):
        outputs = [x for x in jax.tree.leaves(call(params, *inputs)) if x.dtype == jnp.float32]
        return sum(jnp.square(x).mean() for x in outputs)

    functions = {step.name: call}
    if backward:
        functions[step.name + BACKWARD] = jax.grad(loss)
    timing.reset_peak()
    compiled, compile_seconds = {}, {}
    for name, function in functions.items():
        start = time.perf_counter()
        compiled[name] = jax.jit(function).lower(params, *step.inputs).compile()
        compile_seconds[name] = time.perf_counter() - start
    calls = {name: partial(compiled[name], params, *step.inputs) for name in compiled}
    timings = timing.in_turn(calls, seconds)
    forward, peak = timings[step.name].median, timing.peak_megabytes()
    return {
        name: Measured(
            timings[name],
            None if name == step.name else timings[name].median / forward,
            compile_seconds[name],
            compiled[name].memory_analysis().temp_size_in_bytes / 2**20,
            peak,
        )
        for name in compiled
    }


def measure_all(
    model: SAM2, what: Sequence[str], backward: bool, seconds: float
) -> dict[str, Measured]:
    """Every step of `what`, one after the other."""
    read = model if backward else rounded_model(model)
    found = {}
    for step in model_steps(read):
        if step.what in what:
            found |= measure(step, read, backward, seconds)
    return found


def table(size: str, results: dict[str, dict[str, Measured]]) -> str:
    """A markdown table of one size, with a column of times for each number format."""
    dtypes, names = list(results), list(next(iter(results.values())))
    header = [f"{size}, 256 px", *(f"{dtype}, ms" for dtype in dtypes), "target", "official"]
    header += ["compile, s", "scratch, MB", "process, MB"]
    rows = []
    for name in names:
        each = [results[dtype][name] for dtype in dtypes]
        times = [
            f"{one.timing}, {one.times_forward:.2f}x" if one.times_forward else str(one.timing)
            for one in each
        ]
        memory = [
            " / ".join(f"{v:.0f}" for v in column)
            for column in zip(*(m[2:] for m in each), strict=True)
        ]
        rows.append([name, *times, *FIGURES[size].get(name, ("", "")), *memory])
    return timing.markdown(header, rows)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=SIZES, default="pets256_small")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=DTYPES)
    parser.add_argument("--what", choices=WHAT, nargs="+", default=WHAT)
    parser.add_argument("--backward", action="store_true", help="also with gradients")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each step (default: 3)")
    return parser.parse_args(argv)


def main(flags: argparse.Namespace) -> None:
    print(timing.setting(), end="\n\n", flush=True)
    results = {
        dtype: measure_all(
            random_model(size_config(flags.size, [f"model.dtype={dtype}"]).model.to_dict()),
            flags.what,
            flags.backward,
            flags.seconds,
        )
        for dtype in flags.dtype
    }
    print(table(flags.size, results))


if __name__ == "__main__":
    flags = parse()
    if flags.backward:
        runtime.prepare()
    main(flags)
