"""Sources by their text in `--source`, `--data` and configs.

    shapes, shapes:length=512,size=128,seed=0     generated shapes, no files; also
                                                  contrast=100, ground=100, others=4
    tfds, tfds:DATA_DIR                           Oxford-IIIT Pet as written by `petsam prepare`
    DIR                                           a folder, its layout detected: the official one,
                                                  extracted; a TFDS data folder; images/ and masks/;
                                                  or train/, valid/, test/ that hold these

A split is "train", "valid", "test" or "all". If a source has no validation split of its own,
"valid" is a tenth of its training split, by name hash and by group (`sources.split_validation`),
and "train" is the rest. "all" includes the test split.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from petsam_jax.data.folder import FolderSource
from petsam_jax.data.oxford_layout import ARCHIVES
from petsam_jax.data.pets import NAME, VERSION, OfficialFolder, PetsSource, default_data_dir
from petsam_jax.data.shapes import ShapesSource
from petsam_jax.data.sources import MixedSource, Source, split_validation

SPLITS = ("train", "valid", "test", "all")
VALID_SHARE, VALID_SEED = 0.1, 0
SHAPES = {"length": 512, "size": 128, "seed": 0, "contrast": 100, "ground": 100, "others": 4}
# Added to the seed for the test split of shapes.
TEST_SEED = 1_000_000
# Split -> the names that its folder may have.
SPLIT_FOLDERS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
ACCEPTED = (
    "expected shapes, shapes:length=512,size=128,seed=0, tfds, tfds:DATA_DIR, or a folder: "
    "Oxford-IIIT Pet in its official layout (images/, annotations/), a TFDS data folder (with "
    f"{NAME}/ in it), or your own images (images/ and masks/, or train/ and valid/ with these)"
)


class SourceError(ValueError):
    """A text that does not describe a source, or a split that the source does not have."""


def load_source(spec: str, split: str) -> Source:
    """One split of the source that `spec` describes.

    Raises SourceError, MissingData for a data set that does not exist, LayoutError for a folder
    without a usable image, DamagedData for broken records.
    """
    if split not in SPLITS:
        raise SourceError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    kind, _, detail = spec.partition(":")
    if kind == "shapes":
        return _shapes(spec, detail, split)
    if kind == "tfds":
        data_dir = Path(detail).expanduser() if detail else default_data_dir()
        return _with_validation(lambda part: PetsSource(data_dir, part), split, spec)
    return _open_folder(Path(spec).expanduser(), split, spec)


def load_mix(specs: Sequence[str], weights: Sequence[float | int], split: str) -> MixedSource:
    """The same split of several sources, mixed by weight."""
    return MixedSource([load_source(spec, split) for spec in specs], weights)


def load_train_and_valid(data: ConfigDict) -> tuple[MixedSource, MixedSource]:
    """The training and the validation source of a config's section `data`."""
    return tuple(load_mix(data.sources, data.weights, split) for split in ("train", "valid"))


def _shapes(spec: str, detail: str, split: str) -> Source:
    numbers = dict(SHAPES)
    for field in detail.split(",") if detail else []:
        key, _, value = field.partition("=")
        if key not in SHAPES or not value.isdecimal():
            raise SourceError(
                f"source {spec!r}: expected shapes:KEY=NUMBER,... with keys {', '.join(SHAPES)}, "
                f"got {field!r}"
            )
        numbers[key] = int(value)
    if split == "test":
        numbers["seed"] += TEST_SEED
        return ShapesSource(**numbers)
    return _with_validation(lambda part: ShapesSource(**numbers), split, spec)


def _with_validation(open_part: Callable[[str], Source], split: str, spec: str) -> Source:
    """A split of a source whose validation split is taken from its training split."""
    if split not in ("train", "valid"):
        return open_part(split)
    train, valid = split_validation(open_part("train"), VALID_SHARE, VALID_SEED)
    chosen = train if split == "train" else valid
    if not len(chosen):
        raise SourceError(
            f"source {spec!r}: {len(train) + len(valid)} examples are too few to split into "
            "train and valid; use split all, or make train/ and valid/ folders"
        )
    return chosen


def _open_folder(root: Path, split: str, spec: str) -> Source:
    kind = _layout(root)
    if kind == "official":
        return _with_validation(lambda part: OfficialFolder(root, part), split, spec)
    if kind == "tfds":
        data_dir = _data_dir(root)
        return _with_validation(lambda part: PetsSource(data_dir, part), split, spec)
    if kind == "parts":
        return _open_parts(root, split, spec)
    if kind == "images":
        if split == "test":
            raise SourceError(
                f"source {spec!r}: no test split; put one in a test/ folder beside train/, or "
                "use split valid or all"
            )
        return _with_validation(lambda part: FolderSource(root), split, spec)
    raise SourceError(_what_is_wrong(root, spec))


def _layout(root: Path) -> str | None:
    """The layout of a data set's folder; None if it is no data set."""
    if (root / "images").is_dir() and (root / "annotations").is_dir():
        return "official"
    if _data_dir(root):
        return "tfds"
    if _parts(root):
        return "parts"
    # With only one of the two, opening the source reports the other one as missing.
    if (root / "images").is_dir() or (root / "masks").is_dir():
        return "images"
    return None


def _data_dir(root: Path) -> Path | None:
    """The TFDS data folder: `root` itself, or the folder around the data set or version `root`."""
    for data_dir in (root, *root.resolve().parents[:2]):
        folder = data_dir / NAME / VERSION
        inside = root.resolve() in (folder.resolve(), folder.parent.resolve())
        if folder.is_dir() and (data_dir == root or inside):
            return data_dir
    return None


def _parts(root: Path) -> dict[str, Path]:
    found = {}
    for part, names in SPLIT_FOLDERS.items():
        folders = [root / name for name in names if (root / name / "images").is_dir()]
        if folders:
            found[part] = folders[0]
    return found


def _open_parts(root: Path, split: str, spec: str) -> Source:
    parts = _parts(root)
    if split == "all":
        sources = [FolderSource(folder) for folder in parts.values()]
        return MixedSource(sources, [len(source) for source in sources])
    if split == "test" or "valid" in parts:
        if split not in parts:
            there = ", ".join(f"{folder.name}/" for folder in parts.values())
            raise SourceError(f"source {spec!r}: no {split}/ folder, only {there}")
        return FolderSource(parts[split])
    if "train" not in parts:
        raise SourceError(f"source {spec!r}: no train/ folder to take split {split} from")
    return _with_validation(lambda part: FolderSource(parts["train"]), split, spec)


def _what_is_wrong(root: Path, spec: str) -> str:
    if not root.is_dir():
        fault = "not a folder" if root.exists() else "no such folder or other source"
        return f"source {spec!r}: {fault}; {ACCEPTED}"
    if any((root / name).is_file() for name in ARCHIVES):
        return f"source {spec!r}: holds archives; run petsam prepare --src {root} first"
    inside = [path for path in sorted(root.iterdir()) if path.is_dir() and _layout(path)]
    if inside:
        hint = ", ".join(str(path) for path in inside[:5])
        return f"source {spec!r}: not a data set itself, but it contains some: {hint}"
    return f"source {spec!r}: unknown folder layout; {ACCEPTED}"
