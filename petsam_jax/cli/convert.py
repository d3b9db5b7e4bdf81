"""Convert official SAM 2.1 weights, or weights in their layout, to a checkpoint of this package.

    petsam convert IN.safetensors|IN.npz --config=configs/pets256.py OUT

In: the official state dictionary. Out: a checkpoint directory that every program here opens. A
PyTorch file must first be saved in one of the two formats, without the dictionary "model" around
its arrays. Names and layouts are in `models/sam2_weights.py`; if any do not fit, nothing is
converted, and the error lists them all.
"""

import argparse
import zlib
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile, is_zipfile

import numpy as np

from petsam_jax.config import parse_args

HINT = (
    "save the official state dictionary with "
    'safetensors.torch.save_file(torch.load(FILE)["model"], OUT)'
)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz or .safetensors file, distinguished by its content.

    Raises FileNotFoundError, ValueError for a file that is neither or holds anything but arrays of
    numbers, and BadZipFile for a damaged .npz.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if is_zipfile(path):
        return _read_npz(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is neither .npz nor .safetensors ({error}); {HINT}") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    with np.load(path) as file:
        for name in file.files:
            try:
                array = file[name]
            except (ValueError, EOFError, RuntimeError, BadZipFile, zlib.error) as error:
                raise ValueError(
                    f"{path}: {name} holds Python objects, not numbers, or is damaged ({error})"
                ) from error
            # PyTorch's files are zip files too, and numpy returns the bytes of their entries.
            if not isinstance(array, np.ndarray):
                raise ValueError(
                    f"{path} is not an .npz file: {name} in it is not an array; {HINT}"
                )
            if name in arrays:
                raise ValueError(f"{path} has two arrays named {name}")
            arrays[name] = array
    return arrays


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "petsam convert", description="Convert official SAM 2.1 weights to a checkpoint."
    )
    parser.add_argument("source", type=Path, metavar="IN", help=".safetensors or .npz")
    parser.add_argument("out", type=Path, metavar="OUT", help="the checkpoint directory to create")
    args = parse_args(parser, argv)
    # Imported late: they take seconds, and help should be instant.
    from petsam_jax.checkpoint import model_shapes, save_weights
    from petsam_jax.models.sam2_weights import from_official

    try:
        if args.out.exists():
            raise FileExistsError(f"{args.out} exists; choose another name or remove it")
        params = from_official(read_arrays(args.source), model_shapes(args.config))
        save_weights(args.out, params, args.config)
    except (ValueError, OSError, BadZipFile) as error:
        parser.exit(1, f"convert: {args.source}: {error}\n")
    count = sum(array.size for array in params.values())
    print(f"{args.out}: {len(params)} arrays, {count:,} parameters, config {args.config_spec}")


if __name__ == "__main__":
    main()
