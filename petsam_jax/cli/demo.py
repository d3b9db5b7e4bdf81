"""Serve the page on which one click cuts out a pet.

    petsam demo                        # the weights that ship
    petsam demo --ckpt runs/pets       # a training run, or any checkpoint
    petsam demo --allow-host pets.example.org --embed-in https://example.org   # behind a proxy

Then open the URL that it prints. Only this machine can reach it, unless you set --host. The page
refuses what is over a limit, and names the limit. `python demo.py` does the same.
"""

import argparse
import math
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence

from petsam_jax.cli import arguments, site_flags
from petsam_jax.ui.limits import MEGA, Limits

# Flag -> the field of `Limits`, and its help. The first group is in millions.
MEGAS = {
    "--max-upload": ("max_upload", "megabytes per image file"),
    "--max-pixels": ("max_pixels", "megapixels per image"),
    "--cache": ("cache_bytes", "megabytes of memory for open images"),
    "--max-clip-upload": ("max_clip_upload", "megabytes per video file"),
    "--max-clip-pixels": ("max_clip_pixels", "megapixels per video frame"),
    "--clip-cache": ("clip_bytes", "megabytes of memory for open videos"),
}
NUMBERS = {
    "--max-clip-frames": ("max_clip_frames", "frames per video"),
    "--max-clips": ("clips", "open videos; a new one closes the least recently used"),
    "--max-tracking": ("trackings", "videos being tracked or saved at once"),
    "--max-waiting": ("waiting", "requests in the queue"),
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags; exits with an error message for wrong values."""
    defaults = Limits()
    parser = argparse.ArgumentParser(
        "petsam demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_checkpoint(parser)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines connect")
    parser.add_argument("--port", type=int, default=7860, help="0 picks a free port")
    arguments.add_device(parser)
    site_flags.add_sites(parser)
    group = parser.add_argument_group("limits for visitors")
    for flag, (name, text) in (MEGAS | NUMBERS).items():
        value, is_mega = getattr(defaults, name), flag in MEGAS
        group.add_argument(
            flag,
            dest=name,
            type=_millions if is_mega else _count,
            default=value,
            metavar="M" if is_mega else "N",
            help=f"{text}; default {value / MEGA if is_mega else value:g}",
        )
    return parser.parse_args(argv)


def _millions(text: str) -> int:
    try:
        value = float(text) * MEGA
    except ValueError:
        value = math.nan
    if not 1 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return round(value)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number above 0")
    return int(text)


def limits_of(args: argparse.Namespace) -> Limits:
    """The limits set by the flags."""
    names = [name for name, _ in (MEGAS | NUMBERS).values()]
    return Limits(**{name: getattr(args, name) for name in names})


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C."""
    args = parse_args(argv)
    arguments.use_device(args)
    # Gradio's folder for API uploads, deleted when this process ends.
    cache = tempfile.mkdtemp(prefix="petsam-")
    os.environ["GRADIO_TEMP_DIR"] = cache
    # The server shuts down gracefully first, then passes the signal on to this handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        return serve(args)
    except KeyboardInterrupt:
        return 0
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def serve(args: argparse.Namespace) -> int:
    """Open the weights, print which they are, and serve the page. Returns an exit code."""
    # JAX and Gradio read the environment, set before, when they are imported.
    from petsam_jax.ui.image_service import ImageService
    from petsam_jax.ui.model_info import open_predictor
    from petsam_jax.ui.page import make_app, run
    from petsam_jax.ui.video_service import VideoService

    try:
        arguments.check_device(args)
    except ValueError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    try:
        predictor, info = open_predictor(args.ckpt, args.step, args.dtype)
    except (ValueError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        if args.ckpt:
            print(
                "demo: omit --ckpt to use the shipped weights, or train your own: petsam train "
                "--config=configs/pets256_small.py",
                file=sys.stderr,
            )
        return 1
    limits = limits_of(args)
    images, videos = ImageService(predictor.images, limits), VideoService(predictor, limits)
    images.warm_up()
    for name, value in info._asdict().items():
        print(f"{name + ':':12}{value or 'not measured; run petsam evaluate'}")

    def print_url(port: int) -> None:
        shown = "localhost" if args.host in ("0.0.0.0", "::") else args.host
        shown = f"[{shown}]" if ":" in shown else shown
        print(f"{'page:':12}http://{shown}:{port}   (Ctrl-C to stop)", flush=True)

    app = make_app(images, videos, info, args.host, args.hosts, args.sites)
    try:
        run(app, args.host, args.port, print_url)
    except OSError as error:
        print(f"demo: --host {args.host} --port {args.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
