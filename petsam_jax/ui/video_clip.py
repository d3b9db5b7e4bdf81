"""One visitor's open clip: a session that is kept in sync with the page's state.

The browser sends the prompts of all frames, and `sync` passes on to the session what is new in
them. Tracked masks stay in the session.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from petsam_jax.files.clip import Clip, ClipError
from petsam_jax.predict.postprocess import fill_holes, remove_islands
from petsam_jax.predict.video.propagation import FrameMasks
from petsam_jax.predict.video.session import Session
from petsam_jax.predict.video.tracks import Mask
from petsam_jax.ui.cache import Expired
from petsam_jax.ui.click_labels import label_clicks
from petsam_jax.ui.image_service import runs
from petsam_jax.ui.object_masks import box_holds_pet
from petsam_jax.ui.page_state import ObjectPrompts, Settings
from petsam_jax.ui.request_fields import BadRequest
from petsam_jax.ui.video_messages import ReadPrompt, describe_object
from petsam_jax.ui.video_state import ClipObject, ClipState
from petsam_jax.ui.video_timeline import Pass, Timeline


class OpenClip:
    """A session, and a second decoder for display, so that neither waits for the other."""

    def __init__(
        self,
        session: Session,
        display: Clip,
        path: Path,
        find_pet: Callable[[np.ndarray], np.ndarray],
        nbytes: int,
    ):
        """`path` is the clip's file, which is deleted with it; `nbytes` the memory it may use.

        `find_pet` returns the logits of a frame without a prompt.
        """
        self.session, self.nbytes, self.path = session, nbytes, path
        self.exported: Path | None = None  # the video exported last, for download
        self.timeline = Timeline(session.clip.count)
        self._display, self._find_pet = display, find_pet
        self._objects: tuple[ClipObject, ...] = ()
        self._settings = Settings()
        self._prompts: dict[tuple[int, int], ReadPrompt] = {}  # by object and frame
        self._pet_logits: dict[int, Float32[np.ndarray, "h w"]] = {}  # by frame
        self._lock, self._display_lock = threading.RLock(), threading.Lock()
        self._closed = False

    @property
    def count(self) -> int:
        return self.session.clip.count

    def close(self) -> None:
        """Waits for threads that use it."""
        with self._lock, self._display_lock:
            self._closed = True
            self.session.clip.close()
            self._display.close()
            for path in (self.path, self.exported):
                if path is not None:
                    path.unlink(missing_ok=True)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """For one thread at a time; raises Expired once closed, and errors that name no path."""
        return self._guarded(self._lock)

    @contextlib.contextmanager
    def _guarded(self, lock: contextlib.AbstractContextManager) -> Iterator[None]:
        with lock:
            if self._closed:
                raise Expired("this video is no longer open; send it again")
            try:
                yield
            except (ClipError, IndexError) as error:
                raise BadRequest(str(error).replace(str(self.path), "this video")) from error

    def pixels(self, frame: int) -> UInt8[np.ndarray, "h w 3"]:
        """A frame for display, also during tracking."""
        with self._guarded(self._display_lock):
            return self._display.read(frame)

    # Prompts

    def sync(self, state: ClipState) -> None:
        """Bring the session up to the page's state; raises BadRequest before any change."""
        new = {
            (each.number, frame): prompts
            for each in state.objects
            for frame, prompts in each.frames.items()
        }
        for _, frame in new:
            self.session.clip.check(frame)
        read = {key: self._read(key[1], one, state.settings) for key, one in new.items()}
        self._objects, self._settings = state.objects, state.settings
        numbers = {number for number, _ in new}
        for number, frame in [key for key in self._prompts if key not in new]:
            self._remove(number, frame, with_object=number not in numbers)
        for (number, frame), one in read.items():
            before = self._prompts.pop((number, frame), None)
            if before is None or before.prompt != one.prompt:
                self.timeline.prompt_changed(frame)
                self.session.set_prompt(frame, number, one.prompt)
            self._prompts[number, frame] = one
        used = {frame for _, frame in new}
        self._pet_logits = {at: logits for at, logits in self._pet_logits.items() if at in used}

    def _read(self, frame: int, prompts: ObjectPrompts, settings: Settings) -> ReadPrompt:
        if frame not in self._pet_logits:
            self._pet_logits[frame] = self._find_pet(self.session.clip.read(frame))
        logits, size = self._pet_logits[frame], self.session.clip.size
        prompt, pet_probs = label_clicks(logits, size, prompts, settings)
        holds_pet = box_holds_pet(logits, size, prompt, settings) if prompt.box else None
        last_click = prompts.clicks[-1] if prompts.clicks else None
        return ReadPrompt(prompt, pet_probs, last_click, holds_pet)

    def _remove(self, number: int, frame: int, with_object: bool) -> None:
        del self._prompts[number, frame]
        self.timeline.prompt_changed(frame)
        if number not in self.session.object_ids:
            return
        if with_object:
            # Without any prompt, its tracked masks go too.
            self.session.remove_object(number)
        else:
            self.session.clear_frame(frame, number)

    # Masks

    def describe(self, frame: int, tracked: FrameMasks | None = None) -> dict:
        """A frame's masks as runs of labels, a description of each object, and the timeline.

        `tracked` is what tracking has just found there; then there is no timeline.
        """
        found = tracked or self.session.masks(frame)
        height, width = self.session.clip.size
        labels = np.zeros((height, width), np.uint8)
        scores = self.session.scores(frame)
        rows = dict(zip(found.object_ids, found.masks, strict=True))
        objects: list[dict | None] = []
        for place, each in enumerate(self._objects, start=1):
            if each.number not in rows or each.number not in scores:
                objects.append(None)
                continue
            mask = self._cleaned(rows[each.number])
            labels[mask] = place
            read = self._prompts.get((each.number, frame))
            objects.append(describe_object(read, mask, scores[each.number]))
        description = {
            "frame": frame,
            "height": height,
            "width": width,
            "runs": runs(labels),
            "objects": objects,
            "version": self.timeline.version,
        }
        return description if tracked else description | {"timeline": runs(self.timeline.states())}

    def masks(self, frame: int) -> FrameMasks:
        """The newest masks of all objects, with holes and islands removed."""
        found = self.session.masks(frame)
        masks = [self._cleaned(mask) for mask in found.masks]
        return found._replace(masks=np.array(masks).reshape(found.masks.shape))

    def _cleaned(self, mask: Mask) -> Mask:
        filled = fill_holes(mask, self._settings.fill_holes)
        return remove_islands(filled, self._settings.remove_islands)

    # Tracking

    def passes(self, both: bool) -> list[Pass]:
        """What to track next; raises BadRequest without prompts."""
        prompted = {frame for _, frame in self._prompts}
        if not prompted:
            raise BadRequest("no prompts yet: click on the animal on any frame first")
        return self.timeline.passes(prompted, both)

    def track(self, passes: list[Pass]) -> Iterator[dict]:
        """The description of each frame as it is tracked."""
        for start, end, reverse in passes:
            for found in self.session.propagate(start, end, reverse=reverse):
                self.timeline.frame_tracked(found.frame)
                yield self.describe(found.frame, found)
