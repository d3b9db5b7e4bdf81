"""Files to arrays: any format that Pillow reads to RGB, and the kinds of mask people draw.

In: a path, or the bytes of a file. Out: uint8 arrays. Whatever is wrong with a file comes out as
`UnfitPicture`, whose message names the file and says what to do where something can be done.
"""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from petsam_jax.data.sources import BACKGROUND, IGNORE, PET

# The formats that are compressed by guessing, so that a mask in them is grey round the edges.
LOSSY = ("JPEG", "MPO")
# Pixels to a picture; more is refused unread, since a small file can hold a very large picture.
MAX_PIXELS = 89_000_000
MAX_INSTANCES = 100
# Marks pixels to ignore in a mask of instance numbers, as in Pascal VOC.
VOID = 255
# Of a grey mask, the part that may be neither dark nor light: edges, but not a third shade.
MAX_GREY = 0.1
# The official trimap: 1 pet, 2 background, 3 border; anything else is not a trimap.
BAD_TRIMAP = 255
TRIMAP = np.full(256, BAD_TRIMAP, np.uint8)
TRIMAP[[1, 2, 3]] = PET, BACKGROUND, IGNORE


class UnfitPicture(ValueError):
    """A picture or mask that cannot be used; `reason` is the message without the file's name."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason

    def __reduce__(self):
        return type(self), (self.name, self.reason)


def open_picture(file: Path | bytes, name: str = "") -> Image.Image:
    """The first frame of a file as Pillow sees it, header read and pixels not yet decoded."""
    name = name or str(file if isinstance(file, Path) else "picture")
    try:
        data = file.read_bytes() if isinstance(file, Path) else file
    except OSError as error:
        raise UnfitPicture(name, f"cannot be read: {error.strerror or error}") from error
    try:
        picture = Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError as error:
        raise UnfitPicture(name, "not a picture in a format that Pillow knows") from error
    # Pillow's readers raise nearly anything on damaged files: struct.error, SyntaxError, EOFError.
    except Exception as error:
        raise UnfitPicture(name, f"cannot be opened as a picture: {error}") from error
    picture.filename = name
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise UnfitPicture(
            name, f"{width} x {height} pixels is more than {MAX_PIXELS:,}; make it smaller first"
        )
    return picture


def load(picture: Image.Image) -> Image.Image:
    """Decode the pixels of an opened picture; a truncated file is an `UnfitPicture`."""
    try:
        picture.load()
    # As above: which exception a damaged file raises depends on its format.
    except Exception as error:
        reason = f"damaged or truncated {picture.format} data: {error}"
        raise UnfitPicture(picture.filename, reason) from error
    return picture


def check_whole(picture: Image.Image) -> None:
    """Raise `UnfitPicture` if the pixels cannot be decoded to the end; uses the picture up."""
    # A JPEG at an eighth of its size is read to the end all the same, in a fraction of the time.
    picture.draft("RGB", (1, 1))
    load(picture)


def to_rgb(picture: Image.Image) -> Image.Image:
    """The picture in mode RGB: transparency is dropped, 16 bits become 8."""
    load(picture)
    if picture.mode == "F":
        raise UnfitPicture(picture.filename, "holds floating-point numbers; save it as 8-bit RGB")
    if picture.mode.startswith("I"):
        wide = np.asarray(picture)
        wide = np.clip(wide // 256 if wide.max(initial=0) > 255 else wide, 0, 255)
        return Image.fromarray(wide.astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def decode_stored(file: Path | bytes, name: str = "") -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels as they are stored, whatever EXIF says: how the official trimaps were drawn."""
    return np.asarray(to_rgb(open_picture(file, name)))


