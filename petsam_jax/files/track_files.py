"""The files of `petsam track`: videos of the objects, and an image of each frame.

    overlay   OUT itself              the clip with its objects tinted and outlined
    cutout    OUT itself              the objects on transparency, if OUT is a GIF or a WebP
              STEM-cutout.SUFFIX      the same beside an overlay
              STEM-cutout/00000.png   as images, if OUT is an mp4 or mov, which are opaque
    masks     STEM-masks/00000.png    white on black; several objects as numbers, in colours

In: frames with masks, in the order of the clip. Images are named by the number of their frame.
"""

import contextlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from petsam_jax.files.render import cutout, mask_image, overlay
from petsam_jax.files.video_writer import VideoWriter, can_be_transparent, check_name

FORMATS = ("overlay", "cutout", "masks")
# The fastest: files are a tenth larger, in a third of the time.
PNG = {"compress_level": 1}


class ClipFiles(contextlib.ExitStack):
    """Open files; leaving `with`, even by an error, closes them with the frames so far."""

    def __init__(
        self, out: Path, formats: Collection[str], size: tuple[int, int], fps: float | int
    ):
        """`size` is height and width. Raises ValueError or OSError if a file cannot be written."""
        super().__init__()
        self._videos, self._folders = {}, {}
        self.paths: list[Path] = []  # the videos and the folders
        check_name(out)
        videos = {"overlay": out}
        if can_be_transparent(out):
            beside = out.with_name(f"{out.stem}-cutout{out.suffix}")
            videos["cutout"] = beside if "overlay" in formats else out
        for name in FORMATS:
            if name not in formats:
                continue
            path = videos.get(name, out.with_name(f"{out.stem}-{name}"))
            if name in videos:
                self._videos[name] = self.enter_context(VideoWriter(path, size, fps))
            else:
                path.mkdir(exist_ok=True)
                self._folders[name] = path
            self.paths.append(path)

    def add(
        self,
        frame: int,
        image: UInt8[np.ndarray, "h w 3"],
        masks: Bool[np.ndarray, "n h w"],
        seconds: float | None = None,
    ) -> None:
        """Write one frame in all formats; `seconds` as in `VideoWriter.write`."""
        if "overlay" in self._videos:
            self._videos["overlay"].write(overlay(image, masks), seconds)
        if "cutout" in self._videos:
            self._videos["cutout"].write(cutout(image, masks.any(axis=0), trim=False), seconds)
        elif "cutout" in self._folders:
            objects = cutout(image, masks.any(axis=0), trim=False)
            self._save(Image.fromarray(objects), "cutout", frame)
        if "masks" in self._folders:
            self._save(mask_image(masks), "masks", frame)

    def _save(self, image: Image.Image, name: str, frame: int) -> None:
        image.save(self._folders[name] / f"{frame:05}.png", **PNG)
