"""How long each step of the model takes, to compile and to run, and how much memory it needs.

    python -m benchmarks.model --size pets256
    python -m benchmarks.model --size hiera_tiny --what encoder training

It prints a table: after two calls that do not count, the median of the rest with the least and the
greatest, in milliseconds, for 256 pixels. Forward and forward+backward are timed in turn. Beside
them is what the project wants, in the faster of both number formats, and what the official PyTorch
code took on 2 cores of the same kind (batch 1, float32, and bfloat16 in brackets). Matrices are
cast to bfloat16 once for inference, as a predictor does, and stay float32 for training. Memory is
XLA's scratch for the step, and the most that the process had meanwhile.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import timing
from petsam_jax import runtime
from petsam_jax.config import load_config
from petsam_jax.models.image_encoder import ImageFeatures
from petsam_jax.models.memory_bank import MemoryBank
from petsam_jax.models.sam2 import SAM2
from petsam_jax.names import fill, shapes
from petsam_jax.prompts import Prompts, add_click, empty_prompts

PIXELS, BATCH = 256, 8
SIZES = ("pets256", "pets256_small", "hiera_tiny")
DTYPES = ("float32", "bfloat16")
WHAT = ("encoder", "click", "memory", "tracking", "training")
# Prompted frame 0 and tracked frames 1 to 15 are remembered: 7 memories and 16 pointers.
FRAME = 16
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


class Step(NamedTuple):
    """A function of the parameters and of `inputs`, known to the command line as `what`."""

    what: str
    name: str
    function: Callable
    inputs: tuple


def model_keywords(size: str) -> dict:
    """The keywords of `SAM2` for one of SIZES."""
    keywords = load_config(f"configs/{'pets256' if size == 'hiera_tiny' else size}.py").model
    keywords = keywords.to_dict()
    if size == "hiera_tiny":
        tiny = dict(embed_dim=96, num_heads=1, stages=(1, 2, 7, 2), global_att_blocks=(5, 7, 9))
        keywords["image_encoder"]["trunk"] |= tiny | dict(pos_embed_size=(7, 7))
    return keywords


def random_model(keywords: dict) -> SAM2:
    """A model of random numbers; initialising it properly would take longer than measuring it."""
    model = nnx.eval_shape(lambda: SAM2(**keywords, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    fill(
        model,
        {
            name: rng.normal(size=shape).astype(np.float32) * 0.02 + name.endswith(".scale")
            for name, shape in shapes(model).items()
        },
    )
    return model


def full_bank(model: SAM2, rng: np.random.Generator) -> MemoryBank:
    """All slots of a bank taken, with what frame FRAME reads."""
    bank = model.empty_bank(1, PIXELS, PIXELS, cond_slots=1)
    slots = bank.recent.frame.shape[1]

    def taken(slots, frames):
        return slots._replace(
            memory=_normal(rng, *slots.memory.shape),
            obj_ptr=_normal(rng, *slots.obj_ptr.shape),
            frame=jnp.asarray(frames, jnp.int32)[None],
            valid=jnp.ones_like(slots.valid),
        )

    recent = [frame if frame else slots for frame in range(slots)]
    return MemoryBank(taken(bank.conditioning, [0]), taken(bank.recent, recent))


def _normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def inference_steps(model: SAM2) -> list[Step]:
    """The steps of clicking and tracking."""
    rng = np.random.default_rng(1)
    image = _normal(rng, BATCH, PIXELS, PIXELS, 3)
    outline = jax.eval_shape(lambda image: model.encode_image(image), image[:1])
    features = jax.tree.map(lambda x: _normal(rng, *x.shape), outline)
    embed, none = features.image_embed, empty_prompts(1, PIXELS, PIXELS)
    one_click = add_click(none, jnp.array([[99.0, 99.0]]), jnp.array([1]))
    bank, frame = full_bank(model, rng), jnp.int32(FRAME)
    logits, present = _normal(rng, 1, 1, PIXELS, PIXELS), jnp.ones((1, 1))
    return [
        Step("encoder", "image encoder", SAM2.encode_image, (image[:1],)),
        Step("encoder", f"image encoder, batch {BATCH}", SAM2.encode_image, (image,)),
        Step("click", "click", click, (features, one_click)),
        Step("memory", "memory encoder", SAM2.encode_memory, (embed, logits, present)),
        Step("memory", "memory attention", SAM2.attend_memory, (embed, bank, frame, 2 * frame)),
        Step("tracking", "tracked frame", track, (image[:1], bank, frame, none)),
    ]


def click(model: SAM2, features: ImageFeatures, prompts: Prompts):
    """A prompt to three masks at the image's size, as a page that shows them needs it."""
    pix_feat = model.attend_memory(features.image_embed)
    decoded = model.decode(pix_feat, features.high_res_feats, *prompts, gated=False)
    masks = decoded.all_logits[:, 1:]
    masks = jax.image.resize(masks, (*masks.shape[:2], PIXELS, PIXELS), "bilinear")
    return masks, decoded.all_ious


