"""Draw a sheet of what training sees: augmented images, masks, simulated prompts and clips.

    petsam preview --source SPEC --n 16 --out sheet.png

Each row is an example: the augmented image; its mask (tinted and outlined in green, ignored pixels
in magenta) with a first prompt in yellow and two correction clicks, green for pet and red for
background, on the errors of a made-up prediction, which is the mask moved by an eighth of the image
and outlined in white; then the frames of a clip, framed in red if the pet is not visible.
"""

import argparse
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="petsam preview",
        description="Draw augmented examples with masks, prompts and clip frames on one sheet.",
    )
    parser.add_argument("--source", required=True, help="shapes, tfds or a folder")
    parser.add_argument("--split", default="train", help="part of the source (default: train)")
    parser.add_argument("--n", type=int, default=16, help="number of examples (default: 16)")
    parser.add_argument(
        "--size", type=int, default=192, help="side of a cell in pixels (default: 192)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="selects and augments the examples (default: 0)"
    )
    parser.add_argument("--out", required=True, help="the file to write, e.g. sheet.png")
    flags = parser.parse_args(argv)
    for name in ("n", "size"):
        if getattr(flags, name) < 1:
            parser.error(f"--{name} {getattr(flags, name)}: set it to at least 1")
    # Imported late: they take seconds, and help should be instant.
    from petsam_jax.data.load import load_source
    from petsam_jax.train.preview import draw_sheet

    try:
        source = load_source(flags.source, flags.split)
        sheet = draw_sheet(source, flags.n, flags.size, flags.seed)
        sheet.save(flags.out)
    # ValueError: an invalid source, or a file name without an image format.
    except (ValueError, OSError) as error:
        print(f"preview: {error}", file=sys.stderr)
        return 1
    print(f"{flags.out}: {flags.n} examples, {sheet.width} x {sheet.height} pixels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
