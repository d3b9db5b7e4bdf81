"""TFDS's own builder of Oxford-IIIT Pet with the parts that need TensorFlow replaced.

Name, version, features and records are the stock ones, so that stock TFDS reads the result. Reading
the official files, and leaving out unusable ones, is ours.
"""

import dataclasses
import io
import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from petsam_jax.data.oxford_layout import (
    ARCHIVES,
    Entry,
    Files,
    LayoutError,
    OfficialArchives,
    OfficialTree,
    check_files,
)
from petsam_jax.data.pets import NAME
from petsam_jax.files.images import UnfitImage, decode_stored, open_image

LEFT_OUT = "left_out.txt"
# For JPEGs that are neither RGB nor grey, which TFDS cannot decode to three channels.
JPEG_QUALITY = 95
NO_BOX = (0.0, 0.0, 0.0, 0.0)


class PrepareError(Exception):
    """The data set cannot be written; the message says why and what to do."""


@dataclasses.dataclass
class Remarks:
    """Lines of the form "file: reason" about images left out or incomplete."""

    left_out: list[str] = dataclasses.field(default_factory=list)
    # Included, but without their head box.
    boxless: list[str] = dataclasses.field(default_factory=list)


def url_infos() -> dict:
    """URL of each official archive -> TFDS's record of its size and checksum; images first."""
    import tensorflow_datasets as tfds

    infos = tfds.builder_cls(NAME).url_infos
    return {url: infos[url] for name in ARCHIVES for url in infos if url.endswith(f"/{name}")}


def download_advice() -> str:
    """What to do after a failed download."""
    commands = "\n".join(f"  curl -L -C - -O {url}" for url in url_infos())
    return (
        "Try again later (a complete archive is not downloaded twice), or download the archives "
        f"on any machine with a program that can resume:\n{commands}\n"
        "and then run petsam prepare --src DIR on their folder."
    )


def build(data_dir: Path, origin: OfficialTree | OfficialArchives | None) -> Remarks:
    """Write the data set's records from `origin`, or from the official site if None.

    Their folder gets its final name once they are complete. Raises PrepareError, LayoutError for a
    damaged origin, OSError.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    stock, infos, remarks = tfds.builder_cls(NAME), url_infos(), Remarks()
    with registered.skip_registration():

        class Pets(stock):
            name, pkg_dir_path, url_infos = NAME, stock.pkg_dir_path, infos

            def _split_generators(self, dl_manager):
                source = origin or _fetch(dl_manager, list(infos))
                splits = {split: e for split, e in source.entries().items() if e}
                if not splits:
                    raise LayoutError("trainval.txt and test.txt list no images")
                return {split: self._generate_examples(source, e) for split, e in splits.items()}

            def _generate_examples(self, source, entries):
                yield from _records(source, entries, remarks)
                # Like the records, in the folder that is renamed at the end.
                listing = "".join(f"{line}\n" for line in remarks.left_out)
                (Path(self.data_dir) / LEFT_OUT).write_text(listing)

    config = tfds.download.DownloadConfig(try_download_gcs=False, force_checksums_validation=True)
    builder = Pets(data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare(download_config=config)
    return remarks


def _records(
    source: OfficialTree | OfficialArchives, entries: Sequence[Entry], remarks: Remarks
) -> Iterator[tuple[str, dict]]:
    """Key and record of every usable image. Raises PrepareError if there is none."""
    before, count = len(remarks.left_out), 0
    for files in source.read_all(entries):
        try:
            example = _example(files, remarks)
        except UnfitImage as unfit:
            remarks.left_out.append(str(unfit))
            continue
        count += 1
        yield example["file_name"], example
    if not count:
        raise PrepareError(
            f"none of the {len(entries)} images of a list can be used; the first fault is "
            f"{remarks.left_out[before]}"
        )


def _fetch(dl_manager, urls: list[str]) -> OfficialArchives:
    """The archives, downloaded by TFDS unless it has them, and checked against its checksums."""
    import requests
    from tensorflow_datasets.core.download import download_manager, util

    try:
        images, annotations = dl_manager.download(urls)
    except (download_manager.NonMatchingChecksumError, util.DownloadError) as error:
        raise PrepareError(f"{error}\n{download_advice()}") from error
    except requests.RequestException as error:
        raise PrepareError(f"the download failed: {error}\n{download_advice()}") from error
    return OfficialArchives(Path(images), Path(annotations))


def _example(files: Files | UnfitImage, remarks: Remarks) -> dict:
    """An image's record in the format of the stock builder; raises `UnfitImage`."""
    if isinstance(files, UnfitImage):
        raise files
    check_files(files)
    entry = files.entry
    if not (1 <= entry.label <= 37 and 1 <= entry.species <= 2):
        reason = f"class {entry.label} or species {entry.species} is not in 1..37 and 1..2"
        raise UnfitImage(entry.image_path, reason)
    return {
        "image": io.BytesIO(_three_channels(files)),
        "label": entry.label - 1,
        "species": entry.species - 1,
        "file_name": f"{entry.name}.jpg",
        "segmentation_mask": io.BytesIO(files.trimap),
        "head_bbox": _head_box(files, remarks),
    }


def _three_channels(files: Files) -> bytes:
    """The image's own bytes if TFDS can read them as RGB, else encoded again."""
    if open_image(files.image, files.entry.image_path).mode in ("RGB", "L"):
        return files.image
    pixels = decode_stored(files.image, files.entry.image_path)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=JPEG_QUALITY)
    return encoded.getvalue()


def _head_box(files: Files, remarks: Remarks):
    """The head's box as shares of the image's sides; zeros if there is none."""
    import tensorflow_datasets as tfds

    if files.box is None:
        return tfds.features.BBox(*NO_BOX)
    try:
        root = ET.fromstring(files.box)
        width, height = (float(root.findtext(f"size/{side}")) for side in ("width", "height"))
        xmin, xmax, ymin, ymax = (
            float(root.findtext(f"object/bndbox/{edge}"))
            for edge in ("xmin", "xmax", "ymin", "ymax")
        )
        box = ymin / height, xmin / width, ymax / height, xmax / width
        if not all(math.isfinite(edge) and 0 <= edge <= 1 for edge in box):
            raise ValueError(f"the box {box} is not inside the image")
    except (ET.ParseError, TypeError, ValueError, ZeroDivisionError) as error:
        remarks.boxless.append(f"{files.entry.box_path}: {error}")
        box = NO_BOX
    return tfds.features.BBox(*box)