def track(model: SAM2, image: jax.Array, bank: MemoryBank, frame: jax.Array, prompts: Prompts):
    """A frame without prompts, its encoding included."""
    no, times = jnp.zeros(1, bool), (frame, 2 * frame)
    features = model.encode_image(image)
    return model.track_step(features, bank, *times, *prompts, conditioning=no, initial=no)


def training_steps() -> list[Step]:
    """The image encoder at a batch, forward and with the gradient of all its parameters."""
    image = _normal(np.random.default_rng(1), BATCH, PIXELS, PIXELS, 3)

    def forward(encoder, image):
        return sum(jnp.square(x).mean() for x in jax.tree.leaves(encoder(image)))

    return [
        Step("training", f"image encoder's loss, batch {BATCH}", forward, (image,)),
        Step("training", "forward+backward", forward, (image,)),
    ]


class Measured(NamedTuple):
    timing: timing.Timing
    compile_seconds: float
    scratch_megabytes: float
    process_megabytes: float


def measure(steps: list[Step], model: nnx.Module, seconds: float) -> dict[str, Measured]:
    """Compile the steps and time them in turn; a step named forward+backward is differentiated."""
    graph, state = nnx.split(model)
    params = nnx.to_pure_dict(state)
    timing.reset_peak()
    compiled, compile_seconds = {}, {}
    for step in steps:

        def call(params, *inputs, function=step.function):
            return function(nnx.merge(graph, params), *inputs)

        function = jax.grad(call) if step.name == "forward+backward" else call
        start = time.perf_counter()
        compiled[step.name] = jax.jit(function).lower(params, *step.inputs).compile()
        compile_seconds[step.name] = time.perf_counter() - start
    inputs = {step.name: step.inputs for step in steps}
    calls = {n: partial(compiled[n], params, *inputs[n]) for n in compiled}
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


def half_matrices(model: nnx.Module) -> None:
    """Cast parameters of two and more axes to bfloat16."""
    params = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.ndim > 1 else x, params))


def measure_all(size: str, dtype: str, what: Sequence[str], seconds: float) -> dict[str, Measured]:
    """Every step of `what`, each by itself but for the two of training."""
    found, keywords = {}, model_keywords(size) | {"dtype": dtype}
    if "training" in what:
        found |= measure(training_steps(), random_model(keywords).image_encoder, seconds)
    model = random_model(keywords)
    if dtype == "bfloat16":
        half_matrices(model)
    for step in inference_steps(model):
        if step.what in what:
            found |= measure([step], model, seconds)
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


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=SIZES, default="pets256_small")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=DTYPES)
    parser.add_argument("--what", choices=WHAT, nargs="+", default=WHAT)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each step (default: 3)")
    flags = parser.parse_args(argv)
    print(timing.setting(), end="\n\n", flush=True)
    results = {
        dtype: measure_all(flags.size, dtype, flags.what, flags.seconds) for dtype in flags.dtype
    }
    print(table(flags.size, results))


if __name__ == "__main__":
    runtime.prepare()
    main()
