"""Oxford-IIIT Pet as a source: prepared as a TFDS data set, or read from the extracted archives.

Both give images as stored (EXIF ignored), masks from the trimap (pet 1, background 0, border 2
ignore), names such as "Abyssinian_1" and the breed as the group.
"""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from petsam_jax.data.oxford_layout import Entry, LayoutError, OfficialTree, breed, check_files
from petsam_jax.data.sources import Example
from petsam_jax.files.images import UnfitImage, decode_stored
from petsam_jax.files.masks import decode_trimap

NAME, VERSION = "oxford_iiit_pet", "4.0.0"
# How many skipped images a log message names; the source's `skipped` has them all.
MAX_LISTED = 10


class MissingData(FileNotFoundError):
    """The data set does not exist; the message says how to get it."""


class DamagedData(ValueError):
    """A prepared data set cannot be read; the message says what to do."""


def species(breed_or_name: str) -> str:
    """ "cat" or "dog": the official names start cats with a capital letter and dogs without."""
    return "cat" if breed_or_name[:1].isupper() else "dog"


def default_data_dir() -> Path:
    """Where TFDS keeps its data sets by default."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def missing_data(place: str) -> MissingData:
    """The error for a data set that is not at `place`, with every way to get one."""
    return MissingData(
        f"{place}: no Oxford-IIIT Pet data set there. Download it (811 MB):\n"
        "  petsam prepare --download\n"
        "or make it offline, from its two archives or an extracted folder:\n"
        "  petsam prepare --src DIR\n"
        "(--data-dir sets another place). configs/tiny.py needs no data: it trains on generated "
        "shapes."
    )


def open_prepared(data_dir: Path):
    """TFDS's builder for the prepared data set, checked to be complete and readable.

    Raises `MissingData` without importing TFDS, and `DamagedData` for records that are missing,
    truncated or in a format that only TensorFlow reads.
    """
    folder = Path(data_dir).expanduser() / NAME / VERSION
    if not (folder / "dataset_info.json").is_file():
        raise missing_data(str(data_dir))
    # Imported here, since TFDS takes seconds and an error message should not wait for it.
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise DamagedData(
            f"{folder}: holds {builder.info.file_format.value} files, not array_record; "
            "prepare it again with another --data-dir"
        )
    for info in builder.info.splits.values():
        for path, length in zip(info.filepaths, info.shard_lengths, strict=True):
            fault = _check_records(str(path), length)
            if fault:
                raise DamagedData(f"{path}: {fault}; delete {folder} and run petsam prepare again")
    return builder


def _check_records(path: str, length: int) -> str:
    """What the index says is wrong with a file of `length` records; "" if nothing."""
    from array_record.python import array_record_module

    try:
        reader = array_record_module.ArrayRecordReader(path)
        count = reader.num_records()
        # A missing or truncated file counts 0, and closing it raises the reason.
        reader.close()
    except RuntimeError as error:
        return f"cannot be read ({error})"
    return "" if count == length else f"holds {count} of {length} records"


class PetsSource:
    """The data set as `prepare` or TFDS wrote it; `split` is "train", "test" or "all".

    A set prepared by stock TFDS also holds the images that `prepare` leaves out, among them 23
    whose mask has no pet pixel.
    """

    def __init__(self, data_dir: Path, split: str):
        """Reads every record once for its name: about a second for the full set."""
        builder = open_prepared(data_dir)
        import tensorflow_datasets as tfds

        if split != "all" and split not in builder.info.splits:
            there = ", ".join(builder.info.splits)
            raise LayoutError(f"{data_dir}: the data set has no {split} split, only {there}")
        raw = {"image": tfds.decode.SkipDecoding(), "segmentation_mask": tfds.decode.SkipDecoding()}
        parts = "+".join(builder.info.splits) if split == "all" else split
        self._records = builder.as_data_source(parts, decoders=raw)
        self.names = tuple(_stem(record["file_name"]) for record in self._records)
        self.groups = tuple(breed(name) for name in self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        name = self.names[index]
        record = self._records[index]
        image = decode_stored(record["image"], f"{name}.jpg")
        mask = decode_trimap(record["segmentation_mask"], f"{name}.png")
        return Example(image, mask, name, self.groups[index])


def _stem(file_name: bytes | str) -> str:
    text = file_name.decode() if isinstance(file_name, bytes) else str(file_name)
    return text.rpartition(".")[0]


class OfficialFolder:
    """An extracted folder in the official layout, complete or in part, read without preparing it.

    `split` is "train" (trainval.txt), "test" or "all". Every image is checked once on opening
    (about 0.7 ms each on two cores), so that training never meets an unfit one; those are logged
    and listed with the reason in `skipped`.
    """

    def __init__(self, root: Path, split: str):
        """Raises `LayoutError` for another layout, a missing list or no usable image."""
        self._tree = OfficialTree(Path(root).expanduser())
        entries_of = self._tree.entries()
        if split != "all" and split not in entries_of:
            there = ", ".join(entries_of)
            raise LayoutError(f"{root}: no list of a {split} split, only {there}")
        chosen = entries_of.values() if split == "all" else [entries_of[split]]
        # An image listed in several splits is one example all the same.
        listed = {entry.name: entry for entries in chosen for entry in entries}
        with ThreadPoolExecutor() as pool:
            faults = list(pool.map(self._fault, listed.values()))
        pairs = list(zip(listed.values(), faults, strict=True))
        self.skipped = [fault for fault in faults if fault]
        self._entries = [entry for entry, fault in pairs if not fault]
        if not self._entries:
            raise LayoutError(f"{root}: no image of {split} can be used{_first(self.skipped)}")
        self.names = tuple(entry.name for entry in self._entries)
        self.groups = tuple(breed(name) for name in self.names)
        log_skipped(str(root), self.skipped, len(listed))

    def _fault(self, entry: Entry) -> UnfitImage | None:
        try:
            check_files(self._tree.read(entry))
        except UnfitImage as unfit:
            return unfit
        return None

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Example:
        entry = self._entries[index]
        image = decode_stored(self._tree.root / entry.image_path)
        mask = decode_trimap(self._tree.root / entry.trimap_path)
        return Example(image, mask, self.names[index], self.groups[index])


def _first(skipped: list[UnfitImage]) -> str:
    return f"; the first fault is {skipped[0]}" if skipped else ""


def log_skipped(place: str, skipped: list[UnfitImage], total: int) -> None:
    """Log which images of a folder were left out and why, the first ten by name."""
    if not skipped:
        return
    lines = [f"  {unfit}" for unfit in skipped[:MAX_LISTED]]
    if len(skipped) > MAX_LISTED:
        lines.append(f"  and {len(skipped) - MAX_LISTED} more")
    logging.getLogger(__name__).warning(
        "%s: %d of %d images left out:\n%s", place, len(skipped), total, "\n".join(lines)
    )
