"""How long each step of the model takes, to compile and to run, and how much memory it needs.

    python -m benchmarks.model --size pets256
    python -m benchmarks.model --size pets256 --what training

It prints a table: after two calls that do not count, the median of the rest with the least and the
greatest, in milliseconds, for 256 pixels. Beside them is what the project wants, in the faster of
both number formats, and what the official PyTorch code took on 2 cores of the same kind (batch 1,
float32, and bfloat16 in brackets). Matrices are cast to bfloat16 once for inference, as a predictor
does, and stay float32 for training. Memory is XLA's scratch for the step, and the most that the
process had until then.

Training is the image encoder's forward and forward+backward, timed in turn. It keeps its memory as
train.py does (`runtime.prepare`), which makes steps of a few milliseconds slower by a tenth; so it
is measured only where it is asked for.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
from flax import nnx

from benchmarks import timing
from benchmarks.steps import (
    INFERENCE,
    SIZES,
    TRAINING,
    Step,
    half_matrices,
    inference_steps,
    model_keywords,
    random_model,
    training_steps,
)
from petsam_jax import runtime

DTYPES = ("float32", "bfloat16")
# (wanted, official) milliseconds.
FIGURES = {
    "pets256": {
        "image encoder": ("160", "259 (232)"),
        "click": ("4", "7"),
        "memory encoder": ("5", "6.6"),
        "memory attention": ("22", "38"),
        "tracked frame": ("190", "314"),
        "forward+backward": ("3.2x", ""),
    },
    "hiera_tiny": {"image encoder": ("65", "113-129 (88-98)"), "forward+backward": ("3.2x", "")},
    "pets256_small": {},
}


class Measured(NamedTuple):
    timing: timing.Timing
    compile_seconds: float
    scratch_megabytes: float
    process_megabytes: float


def measure(steps: list[Step], model: nnx.Module, seconds: float) -> dict[str, Measured]:
    """Compile the steps and time them in turn; a step named forward+backward is differentiated."""
    graph, state = nnx.split(model)
    everything = nnx.to_pure_dict(state)
    timing.reset_peak()
    compiled, compile_seconds, inputs = {}, {}, {}
    for step in steps:
        params = {part: everything[part] for part in step.parts or everything}

        def call(params, *inputs, function=step.function):
            return function(nnx.merge(graph, everything | params), *inputs)

        function = jax.grad(call) if step.name == "forward+backward" else call
        inputs[step.name] = params, *step.inputs
        start = time.perf_counter()
        compiled[step.name] = jax.jit(function).lower(*inputs[step.name]).compile()
        compile_seconds[step.name] = time.perf_counter() - start
    calls = {n: partial(compiled[n], *inputs[n]) for n in compiled}
    timings = timing.in_turn(calls, seconds)
    peak = timing.peak_megabytes()
    return {
        name: Measured(
            timings[name],
            compile_seconds[name],
            compiled[name].memory_analysis().temp_size_in_bytes / 2**20,
            peak,
        )
        for name in compiled
    }


def measure_all(size: str, dtype: str, what: Sequence[str], seconds: float) -> dict[str, Measured]:
    """Every step of `what`, each by itself but for the two of training."""
    found, keywords = {}, model_keywords(size) | {"dtype": dtype}
    model = random_model(keywords)
    if dtype == "bfloat16":
        half_matrices(model)
    for step in inference_steps(model):
        if step.what in what:
            found |= measure([step], model, seconds)
    if TRAINING in what:
        found |= measure(training_steps(), random_model(keywords).image_encoder, seconds)
    return found


def table(size: str, results: dict[str, dict[str, Measured]]) -> str:
    """A markdown table of one size, with a column of times for each number format."""
    dtypes, names = list(results), list(next(iter(results.values())))
    header = [f"{size}, 256 px", *(f"{dtype}, ms" for dtype in dtypes), "wanted", "official"]
    header += ["compile, s", "scratch, MB", "process, MB"]
    rows = []
    for name in names:
        each = [results[dtype][name] for dtype in dtypes]
        times = [str(one.timing) for one in each]
        if name == "forward+backward":
            before = [results[dtype][names[names.index(name) - 1]] for dtype in dtypes]
            ratios = [b.timing.median / a.timing.median for a, b in zip(before, each, strict=True)]
            times = [f"{t}, {ratio:.2f}x" for t, ratio in zip(times, ratios, strict=True)]
        memory = [
            " / ".join(f"{v:.0f}" for v in column)
            for column in zip(*(m[1:] for m in each), strict=True)
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
    parser.add_argument("--what", choices=(*INFERENCE, TRAINING), nargs="+", default=INFERENCE)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each step (default: 3)")
    return parser.parse_args(argv)


def main(flags: argparse.Namespace) -> None:
    print(timing.setting(), end="\n\n", flush=True)
    results = {
        dtype: measure_all(flags.size, dtype, flags.what, flags.seconds) for dtype in flags.dtype
    }
    print(table(flags.size, results))


if __name__ == "__main__":
    flags = parse()
    if TRAINING in flags.what:
        runtime.prepare()
    main(flags)
