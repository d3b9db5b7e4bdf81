"""Images as uint8 RGB arrays, upright, from whatever they are given as.

In: the path or the bytes of a file in any format that Pillow reads, a Pillow image, or an array.
Any mode will do: grey, palette, CMYK, 16 bits, transparency (which is dropped). An image that
cannot be used raises `UnfitImage`, which names the file and, where possible, says how to fix it.
"""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

# A small file can hold a very large image, so larger ones are refused before they are decoded:
# files of any kind, and images to predict on.
MAX_FILE_PIXELS = 89_000_000
MAX_PIXELS = 40_000_000
# EXIF orientation -> the transpose that turns the stored pixels upright; 1 is upright already.
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)

AnyImage = np.ndarray | Image.Image | Path | str | bytes


class UnfitImage(ValueError):
    """An image or mask that cannot be used; `reason` is the message without the file's name."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason

    def __reduce__(self):
        return type(self), (self.name, self.reason)


def load_image(image: AnyImage, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels of an image in any form. Raises UnfitImage, and TypeError for another type."""
    if isinstance(image, np.ndarray):
        return _array_to_rgb(image, max_pixels)
    if isinstance(image, str | Path | bytes):
        image = open_image(Path(image) if isinstance(image, str) else image)
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"an image of type {type(image).__name__}; expected a path, the bytes of a file, a "
            "Pillow image or a numpy array"
        )
    check_size(image, max_pixels)
    return upright_rgb(image)


def decode_image(file: Path | bytes, name: str = "") -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels of a file as a viewer shows them: turned and mirrored as EXIF says."""
    return upright_rgb(open_image(file, name))


def decode_stored(file: Path | bytes, name: str = "") -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels of a file as stored, EXIF ignored, which is how official trimaps match them."""
    return np.asarray(_to_rgb(load(open_image(file, name))))


def upright_rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """As `decode_image`, for an image that Pillow has opened or made."""
    image = load(image)
    return np.asarray(turn_upright(_to_rgb(image), orientation(image)))


def open_image(file: Path | bytes, name: str = "") -> Image.Image:
    """The first frame of a file, its header read and its pixels not yet decoded."""
    name = name or str(file if isinstance(file, Path) else "image")
    try:
        data = file.read_bytes() if isinstance(file, Path) else file
    except OSError as error:
        raise UnfitImage(name, f"cannot be read: {error.strerror or error}") from error
    try:
        image = Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError as error:
        reason = "not an image in a format that Pillow knows" if data else "an empty file"
        raise UnfitImage(name, reason) from error
    # Pillow's readers raise nearly anything on damaged files: struct.error, SyntaxError, EOFError.
    except Exception as error:
        raise UnfitImage(name, f"cannot be opened as an image: {error}") from error
    image.filename = name
    check_size(image, MAX_FILE_PIXELS)
    return image


def check_size(image: Image.Image, max_pixels: int) -> None:
    """Raise UnfitImage for an image of more pixels, without decoding it."""
    width, height = image.size
    if width * height > max_pixels:
        reason = f"{width} x {height} pixels is more than {max_pixels:,}; make it smaller first"
        raise UnfitImage(_name(image), reason)


def load(image: Image.Image) -> Image.Image:
    """Decode the pixels of an opened image. Raises UnfitImage for a truncated file."""
    try:
        image.load()
    # As in `open_image`: which exception a damaged file raises depends on its format.
    except Exception as error:
        reason = f"damaged or truncated {image.format} data: {error}"
        raise UnfitImage(_name(image), reason) from error
    return image


def check_decodes(image: Image.Image) -> tuple[int, int]:
    """(width, height) as a viewer shows it, once the pixels are known to decode to the end.

    Uses the image up. Raises UnfitImage for a damaged one.
    """
    size = image.size
    # A JPEG at an eighth of its size is read to the end all the same, in a fraction of the time.
    reduced = image.draft("RGB", (1, 1)) is not None
    load(image)
    size = size if reduced else image.size
    return size[::-1] if orientation(image) in SIDEWAYS else size


def orientation(loaded: Image.Image) -> int:
    """EXIF's orientation; only right after loading, as loading turns a TIFF upright."""
    try:
        return loaded.getexif().get(ExifTags.Base.Orientation, 1)
    # Viewers ignore damaged EXIF.
    except Exception:
        return 1


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(TRANSPOSES[orientation]) if orientation in TRANSPOSES else image


def _name(image: Image.Image) -> str:
    """The name of an image's file; an image made in memory has none."""
    return getattr(image, "filename", "") or "image"


def _to_rgb(image: Image.Image) -> Image.Image:
    """A loaded image in mode RGB: transparency is dropped, 16 bits become 8."""
    if image.mode == "F":
        raise UnfitImage(_name(image), "holds floating-point numbers; save it as 8-bit RGB")
    if image.mode.startswith("I"):
        wide = np.asarray(image)
        wide = np.clip(wide // 256 if wide.max(initial=0) > 255 else wide, 0, 255)
        return Image.fromarray(wide.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _array_to_rgb(image: np.ndarray, max_pixels: int) -> UInt8[np.ndarray, "h w 3"]:
    if image.dtype != np.uint8:
        advice = "multiply by 255 and round first" if image.dtype.kind == "f" else "convert it"
        raise UnfitImage("image", f"an array of {image.dtype}; expected uint8 0..255: {advice}")
    grey = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1)
    if not grey and (image.ndim != 3 or image.shape[2] not in (3, 4)):
        reason = f"an array of shape {image.shape}; expected (h, w), (h, w, 3) or (h, w, 4)"
        raise UnfitImage("image", reason)
    height, width = image.shape[:2]
    if not 0 < height * width <= max_pixels:
        reason = f"{width} x {height} pixels; expected 1 to {max_pixels:,}: make it smaller first"
        raise UnfitImage("image", reason)
    if grey:
        return np.repeat(image.reshape(height, width, 1), 3, axis=2)
    return image[..., :3]
