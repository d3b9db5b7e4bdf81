"""Clips in any form as RGB frames, read by their number.

In: the path of a video (mp4, mov, webm, GIF: whatever FFmpeg opens) or of a folder of JPEG or PNG
frames, a sequence of arrays, or an iterator of arrays of unknown length. Out: uint8, h w 3, all of
one size. Only a few frames are held in memory, however long the clip.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from petsam_jax.files.clip import Clip, ClipError, Frame, drop_oldest
from petsam_jax.files.images import UnfitImage, load_image
from petsam_jax.files.video_file import Video

SUFFIXES = (".jpg", ".jpeg", ".png")

ClipSource = str | Path | np.ndarray | Sequence | Iterator


def open_clip(source: ClipSource | Clip) -> Clip:
    """Raises ClipError, with the path and the fault; TypeError for another type."""
    if isinstance(source, Clip):
        return source
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            return FrameSequence(str(path), frame_files(path))
        if not path.is_file():
            raise ClipError(f"{path}: no such file or folder")
        return Video(path)
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise ClipError(f"clip: an array of shape {source.shape}; expected (t, h, w, 3)")
    if isinstance(source, np.ndarray | Sequence):
        return FrameSequence("clip", source)
    if isinstance(source, Iterator):
        return Stream(source)
    raise TypeError(
        f"a clip of type {type(source).__name__}; expected a path, or a sequence or iterator of "
        "arrays"
    )


def frame_files(folder: Path) -> list[Path]:
    """The images in a folder in the order of their names, hidden files left out."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
    return sorted((path for path in files if not path.name.startswith(".")), key=_natural_key)


def _natural_key(path: Path) -> tuple:
    """Sorts numbers in names as numbers: frame 10 after frame 9."""
    parts = re.split(r"(\d+)", path.name.lower())
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)


class FrameSequence(Clip):
    """Frames as a sequence of files, arrays, or anything else that `load_image` accepts."""

    def __init__(self, name: str, frames: Sequence | np.ndarray):
        self._frames = frames
        super().__init__(name, len(frames))

    def _read(self, frame: int) -> Frame:
        try:
            return load_image(self._frames[frame])
        except UnfitImage as error:
            raise ClipError(f"{self.name}: frame {frame}: {error}") from error


class Stream(Clip):
    """Frames from an iterator, in order; the last ones, up to `KEPT`, can be read again."""

    live = True

    def __init__(self, frames: Iterator):
        self._frames, self._kept, self._next = frames, OrderedDict(), 0
        super().__init__("stream", None)

    def _read(self, frame: int) -> Frame:
        while self._next <= frame:
            try:
                image = next(self._frames)
            except StopIteration:
                self.count = self._next
                raise IndexError(f"{self.name}: ended after {self._next} frames") from None
            try:
                self._kept[self._next] = load_image(image)
            except UnfitImage as error:
                raise ClipError(f"{self.name}: frame {self._next}: {error}") from error
            self._next += 1
            drop_oldest(self._kept)
        if frame not in self._kept:
            raise ClipError(
                f"{self.name}: frame {frame} has passed; only the last {len(self._kept)} frames of "
                "a stream are kept: use a file or a folder to go back further"
            )
        return self._kept[frame]
