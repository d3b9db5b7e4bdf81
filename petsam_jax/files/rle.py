"""COCO's run-length encoding, compressed: {"size": [height, width], "counts": text}.

The counts are the lengths of runs of pixels, column by column, beginning with background. From the
fourth run on, the difference to the run before last is stored. Each number is split into groups of
5 bits, the lowest first, in two's complement: a character's code is 48 + group, + 32 if more
follow. Round trips are exact, and the text equals that of pycocotools. By hand, since pycocotools
is a compiled dependency for these few lines.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

OFFSET, BITS, MORE = 48, 5, 32
# Enough groups for any length.
MAX_GROUPS = 12


def encode_rle(mask: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    """The mask in a form that JSON can hold."""
    return {"size": list(mask.shape), "counts": _to_text(_run_lengths(mask))}


def decode_rle(rle: Mapping[str, Any]) -> Bool[np.ndarray, "h w"]:
    """The mask of `encode_rle`; counts may also be bytes, or a list of lengths as in COCO's files.

    Raises ValueError for anything else.
    """
    try:
        (height, width), counts = rle["size"], rle["counts"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "RLE: expected {'size': [height, width], 'counts': text or list of lengths}"
        ) from error
    compressed = isinstance(counts, str | bytes)
    runs = _from_text(counts) if compressed else np.array(counts, np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(
            f"RLE: counts cover {runs.sum():,} pixels, but size {height} x {width} has "
            f"{height * width:,}; the text is damaged or belongs to another image"
        )
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def _run_lengths(mask: Bool[np.ndarray, "h w"]) -> Int64[np.ndarray, " runs"]:
    pixels = mask.T.ravel()
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    ends = [0, *([0] if pixels[:1].any() else []), *changes, pixels.size]
    return np.diff(np.array(ends, np.int64))


def _to_text(runs: Int64[np.ndarray, " runs"]) -> str:
    stored = runs.copy()
    stored[3:] -= runs[1:-2]
    groups = stored[:, None] >> (BITS * np.arange(MAX_GROUPS))
    # A number ends with the group whose highest bit is the sign of everything beyond it.
    rest, sign = groups >> BITS, groups & 16
    ends = rest == np.where(sign, -1, 0)
    length = ends.argmax(axis=1) + 1
    position = np.arange(MAX_GROUPS)
    codes = OFFSET + (groups & 31) + MORE * (position < length[:, None] - 1)
    return codes[position < length[:, None]].astype(np.uint8).tobytes().decode()


def _from_text(text: str | bytes) -> Int64[np.ndarray, " runs"]:
    data = text.encode() if isinstance(text, str) else text
    codes = np.frombuffer(data, np.uint8).astype(np.int64) - OFFSET
    last = np.flatnonzero((codes & MORE) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    known = ((codes >= 0) & (codes < 2 * MORE)).all()
    if (
        not known
        or len(last) == 0
        or last[-1] < len(codes) - 1
        or (last - first >= MAX_GROUPS).any()
    ):
        raise ValueError(f"RLE: counts {text[:40]!r} are not COCO's compressed text")
    shift = BITS * (np.arange(len(codes)) - np.repeat(first, last - first + 1))
    runs = np.add.reduceat((codes & 31) << shift, first)
    negative = (codes[last] & 16) > 0
    runs -= np.where(negative, np.int64(1) << (shift[last] + BITS), 0)
    for start in (1, 2):
        runs[start::2] = np.cumsum(runs[start::2])
    return runs
