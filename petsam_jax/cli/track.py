"""Track animals through a video.

    petsam track dog.mp4 --out dog-tracked.mp4                       # find the pet
    petsam track dog.mp4 --point 320,200 --out tracked.mp4           # a point on it, on frame 0
    petsam track dog.mp4 --frame 40 --box 90,60,400,380 --point 95,70,0 --out tracked.mp4
    petsam track two.mp4 --object 1 --point 320,200 --object 2 --point 90,50 --out two.gif
    petsam track dog.mp4 --mask first.png --out out.mp4 --format overlay,cutout,masks
    petsam track dog.mp4 --point 320,200 --out dog.webp --format cutout   # all else transparent

Frames count from 0; points and boxes are in pixels, 0,0 being the upper left one. The whole clip is
tracked: from the first prompted frame back to the start, then on to the end.

Beside the video OUT, the folders OUT-cutout and OUT-masks get a PNG per frame. If OUT is a GIF or a
WebP, which can be transparent, the cut-out is such a file instead: OUT itself, or OUT-cutout if OUT
is the overlay. A WebP has all colours and is smaller than a GIF. Ctrl-C and SIGTERM stop after the
current frame and leave a video of the frames so far.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from petsam_jax.cli import arguments

FORMATS = ("overlay", "cutout", "masks")
EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143}
# Seconds between two updates of the progress, in a terminal and elsewhere.
OFTEN, SELDOM = 0.3, 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument(
        "clip", type=Path, metavar="CLIP", help="a video, or a folder of JPEG or PNG frames"
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FILE",
        help="output video: .mp4, .mov, .gif or .webp",
    )
    parser.add_argument(
        "--format",
        type=arguments.formats(FORMATS),
        default=["overlay"],
        metavar="LIST",
        help=f"one or more of {','.join(FORMATS)} (default: overlay)",
    )
    group = arguments.add_prompts(parser, "prompts (without any, the pet on --frame is found)")
    whole = arguments.whole_number("a whole number")
    for flag, default in (("frame", 0), ("object", 1)):
        group.add_argument(
            f"--{flag}",
            type=whole,
            default=default,
            metavar="N",
            help=f"{flag} for the prompts after this flag (default: {default})",
        )
    arguments.add_checkpoint(parser)
    arguments.add_device(parser)
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> int:
    """The command: 0 if all went well, 1 if not, 130 after Ctrl-C, 143 after SIGTERM."""
    arguments.use_device(args)
    try:
        check(args)
        return _run(args)
    except KeyboardInterrupt:
        print("track: interrupted", file=sys.stderr)
        return EXIT_CODES["SIGINT"]
    # ValueError: what is wrong with the clip, a prompt or the checkpoint.
    except (ValueError, IndexError, OSError) as error:
        print(f"track: {error}", file=sys.stderr)
        return 1


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for flags that do not go together, before anything slow."""
    arguments.check_checkpoint(args)
    if args.prompts and (args.frame, args.object) != args.prompts[-1][:2]:
        raise ValueError("--frame and --object go before the prompts that they apply to")
    if args.out.exists() and args.clip.exists() and args.out.samefile(args.clip):
        raise ValueError(f"--out {args.out} is the clip itself; choose another name")
    if not args.out.parent.is_dir():
        raise ValueError(f"--out {args.out}: there is no folder {args.out.parent}")


def _run(args: argparse.Namespace) -> int:
    # Imported here, since they take seconds to import and wrong flags are reported first.
    from petsam_jax.files.track_files import ClipFiles
    from petsam_jax.files.video_reader import open_clip
    from petsam_jax.files.video_writer import check_name
    from petsam_jax.predict.video_predictor import VideoPredictor
    from petsam_jax.runtime import StopSignal

    check_name(args.out)
    arguments.check_device(args)
    clip = open_clip(args.clip)
    predictor = VideoPredictor.from_checkpoint(args.ckpt, step=args.step, dtype=args.dtype)
    session = predictor.open(clip)
    first = set_prompts(session, args)
    done, fault, code = 0, None, 0
    # Signals are checked between two frames, so that no file ends within one.
    with (
        StopSignal() as stop,
        ClipFiles(args.out, args.format, clip.size, clip.fps) as files,
        progress_bar(clip.count + first, args.quiet) as progress,
    ):
        try:
            for frame, masks in track_clip(session, first, progress, stop):
                files.add(frame, clip.read(frame), masks, clip.seconds(frame))
                done += 1
        except ValueError as error:
            fault, code = error, 1
        if stop.requested and done < clip.count:
            fault, code = f"interrupted by {stop.requested}", EXIT_CODES[stop.requested]
    if fault is not None:
        print(f"track: {fault}; {done} of {clip.count} frames are done", file=sys.stderr)
    print(f"{', '.join(map(str, files.paths))}: {done} frames, objects {session.object_ids}")
    return code


def set_prompts(session, args: argparse.Namespace) -> int:
    """Give the prompts to the session, or find the pet; returns the first prompted frame.

    Raises ValueError and IndexError for prompts that do not fit the clip.
    """
    prompts = arguments.read_prompts(args.prompts)
    if not prompts:
        if not session.add_pet(args.frame, args.object).any():
            raise ValueError(f"no pet found on frame {args.frame}; point at it with --point X,Y")
        return args.frame
    for (frame, number), prompt in prompts.items():
        session.set_prompt(frame, number, prompt)
    return min(frame for frame, _ in prompts)


def track_clip(session, first: int, progress: tqdm, stop) -> Iterator[tuple[int, Any]]:
    """Frames in the clip's order with their masks, all tracked from frame `first`.

    Ends early once `stop.requested`. Frames that were reached on the way back from `first` are
    yielded before that, and before an error on that way is raised.
    """
    reached, fault = first, None
    if first > 0:
        try:
            for frame, _, _ in session.propagate(first, 0, reverse=True):
                reached = frame
                progress.update()
                if stop.requested:
                    break
        except ValueError as error:
            fault = error
    for frame in range(reached, first):
        yield frame, session.masks(frame).masks
    if fault is not None:
        raise fault
    if stop.requested:
        return
    for frame, _, masks in session.propagate(first):
        progress.update()
        yield frame, masks
        if stop.requested:
            return


class _Lines(tqdm):
    """Progress as lines, for logs."""

    def display(self, msg=None, pos=None) -> None:
        if self.n > self.last_print_n:
            print(self, file=sys.stderr, flush=True)


def progress_bar(total: int, quiet: bool) -> tqdm:
    """Frames so far, how many a second, and the time left, on stderr."""
    terminal = sys.stderr.isatty()
    return (tqdm if terminal else _Lines)(
        total=total,
        unit=" frames",
        disable=quiet,
        smoothing=0,
        miniters=1,
        leave=terminal,
        mininterval=OFTEN if terminal else SELDOM,
        bar_format="{n_fmt}/{total_fmt} frames, {rate_noinv_fmt}, {remaining} left",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see `run`. Wrong flags end it with 2."""
    parser = argparse.ArgumentParser(
        "petsam track", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
