"""What flags' values mean: text in, and out a value or, for argparse to tell, what was wanted."""

import argparse
import difflib
import math
from collections.abc import Callable

from petsam_jax.files.formats import FORMATS


def formats(text: str) -> list[str]:
    """Names of formats, parted by commas."""
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in FORMATS:
            near = difflib.get_close_matches(name, FORMATS, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(FORMATS)}"
            raise argparse.ArgumentTypeError(f"no format {name!r}; {hint}")
    return names


def point(text: str) -> tuple[float, float, int]:
    """x, y and a label: 1, or 0 for what is not of the object."""
    x, y, *label = _numbers(text, (2, 3), "X,Y or X,Y,0")
    if label not in ([], [0], [1]):
        raise argparse.ArgumentTypeError(f"{text!r}: the third number is 1, in, or 0, out")
    return x, y, int(label[0]) if label else 1


def box(text: str) -> tuple[float, ...]:
    """Two corners."""
    return _numbers(text, (4,), "X0,Y0,X1,Y1")


def _numbers(text: str, counts: tuple[int, ...], wanted: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in counts or not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"{text!r}: want {wanted}, in pixels")
    return numbers


def area(text: str) -> int:
    """Pixels."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: want a number of pixels, 0 or more")
    return int(text)


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """A reader of numbers between two limits, which both are allowed."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or math.isinf(value):
            limits = (
                f"from {least:g} to {most:g}" if math.isfinite(most) else f"of {least:g} or more"
            )
            raise argparse.ArgumentTypeError(f"{text!r}: want a number {limits}")
        return value

    return read


def colour(text: str) -> tuple[int, int, int]:
    """Red, green and blue of a name or a number as CSS has them."""
    from PIL import ImageColor

    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}: no colour; write white, #3060c0 or rgb(48,96,192)"
        ) from error
