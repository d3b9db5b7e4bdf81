"""Limits on what a visitor may send; most can be set by flags of `demo.py`."""

import dataclasses

MEGA = 1_000_000


@dataclasses.dataclass(frozen=True)
class Limits:
    """Size of uploads, memory for them, and requests that may wait."""

    max_upload: int = 20 * MEGA  # bytes of an image file
    max_pixels: int = 40 * MEGA  # of an image, checked before it is decoded
    cache_bytes: int = 512 * MEGA  # for all open images; the least recently used is closed first
    keep_seconds: float = 3600.0  # images and clips that nobody uses for so long are closed
    waiting: int = 64  # requests in the queue for the model; further ones are refused
    # The page shows masks with at most so many pixels; downloads always have all of them.
    shown_pixels: int = 4 * MEGA
    max_clip_upload: int = 100 * MEGA  # bytes of a video file, kept on disk while it is open
    max_clip_pixels: int = 4 * MEGA  # of a frame
    max_clip_frames: int = 3000
    clips: int = 16  # open at once; the least recently used is closed first
    clip_bytes: int = 1000 * MEGA  # memory for all of them
    trackings: int = 8  # clips tracked or exported at once; they take turns


# Per request.
MAX_OBJECTS = 12
MAX_POINTS = 32
MAX_STROKES = 64
MAX_STROKE_POINTS = 4096
MAX_PROMPTED = 64  # frames per object
# Bytes of a request that carries no file.
MAX_REQUEST = 2 * MEGA
