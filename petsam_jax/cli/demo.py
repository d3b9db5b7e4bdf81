"""Serve the page where a click cuts the pet out.

    petsam demo                        # the weights that ship
    petsam demo --ckpt runs/pets       # a training run, or any checkpoint

Then open the address that it prints. It listens to this machine alone unless --host says otherwise.
What is beyond a limit is refused on the page, in words that name the limit. `python demo.py` and
`petsam demo` are the same program.
"""

import argparse
import math
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence

from petsam_jax.cli import model_flags
from petsam_jax.ui.limits import MEGA, Limits

# Flags of one limit each: its name in `Limits`, and what it counts. The first are in millions.
MEGAS = {
    "--max-upload": ("max_upload", "megabytes of a picture's file"),
    "--max-pixels": ("max_pixels", "megapixels of a picture"),
    "--cache": ("cache_bytes", "megabytes of memory for open pictures"),
    "--max-clip-upload": ("max_clip_upload", "megabytes of a clip's file"),
    "--max-clip-pixels": ("max_clip_pixels", "megapixels of a clip's frame"),
    "--clip-cache": ("clip_bytes", "megabytes of memory for open clips"),
}
NUMBERS = {
    "--max-clip-frames": ("max_clip_frames", "frames of a clip"),
    "--max-clips": ("clips", "open clips; the one that waited longest is closed for a new one"),
    "--max-tracking": ("trackings", "clips that are tracked or saved at once"),
    "--max-waiting": ("waiting", "requests in the queue"),
}


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags; wrong values end the program with what is wrong."""
    usual = Limits()
    parser = argparse.ArgumentParser(
        "petsam demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    model_flags.add_checkpoint(parser)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 to let others in")
    parser.add_argument("--port", type=int, default=7860, help="0 for any that is free")
    model_flags.add_device(parser)
    bounds = parser.add_argument_group("limits of what visitors may ask for")
    for flag, (name, what) in (MEGAS | NUMBERS).items():
        value, is_mega = getattr(usual, name), flag in MEGAS
        bounds.add_argument(
            flag,
            dest=name,
            type=_millions if is_mega else _count,
            default=value,
            metavar="M" if is_mega else "N",
            help=f"{what}; default {value / MEGA if is_mega else value:g}",
        )
    return parser.parse_args(arguments)


def _millions(text: str) -> int:
    try:
        value = float(text) * MEGA
    except ValueError:
        value = math.nan
    if not 1 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: want a number above 0")
    return round(value)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: want a whole number above 0")
    return int(text)


def limits_of(args: argparse.Namespace) -> Limits:
    """What the flags allow."""
    names = [name for name, _ in (MEGAS | NUMBERS).values()]
    return Limits(**{name: getattr(args, name) for name in names})


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C."""
    args = parse_args(argv)
    model_flags.use_device(args)
    # Gradio's own cache, for the API's uploads: no other program's, and gone with this process.
    cache = tempfile.mkdtemp(prefix="petsam-")
    os.environ["GRADIO_TEMP_DIR"] = cache
    # The server ends at a signal in its own time, and then passes it on.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        return serve(args)
    except KeyboardInterrupt:
        return 0
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def serve(args: argparse.Namespace) -> int:
    """Open the weights, say which they are, and serve the page; an exit code."""
    # After the environment is set, which JAX and Gradio read as they are imported.
    from petsam_jax.ui.image_service import ImageService
    from petsam_jax.ui.model_info import open_weights
    from petsam_jax.ui.page import make_app, run
    from petsam_jax.ui.video_service import VideoService

    try:
        predictor, facts = open_weights(args.ckpt, args.step, args.dtype)
    except (ValueError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        if args.ckpt:
            print(
                "demo: leave out --ckpt for the weights that ship, or train some: petsam train "
                "--config=configs/pets256_small.py",
                file=sys.stderr,
            )
        return 1
    limits = limits_of(args)
    studio, clips = ImageService(predictor.images, limits), VideoService(predictor, limits)
    studio.warm_up()
    unmeasured = "not measured; petsam evaluate does"
    for name, fact in facts._asdict().items():
        print(f"{name + ':':12}{fact or unmeasured}")

    def tell(port: int) -> None:
        shown = "localhost" if args.host in ("0.0.0.0", "::") else args.host
        shown = f"[{shown}]" if ":" in shown else shown
        print(f"{'page:':12}http://{shown}:{port}   (Ctrl-C ends it)", flush=True)

    try:
        run(make_app(studio, clips, facts, args.host), args.host, args.port, tell)
    except OSError as error:
        print(f"demo: --host {args.host} --port {args.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
