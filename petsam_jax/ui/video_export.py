"""Videos to save: a clip with its masks as an overlay, or its objects cut out."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from petsam_jax.files.render import COLOURS, cutout, mask_image, overlay
from petsam_jax.files.video_writer import VideoWriter
from petsam_jax.ui.backgrounds import on_background
from petsam_jax.ui.video_clip import OpenClip
from petsam_jax.ui.video_state import TRANSPARENT, VideoExportOptions


def export_video(clip: OpenClip, path: Path, options: VideoExportOptions) -> Iterator[int]:
    """Write all frames, and yield how many are done; then it replaces `clip.exported`.

    Deletes the file if it is not finished.
    """
    session, finished = clip.session, False
    try:
        with VideoWriter(path, session.clip.size, session.clip.fps) as writer:
            for frame in range(clip.count):
                found = clip.masks(frame)
                # As on the page, an object's number decides its colour.
                colours = [COLOURS[(number - 1) % len(COLOURS)] for number in found.object_ids]
                pixels = _render(session.clip.read(frame), found.masks, colours, options)
                writer.write(pixels, session.clip.seconds(frame))
                yield frame + 1
        finished = True
    finally:
        if not finished:
            path.unlink(missing_ok=True)
    if clip.exported is not None:
        clip.exported.unlink(missing_ok=True)
    clip.exported = path


def _render(
    pixels: UInt8[np.ndarray, "h w 3"],
    masks: Bool[np.ndarray, "n h w"],
    colours: list[tuple[int, int, int]],
    options: VideoExportOptions,
) -> UInt8[np.ndarray, "h w c"]:
    """RGB, or RGBA for a transparent cut-out."""
    if options.kind == "overlay":
        return overlay(pixels, masks, colours, options.opacity)
    mask = masks.any(axis=0)
    if options.kind == "mask":
        return np.asarray(mask_image(mask[None]).convert("RGB"))
    if options.kind == TRANSPARENT:
        return cutout(pixels, mask, trim=False, soft=options.soft)
    return on_background(options.kind, pixels, mask, options.soft)
