"""Files to arrays: any format that Pillow reads to RGB, and the kinds of mask people draw.

In: a path, or the bytes of a file. Out: uint8 arrays. Whatever is wrong with a file comes out as
`UnfitImage`, whose message names the file and says what to do where something can be done.
"""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import ExifTags, Image

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
# EXIF orientation -> what turns the stored pixels upright (1 is upright already).
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)


class UnfitImage(ValueError):
    """A picture or mask that cannot be used; `reason` is the message without the file's name."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason

    def __reduce__(self):
        return type(self), (self.name, self.reason)


def open_image(file: Path | bytes, name: str = "") -> Image.Image:
    """The first frame of a file as Pillow sees it, header read and pixels not yet decoded."""
    name = name or str(file if isinstance(file, Path) else "picture")
    try:
        data = file.read_bytes() if isinstance(file, Path) else file
    except OSError as error:
        raise UnfitImage(name, f"cannot be read: {error.strerror or error}") from error
    try:
        picture = Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError as error:
        reason = "not a picture in a format that Pillow knows" if data else "an empty file"
        raise UnfitImage(name, reason) from error
    # Pillow's readers raise nearly anything on damaged files: struct.error, SyntaxError, EOFError.
    except Exception as error:
        raise UnfitImage(name, f"cannot be opened as a picture: {error}") from error
    picture.filename = name
    check_size(picture, MAX_PIXELS)
    return picture


def check_size(picture: Image.Image, max_pixels: int) -> None:
    """Raise UnfitImage for one of more pixels, which need not be decoded for that."""
    width, height = picture.size
    if width * height > max_pixels:
        reason = f"{width} x {height} pixels is more than {max_pixels:,}; make it smaller first"
        raise UnfitImage(_name(picture), reason)


def _name(picture: Image.Image) -> str:
    """The name of a picture's file; one that was made in memory has none."""
    return getattr(picture, "filename", "") or "picture"


def load(picture: Image.Image) -> Image.Image:
    """Decode the pixels of an opened picture; a truncated file is an `UnfitImage`."""
    try:
        picture.load()
    # As above: which exception a damaged file raises depends on its format.
    except Exception as error:
        reason = f"damaged or truncated {picture.format} data: {error}"
        raise UnfitImage(_name(picture), reason) from error
    return picture


def check_whole(picture: Image.Image) -> tuple[int, int]:
    """(width, height) as a viewer shows it, once the pixels are known to decode to the end.

    The picture is used up by it; a damaged one raises `UnfitImage`.
    """
    size = picture.size
    # A JPEG at an eighth of its size is read to the end all the same, in a fraction of the time.
    reduced = picture.draft("RGB", (1, 1)) is not None
    load(picture)
    size = size if reduced else picture.size
    return size[::-1] if _orientation(picture) in SIDEWAYS else size


def decode_stored(file: Path | bytes, name: str = "") -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels of a JPEG as they are stored, whatever EXIF says: as official trimaps are."""
    return np.asarray(_to_rgb(load(open_image(file, name))))


def decode_image(file: Path | bytes, name: str = "") -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels the way a viewer shows them: turned and mirrored as EXIF says."""
    return upright_rgb(open_image(file, name))


