"""How long a user waits: for the first mask of a new process, for an image, for a prompt.

    python -m benchmarks.predict --size pets256

It prints two tables, measured with random weights. The first has milliseconds, the median of many
calls with minimum and maximum: the encoder alone, `set_image` on an image of 1 megapixel, and
prompts on a cached embedding with masks at the image's size. The second has the seconds that a
process takes to open a checkpoint, set an image, click, and get its first mask: with an empty
compilation cache, and again with the programs cached.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import timing
from benchmarks.steps import random_model, size_config
from petsam_jax.checkpoint import save_weights
from petsam_jax.models.params import weights
from petsam_jax.predict.image_predictor import ImagePredictor

SIZES = ("pets256", "pets256_small")
DTYPES = ("float32", "bfloat16")
IMAGE_SIZE = (800, 1250)
# Targets: milliseconds for a prompt, milliseconds of `set_image` beyond the encoder, seconds to the
# first mask.
PROMPT, OVER_ENCODER, COLD, WARM = 15, 15, 12, 5
FIRST_MASK = """
import sys
import numpy as np
from petsam_jax.predict.image_predictor import ImagePredictor
predictor = ImagePredictor.from_checkpoint(sys.argv[1])
predictor.set_image(np.zeros(({}, {}, 3), np.uint8))
predictor.predict(points=[(9, 9)], labels=[1])
""".format(*IMAGE_SIZE)


def calls(predictor: ImagePredictor) -> dict[str, Callable]:
    """The calls to time, by name."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*IMAGE_SIZE, 3), np.uint8)
    square = np.zeros((predictor.size, predictor.size, 3), np.uint8)
    encoded = predictor.set_image(image)
    click = dict(points=[(300, 400)], labels=[1])
    several = dict(points=rng.integers(0, 800, (8, 2)), labels=rng.integers(0, 2, 8))
    logits = predictor.predict(**click).low_res_logits
    return {
        "encoder": lambda: predictor.encode(square).features,
        "set_image": lambda: predictor.encode(image).features,
        "click, three masks": lambda: predictor.predict(**click, multimask=True, image=encoded),
        "click, one mask": lambda: predictor.predict(**click, image=encoded),
        "box": lambda: predictor.predict(boxes=(90, 90, 700, 500), image=encoded),
        "8 clicks on a result": lambda: predictor.predict(
            **several, mask_input=logits, image=encoded
        ),
        "4 boxes": lambda: predictor.predict(boxes=[(90, 90, 700, 500)] * 4, image=encoded),
        "click, without enlarging": lambda: predictor.predict_low_res(**click, image=encoded),
    }


def first_mask(checkpoint: Path, cache: Path) -> float:
    """Seconds from the start of a process to its end, right after its first mask."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", FIRST_MASK, checkpoint], check=True, env=environment)
    return time.perf_counter() - start


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=SIZES, default="pets256_small")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=DTYPES)
    parser.add_argument("--seconds", type=float, default=3.0, help="for all calls (default: 3)")
    return parser.parse_args(argv)


def main(flags: argparse.Namespace) -> None:
    print(timing.setting(), end="\n\n", flush=True)
    results, starts = {}, {}
    for dtype in flags.dtype:
        config = size_config(flags.size, [f"model.dtype={dtype}"])
        model = random_model(config.model.to_dict())
        predictor = ImagePredictor(config, model)
        results[dtype] = timing.in_turn(calls(predictor), flags.seconds)
        with tempfile.TemporaryDirectory() as directory:
            checkpoint, cache = Path(directory) / "checkpoint", Path(directory) / "cache"
            save_weights(checkpoint, weights(model), config)
            starts[dtype] = [first_mask(checkpoint, cache) for _ in range(2)]
    targets = dict.fromkeys(next(iter(results.values())), f"{PROMPT}")
    targets |= {"encoder": "", "set_image": f"encoder + {OVER_ENCODER}", "4 boxes": ""}
    rows = [
        [name, *(str(results[dtype][name]) for dtype in flags.dtype), targets[name]]
        for name in targets
    ]
    header = [f"{flags.size}, {IMAGE_SIZE[1]} x {IMAGE_SIZE[0]} pixels"]
    print(timing.markdown([*header, *(f"{d}, ms" for d in flags.dtype), "target"], rows), "\n")
    rows = [
        [name, *(f"{starts[dtype][i]:.1f}" for dtype in flags.dtype), f"{most}"]
        for i, (name, most) in enumerate([("cold cache", COLD), ("warm cache", WARM)])
    ]
    print(timing.markdown(["first mask", *(f"{d}, s" for d in flags.dtype), "target"], rows))


if __name__ == "__main__":
    main(parse())
