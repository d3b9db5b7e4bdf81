"""One visitor's clip: a session that is kept in step with what the browser says.

The browser sends all prompts of all frames; `hear` tells the session what is new in them. What was
tracked stays in the session, and each frame knows whether prompts have changed since.
"""

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from petsam_jax.files.video_reader import Clip, ClipError
from petsam_jax.predict.postprocess import fill_holes, remove_islands
from petsam_jax.predict.video.propagation import Found
from petsam_jax.predict.video.session import Session
from petsam_jax.predict.video.tracks import Mask
from petsam_jax.ui.cache import Expired
from petsam_jax.ui.click_labels import read_click
from petsam_jax.ui.image_service import runs
from petsam_jax.ui.object_masks import box_holds_pet, check_inside
from petsam_jax.ui.page_state import ObjectPrompts, Settings
from petsam_jax.ui.request_fields import BadRequest
from petsam_jax.ui.video_messages import ReadPrompt, tell_found
from petsam_jax.ui.video_state import ClipObject, ClipState

# How a frame stands on the page's time line.
UNTRACKED, BEFORE, TRACKED = 0, 1, 2  # BEFORE: before the prompts were changed


class OpenClip:
    """A session, and a second decoder for showing frames, so that neither waits for the other."""

    def __init__(
        self,
        session: Session,
        shown: Clip,
        path: Path,
        pet_map: Callable[[np.ndarray], np.ndarray],
        nbytes: int,
    ):
        """`path` is the clip's file, removed with it; `pet_map` finds pets in a frame unprompted.

        `nbytes` is the memory that it may come to take.
        """
        self.session, self.nbytes, self.path = session, nbytes, path
        self.film: Path | None = None  # what was made of it last, to take home
        self._shown, self._pet_map = shown, pet_map
        self._objects: tuple[ClipObject, ...] = ()
        self._settings = Settings()
        self._heard: dict[tuple[int, int], ReadPrompt] = {}  # by object and frame
        self._pets: dict[int, Float32[np.ndarray, "h w"]] = {}  # pet maps, by frame
        # Goes up whenever a prompt changes; begins anywhere, so that no page takes a clip that it
        # had to send again for what it was.
        self._version = secrets.randbits(30)
        self._tracked: dict[int, int] = {}  # the version at which each frame was tracked
        self._changed: set[int] = set()  # frames whose prompts changed since tracking began
        self._start = 0  # from where tracking went last
        self._lock, self._showing, self._closed = threading.RLock(), threading.Lock(), False

    @property
    def count(self) -> int:
        return self.session.clip.count

    def close(self) -> None:
        """Waits for who is at work with it."""
        with self._lock, self._showing:
            self._closed = True
            self.session.clip.close()
            self._shown.close()
            for path in (self.path, self.film):
                if path is not None:
                    path.unlink(missing_ok=True)

    def working(self) -> contextlib.AbstractContextManager[None]:
        """For one thread at a time; raises Expired once it is closed, and names no path."""
        return self._holding(self._lock)

    @contextlib.contextmanager
    def _holding(self, lock: contextlib.AbstractContextManager) -> Iterator[None]:
        with lock:
            if self._closed:
                raise Expired("this clip is not open any more; send it again")
            try:
                yield
            except (ClipError, IndexError) as error:
                raise BadRequest(str(error).replace(str(self.path), "this clip")) from error

    def pixels(self, frame: int) -> UInt8[np.ndarray, "h w 3"]:
        """A frame to be shown, also while the clip is tracked."""
        with self._holding(self._showing):
            return self._shown.read(frame)

    # What is said

    def hear(self, state: ClipState) -> None:
        """Bring the session up to what the browser says; raises BadRequest before any change."""
        wanted = {
            (one.number, at): said for one in state.objects for at, said in one.frames.items()
        }
        for (_, at), said in wanted.items():
            self.session.clip.check(at)
            check_inside(said, self.session.clip.size)
        read = {key: self._read(key[1], said, state.settings) for key, said in wanted.items()}
        self._objects, self._settings = state.objects, state.settings
        numbers = {number for number, _ in wanted}
        for key in [key for key in self._heard if key not in wanted]:
            self._forget(*key, with_object=key[0] not in numbers)
        for key, heard in read.items():
            before = self._heard.get(key)
            if before is None or (before.said, before.labels) != (heard.said, heard.labels):
                self._say(key, before, heard)
        # Maps of frames without prompts may be asked for again.
        used = {at for _, at in wanted}
        self._pets = {at: pets for at, pets in self._pets.items() if at in used}

    def _read(self, at: int, said: ObjectPrompts, settings: Settings) -> ReadPrompt:
        if at not in self._pets:
            self._pets[at] = self._pet_map(self.session.clip.read(at))
        pets, size = self._pets[at], self.session.clip.size
        reads = [read_click(pets, size, click, settings) for click in said.clicks]
        labels, means = [label for label, _ in reads], [mean for _, mean in reads]
        holds_pet = box_holds_pet(pets, size, said, labels, settings) if said.box else None
        return ReadPrompt(said, tuple(labels), tuple(means), holds_pet)

    def _forget(self, number: int, at: int, with_object: bool) -> None:
        del self._heard[number, at]
        self._change(at)
        if number not in self.session.object_ids:
            return
        if with_object:
            # Nothing was said of it any more: then nothing is shown of it either.
            self.session.remove_object(number)
        else:
            self.session.clear_frame(at, number)

    def _say(self, key: tuple[int, int], before: ReadPrompt | None, heard: ReadPrompt) -> None:
        """Only what is new, if all that was said before still holds."""
        number, at = key
        said, known = heard.said, 0
        if before is not None and _goes_on(before, heard):
            known = len(before.labels)
        elif before is not None:
            del self._heard[key]
            self.session.clear_frame(at, number)
        self._change(at)
        if not known:
            if said.box:
                self.session.add_box(at, number, said.box)
            elif said.find:
                self.session.add_pet(at, number)
        clicks = list(zip(said.clicks, heard.labels, strict=True))[known:]
        # One by one, each with the mask before it fed back, as in training.
        for click, label in clicks:
            self.session.add_points(at, number, [(click.x, click.y)], [label])
        self._heard[key] = heard

    def _change(self, at: int) -> None:
        self._version += 1
        self._changed.add(at)

    # What is answered

    def answer(self, frame: int, found: Found | None = None) -> dict:
        """Masks of a frame as runs of labels, what there is to say of each object, the time line.

        `found` is what tracking has just found; then there is no time line.
        """
        masks = found or self.session.masks(frame)
        height, width = self.session.clip.size
        labels = np.zeros((height, width), np.uint8)
        scores = self.session.scores(frame)
        rows = dict(zip(masks.object_ids, masks.masks, strict=True))
        told = []
        for place, one in enumerate(self._objects, start=1):
            if one.number not in rows or one.number not in scores:
                told.append(None)
                continue
            mask = self._tidied(rows[one.number])
            labels[mask] = place
            heard = self._heard.get((one.number, frame))
            told.append(tell_found(heard, mask, scores[one.number], self._settings))
        answer = {
            "frame": frame,
            "height": height,
            "width": width,
            "runs": runs(labels),
            "objects": told,
            "version": self._version,
        }
        return answer if found else answer | {"line": runs(self._line())}

    def masks(self, frame: int) -> Found:
        """The newest masks of all objects, tidied as the settings say."""
        found = self.session.masks(frame)
        masks = [self._tidied(mask) for mask in found.masks]
        return found._replace(masks=np.array(masks).reshape(found.masks.shape))

    def _tidied(self, mask: Mask) -> Mask:
        filled = fill_holes(mask, self._settings.fill_holes)
        return remove_islands(filled, self._settings.remove_islands)

    def _line(self) -> UInt8[np.ndarray, "1 t"]:
        line = np.zeros((1, self.count), np.uint8)
        for frame, version in self._tracked.items():
            line[0, frame] = TRACKED if version == self._version else BEFORE
        return line

    # Tracking

    def passes(self, both: bool) -> list[tuple[int, int, bool]]:
        """Start, end and direction of what there is to track; raises BadRequest without prompts.

        From the first prompt that is new since the last time; what was stopped is gone on with.
        """
        prompted = sorted({at for _, at in self._heard})
        if not prompted:
            raise BadRequest("nothing was said yet: click on the animal on some frame first")
        if self._changed:
            first = min(self._changed)
            self._start = max((at for at in prompted if at <= first), default=prompted[0])
            self._changed.clear()
        elif self._start not in prompted:
            self._start = prompted[0]
        ahead = [at for at in range(self._start, self.count) if not self._is_tracked(at)]
        back = [at for at in range(self._start, -1, -1) if not self._is_tracked(at)] if both else []
        if not ahead and not back:
            ahead = [self._start]
            back = [self._start] if both else []
        passes = [(ahead[0], self.count - 1, False)] if ahead else []
        if back and self._start > 0:
            passes.append((back[0], 0, True))
        return passes

    def _is_tracked(self, frame: int) -> bool:
        return self._tracked.get(frame) == self._version

    def track(self, passes: list[tuple[int, int, bool]]) -> Iterator[dict]:
        """The answer of each frame as it is found."""
        for start, end, reverse in passes:
            for found in self.session.propagate(start, end, reverse=reverse):
                self._tracked[found.frame] = self._version
                yield self.answer(found.frame, found)


def _goes_on(before: ReadPrompt, heard: ReadPrompt) -> bool:
    """Whether clicks were added and nothing else changed."""
    known = len(before.labels)
    same = (before.said.box, before.said.find) == (heard.said.box, heard.said.find)
    clicks = heard.said.clicks[:known] == before.said.clicks
    return same and clicks and heard.labels[:known] == before.labels
