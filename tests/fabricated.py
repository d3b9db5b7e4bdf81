"""A fabricated Oxford-IIIT Pet: the official layout in small, with every fault among it."""

import io
import tarfile

import numpy as np
from PIL import Image

# Good images of each split, by breed.
GOOD = {
    "train": ["Abyssinian_1", "Abyssinian_2", "Bengal_3", "american_bulldog_4", "beagle_5"],
    "test": ["Abyssinian_6", "beagle_7"],
}
# Images that cannot be used -> a part of the reason that must be given.
FAULTS = {
    "Abyssinian_34": "a GIF file under a .jpg name",
    "Abyssinian_5": "a PNG file under a .jpg name",
    "Bengal_21": "damaged or truncated JPEG data",
    "Bengal_22": "the mask is 20 x 20, the image 40 x 30",
    "Bengal_23": "no pet pixel in the mask",
    "beagle_24": "cannot be read: No such file",
    "beagle_25": "not an image in a format that Pillow knows",
    "beagle_26": "not a trimap: values [0, 1, 2, 3]",
}
TEST_FAULT = "beagle_27"
CLASSES = {"Abyssinian": 1, "american_bulldog": 2, "beagle": 5, "Bengal": 6}
BOX = """<annotation><size><width>40</width><height>30</height></size><object><bndbox>
<xmin>{}</xmin><ymin>6</ymin><xmax>30</xmax><ymax>24</ymax></bndbox></object></annotation>"""


def noisy_image(name, size=(40, 30)):
    """A noisy image (width, height) that depends on its name."""
    rng = np.random.default_rng(list(name.encode()))
    pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def trimap(size=(40, 30)):
    """Background with a pet in it and a border around that."""
    mask = np.full((size[1], size[0]), 2, np.uint8)
    mask[5:20, 8:30] = 3
    mask[8:16, 11:27] = 1
    return mask


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def official_folder(root):
    """Write the folder; returns it."""
    (root / "images").mkdir(parents=True)
    for part in ("trimaps", "xmls"):
        (root / "annotations" / part).mkdir(parents=True)
    lists = {"train": [*GOOD["train"], *FAULTS], "test": [*GOOD["test"], TEST_FAULT]}
    for name in [name for names in lists.values() for name in names]:
        _write(root, name, encoded(noisy_image(name), "JPEG"), trimap())
    for split, names in lists.items():
        file = root / "annotations" / {"train": "trainval.txt", "test": "test.txt"}[split]
        file.write_text("#Image CLASS-ID SPECIES BREED ID\n" + "".join(map(_line, names)) + "\n")
    _spoil(root)
    (root / "images" / "Abyssinian_100.mat").write_bytes(b"not an image")
    (root / "annotations" / "trimaps" / "._Abyssinian_1.png").write_bytes(b"a Mac's leavings")
    (root / "annotations" / "xmls" / "Abyssinian_1.xml").write_text(BOX.format(10))
    (root / "annotations" / "xmls" / "Bengal_3.xml").write_text(BOX.format("ten"))
    return root


def _line(name):
    breed = name.rpartition("_")[0]
    return f"{name} {CLASSES[breed]} {1 if name[0].isupper() else 2} 1\n"


def _write(root, name, image, mask):
    (root / "images" / f"{name}.jpg").write_bytes(image)
    Image.fromarray(mask).save(root / "annotations" / "trimaps" / f"{name}.png")


def _spoil(root):
    whole = encoded(noisy_image("Bengal_21", (200, 150)), "JPEG")
    empty = np.full((30, 40), 2, np.uint8)
    unknown = trimap()
    unknown[0, 0] = 0
    _write(root, "Abyssinian_34", encoded(noisy_image("Abyssinian_34"), "GIF"), trimap())
    _write(
        root, "Abyssinian_5", encoded(noisy_image("Abyssinian_5").convert("RGBA"), "PNG"), trimap()
    )
    _write(root, "Bengal_21", whole[: len(whole) // 2], trimap((200, 150)))
    _write(root, "Bengal_22", encoded(noisy_image("Bengal_22"), "JPEG"), trimap((20, 20)))
    _write(root, "Bengal_23", encoded(noisy_image("Bengal_23"), "JPEG"), empty)
    (root / "images" / "beagle_24.jpg").unlink()
    (root / "images" / "beagle_25.jpg").write_text("<html>404</html>")
    _write(root, "beagle_26", encoded(noisy_image("beagle_26"), "JPEG"), unknown)
    (root / "annotations" / "trimaps" / f"{TEST_FAULT}.png").unlink()


def archives(folder, where, mode="w:gz", extra=()):
    """The two archives of an official folder, and members of one's own in the first."""
    where.mkdir(parents=True, exist_ok=True)
    for part in ("images", "annotations"):
        with tarfile.open(where / f"{part}.tar.gz", mode) as tar:
            for member, data in extra if part == "images" else ():
                tar.addfile(member, io.BytesIO(data))
            tar.add(folder / part, arcname=part)
    return where
