"""A video to take home: a clip with what was found laid over it, or cut out of it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from petsam_jax.files.render import COLOURS, cutout, mask_image, overlay
from petsam_jax.files.video_writer import VideoWriter
from petsam_jax.ui.backgrounds import on_background
from petsam_jax.ui.video_clip import OpenClip
from petsam_jax.ui.video_state import CLEAR, FilmStyle


def make_film(clip: OpenClip, path: Path, style: FilmStyle) -> Iterator[int]:
    """Write all frames, and tell how many are done; then it is `clip.film`, in place of any other.

    A file that is given up is removed.
    """
    session, done = clip.session, False
    try:
        with VideoWriter(path, session.clip.size, session.clip.fps) as writer:
            for frame in range(clip.count):
                found = clip.masks(frame)
                # As on the page, colours follow from the objects' numbers.
                colours = [COLOURS[(each - 1) % len(COLOURS)] for each in found.object_ids]
                look = _look(session.clip.read(frame), found.masks, colours, style)
                writer.write(look, session.clip.seconds(frame))
                yield frame + 1
        done = True
    finally:
        if not done:
            path.unlink(missing_ok=True)
    if clip.film is not None:
        clip.film.unlink(missing_ok=True)
    clip.film = path


def _look(
    pixels: UInt8[np.ndarray, "h w 3"],
    masks: Bool[np.ndarray, "n h w"],
    colours: list[tuple[int, int, int]],
    style: FilmStyle,
) -> UInt8[np.ndarray, "h w c"]:
    """RGB, or RGBA of what is transparent."""
    if style.kind == "overlay":
        return overlay(pixels, masks, colours, style.opacity)
    mask = masks.any(axis=0)
    if style.kind == "mask":
        return np.asarray(mask_image(mask[None]).convert("RGB"))
    if style.kind == CLEAR:
        return cutout(pixels, mask, trim=False, soft=style.soft)
    return on_background(style.kind, pixels, mask, style.soft)
