"""Write the TFDS data set `oxford_iiit_pet` 4.0.0 as array_record, without TensorFlow.

The command is `petsam prepare`. Afterwards
`tfds.data_source("oxford_iiit_pet", data_dir=..., split="train", download=False)` reads the set.
Images that cannot be used are left out and listed, on the terminal and in `left_out.txt` beside the
records. An existing data set is not touched. An interrupted run never leaves a set that looks
complete, since its folder gets its name last.
"""

import dataclasses
import errno
import os
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path

from petsam_jax.data.oxford_layout import ARCHIVES, LayoutError, OfficialArchives, OfficialTree
from petsam_jax.data.pets import (
    NAME,
    VERSION,
    MissingData,
    open_prepared,
)
from petsam_jax.data.pets_builder import LEFT_OUT, PrepareError, build, download_advice, url_infos

# Seconds for the one test request to the site; TFDS itself tries for two minutes.
TIMEOUT = 5
# Records take as much space as the files, and a little for their index.
SPACE_FACTOR, SPACE_EXTRA = 1.05, 20_000_000


@dataclasses.dataclass(frozen=True)
class Report:
    """The contents of the data set: images per split, and what is missing and why."""

    folder: Path
    counts: dict[str, int]
    left_out: list[str]
    boxless: list[str]
    made: bool

    def text(self) -> str:
        """The report for a terminal."""
        counts = ", ".join(f"{split} {count:,}" for split, count in self.counts.items())
        state = "written" if self.made else "already there, nothing to do (delete it to redo it)"
        lines = [f"{self.folder}: {counts}; {state}"]
        for title, names in (("left out", self.left_out), ("without head box", self.boxless)):
            if names:
                lines += [f"{title}: {len(names)}", *(f"  {name}" for name in names)]
        return "\n".join(lines)


def prepare(data_dir: Path, src: Path | None = None, download: bool = False) -> Report:
    """Write the data set to `data_dir`, from `src` or from the official site.

    Raises PrepareError, LayoutError for `src`, DamagedData for a damaged set in `data_dir`.
    """
    data_dir = data_dir.expanduser()
    try:
        return _existing(data_dir)
    except MissingData:
        pass
    if download == (src is not None):
        raise PrepareError(
            f"{data_dir}: no data set there yet; add --download, or --src DIR with its files"
        )
    origin = None if src is None else _open_origin(src.expanduser())
    _check_writable(data_dir)
    if origin is None and not _downloaded_before(data_dir):
        _check_reachable(list(url_infos()))
    # Downloaded archives stay on the disk beside the records.
    size = origin.size() if origin else 2 * sum(int(info.size) for info in url_infos().values())
    _check_space(data_dir, int(size * SPACE_FACTOR) + SPACE_EXTRA)
    try:
        remarks = build(data_dir, origin)
    # TFDS raises the OSError itself, array_record a RuntimeError with the same words.
    except (OSError, RuntimeError) as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise PrepareError(f"{data_dir}: the disk is full; nothing incomplete was kept") from error
    return dataclasses.replace(_existing(data_dir), boxless=remarks.boxless, made=True)


def _existing(data_dir: Path) -> Report:
    """The report of a complete data set."""
    builder = open_prepared(data_dir)
    folder = data_dir / NAME / VERSION
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    listing = folder / LEFT_OUT
    left_out = listing.read_text().splitlines() if listing.is_file() else []
    return Report(folder, counts, left_out, boxless=[], made=False)


def _open_origin(src: Path) -> OfficialTree | OfficialArchives:
    """A folder that holds the archives, or in the extracted layout."""
    archives = [src / name for name in ARCHIVES]
    there = [path.is_file() for path in archives]
    if all(there):
        return OfficialArchives(*archives)
    try:
        return OfficialTree(src)
    except LayoutError as error:
        if not any(there):
            advice = f"expected a folder with {' and '.join(ARCHIVES)}, or with both extracted"
            raise LayoutError(f"{error}; {advice}") from error
        present, absent = ARCHIVES if there[0] else ARCHIVES[::-1]
        raise LayoutError(f"{src}: holds {present} but not {absent}; both are needed") from error


def _check_writable(data_dir: Path) -> None:
    probe = data_dir / NAME / ".writable"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise PrepareError(
            f"{data_dir}: cannot be written to ({error.strerror}); choose another --data-dir"
        ) from error


def _check_space(data_dir: Path, needed: int) -> None:
    free = shutil.disk_usage(data_dir).free
    if free < needed:
        raise PrepareError(
            f"{data_dir}: {free / 1e6:,.0f} MB free on the disk, but about "
            f"{needed / 1e6:,.0f} MB needed; free up space or choose another --data-dir"
        )


def _downloaded_before(data_dir: Path) -> bool:
    """Whether TFDS has both archives: it writes .INFO once a file is complete."""
    infos = [path.name for path in (data_dir / "downloads").rglob("*.INFO")]
    return all(any(name.split(".")[0] in info for info in infos) for name in ARCHIVES)


def _check_reachable(urls: list[str]) -> None:
    request = urllib.request.Request(urls[-1], method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT).close()
    except urllib.error.HTTPError as error:
        # The site responds; TFDS's own request will report the error.
        error.close()
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise PrepareError(f"{urls[-1]}: not reachable ({reason}). {download_advice()}") from error


def leftovers(data_dir: Path) -> list[Path]:
    """Files left behind by killed runs: never read again, safe to delete."""
    return sorted(
        [*data_dir.glob(f"{NAME}/incomplete.*"), *data_dir.glob(f"downloads/{NAME}/**/*.tmp.*")]
    )


if __name__ == "__main__":
    sys.exit("python -m petsam_jax.data.prepare is `petsam prepare` now, with the same flags")
