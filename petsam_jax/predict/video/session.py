"""One clip: its objects, what was said of them, and where they were found.

In: prompts on any frame for any object, and which frames to track. Out: masks. Frames that were
prompted are remembered for good, of tracked ones the last 15, as many as SAM 2 reads; masks are
kept as run lengths. A clip of any length thus takes little memory.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import numpy as np

from petsam_jax.files.video_reader import Clip
from petsam_jax.predict.image_predictor import ImagePredictor
from petsam_jax.predict.prompt_inputs import Numbers, picture_prompts
from petsam_jax.predict.video import session_file
from petsam_jax.predict.video.clip_state import State
from petsam_jax.predict.video.crops import Seen, View, cut_off, first_views
from petsam_jax.predict.video.numpy_bank import MOST_PROMPTED
from petsam_jax.predict.video.propagation import Found, run_pass
from petsam_jax.predict.video.tracker import Answer, Tracker
from petsam_jax.predict.video.tracks import (
    FramePrompt,
    Kept,
    Mask,
    PromptedFrame,
    RecentFrames,
    TrackedFrame,
    TrackedObject,
    pack,
)

# States that `undo` can go back to.
UNDONE = 100


class Session:
    """Made by `VideoPredictor.open`. For one thread at a time."""

    def __init__(
        self,
        images: ImagePredictor,
        tracker: Tracker,
        clip: Clip,
        zoom: bool,
        objects: dict[int, TrackedObject] | None = None,
        kept: Iterable[Kept] = (),
    ):
        """`objects` and `kept` are those of a session that was saved."""
        self.clip = clip
        self._state = State(images, tracker, clip, zoom)
        self._state.objects = objects or {}
        self._state.window = RecentFrames(tracker.pointers, kept)
        # Earlier states of what was said.
        self._history: deque[dict[int, TrackedObject]] = deque(maxlen=UNDONE)

    @property
    def object_ids(self) -> list[int]:
        return self._state.object_ids

    # Prompts

    def add_points(self, frame: int, object_id: int, points: Numbers, labels: Numbers) -> Mask:
        """Clicks (p, 2) x, y with labels (p,), 1 in and 0 out, beside those that the frame has.

        Returns the object's mask on the frame. A frame that was tracked is corrected, and reads its
        memory; to track on from the correction call `propagate`. Raises IndexError for a frame that
        the clip lacks, ClipError, a ValueError, for one that cannot be read, and ValueError for a
        click outside of it and anything else that is no prompt; the session is then as before.
        """
        size = self.clip.size
        _, number = picture_prompts(points, labels, None, None, size, self._state.images.size)
        if number is not None:
            raise ValueError("points: of several objects; give those of one at a time, (p, 2)")
        before = self._said(frame, object_id)
        # A mask that was given is then fed back, as any answer is.
        said = FramePrompt(
            (*before.points, *map(tuple, np.asarray(points, float).tolist())),
            (*before.labels, *np.asarray(labels, int).tolist()),
            before.box,
        )
        return self._prompt(frame, object_id, said, fed_back=True)

    def add_box(self, frame: int, object_id: int, box: Numbers) -> Mask:
        """A box x0 y0 x1 y1 in place of all that was said of the object there; as `add_points`."""
        picture_prompts(None, None, box, None, self.clip.size, self._state.images.size)
        corners = np.asarray(box, float)
        if corners.shape != (4,):
            raise ValueError(f"box: shape {corners.shape}; want (4,), x0 y0 x1 y1")
        return self._prompt(frame, object_id, FramePrompt(box=tuple(corners.tolist())))

    def add_mask(self, frame: int, object_id: int, mask: Numbers) -> Mask:
        """The object's mask (h, w) at the clip's size, which is its own answer; else as `add_box`.

        Bool, or whole numbers of which 0 is background, as files have them. An empty one says that
        the object is not there.
        """
        mask = np.asarray(mask)
        if mask.dtype.kind not in "bui":
            raise ValueError(f"mask: numbers of type {mask.dtype}; want bool or whole numbers")
        mask = mask != 0
        if mask.shape != self.clip.size:
            raise ValueError(f"mask: shape {mask.shape}; want the clip's size, {self.clip.size}")
        return self._prompt(frame, object_id, FramePrompt(given=True), mask=mask)

    def add_pet(self, frame: int, object_id: int) -> Mask:
        """The pet that the model finds by itself; an empty mask if it finds none."""
        return self._prompt(frame, object_id, FramePrompt())

    def _said(self, frame: int, object_id: int) -> FramePrompt:
        one = self._state.objects.get(object_id)
        before = one.prompted.get(frame) if one else None
        return before.said if before else FramePrompt()

    def _prompt(
        self,
        frame: int,
        object_id: int,
        said: FramePrompt,
        fed_back: bool = False,
        mask: Mask | None = None,
    ) -> Mask:
        """Answer and remember; raises before anything changes."""
        state = self._state
        one = state.objects.get(object_id) or TrackedObject()
        if frame not in one.prompted and len(one.prompted) >= MOST_PROMPTED:
            raise ValueError(
                f"object {object_id}: {MOST_PROMPTED} frames have prompts, which is all that is "
                "remembered; take some back with clear_frame"
            )
        self.clip.check(frame)
        known = one.at(frame)
        # The first prompt of a frame that was not tracked reads no memory, nor do those after it.
        initial = known.initial if isinstance(known, PromptedFrame) else known is None
        reverse = known is not None and known.reverse
        if mask is None:
            seen = state.last_seen(frame, object_id) if fed_back else None
            views = self._views(frame, said, initial, known if fed_back else None)
            answers = [
                self._answer(view, frame, object_id, said, seen, initial, reverse) for view in views
            ]
            view, answer = self._best(views, answers)
            mask = state.place(state.enlarge(answer.logits[0], view), view)
        else:
            others = [each for each in self._known_on(frame) if each != object_id]
            view = state.view_around(frame, others, mask)
            features = state.encode(frame, view).features
            answer = state.tracker.given(features, state.model_mask(view.cut(mask)))
            answer = jax.tree.map(np.asarray, answer)
        self._before_change()
        one = state.objects.setdefault(int(object_id), one)
        one.prompted[frame] = PromptedFrame(
            said,
            initial,
            reverse,
            pack(mask),
            answer.logits[0],
            float(answer.object_logit[0]),
            answer.obj_ptr[0],
            answer.memory[0],
            view,
            memory_view=view,
        )
        state.refresh_prompt_memory(frame)
        return mask

    def _known_on(self, frame: int) -> list[int]:
        return [each for each in self.object_ids if self._state.objects[each].at(frame)]

    def _views(
        self,
        frame: int,
        said: FramePrompt,
        initial: bool,
        before: PromptedFrame | TrackedFrame | None,
    ) -> list[View]:
        """Where to look for all that was said; `before` is the answer that it is to mend."""
        state = self._state
        if not initial:
            view = state.view_around(frame, self._known_on(frame))
            return [view if view.has(said.places) else state.whole]
        if before is not None and before.view.has(said.places):
            return [before.view]
        if not state.zoom:
            return [state.whole]
        return first_views(said.places, said.box is not None, self.clip.size, state.images.size)

    def _best(self, views: list[View], answers: list[Answer]) -> tuple[View, Answer]:
        """The answer that the model itself thinks better of; the first, if others are cut off."""
        best = views[0], answers[0]
        for view, answer in zip(views[1:], answers[1:], strict=True):
            seen = Seen(answer.logits[0], view, bool(answer.object_logit[0] > 0), None)
            if answer.iou_pred[0] > best[1].iou_pred[0] and not cut_off(seen, self.clip.size):
                best = view, answer
        return best

    def _answer(
        self,
        view: View,
        frame: int,
        object_id: int,
        said: FramePrompt,
        seen: Seen | None,
        initial: bool,
        reverse: bool,
    ) -> Answer:
        state = self._state
        corner = np.array([view.left, view.top])
        points, labels = (None, None) if not said.points else (said.points - corner, said.labels)
        box = None if said.box is None else said.box - np.tile(corner, 2)
        size = view.height, view.width
        last = seen and seen.moved(view)
        prompts, _ = picture_prompts(points, labels, box, last, size, state.images.size)
        ids = [] if initial else [object_id]
        memories = state.memories(ids, frame, reverse, without=frame)
        answer = state.tracker.step(
            state.encode(frame, view).features,
            memories.bank,
            state.where(frame, reverse),
            prompts,
            initial=np.array([initial]),
            prompted=np.array([True]),
        )
        return jax.tree.map(np.asarray, answer)

    # Changes of mind

    def clear_frame(self, frame: int, object_id: int | None = None) -> None:
        """Take back the prompts of an object, or of all, on a frame; raises ValueError if none.

        Where the frame was tracked before, that counts again.
        """
        ids = self.object_ids if object_id is None else [self._known(object_id)]
        ids = [each for each in ids if self._state.prompted_on(frame, each)]
        if not ids:
            whose = "any object's" if object_id is None else f"object {object_id}'s"
            raise ValueError(f"frame {frame}: none of {whose} prompts is there")
        self._before_change()
        for each in ids:
            del self._state.objects[each].prompted[frame]

    def remove_object(self, object_id: int) -> None:
        """Forget an object with its prompts and masks; raises ValueError if there is none."""
        self._known(object_id)
        self._before_change()
        del self._state.objects[object_id]
        self._state.window.drop(object_id)

    def undo(self) -> bool:
        """Take back the last prompt, `clear_frame` or `remove_object`; False if there is none.

        Masks that were tracked since stay until they are tracked again.
        """
        if not self._history:
            return False
        self._state.objects = self._history.pop()
        self._state.version += 1
        return True

    def reset(self) -> None:
        """Forget all objects; the clip stays open."""
        self._history.clear()
        self._state.objects = {}
        self._state.window = RecentFrames(self._state.tracker.pointers)
        self._state.version += 1

    def _before_change(self) -> None:
        objects = self._state.objects
        self._history.append({each: one.copy() for each, one in objects.items()})
        self._state.version += 1

    def _known(self, object_id: int) -> int:
        if object_id not in self._state.objects:
            raise ValueError(f"object {object_id}: there is none; there are {self.object_ids}")
        return object_id

    # Tracking

    def propagate(
        self, start: int | None = None, end: int | None = None, *, reverse: bool = False
    ) -> Iterator[Found]:
        """Track all objects from `start` to `end`, both included: frame, object ids, masks.

        By default from the first prompted frame (`reverse`: the last one) to where the clip ends.
        On prompted frames the objects are as their prompts say. Prompts may be added and taken back
        on the way, and count from the next frame on. Raises ValueError if there are no objects, or
        one without a prompt, or nothing from `start` to `end`, and IndexError for a frame that the
        clip lacks. A ClipError for a frame that cannot be read comes when its turn comes; what was
        found until then stays.
        """
        objects = self._state.objects
        if not objects:
            raise ValueError("no objects: add points, a box or a mask first")
        for object_id in self.object_ids:
            if not objects[object_id].prompted:
                raise ValueError(f"object {object_id}: no prompt is left; add some, or remove it")
        prompted = [frame for one in objects.values() for frame in one.prompted]
        start = (max(prompted) if reverse else min(prompted)) if start is None else start
        end = 0 if end is None and reverse else end
        for frame in (start, end):
            if frame is not None:
                self.clip.check(frame)
        if end is not None and (end > start if reverse else end < start):
            raise ValueError(f"from frame {start} to {end}: no frame lies in this direction")
        return run_pass(self._state, self._order(start, end, reverse), reverse)

    def _order(self, start: int, end: int | None, reverse: bool) -> Iterable[int]:
        if reverse:
            return range(start, end - 1, -1)
        if end is None and self.clip.count is None:
            return itertools.count(start)
        return range(start, (self.clip.count if end is None else end + 1))

    def masks(self, frame: int) -> Found:
        """The newest masks of all objects on a frame; empty where one was not tracked."""
        self.clip.check(frame)
        ids = self.object_ids
        return Found(frame, ids, self._state.masks(frame, ids))

    def scores(self, frame: int) -> dict[int, float]:
        """How likely each object is to be there at all, of those that were prompted or tracked.

        Raises IndexError for a frame that the clip lacks.
        """
        self.clip.check(frame)
        known = {each: one.at(frame) for each, one in self._state.objects.items()}
        logits = {each: one.object_logit for each, one in sorted(known.items()) if one}
        return {each: 1 / (1 + float(np.exp(-logit))) for each, logit in logits.items()}

    # Keeping it

    def save_session(self, path: str | Path) -> None:
        """Write prompts and masks to a file, for `VideoPredictor.load_session`."""
        state = self._state
        fingerprint = state.tracker.fingerprint
        session_file.save(Path(path), self.clip, state.objects, state.window.kept(), fingerprint)