def decode_picture(file: Path | bytes, name: str = "") -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels the way a viewer shows them: turned and mirrored as EXIF says."""
    picture = open_picture(file, name)
    return np.asarray(ImageOps.exif_transpose(to_rgb(_keep_exif(picture))))


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """(width, height) once EXIF is applied, from the header alone."""
    turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return picture.size[::-1] if turned else picture.size


def _keep_exif(picture: Image.Image) -> Image.Image:
    """Read EXIF now: once a GIF or a TIFF is converted, the copy has lost it."""
    orientation = picture.getexif().get(0x0112, 1)
    load(picture).getexif()[0x0112] = orientation
    return picture


def decode_trimap(file: Path | bytes, name: str = "") -> UInt8[np.ndarray, "h w"]:
    """An official trimap (1 pet, 2 background, 3 border) as 1 pet, 0 background, 2 ignore."""
    picture = load(open_picture(file, name))
    if picture.mode not in ("L", "P"):
        raise UnfitPicture(picture.filename, f"a trimap is 8-bit grey, this is {picture.mode}")
    mask = TRIMAP[np.asarray(picture)]
    if (mask == BAD_TRIMAP).any():
        found = np.unique(np.asarray(picture))[:8].tolist()
        reason = f"not a trimap: values {found}, not 1 pet, 2 background and 3 border"
        raise UnfitPicture(picture.filename, reason)
    return mask


def decode_mask(file: Path | bytes, name: str = "") -> UInt8[np.ndarray, "h w"]:
    """A hand-made mask as 0 background, 1..100 the number of the instance, 255 ignore.

    Read are: black and white, soft edges and JPEG noise included (white is instance 1); the
    values 0 and 1; instance numbers, as grey values or palette entries, with 255 for ignored pixels
    beside them; and, where transparency varies, opaque as the pet. EXIF is applied. Anything else,
    such as a colour picture or shades of grey, is refused rather than guessed at.
    """
    picture = open_picture(file, name)
    lossy = picture.format in LOSSY
    picture = ImageOps.exif_transpose(_keep_exif(picture))
    picture.filename = name or str(file if isinstance(file, Path) else "mask")
    values = _grey_values(picture)
    found = np.unique(values)
    if not lossy and found[-1] <= MAX_INSTANCES:
        _refuse_trimap(found, picture.filename)
        return values.astype(np.uint8)
    numbers = found[(found > 0) & (found < VOID)]
    if not lossy and numbers.size and found[-1] == VOID and numbers[-1] <= MAX_INSTANCES:
        return values.astype(np.uint8)
    if values.dtype != np.uint8:
        values = np.clip(values // 257, 0, 255).astype(np.uint8)
    if np.mean((values >= 64) & (values < 192)) > MAX_GREY:
        raise UnfitPicture(
            picture.filename,
            f"neither black and white nor instance numbers from 1 to {MAX_INSTANCES}: "
            f"{found.size} values from {found[0]} to {found[-1]}; save it as a PNG of such values",
        )
    return (values >= 128).astype(np.uint8)


def _grey_values(picture: Image.Image) -> np.ndarray:
    """The mask's values, h w, of whichever channel or palette entry they are in."""
    if picture.mode == "P" and not _is_grey_palette(picture):
        return np.asarray(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        alpha = np.asarray(picture)[..., 3]
        if alpha.min() != alpha.max():
            return np.where(alpha >= 128, np.uint8(255), np.uint8(0))
        picture = picture.convert("RGB")
    if picture.mode in ("1", "P"):
        picture = picture.convert("L")
    values = np.asarray(picture)
    if values.ndim == 3:
        if picture.mode != "RGB" or np.ptp(values.astype(int), axis=2).max() > 8:
            reason = "a mask in colour; save it as black and white or as instance numbers 1..n"
            raise UnfitPicture(picture.filename, reason)
        values = values[..., 1]
    if values.dtype.kind not in "ui" or values.min(initial=0) < 0:
        raise UnfitPicture(picture.filename, "mask values must be whole numbers from 0 up")
    return values


def _is_grey_palette(picture: Image.Image) -> bool:
    """Whether the palette entries in use are shades of grey, so that they are what counts."""
    colours = np.array(picture.getpalette("RGB")).reshape(-1, 3)
    used = np.unique(np.asarray(picture))
    return used[-1] < len(colours) and not np.ptp(colours[used], axis=1).any()


def _refuse_trimap(found: np.ndarray, name: str) -> None:
    if found[0] > 0 and found.size > 1 and found[-1] <= 3:
        raise UnfitPicture(
            name,
            f"values {found.tolist()} without a background of 0 look like a trimap; save pet as 1, "
            "background as 0 and border as 255",
        )
