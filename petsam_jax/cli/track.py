"""Follow animals through a video.

    petsam track dog.mp4 --out dog-tracked.mp4                       # finds the pet by itself
    petsam track dog.mp4 --point 320,200 --out tracked.mp4           # on the pet, on frame 0
    petsam track dog.mp4 --frame 40 --box 90,60,400,380 --point 95,70,0 --out tracked.mp4
    petsam track two.mp4 --object 1 --point 320,200 --object 2 --point 90,50 --out two.gif
    petsam track dog.mp4 --mask first.png --out out.mp4 --format overlay,cutout,masks
    petsam track dog.mp4 --point 320,200 --out dog.webp --format cutout   # all else transparent

--frame and --object are of the prompts that follow them, frame 0 and object 1 unless they are
given. Frames count from 0; points and boxes are in pixels, the upper left one being 0,0. The whole
clip is tracked: backwards from the first prompted frame, then on from it. CLIP is a video or a
folder of JPEG or PNG frames. Beside the video OUT, folders OUT-cutout and OUT-masks get a PNG a
frame; but where OUT is a GIF or WebP, which can be transparent, the cut-out is such a file: OUT
itself, or OUT-cutout if OUT is the overlay. A WebP has all colours and is smaller than a GIF.
Ctrl-C ends it after the frame at hand, and leaves a video of what is done; so does SIGTERM.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from petsam_jax.cli import flag_values, model_flags

FORMATS = ("overlay", "cutout", "masks")
EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143}
# Seconds between two lines of progress, in a terminal and elsewhere.
OFTEN, SELDOM = 0.3, 10.0


class Said(NamedTuple):
    """A prompt of the command line."""

    frame: int
    object_id: int
    kind: str  # point, box or mask
    value: Any


class _Prompt(argparse.Action):
    """Adds a prompt for the frame and the object that were named last."""

    def __call__(self, parser, args, value, flag=None):
        said = Said(args.frame, args.object, self.dest, value)
        args.prompts = [*(args.prompts or ()), said]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clip", type=Path, metavar="CLIP")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="ends in .mp4, .mov, .gif or .webp"
    )
    parser.add_argument(
        "--format",
        type=_formats,
        default=["overlay"],
        metavar="LIST",
        help=f"one or more of {','.join(FORMATS)} (default: overlay)",
    )
    say = parser.add_argument_group("prompts (none: the pet is found on --frame)")
    say.add_argument("--frame", type=_whole, default=0, metavar="N", help="of what follows")
    say.add_argument("--object", type=_whole, default=1, metavar="N", help="of what follows")
    prompt = dict(action=_Prompt, default=argparse.SUPPRESS)
    say.add_argument(
        "--point",
        type=flag_values.point,
        metavar="X,Y[,1|0]",
        help="on the object, or with 0 not on it; as many as you like",
        **prompt,
    )
    say.add_argument(
        "--box", type=flag_values.box, metavar="X0,Y0,X1,Y1", help="around the object", **prompt
    )
    say.add_argument(
        "--mask",
        type=Path,
        metavar="FILE",
        help="the object's mask, white on black, of the clip's size",
        **prompt,
    )
    parser.set_defaults(prompts=())
    model_flags.add_checkpoint(parser)
    model_flags.add_device(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress")


def _formats(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in FORMATS]:
        raise argparse.ArgumentTypeError(
            f"no format {unknown[0]!r}; there are {', '.join(FORMATS)}"
        )
    return names


def _whole(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: want a whole number, 0 or more")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """The command: 0 if all went well, 1 if not, 130 after Ctrl-C, 143 after SIGTERM."""
    model_flags.use_device(args)
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
    """Raises ValueError for flags that do not go together, before anything slow."""
    model_flags.check_checkpoint(args)
    if args.prompts and (args.frame, args.object) != args.prompts[-1][:2]:
        raise ValueError("--frame and --object stand before the prompts that they are about")
    if args.out.exists() and args.clip.exists() and args.out.samefile(args.clip):
        raise ValueError(f"--out {args.out} is the clip itself; choose another name")
    if not args.out.parent.is_dir():
        raise ValueError(f"--out {args.out}: there is no folder {args.out.parent}")


def _run(args: argparse.Namespace) -> int:
    # Here, since they take seconds to import, and wrong flags are told at once.
    from petsam_jax.files.track_files import ClipFiles
    from petsam_jax.files.video_reader import open_clip
    from petsam_jax.files.video_writer import check_name
    from petsam_jax.predict.video_predictor import VideoPredictor
    from petsam_jax.runtime import StopSignal

    check_name(args.out)
    clip = open_clip(args.clip)
    predictor = VideoPredictor.from_checkpoint(args.ckpt, step=args.step, dtype=args.dtype)
    session = predictor.open(clip)
    first = say_all(session, args)
    progress = Progress(clip.count + first, args.quiet)
    done, fault, code = 0, None, 0
    # Told between two frames: whatever a signal cuts short, a picture or a frame is then not whole.
    with StopSignal() as stop, ClipFiles(args.out, args.format, clip.size, clip.fps) as files:
        try:
            for frame, masks in whole_clip(session, first, progress, stop):
                files.add(frame, clip.read(frame), masks, clip.seconds(frame))
                done += 1
        except ValueError as error:
            fault, code = error, 1
        if stop.requested and done < clip.count:
            fault, code = f"interrupted by {stop.requested}", EXIT_CODES[stop.requested]
    progress.end()
    if fault is not None:
        print(f"track: {fault}; {done} of {clip.count} frames are done", file=sys.stderr)
    print(f"{', '.join(map(str, files.paths))}: {done} frames, objects {session.object_ids}")
    return code


def say_all(session, args: argparse.Namespace) -> int:
    """Give the prompts to the session, or find the pet; returns the first prompted frame.

    Raises ValueError and IndexError for prompts that do not fit the clip.
    """
    if not args.prompts:
        if not session.add_pet(args.frame, args.object).any():
            raise ValueError(
                f"no pet is found on frame {args.frame}; say where it is with --point X,Y"
            )
        return args.frame
    # A box and a mask take the place of clicks, so they come first.
    for said in sorted(args.prompts, key=lambda said: said.kind == "point"):
        where = said.frame, said.object_id
        if said.kind == "point":
            session.add_points(*where, [said.value[:2]], [said.value[2]])
        elif said.kind == "box":
            session.add_box(*where, said.value)
        else:
            session.add_mask(*where, _read_mask(said.value))
    return min(said.frame for said in args.prompts)


def _read_mask(path: Path):
    from petsam_jax.files.masks import VOID, decode_mask

    values = decode_mask(path)
    return (values > 0) & (values != VOID)


def whole_clip(session, first: int, progress: "Progress", stop) -> Iterator[tuple[int, Any]]:
    """Frames in the clip's order with their masks, all tracked from frame `first`.

    Ends early once `stop.requested`. Whatever stops the way back from `first`, what was reached is
    told before it ends or that is raised.
    """
    reached, fault = first, None
    if first > 0:
        try:
            for frame, _, _ in session.propagate(first, 0, reverse=True):
                reached = frame
                progress.step()
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
        progress.step()
        yield frame, masks
        if stop.requested:
            return


class Progress:
    """How far it is, how fast, and how long it will take, on one line of a terminal."""

    def __init__(self, total: int, quiet: bool):
        self._total, self._quiet, self._done = total, quiet, 0
        self._start = self._told = time.perf_counter()
        self._terminal = sys.stderr.isatty()

    def step(self) -> None:
        """One frame more."""
        self._done += 1
        now = time.perf_counter()
        if not self._quiet and now - self._told > (OFTEN if self._terminal else SELDOM):
            self._told = now
            self._tell(now)

    def _tell(self, now: float) -> None:
        from tqdm import tqdm

        rate = self._done / (now - self._start)
        left = tqdm.format_interval((self._total - self._done) / rate)
        line = f"{self._done}/{self._total} frames, {rate:.1f} frames/s, {left} left"
        print(
            f"\r{line}   " if self._terminal else line,
            end="" if self._terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def end(self) -> None:
        """Leave the line."""
        if self._terminal and not self._quiet:
            print(file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "petsam track", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