def upright_rgb(picture: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """As `decode_image`, of a picture that Pillow has opened or made."""
    picture = load(picture)
    return np.asarray(_turn(_to_rgb(picture), _orientation(picture)))


def _orientation(loaded: Image.Image) -> int:
    """EXIF's orientation; only right after loading, as a TIFF is turned by the loading itself."""
    try:
        return loaded.getexif().get(ExifTags.Base.Orientation, 1)
    # Viewers show a picture with damaged EXIF as it is stored.
    except Exception:
        return 1


def _turn(picture: Image.Image, orientation: int) -> Image.Image:
    return picture.transpose(TURNS[orientation]) if orientation in TURNS else picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    """A loaded picture in mode RGB: transparency is dropped, 16 bits become 8."""
    if picture.mode == "F":
        reason = "holds floating-point numbers; save it as 8-bit RGB"
        raise UnfitImage(_name(picture), reason)
    if picture.mode.startswith("I"):
        wide = np.asarray(picture)
        wide = np.clip(wide // 256 if wide.max(initial=0) > 255 else wide, 0, 255)
        return Image.fromarray(wide.astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def decode_trimap(file: Path | bytes, name: str = "") -> UInt8[np.ndarray, "h w"]:
    """An official trimap (1 pet, 2 background, 3 border) as 1 pet, 0 background, 2 ignore."""
    picture = load(open_image(file, name))
    if picture.mode not in ("L", "P"):
        raise UnfitImage(picture.filename, f"a trimap is 8-bit grey, this is {picture.mode}")
    mask = TRIMAP[np.asarray(picture)]
    if (mask == BAD_TRIMAP).any():
        found = np.unique(np.asarray(picture))[:8].tolist()
        reason = f"not a trimap: values {found}, not 1 pet, 2 background and 3 border"
        raise UnfitImage(picture.filename, reason)
    return mask


def decode_mask(file: Path | bytes, name: str = "") -> UInt8[np.ndarray, "h w"]:
    """A hand-made mask as 0 background, 1..100 the number of the instance, 255 ignore.

    Read are: black and white, soft edges and JPEG noise included (white is instance 1); the
    values 0 and 1; instance numbers, as grey values or palette entries, with white for ignored
    pixels beside them; and, where transparency varies, opaque as the pet. EXIF is applied. Anything
    else, such as a colour picture or shades of grey, is refused rather than guessed at.
    """
    picture = load(open_image(file, name))
    turned = _turn(picture, _orientation(picture))
    turned.filename = picture.filename
    values, white = _grey_values(turned)
    found = np.flatnonzero(np.bincount(values.ravel()))
    numbers = found[found < white]
    if picture.format not in LOSSY and numbers.size and numbers[-1] <= MAX_INSTANCES:
        _refuse_trimap(found, turned.filename)
        # With nothing but black beside it, white is the pet; with numbers beside it, it is void.
        if numbers[-1] > 0 or found[-1] < white:
            return np.where(values == white, VOID, values).astype(np.uint8)
    share = values / np.float32(white)
    too_dark = MAX_INSTANCES < found[-1] < white / 2
    if too_dark or np.mean((share >= 0.25) & (share < 0.75)) > MAX_GREY:
        raise UnfitImage(
            turned.filename,
            f"neither black and white nor instance numbers from 1 to {MAX_INSTANCES}: "
            f"{found.size} values from {found[0]} to {found[-1]}; save it as a PNG of such values",
        )
    return (share >= 0.5).astype(np.uint8)


def _grey_values(picture: Image.Image) -> tuple[Shaped[np.ndarray, "h w"], int]:
    """The mask's values, of whichever channel or palette entry they are in, and what is white."""
    if picture.mode == "P" and not _is_grey_palette(picture):
        indices = np.asarray(picture)
        numbers = np.unique(indices[indices != VOID])
        if numbers.size and numbers[-1] > MAX_INSTANCES:
            reason = f"palette entry {numbers[-1]}; instance numbers go up to {MAX_INSTANCES}"
            raise UnfitImage(picture.filename, reason)
        return indices, VOID
    if picture.has_transparency_data:
        picture = _named(picture.convert("RGBA"), picture)
        alpha = np.asarray(picture)[..., 3]
        if alpha.min() != alpha.max():
            return np.where(alpha >= 128, np.uint8(255), np.uint8(0)), 255
        picture = _named(picture.convert("RGB"), picture)
    if picture.mode in ("1", "P"):
        picture = _named(picture.convert("L"), picture)
    values = np.asarray(picture)
    if values.ndim == 3:
        if picture.mode != "RGB" or np.ptp(values.astype(np.int16), axis=2).max() > 8:
            reason = "a mask in colour; save it as black and white or as instance numbers 1..n"
            raise UnfitImage(picture.filename, reason)
        values = values[..., 1]
    if values.dtype.kind not in "ui" or values.min() < 0 or values.max() > 65535:
        reason = "mask values must be whole numbers from 0 to 65535"
        raise UnfitImage(picture.filename, reason)
    return values, 65535 if values.max() > 255 else 255


def _named(picture: Image.Image, origin: Image.Image) -> Image.Image:
    """Converting a picture loses the name of its file, which the messages want."""
    picture.filename = origin.filename
    return picture


def _is_grey_palette(picture: Image.Image) -> bool:
    """Whether the palette entries in use are shades of grey, so that they are what counts."""
    colours = np.array(picture.getpalette("RGB")).reshape(-1, 3)
    used = np.unique(np.asarray(picture))
    return used[-1] < len(colours) and not np.ptp(colours[used], axis=1).any()


def _refuse_trimap(found: np.ndarray, name: str) -> None:
    if found[0] > 0 and found.size > 1 and found[-1] <= 3:
        raise UnfitImage(
            name,
            f"values {found.tolist()} without a background of 0 look like a trimap; save pet as 1, "
            "background as 0 and border as 255",
        )
