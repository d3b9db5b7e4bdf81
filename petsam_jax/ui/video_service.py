"""What the video tab asks, answered without any web around it: as `studio`, for clips.

In: files of clips and states. Out: plain data, frames as JPEG, and videos to take home. All methods
may be called from several threads; a clip itself is for one of them at a time.
"""

import contextlib
import io
import math
import os
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image

from petsam_jax.files import video_reader
from petsam_jax.files.video_reader import Clip, ClipError, open_clip
from petsam_jax.predict.video.clip_state import ENCODED
from petsam_jax.predict.video_predictor import VideoPredictor
from petsam_jax.ui.cache import Expired, Shelf
from petsam_jax.ui.limits import MEGA, Limits
from petsam_jax.ui.request_fields import BadRequest
from petsam_jax.ui.video_clip import OpenClip
from petsam_jax.ui.video_export import make_film
from petsam_jax.ui.video_state import ClipState, FilmStyle

# How files begin that are taken, and the names by which FFmpeg knows them. Others it would open
# too, and some of those name further files to be read.
BEGINNINGS = {
    **dict.fromkeys((b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"), (4, ".mp4")),
    b"\x1aE\xdf\xa3": (0, ".webm"),
    b"GIF8": (0, ".gif"),
}
# Bytes of what is remembered of a clip beside frames and encodings: prompts, masks, pointers.
REMEMBERED = 20 * MEGA
QUALITY = 88


class Steps:
    """Work on a clip in short steps, each with the clip to itself."""

    def __init__(self, clips: Shelf[OpenClip], name: str, work: Callable[[OpenClip], Generator]):
        """Raises Expired."""
        self._clips, self._name = clips, name
        self._clip = clips.get(name)
        self._work = work(self._clip)

    def next(self) -> dict | None:
        """What a step tells, None after the last; raises Expired, BadRequest and ValueError."""
        # Who is at work is not swept away.
        self._clips.get(self._name)
        with self._clip.working():
            return next(self._work, None)

    def close(self) -> None:
        """Stop it; waits for a step that is under way."""
        with contextlib.suppress(Expired), self._clip.working():
            self._work.close()


class VideoService:
    """A predictor and the clips that visitors have open."""

    def __init__(self, predictor: VideoPredictor, limits: Limits | None = None):
        self.predictor, self.limits = predictor, limits or Limits()
        bounds = self.limits.clip_bytes, self.limits.keep_seconds, self.limits.clips
        self.clips: Shelf[OpenClip] = Shelf("clip", *bounds)
        # Expired with this process, whatever is left in it.
        self._folder = tempfile.TemporaryDirectory(prefix="petsam-clips-")
        self._warm = threading.Lock()
        self._is_warm = False

    def warm_up(self) -> None:
        """Compile what the first visitor would wait for; whoever comes meanwhile waits for it."""
        with self._warm:
            if not self._is_warm:
                session = self.predictor.open(np.zeros((3, 64, 64, 3), np.uint8))
                session.add_points(0, 1, [(32, 32)], [1])
                for _ in session.propagate():
                    pass
                self._is_warm = True

    def new_file(self, ending: str = "") -> Path:
        """For an upload that is under way, or a video that is made."""
        handle, path = tempfile.mkstemp(ending, dir=self._folder.name)
        os.close(handle)
        return Path(path)

    def open(self, name: str, file: Path) -> dict:
        """Open a clip under the browser's name for it: its size, its length and its speed.

        The file is the studio's from then on. Raises BadRequest for what is no video or too large.
        """
        try:
            file = file.rename(file.with_suffix(_ending(file)))
            clip = self._opened(file)
            shown = open_clip(file)
        except (ClipError, av.FFmpegError) as error:
            file.unlink(missing_ok=True)
            words = f"this is no video that can be read: {_reason(error, file)}"
            raise BadRequest(words) from error
        except BadRequest:
            file.unlink(missing_ok=True)
            raise
        session = self.predictor.open(clip)
        opened = OpenClip(session, shown, file, self._pet_map, self._nbytes(clip))
        self.clips.put(name, opened)
        height, width = clip.size
        told = {"clip": name, "width": width, "height": height}
        return told | {"count": clip.count, "fps": round(clip.fps, 3)}

    def _opened(self, file: Path) -> Clip:
        """Raises BadRequest for one that is too large, before anything of it is decoded."""
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise BadRequest("no video in this file; it is damaged, or has only sound")
            context = container.streams.video[0].codec_context
            size, most = (context.width, context.height), self.limits.max_clip_pixels
        if math.prod(size) > most:
            raise BadRequest(
                f"frames of {size[0]} x {size[1]} pixels; at most {most / MEGA:g} megapixels are "
                "taken: make it smaller first"
            )
        clip, most = open_clip(file), self.limits.max_clip_frames
        if clip.count > most:
            clip.close()
            raise BadRequest(f"{clip.count:,} frames; at most {most:,} are taken: cut it first")
        return clip

    def _pet_map(self, pixels: np.ndarray) -> np.ndarray:
        images = self.predictor.images
        pet = images.predict_low_res(multimask=True, image=images.encode(pixels))
        return pet.logits[pet.iou_pred.argmax()]

    def _nbytes(self, clip: Clip) -> int:
        pixels = clip.read(0)
        kept = max(
            video_reader.LEAST_KEPT,
            min(video_reader.KEPT, video_reader.KEPT_BYTES // pixels.nbytes),
        )
        # Two decoders keep frames.
        encoded = self.predictor.images.encode(pixels)
        return 2 * kept * pixels.nbytes + ENCODED * encoded.nbytes + REMEMBERED

    # Answers

    def picture(self, name: str, frame: int) -> bytes:
        """A frame as a JPEG; raises Expired, and BadRequest for one that the clip lacks."""
        file = io.BytesIO()
        Image.fromarray(self.clips.get(name).pixels(frame)).save(file, "JPEG", quality=QUALITY)
        return file.getvalue()

    def masks(self, name: str, frame: int) -> dict:
        """Of a frame, by what was said last; raises as `picture`."""
        clip = self.clips.get(name)
        with clip.working():
            return clip.answer(frame)

    def answer(self, state: ClipState) -> dict:
        """Masks of the frame shown, from the browser's state; raises Expired and BadRequest."""
        clip = self.clips.get(state.clip)
        self.warm_up()
        with clip.working():
            clip.hear(state)
            return clip.answer(state.frame)

    # Long work

    def track(self, state: ClipState, both: bool) -> Steps:
        """How many frames there are to track, and then the answer of each as it is found."""

        def work(clip: OpenClip) -> Iterator[dict]:
            self.warm_up()
            clip.hear(state)
            passes = clip.passes(both)
            yield {"total": sum(abs(end - start) + 1 for start, end, _ in passes)}
            yield from clip.track(passes)

        return Steps(self.clips, state.clip, work)

    def save(self, state: ClipState, style: FilmStyle) -> Steps:
        """Makes a video: how many frames there are, and then how many are done."""

        def work(clip: OpenClip) -> Iterator[dict]:
            self.warm_up()
            clip.hear(state)
            yield {"total": clip.count}
            for done in make_film(clip, self.new_file(f".{style.format}"), style):
                yield {"done": done}

        return Steps(self.clips, state.clip, work)

    def close(self) -> None:
        """Drop all clips and their files."""
        self.clips.clear()
        self._folder.cleanup()


def _ending(file: Path) -> str:
    with file.open("rb") as opened:
        head = opened.read(12)
    for beginning, (at, ending) in BEGINNINGS.items():
        if head[at:].startswith(beginning):
            return ending
    raise BadRequest("this is no mp4, mov, webm or GIF; save it as one of these")


def _reason(error: Exception, file: Path) -> str:
    words = error.strerror if isinstance(error, av.FFmpegError) else str(error)
    return str(words).replace(f"{file}: ", "")
