"""The video tab's requests without HTTP; the counterpart of `image_service` for clips.

In: files of clips and states. Out: plain data, frames as JPEG, and videos to save. All methods may
be called from several threads; a clip itself is used by one of them at a time.
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

from petsam_jax.files.clip import Clip, ClipError, frames_to_keep
from petsam_jax.files.video_reader import open_clip
from petsam_jax.predict.video.tracker_inputs import ENCODED
from petsam_jax.predict.video_predictor import VideoPredictor
from petsam_jax.ui.cache import ByteLimitedCache, Expired
from petsam_jax.ui.limits import MEGA, Limits
from petsam_jax.ui.request_fields import BadRequest
from petsam_jax.ui.video_clip import OpenClip
from petsam_jax.ui.video_export import export_video
from petsam_jax.ui.video_state import ClipState, VideoExportOptions

# The first bytes of accepted files, where they stand, and FFmpeg's name for the format. FFmpeg
# would open others too, and some of those make it read further files.
SIGNATURES = {
    **dict.fromkeys((b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"), (4, ".mp4")),
    b"\x1aE\xdf\xa3": (0, ".webm"),
    b"GIF8": (0, ".gif"),
}
# Bytes for a clip's prompts, masks and object pointers, beside its frames and encodings.
STATE_BYTES = 20 * MEGA
JPEG_QUALITY = 88


class Steps:
    """A long task on a clip, in short steps that each lock the clip."""

    def __init__(
        self,
        clips: ByteLimitedCache[OpenClip],
        name: str,
        task: Callable[[OpenClip], Generator],
    ):
        """Raises Expired."""
        self._clips, self._name = clips, name
        self._clip = clips.get(name)
        self._task = task(self._clip)

    def next(self) -> dict | None:
        """What a step yields, None after the last; raises Expired, BadRequest and ValueError."""
        # Counts as a use, so that the clip does not expire meanwhile.
        self._clips.get(self._name)
        with self._clip.locked():
            return next(self._task, None)

    def close(self) -> None:
        """Stop the task, after the current step."""
        with contextlib.suppress(Expired), self._clip.locked():
            self._task.close()


class VideoService:
    """A predictor and the clips that visitors have open."""

    def __init__(self, predictor: VideoPredictor, limits: Limits | None = None):
        self.predictor, self.limits = predictor, limits or Limits()
        bounds = self.limits.clip_bytes, self.limits.keep_seconds, self.limits.clips
        self.clips: ByteLimitedCache[OpenClip] = ByteLimitedCache("video", *bounds)
        # Deleted with all that is in it when the process ends.
        self._folder = tempfile.TemporaryDirectory(prefix="petsam-clips-")
        self._warm_up_lock = threading.Lock()
        self._is_warm = False

    def warm_up(self) -> None:
        """Compile what the first visitor would wait for; other callers wait until it is done."""
        with self._warm_up_lock:
            if not self._is_warm:
                session = self.predictor.open(np.zeros((3, 64, 64, 3), np.uint8))
                session.add_points(0, 1, [(32, 32)], [1])
                for _ in session.propagate():
                    pass
                self._is_warm = True

    def new_file(self, suffix: str = "") -> Path:
        """An empty file for an upload or an export."""
        handle, path = tempfile.mkstemp(suffix, dir=self._folder.name)
        os.close(handle)
        return Path(path)

    def open(self, name: str, file: Path) -> dict:
        """Open a clip under the id that the browser chose: its size, length and frame rate.

        Takes over the file. Raises BadRequest for a file that is no video or too large.
        """
        try:
            file = file.rename(file.with_suffix(_suffix(file)))
            clip = self._open_within_limits(file)
            display = open_clip(file)
        except (ClipError, av.FFmpegError) as error:
            file.unlink(missing_ok=True)
            raise BadRequest(f"this video cannot be read: {_reason(error, file)}") from error
        except BadRequest:
            file.unlink(missing_ok=True)
            raise
        session = self.predictor.open(clip)
        self.clips.put(name, OpenClip(session, display, file, self._find_pet, self._nbytes(clip)))
        height, width = clip.size
        return {
            "clip": name,
            "width": width,
            "height": height,
            "count": clip.count,
            "fps": round(clip.fps, 3),
        }

    def _open_within_limits(self, file: Path) -> Clip:
        """Raises BadRequest for a clip that is too large, before decoding any frame."""
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise BadRequest("no video in this file; it is damaged, or has only sound")
            context = container.streams.video[0].codec_context
            size, limit = (context.width, context.height), self.limits.max_clip_pixels
        if math.prod(size) > limit:
            raise BadRequest(
                f"frames of {size[0]} x {size[1]} pixels; the limit is {limit / MEGA:g} "
                "megapixels. Make it smaller first."
            )
        clip, limit = open_clip(file), self.limits.max_clip_frames
        if clip.count > limit:
            clip.close()
            raise BadRequest(f"{clip.count:,} frames; the limit is {limit:,}. Shorten it first.")
        return clip

    def _find_pet(self, pixels: np.ndarray) -> np.ndarray:
        images = self.predictor.images
        found = images.predict_low_res(multimask=True, image=images.encode(pixels))
        return found.logits[found.iou_pred.argmax()]

    def _nbytes(self, clip: Clip) -> int:
        pixels = clip.read(0)
        frames = frames_to_keep(pixels)
        encoded = self.predictor.images.encode(pixels)
        # Two decoders keep frames.
        return 2 * frames * pixels.nbytes + ENCODED * encoded.nbytes + STATE_BYTES

    # Frames and masks

    def frame_jpeg(self, name: str, frame: int) -> bytes:
        """Raises Expired, and BadRequest for a frame that the clip lacks."""
        file = io.BytesIO()
        pixels = self.clips.get(name).pixels(frame)
        Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
        return file.getvalue()

    def masks(self, name: str, frame: int) -> dict:
        """A frame's masks by the prompts sent last; raises as `frame_jpeg`."""
        clip = self.clips.get(name)
        with clip.locked():
            return clip.describe(frame)

    def segment(self, state: ClipState) -> dict:
        """Masks of the frame that the page shows; raises Expired and BadRequest."""
        clip = self.clips.get(state.clip)
        self.warm_up()
        with clip.locked():
            clip.sync(state)
            return clip.describe(state.frame)

    # Long tasks

    def track(self, state: ClipState, both: bool) -> Steps:
        """Yields the number of frames to track, then the description of each."""

        def task(clip: OpenClip) -> Iterator[dict]:
            self.warm_up()
            clip.sync(state)
            passes = clip.passes(both)
            yield {"total": sum(abs(end - start) + 1 for start, end, _ in passes)}
            yield from clip.track(passes)

        return Steps(self.clips, state.clip, task)

    def export(self, state: ClipState, options: VideoExportOptions) -> Steps:
        """Yields the number of frames, then how many are written."""

        def task(clip: OpenClip) -> Iterator[dict]:
            self.warm_up()
            clip.sync(state)
            yield {"total": clip.count}
            for done in export_video(clip, self.new_file(f".{options.format}"), options):
                yield {"done": done}

        return Steps(self.clips, state.clip, task)

    def close(self) -> None:
        """Close all clips and delete their files."""
        self.clips.clear()
        self._folder.cleanup()


def _suffix(file: Path) -> str:
    with file.open("rb") as opened:
        head = opened.read(12)
    for signature, (offset, suffix) in SIGNATURES.items():
        if head[offset:].startswith(signature):
            return suffix
    raise BadRequest("not an mp4, mov, webm or GIF file; save it as one of these")


def _reason(error: Exception, file: Path) -> str:
    message = error.strerror if isinstance(error, av.FFmpegError) else str(error)
    return str(message).replace(f"{file}: ", "")
