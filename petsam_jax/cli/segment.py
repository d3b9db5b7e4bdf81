"""Segment images and folders of images.

    petsam segment cat.jpg --out masks                                  # find the pet
    petsam segment cat.jpg --point 320,200 --point 90,50,0 --out masks  # a point on it, one off it
    petsam segment cats.jpg --box 40,30,400,380 --box 420,50,640,380 --out masks --format cutout
    petsam segment cat.jpg --mask rough.png --out masks --format mask,overlay
    petsam segment photos more/cat.jpg --auto --out masks --format coco,cutout --ckpt runs/pets

Points and boxes are in pixels of the image as a viewer shows it, 0,0 being the upper left pixel.
All points, a mask and one box describe a single object; several boxes are an object each. The same
prompts are used for every image. Images that cannot be read are listed at the end, and the exit
code is then 1.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from petsam_jax.cli import arguments
from petsam_jax.files import formats as known
from petsam_jax.files.find_images import FilesError, ImageFile, check_writable, find_images

DEFAULT_FORMAT = "mask"
VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0 if all went well, 1 if not, 2 for wrong flags, 130 after Ctrl-C."""
    args = parse(argv)
    arguments.use_device(args)
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
    # Imported here, since they take seconds to import and wrong flags are reported first.
    from petsam_jax.predict.image_predictor import ImagePredictor
    from petsam_jax.predict.prompt_inputs import Prompt
    from petsam_jax.predict.segment_images import MaskOptions, SegmentRun

    arguments.check_device(args)
    prompts = list(arguments.read_prompts(args.prompts).values()) or [Prompt()]
    options = MaskOptions(args.mask_threshold, args.fill_holes, args.remove_islands, args.min_score)
    style = known.Style(args.label, args.tolerance, not args.full_size, args.soft, args.background)
    predictor = ImagePredictor.from_checkpoint(args.ckpt, step=args.step, dtype=args.dtype)
    report = (lambda line: None) if args.quiet else lambda line: print(line, file=sys.stderr)
    run = SegmentRun(predictor, files, args.out, args.format, style, report)
    try:
        run(prompts, options)
    except KeyboardInterrupt:
        print(f"segment: stopped after {run.done} of {len(files)} images", file=sys.stderr)
        return 130
    for path, reason in run.failures.items():
        print(f"failed: {path}: {reason}", file=sys.stderr)
    good = run.done - len(run.failures)
    print(f"{args.out}: {good} of {len(files)} images as {', '.join(args.format)}")
    return 1 if run.failures else 0


def check_names(files: list[ImageFile], args: argparse.Namespace) -> None:
    """Raise FilesError where results would overwrite the images, or each other.

    Reports the results that got a number because two images have one name.
    """
    folders = [given.resolve() for given in args.inputs if given.is_dir()]
    drawn = [name for name in args.format if name in known.IMAGES]
    if drawn and args.out.resolve() in folders:
        raise FilesError(
            f"--out {args.out} is an input folder: the next run would segment {', '.join(drawn)} "
            "files as images; choose another folder"
        )
    inputs = {file.path.resolve() for file in files}
    written = {args.out / known.WHOLE_RUN[name] for name in args.format if name in known.WHOLE_RUN}
    objects = max((number for _, number, *_ in args.prompts), default=1)
    for file in files:
        names = known.file_names(file.stem, args.format, objects)
        for path in [args.out / name for name in names]:
            if path.resolve() in inputs:
                raise FilesError(f"{path} is one of the images; choose another folder for --out")
            if path in written:
                raise FilesError(f"{path} would be written twice; rename {file.path}")
            written.add(path)
        if Path(file.stem).name != file.path.stem and not args.quiet:
            print(
                f"{file.path}: another image has this name; results are named {file.stem}",
                file=sys.stderr,
            )


# Flags


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags; wrong ones end the program with what is wrong, before anything slow."""
    parser = argparse.ArgumentParser(
        "petsam segment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_input(parser)
    group = arguments.add_prompts(
        parser,
        "prompts, for every image",
        box="; repeat it for several objects",
        mask=": a first guess",
    )
    group.add_argument("--auto", action="store_true", help="segment without prompts (default)")
    _add_masks(parser.add_argument_group("masks"))
    _add_files(parser.add_argument_group("files"))
    # Images may stand before, between and after flags.
    args = parser.parse_intermixed_args(argv)
    kinds = list(dict.fromkeys(kind for _, _, kind, _ in args.prompts))
    if args.auto and kinds:
        parser.error(f"--auto: cannot be combined with --{kinds[0]}")
    if len(kinds) > 1 and sum(kind == "box" for _, _, kind, _ in args.prompts) > 1:
        other = next(kind for kind in kinds if kind != "box")
        parser.error(f"--{other}: cannot be combined with more than one --box")
    try:
        arguments.check_checkpoint(args)
    except ValueError as error:
        parser.error(str(error))
    for path in args.inputs:
        if path.suffix.lower() in VIDEOS:
            parser.error(f"{path} is a video: petsam track follows an animal through it")
    return args


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="IMAGE|FOLDER", help="what to segment"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="output folder")
    parser.add_argument(
        "--format",
        type=arguments.formats(known.FORMATS),
        default=[DEFAULT_FORMAT],
        metavar="LIST",
        help=f"one or more of {','.join(known.FORMATS)} (default: {DEFAULT_FORMAT})",
    )
    arguments.add_checkpoint(parser)
    arguments.add_device(parser)
    parser.add_argument("--quiet", action="store_true", help="print no line per image")


def _add_masks(group) -> None:
    group.add_argument(
        "--mask-threshold",
        type=float,
        default=0.0,
        metavar="LOGIT",
        help="lower values give larger masks (default: 0, a probability of one half)",
    )
    area = arguments.whole_number("a number of pixels")
    for flag, what in (
        ("--fill-holes", "fill holes of up to AREA pixels"),
        ("--remove-islands", "remove separate parts of up to AREA pixels"),
    ):
        group.add_argument(flag, type=area, default=0, metavar="AREA", help=what)
    group.add_argument(
        "--min-score",
        type=arguments.number(0.0, 1.0),
        default=0.0,
        metavar="P",
        help="drop objects whose probability of being there is below P (default: 0)",
    )


def _add_files(group) -> None:
    length = arguments.number(0.0)
    group.add_argument("--soft", type=length, default=0.0, metavar="PX", help=_SOFT)
    group.add_argument("--full-size", action="store_true", help="do not trim cut-outs")
    group.add_argument(
        "--background",
        type=arguments.colour,
        metavar="COLOUR",
        help="background colour of cut-outs, such as white or #3060c0",
    )
    group.add_argument("--label", default="pet", help="category of the objects (default: pet)")
    group.add_argument("--tolerance", type=length, default=1.0, metavar="PX", help=_TOLERANCE)


_SOFT = "width over which the edge of cut-outs fades (default: 0)"
_TOLERANCE = "how far polygons may be from the mask's edge (default: 1; 0 is exact)"


if __name__ == "__main__":
    sys.exit(main())
