"""The official layout of Oxford-IIIT Pet, extracted or still in its two archives.

Required are `annotations/trainval.txt` or `annotations/test.txt`, `images/*.jpg` and
`annotations/trimaps/*.png`; `annotations/xmls/*.xml` (head boxes) may be missing. Archives are read
in one pass and never extracted, so no path or link in them is followed.
"""

import dataclasses
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from petsam_jax.files.images import UnfitImage, check_decodes, open_image
from petsam_jax.files.masks import decode_trimap
from petsam_jax.mask_values import PET

# Split -> the list of its images.
LISTS = {"train": "trainval.txt", "test": "test.txt"}
ARCHIVES = ("images.tar.gz", "annotations.tar.gz")
# Images of the set have a few megabytes at most; larger archive members are not read.
MAX_BYTES = 100_000_000


class LayoutError(ValueError):
    """The layout of a folder or of archives is not the expected one."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of a list: "Abyssinian_1 1 1 1" is name, label 1..37, species 1 cat / 2 dog, breed."""

    name: str
    label: int
    species: int

    @property
    def image_path(self) -> str:
        return f"images/{self.name}.jpg"

    @property
    def trimap_path(self) -> str:
        return f"annotations/trimaps/{self.name}.png"

    @property
    def box_path(self) -> str:
        return f"annotations/xmls/{self.name}.xml"


@dataclasses.dataclass(frozen=True)
class Files:
    """The bytes of one image, its trimap and its head box, if it has one."""

    entry: Entry
    image: bytes
    trimap: bytes
    box: bytes | None


def breed(name: str) -> str:
    """The breed in an image's name: "american_bulldog_10" -> "american_bulldog"."""
    return name.rpartition("_")[0] or name


def read_list(text: str, where: str) -> list[Entry]:
    """The entries of a list; `where` names it in the `LayoutError` about a malformed line."""
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        whole = len(fields) == 4 and all(field.isdecimal() for field in fields[1:])
        if not whole or "/" in fields[0] or "\\" in fields[0]:
            raise LayoutError(
                f"{where}, line {number}: expected a name and three numbers such as "
                f"'Abyssinian_1 1 1 1', got {line.strip()[:80]!r}"
            )
        entries.append(Entry(fields[0], int(fields[1]), int(fields[2])))
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise LayoutError(f"{where}: {twice} is listed twice")
    return entries


def check_files(files: Files) -> None:
    """Raise `UnfitImage`, with the reason, for an image and mask that cannot be trained on."""
    image_path, trimap_path = files.entry.image_path, files.entry.trimap_path
    image = open_image(files.image, image_path)
    if image.format not in ("JPEG", "MPO"):
        raise UnfitImage(image_path, f"a {image.format} file under a .jpg name")
    # Trimaps match the stored pixels, whatever EXIF says.
    width, height = image.size
    check_decodes(image)
    mask_format = open_image(files.trimap, trimap_path).format
    if mask_format != "PNG":
        raise UnfitImage(trimap_path, f"a {mask_format} file under a .png name")
    mask = decode_trimap(files.trimap, trimap_path)
    if mask.shape != (height, width):
        reason = f"the mask is {mask.shape[1]} x {mask.shape[0]}, the image {width} x {height}"
        raise UnfitImage(trimap_path, reason)
    if not (mask == PET).any():
        raise UnfitImage(trimap_path, "no pet pixel in the mask")


