"""Flags that several commands share, and what their values mean.

    add_checkpoint(parser); add_device(parser); add_prompts(group)
    args = parser.parse_args()
    check_checkpoint(args)      # raises ValueError
    use_device(args)            # before anything imports JAX
    check_device(args)          # imports JAX; raises ValueError
    read_prompts(args.prompts)  # imports it

A new kind of prompt gets its flag in `PROMPTS`, named after its field in `Prompt`.
"""

import argparse
import difflib
import math
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from petsam_jax.predict.prompt_inputs import Prompt

# Frame, object, kind of prompt and value of a flag, such as (0, 1, "point", (320, 200, 1)).
PromptFlag = tuple[int, int, str, Any]

# The checkpoint and the device


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """`args.ckpt` and `args.step`, both None unless given."""
    parser.add_argument(
        "--ckpt",
        "--weights",
        metavar="DIR",
        help="a checkpoint, a training run or the folder of one of its steps "
        "(default: the weights that ship)",
    )
    parser.add_argument(
        "--step", type=int, metavar="N", help="step of the run (default: the latest)"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """`args.device` and `args.dtype`, both None unless given."""
    parser.add_argument("--device", choices=["cpu", "gpu", "tpu"], help="(default: JAX's choice)")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        help="dtype to compute in (default: the model's, but float32 on CPUs without bfloat16)",
    )


def check_checkpoint(args: argparse.Namespace) -> None:
    """Raise ValueError for a step without a checkpoint."""
    if args.step is not None and args.ckpt is None:
        raise ValueError("--step: name its checkpoint with --ckpt DIR")


def use_device(args: argparse.Namespace) -> None:
    """Set the device for JAX, which reads it when it is imported."""
    if args.device:
        os.environ["JAX_PLATFORMS"] = args.device.replace("gpu", "cuda")


MISSING = {
    "cuda": "JAX has no CUDA here; pip install 'petsam-jax[cuda]' (Linux with an NVIDIA driver)",
    "tpu": "JAX finds no TPU; pip install 'jax[tpu]' on a machine with TPUs",
    "no GPU": "JAX finds no NVIDIA GPU; nvidia-smi lists those that the driver finds",
}


def check_device(args: argparse.Namespace | None = None) -> None:
    """Start JAX on its device; raise ValueError with one line that names what is missing."""
    import jax

    try:
        jax.devices()
    # JAX raises AssertionError for CUDA that is not installed, and plugins raise what they like.
    except Exception as error:
        given = getattr(args, "device", None)
        platform = (jax.config.jax_platforms or "").split(",")[0].replace("gpu", "cuda")
        missing = MISSING.get("no GPU" if platform == "cuda" and _has_cuda() else platform)
        reason = str(error).partition("\n")[0]
        source = f"--device {given}" if given else f"JAX_PLATFORMS={jax.config.jax_platforms or ''}"
        faults = [text for text in (missing, reason and f"({reason})") if text]
        advice = f"; {'omit --device' if given else 'unset it'} to use what there is"
        raise ValueError(f"{source}: {' '.join(faults)}{advice}") from error


def _has_cuda() -> bool:
    """Whether JAX's plugin for NVIDIA GPUs is installed."""
    from importlib.util import find_spec

    return any(find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))


# Values: text in, a value out, or an error for argparse to report.


def formats(known: Collection[str]) -> Callable[[str], list[str]]:
    """A reader of names of formats, separated by commas."""

    def read(text: str) -> list[str]:
        names = list(dict.fromkeys(text.split(",")))
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
                raise argparse.ArgumentTypeError(f"no format {name!r}; {hint}")
        return names

    return read


def point(text: str) -> tuple[float, float, int]:
    """x, y and a label: 1 on the object (default), or 0 off it."""
    x, y, *label = _numbers(text, (2, 3), "X,Y or X,Y,0")
    if label not in ([], [0], [1]):
        raise argparse.ArgumentTypeError(f"{text!r}: the third number is 1, in, or 0, out")
    return x, y, int(label[0]) if label else 1


def box(text: str) -> tuple[float, ...]:
    """Two corners."""
    return _numbers(text, (4,), "X0,Y0,X1,Y1")


def _numbers(text: str, counts: tuple[int, ...], expected: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in counts or not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected {expected}, in pixels")
    return numbers


def whole_number(what: str) -> Callable[[str], int]:
    """A reader of whole numbers from 0; `what` names them in errors."""

    def read(text: str) -> int:
        if not text.isdigit():
            raise argparse.ArgumentTypeError(f"{text!r}: expected {what}, 0 or more")
        return int(text)

    return read


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """A reader of numbers between two limits, both of them allowed."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or math.isinf(value):
            limits = (
                f"from {least:g} to {most:g}" if math.isfinite(most) else f"of {least:g} or more"
            )
            raise argparse.ArgumentTypeError(f"{text!r}: expected a number {limits}")
        return value

    return read


def colour(text: str) -> tuple[int, int, int]:
    """Red, green and blue from a CSS colour."""
    from PIL import ImageColor

    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}: not a colour; write white, #3060c0 or rgb(48,96,192)"
        ) from error


# Prompts: what reads a flag's value, its form and its help.
PROMPTS: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "point": (point, "X,Y[,1|0]", "a point on the object, or with 0 off it; may be repeated"),
    "box": (box, "X0,Y0,X1,Y1", "a box around the object"),
    "mask": (Path, "FILE", "a mask of the object, white on black, as large as the image"),
}


class _AddPrompt(argparse.Action):
    """Appends to `args.prompts`, for the frame and the object that were named last."""

    def __call__(self, parser, args, value, flag=None):
        frame, number = getattr(args, "frame", 0), getattr(args, "object", None)
        if number is None:
            # Without --object, each further box is of an object of its own.
            boxes = sum(kind == "box" for _, _, kind, _ in args.prompts)
            number = 1 + (boxes if self.dest == "box" else 0)
        args.prompts = [*args.prompts, (frame, number, self.dest, value)]


def add_prompts(parser: argparse.ArgumentParser, title: str, **more: str) -> Any:
    """`args.prompts`, a list of `PromptFlag`; returns the group, for further flags.

    `more` is added to the help of a kind.
    """
    group = parser.add_argument_group(title)
    for kind, (read, form, words) in PROMPTS.items():
        group.add_argument(
            f"--{kind}",
            type=read,
            action=_AddPrompt,
            default=argparse.SUPPRESS,
            metavar=form,
            help=words + more.get(kind, ""),
        )
    parser.set_defaults(prompts=())
    return group


def read_prompts(given: Sequence[PromptFlag]) -> "dict[tuple[int, int], Prompt]":
    """The prompts by frame and object; raises ValueError and OSError for a bad mask file."""
    from petsam_jax.files.masks import VOID, decode_mask
    from petsam_jax.predict.prompt_inputs import Prompt

    fields: dict[tuple[int, int], dict[str, Any]] = {}
    for frame, number, kind, value in given:
        own = fields.setdefault((frame, number), {})
        if kind == "point":
            own.setdefault("points", []).append(value[:2])
            own.setdefault("labels", []).append(value[2])
        elif kind == "mask":
            mask = decode_mask(value)
            own["mask"] = (mask > 0) & (mask != VOID)
        else:
            own[kind] = value
    return {where: Prompt.read(**own) for where, own in fields.items()}
