"""The flags of all commands that open a checkpoint: which one, at which step, and where.

add_checkpoint(parser); add_device(parser)
args = parser.parse_args()
check_checkpoint(args)      # raises ValueError
use_device(args)            # before anything imports JAX
"""

import argparse
import os


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """`args.ckpt` and `args.step`, both None unless given."""
    parser.add_argument(
        "--ckpt",
        "--weights",
        metavar="DIR",
        help="a checkpoint or a training run (default: the weights that ship)",
    )
    parser.add_argument("--step", type=int, metavar="N", help="of the run (default: the latest)")


def add_device(parser: argparse.ArgumentParser) -> None:
    """`args.device` and `args.dtype`, both None unless given."""
    parser.add_argument("--device", choices=["cpu", "gpu", "tpu"], help="default: JAX's choice")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        help="to compute in (default: the model's, but float32 where the CPU has no bfloat16)",
    )


def check_checkpoint(args: argparse.Namespace) -> None:
    """Raise ValueError for a step of no checkpoint in particular."""
    if args.step is not None and args.ckpt is None:
        raise ValueError("--step: say of which checkpoint, with --ckpt DIR")


def use_device(args: argparse.Namespace) -> None:
    """Tell JAX, which listens when it is imported."""
    if args.device:
        os.environ["JAX_PLATFORMS"] = args.device.replace("gpu", "cuda")
