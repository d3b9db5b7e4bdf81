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

from petsam_jax.files.clip import Clip
from petsam_jax.predict.image_predictor import ImagePredictor
from petsam_jax.predict.prompt_arrays import Numbers
from petsam_jax.predict.prompt_inputs import Prompt, model_prompts
from petsam_jax.predict.video import session_file
from petsam_jax.predict.video.clip_state import State
from petsam_jax.predict.video.crops import Seen, View, cut_off, first_views
from petsam_jax.predict.video.numpy_bank import MOST_PROMPTED
from petsam_jax.predict.video.propagation import Found, run_pass
from petsam_jax.predict.video.tracker import FrameOutput, Tracker
from petsam_jax.predict.video.tracks import (
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

    def set_prompt(self, frame: int, object_id: int, prompt: Prompt) -> Mask:
        """Everything given about an object on a frame, in place of what was given before.

        Returns the object's mask on the frame. Clicks are applied one by one, each to the mask that
        those before it gave, as in training; if only clicks were added, only those are. Raises as
        `add_points`.
        """
        self.clip.check(frame)
        prompt.check(self.clip.size)
        before = self.prompt(frame, object_id)
        if before is not None and not prompt.extends(before):
            self.clear_frame(frame, object_id)
            before = None
        mask = None
        for step in prompt.steps():
            if before is None or len(step.points) > len(before.points):
                mask = self._add(frame, object_id, step, fed_back=bool(step.points))
        return self._state.masks(frame, [object_id])[0] if mask is None else mask

    def prompt(self, frame: int, object_id: int) -> Prompt | None:
        """What was given about an object on a frame; None if nothing was."""
        one = self._state.objects.get(object_id)
        known = one.prompted.get(frame) if one else None
        return known.prompt if known else None

    def add_points(self, frame: int, object_id: int, points: Numbers, labels: Numbers) -> Mask:
        """Clicks (p, 2) x, y with labels (p,), 1 in and 0 out, beside those that the frame has.

        Returns the object's mask on the frame. A frame that was tracked is corrected, and reads its
        memory; to track on from the correction call `propagate`. Raises IndexError for a frame that
        the clip lacks, ClipError, a ValueError, for one that cannot be read, and ValueError for a
        click outside of it and anything else that is no prompt; the session is then as before.
        """
        added = Prompt.read(points, labels)
        before = self.prompt(frame, object_id) or Prompt()
        # A mask that was given is then fed back, as any prediction is.
        prompt = before.with_points(added.points, added.labels)
        return self._add(frame, object_id, prompt, fed_back=True)

    def add_box(self, frame: int, object_id: int, box: Numbers) -> Mask:
        """A box x0 y0 x1 y1 in place of the object's prompt on the frame; else as `add_points`."""
        return self._add(frame, object_id, Prompt.read(box=box))

    def add_mask(self, frame: int, object_id: int, mask: Numbers) -> Mask:
        """The object's mask (h, w) at the clip's size, used as it is; else as `add_box`.

        Bool, or whole numbers with 0 for background, as files have them. An empty one says that the
        object is not there.
        """
        return self._add(frame, object_id, Prompt.read(mask=mask))

    def add_pet(self, frame: int, object_id: int) -> Mask:
        """The pet that the model finds unprompted; an empty mask if it finds none."""
        return self._add(frame, object_id, Prompt())

    def _add(self, frame: int, object_id: int, prompt: Prompt, fed_back: bool = False) -> Mask:
        """Predict the object and remember it; raises before anything changes."""
        state = self._state
        one = state.objects.get(object_id) or TrackedObject()
        if frame not in one.prompted and len(one.prompted) >= MOST_PROMPTED:
            raise ValueError(
                f"object {object_id}: {MOST_PROMPTED} frames have prompts, which is all that is "
                "remembered; take some back with clear_frame"
            )
        self.clip.check(frame)
        prompt.check(self.clip.size)
        known = one.at(frame)
        # The first prompt of a frame that was not tracked reads no memory, nor do those after it.
        initial = known.initial if isinstance(known, PromptedFrame) else known is None
        reverse = known is not None and known.reverse
        if prompt.mask is None or prompt.points:
            seen = state.last_seen(frame, object_id) if fed_back else None
            views = self._views(frame, prompt, initial, known if fed_back else None)
            answers = [
                self._answer(view, frame, object_id, prompt, seen, initial, reverse)
                for view in views
            ]
            view, answer = self._best(views, answers)
            mask = state.place(state.enlarge(answer.logits[0], view), view)
        else:
            mask = prompt.mask.unpack()
            others = [each for each in self._known_on(frame) if each != object_id]
            view = state.view_around(frame, others, mask)
            features = state.encode(frame, view).features
            answer = state.tracker.given(features, state.model_mask(view.cut(mask)))
            answer = jax.tree.map(np.asarray, answer)
        self._before_change()
        one = state.objects.setdefault(int(object_id), one)
        one.prompted[frame] = PromptedFrame(
            prompt,
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
        prompt: Prompt,
        initial: bool,
        before: PromptedFrame | TrackedFrame | None,
    ) -> list[View]:
        """Where to look for all that was said; `before` is the answer that it is to mend."""
        state = self._state
        if not initial:
            view = state.view_around(frame, self._known_on(frame))
            return [view if view.has(prompt.coordinates) else state.whole]
        if before is not None and before.view.has(prompt.coordinates):
            return [before.view]
        if not state.zoom:
            return [state.whole]
        return first_views(
            prompt.coordinates, prompt.box is not None, self.clip.size, state.images.size
        )

    def _best(self, views: list[View], answers: list[FrameOutput]) -> tuple[View, FrameOutput]:
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
        prompt: Prompt,
        seen: Seen | None,
        initial: bool,
        reverse: bool,
    ) -> FrameOutput:
        state = self._state
        last = None if seen is None else seen.moved(view)[None]
        cropped = prompt.in_crop(view.left, view.top)
        prompts = model_prompts([cropped], (view.height, view.width), state.images.size, last)
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
