"""The image that a program sends to the API: bytes in base64, a data URL, or an upload.

data = image_bytes("iVBORw0KGgo...")                      # base64
data = image_bytes("data:image/jpeg;base64,/9j/4AAQ...")
data = image_bytes({"path": "/tmp/gradio/.../cat.png"})   # what an upload returned
"""

import base64
import binascii
import re
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

from gradio.utils import get_upload_folder

from petsam_jax.ui.request_fields import BadRequest

EXPECTED = "picture: expected a file, or its bytes in base64"
URL_SAFE = str.maketrans("-_", "+/")


def image_bytes(image: object) -> bytes:
    """The bytes that a client sent as base64 or as an upload; no other file of the server.

    Raises BadRequest for anything else.
    """
    if isinstance(image, list) and len(image) == 1:
        # As the upload of Gradio returns it.
        (image,) = image
    if isinstance(image, dict):
        return _file_part(image)
    if not isinstance(image, str):
        raise BadRequest(EXPECTED)
    upload = _upload(image)
    return _read_once(upload) if upload else _decode(image)


def _file_part(part: dict) -> bytes:
    """Of Gradio's FileData and of programs that send a URL or base64 in such a dictionary."""
    texts = [part[name] for name in ("path", "url", "data") if isinstance(part.get(name), str)]
    for text in texts:
        # The address of an upload, as the server itself gives it.
        if upload := _upload(unquote(text.partition("/file=")[2]) or text):
            return _read_once(upload)
    encoded = [text for text in texts if text.lstrip()[:5].lower() == "data:"]
    if encoded or isinstance(part.get("data"), str):
        return _decode(encoded[0] if encoded else part["data"])
    raise BadRequest("picture: no such upload" if texts else EXPECTED)


def _upload(text: str) -> Path | None:
    """The file of an upload; None for any other text, which may be as long as an image."""
    folder = Path(get_upload_folder()).resolve()
    if len(text) > 4096 or "\0" in text or not Path(text).is_absolute():
        return None
    try:
        file = Path(text).resolve()
        return file if file.is_relative_to(folder) and file.is_file() else None
    # A name that is too long, for one.
    except OSError:
        return None


def _read_once(file: Path) -> bytes:
    data = file.read_bytes()
    # An upload is for one call and is not needed again.
    file.unlink(missing_ok=True)
    return data


def _decode(text: str) -> bytes:
    """Base64 with or without padding and white space, of either alphabet, or a data URL."""
    text = text.strip("\ufeff \t\r\n")
    if re.match(r"https?:", text[:6], re.IGNORECASE):
        raise BadRequest("picture: URLs are not fetched; send the file, or its bytes in base64")
    head, comma, body = text.partition(",")
    if head[:5].lower() == "data:":
        if not comma:
            raise BadRequest("picture: a data URL without a comma before its data")
        if not re.search(r";\s*base64\s*$", head, re.IGNORECASE):
            return unquote_to_bytes(body)
        text = unquote(body) if "%" in body else body
    elif head.lower() == "base64":
        text = body
    digits = "".join(text.split()).translate(URL_SAFE).rstrip("=")
    try:
        data = base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    # ValueError: letters that are not ASCII.
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"{EXPECTED}; this is not base64: {error}") from error
    if not data:
        raise BadRequest(f"{EXPECTED}; it is empty")
    return data
