"""How much a visitor may ask for: most of it by flags of `demo.py`."""

import dataclasses

MEGA = 1_000_000


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bytes and pixels of pictures and clips, memory for them, and visitors who wait at once."""

    max_upload: int = 20 * MEGA  # bytes of a file
    max_pixels: int = 40 * MEGA  # of a picture, known before it is decoded
    cache_bytes: int = 512 * MEGA  # of all open pictures; the least recently used goes first
    keep_seconds: float = 3600.0  # an open picture that nobody asked about for so long is dropped
    waiting: int = 64  # requests that wait for the model; more are asked to come back
    # Masks are shown on the page with at most so many pixels; downloads always have all of them.
    shown_pixels: int = 4 * MEGA
    max_clip_upload: int = 100 * MEGA  # bytes of a video, which are on disk while it is open
    max_clip_pixels: int = 4 * MEGA  # of a frame
    max_clip_frames: int = 3000
    clips: int = 16  # open at once, each of one visitor; the least recently used goes first
    clip_bytes: int = 1000 * MEGA  # memory of all of them
    trackings: int = 8  # clips that are tracked or saved at once; they take turns


# Of one request: enough for anyone's patience, little enough to be answered at once.
MAX_OBJECTS = 12
MAX_POINTS = 32
MAX_STROKES = 64
MAX_STROKE_POINTS = 4096
MAX_PROMPTED = 64  # frames of an object
# Bytes of a request that holds no picture.
MAX_REQUEST = 2 * MEGA
