"""Masks of pictures and of folders of pictures, as files.

    petsam segment cat.jpg --out masks                                  # finds the pet by itself
    petsam segment cat.jpg --point 320,200 --point 90,50,0 --out masks  # on the pet, and not there
    petsam segment cats.jpg --box 40,30,400,380 --box 420,50,640,380 --out masks --format cutout
    petsam segment cat.jpg --mask rough.png --out masks --format mask,overlay
    petsam segment photos more/cat.jpg --auto --out masks --format coco,cutout --ckpt runs/pets

Points and boxes are in pixels, the upper left one being 0,0, of the picture as a viewer shows it.
All points are of one object, and in the box if there is one; several boxes are an object each. The
same prompts go to every picture. One that cannot be read does not stop the others; they are listed
at the end, and the exit code is 1.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from petsam_jax.cli import flag_values, model_flags
from petsam_jax.files import formats as known
from petsam_jax.files.find_images import FilesError, ImageFile, check_writable, find_images

DEFAULT_FORMAT = "mask"
VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0 if all went well, 1 if not, 2 for wrong flags, 130 after Ctrl-C."""
    args = parse(argv)
    model_flags.use_device(args)
    try:
        files = find_images(args.inputs, args.out)
        check_names(files, args)
        check_writable(args.out)
        return _run(args, files)
    # ValueError: what is wrong with the checkpoint or the mask.
    except (ValueError, OSError) as error:
        print(f"segment: {error}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace, files: list[ImageFile]) -> int:
    # Here, since they take seconds to import, and wrong flags are told at once.
    import jax

    from petsam_jax.files.masks import VOID, decode_mask
    from petsam_jax.predict.image_predictor import ImagePredictor
    from petsam_jax.predict.segment_images import Run, Said

    try:
        jax.devices()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device {args.device or 'left out'}: {reason}") from error
    mask = None if args.mask is None else decode_mask(args.mask)
    said = Said(
        points=[point[:2] for point in args.point],
        labels=[point[2] for point in args.point],
        boxes=args.box,
        mask=None if mask is None else (mask > 0) & (mask != VOID),
        mask_threshold=args.mask_threshold,
        fill_hole_area=args.fill_holes,
        max_sprinkle_area=args.remove_islands,
        min_score=args.min_score,
    )
    style = known.Style(args.label, args.tolerance, not args.full_size, args.soft, args.background)
    predictor = ImagePredictor.from_checkpoint(args.ckpt, step=args.step, dtype=args.dtype)
    tell = (lambda line: None) if args.quiet else lambda line: print(line, file=sys.stderr)
    run = Run(predictor, files, args.out, args.format, style, tell)
    try:
        run(said)
    except KeyboardInterrupt:
        print(f"segment: stopped after {run.done} of {len(files)} pictures", file=sys.stderr)
        return 130
    for path, reason in run.failures.items():
        print(f"failed: {path}: {reason}", file=sys.stderr)
    good = run.done - len(run.failures)
    print(f"{args.out}: {good} of {len(files)} pictures as {', '.join(args.format)}")
    return 1 if run.failures else 0


def check_names(files: list[ImageFile], args: argparse.Namespace) -> None:
    """Raise FilesError where the results would get into the way of the pictures or of each other.

    Names that were given a number are told of.
    """
    folders = [given.resolve() for given in args.inputs if given.is_dir()]
    drawn = [name for name in args.format if name in known.IMAGES]
    if drawn and args.out.resolve() in folders:
        raise FilesError(
            f"--out {args.out} is a folder of pictures, and {', '.join(drawn)} would be taken for "
            "pictures the next time; choose another folder"
        )
    inputs = {file.path.resolve() for file in files}
    written = {args.out / known.WHOLE_RUN[name] for name in args.format if name in known.WHOLE_RUN}
    for file in files:
        names = known.file_names(file.stem, args.format, max(1, len(args.box)))
        for path in [args.out / name for name in names]:
            if path.resolve() in inputs:
                raise FilesError(f"{path} is one of the pictures; choose another folder than --out")
            if path in written:
                raise FilesError(f"{path} would be written twice; rename {file.path}")
            written.add(path)
        if Path(file.stem).name != file.path.stem and not args.quiet:
            print(
                f"{file.path}: another picture has this name, so it is {file.stem}", file=sys.stderr
            )


# Flags


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags; wrong ones end the program with what is wrong, before anything slow."""
    parser = argparse.ArgumentParser(
        "petsam segment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_input(parser)
    _add_prompts(parser.add_argument_group("prompts (none: the pet is found)"))
    _add_masks(parser.add_argument_group("masks"))
    _add_files(parser.add_argument_group("files"))
    # Pictures may stand before, between and after flags.
    args = parser.parse_intermixed_args(argv)
    given = [name for name in ("point", "box", "mask") if getattr(args, name)]
    if args.auto and given:
        parser.error(f"--auto is without prompts, and here is --{given[0]}: leave out one of them")
    if len(args.box) > 1 and len(given) > 1:
        parser.error(
            f"--{given[0] if given[0] != 'box' else given[1]}: beside it at most one --box"
        )
    try:
        model_flags.check_checkpoint(args)
    except ValueError as error:
        parser.error(str(error))
    for path in args.inputs:
        if path.suffix.lower() in VIDEOS:
            parser.error(f"{path} is a video: petsam track follows an animal through it")
    return args


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", type=Path, metavar="PICTURE|FOLDER")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where files go")
    parser.add_argument(
        "--format",
        type=flag_values.formats,
        default=[DEFAULT_FORMAT],
        metavar="LIST",
        help=f"one or more of {','.join(known.FORMATS)} (default: {DEFAULT_FORMAT})",
    )
    model_flags.add_checkpoint(parser)
    model_flags.add_device(parser)
    parser.add_argument("--quiet", action="store_true", help="no line for each picture")


def _add_prompts(group) -> None:
    group.add_argument(
        "--point",
        type=flag_values.point,
        action="append",
        default=[],
        metavar="X,Y[,1|0]",
        help="on the object, or with 0 not on it; as many as you like",
    )
    group.add_argument(
        "--box",
        type=flag_values.box,
        action="append",
        default=[],
        metavar="X0,Y0,X1,Y1",
        help="around the object; several for several objects",
    )
    group.add_argument(
        "--mask",
        type=Path,
        metavar="FILE",
        help="a first guess, white on black, of the picture's size",
    )
    group.add_argument("--auto", action="store_true", help="find the pet, as without any of these")


def _add_masks(group) -> None:
    group.add_argument(
        "--mask-threshold",
        type=float,
        default=0.0,
        metavar="LOGIT",
        help="lower for larger masks (default: 0, a probability of one half)",
    )
    for flag, what in (
        ("--fill-holes", "fill holes of up to so many pixels"),
        ("--remove-islands", "remove separate parts of up to so many pixels"),
    ):
        group.add_argument(flag, type=flag_values.area, default=0, metavar="AREA", help=what)
    group.add_argument(
        "--min-score",
        type=flag_values.number(0.0, 1.0),
        default=0.0,
        metavar="P",
        help="leave out what is there with a smaller probability (default: 0)",
    )


def _add_files(group) -> None:
    group.add_argument(
        "--soft", type=flag_values.number(0.0), default=0.0, metavar="PX", help=_SOFT
    )
    group.add_argument("--full-size", action="store_true", help="do not trim cut-outs")
    group.add_argument(
        "--background",
        type=flag_values.colour,
        metavar="COLOUR",
        help="of cut-outs, such as white or #3060c0",
    )
    group.add_argument("--label", default="pet", help="name of the objects (default: pet)")
    group.add_argument(
        "--tolerance", type=flag_values.number(0.0), default=1.0, metavar="PX", help=_TOLERANCE
    )


_SOFT = "width of the fading edge of cut-outs (default: 0)"
_TOLERANCE = "how far polygons may run from the mask's edge (default: 1; 0 is exact)"


if __name__ == "__main__":
    sys.exit(main())