class OfficialTree:
    """An extracted folder, complete or in part."""

    def __init__(self, root: Path):
        """Raises `LayoutError`, which lists what is missing."""
        if not root.is_dir():
            raise LayoutError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
        missing = [
            f"{path}/" for path in ("images", "annotations/trimaps") if not (root / path).is_dir()
        ]
        if not any((root / "annotations" / name).is_file() for name in LISTS.values()):
            missing.append("annotations/trainval.txt or annotations/test.txt")
        if missing:
            raise LayoutError(
                f"{root}: not the official layout of Oxford-IIIT Pet; missing: "
                + ", ".join(missing)
            )
        self.root = root

    def entries(self) -> dict[str, list[Entry]]:
        """The entries of each split that has a list."""
        paths = {split: self.root / "annotations" / name for split, name in LISTS.items()}
        return {
            split: read_list(path.read_text("utf-8", "replace"), str(path))
            for split, path in paths.items()
            if path.is_file()
        }

    def read(self, entry: Entry) -> Files:
        """Raises `UnfitImage` for a file that is missing or cannot be read."""
        image, trimap = (self._bytes(path) for path in (entry.image_path, entry.trimap_path))
        box = self.root / entry.box_path
        return Files(entry, image, trimap, box.read_bytes() if box.is_file() else None)

    def _bytes(self, path: str) -> bytes:
        try:
            return (self.root / path).read_bytes()
        except OSError as error:
            raise UnfitImage(path, f"cannot be read: {error.strerror or error}") from error

    def read_all(self, entries: Sequence[Entry]) -> Iterator[Files | UnfitImage]:
        """The files of each entry, or what is wrong with them."""
        for entry in entries:
            try:
                yield self.read(entry)
            except UnfitImage as unfit:
                yield unfit

    def size(self) -> int:
        """Total bytes of the listed images and trimaps."""
        listed = [entry for entries in self.entries().values() for entry in entries]
        paths = [self.root / p for entry in listed for p in (entry.image_path, entry.trimap_path)]
        return sum(path.stat().st_size for path in paths if path.is_file())


class OfficialArchives:
    """The two archives, complete or in part, compressed or plain tar."""

    def __init__(self, images: Path, annotations: Path):
        """Reads the annotations (20 MB) into memory; raises `LayoutError`."""
        self._images, self._annotations = images, annotations
        # As with tar, the last of several members of one name counts.
        self._texts = {path: data for path, data in _members(annotations) if path[-4:] != ".jpg"}
        if not any(f"annotations/{name}" in self._texts for name in LISTS.values()):
            raise LayoutError(
                f"{annotations}: holds neither annotations/trainval.txt nor annotations/test.txt"
            )

    def entries(self) -> dict[str, list[Entry]]:
        """The entries of each split that has a list."""
        found = {split: self._texts.get(f"annotations/{name}") for split, name in LISTS.items()}
        return {
            split: read_list(
                data.decode("utf-8", "replace"), f"{self._annotations}: {LISTS[split]}"
            )
            for split, data in found.items()
            if data is not None
        }

    def read_all(self, entries: Sequence[Entry]) -> Iterator[Files | UnfitImage]:
        """The files of each entry in the archive's order, then an error for each missing one."""
        entry_of = {entry.image_path: entry for entry in entries}
        for path, image in _members(self._images):
            entry = entry_of.pop(path, None)
            if entry is None:
                continue
            trimap = self._texts.get(entry.trimap_path)
            if trimap is None:
                yield UnfitImage(entry.trimap_path, f"not in {self._annotations.name}")
            else:
                yield Files(entry, image, trimap, self._texts.get(entry.box_path))
        for path in entry_of:
            yield UnfitImage(path, f"not in {self._images.name}")

    def size(self) -> int:
        """Total bytes of the archives, which is about that of the images in them."""
        return self._images.stat().st_size + self._annotations.stat().st_size


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of every regular file in an archive, in its order, without links."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isreg() and member.size <= MAX_BYTES:
                    yield member.name.removeprefix("./"), tar.extractfile(member).read()
            # A tar ends in a block of zeros; tarfile takes a truncated one for complete.
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("no end marker")
    except FileNotFoundError as error:
        raise LayoutError(f"{archive}: no such file") from error
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise LayoutError(
            f"{archive}: damaged, truncated or not a tar archive ({error}); download it again"
        ) from error
