"""One clip: its objects, their prompts, and where they were tracked.

In: prompts for any object on any frame, and which frames to track. Out: masks. Prompted frames are
remembered for good, of tracked ones the last 15, as many as SAM 2 reads; masks are kept as run
lengths. A clip of any length thus takes little memory.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from petsam_jax.files.clip import Clip
from petsam_jax.predict.image_predictor import ImagePredictor
from petsam_jax.predict.prompt_arrays import Numbers
from petsam_jax.predict.prompt_inputs import Prompt
from petsam_jax.predict.video import session_file
from petsam_jax.predict.video.clip_state import ClipState
from petsam_jax.predict.video.frame_masks import combine_masks
from petsam_jax.predict.video.numpy_bank import MOST_PROMPTED
from petsam_jax.predict.video.prompted_frame import predict_prompt
from petsam_jax.predict.video.propagation import FrameMasks, propagate
from petsam_jax.predict.video.tracker import Tracker
from petsam_jax.predict.video.tracker_inputs import TrackerInputs
from petsam_jax.predict.video.tracks import Mask, RecentEntry, TrackedObject


class Session:
    """Made by `VideoPredictor.open`. For one thread at a time."""

    def __init__(
        self,
        images: ImagePredictor,
        tracker: Tracker,
        clip: Clip,
        zoom: bool,
        objects: Mapping[int, TrackedObject] | None = None,
        recent: Iterable[RecentEntry] = (),
    ):
        """`objects` and `recent` are those of a saved session."""
        self.clip = clip
        self._state = ClipState(tracker.pointers, objects, recent)
        self._inputs = TrackerInputs(images, tracker, clip, self._state, zoom)

    @property
    def object_ids(self) -> list[int]:
        """All objects, in order."""
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
        return self.masks(frame).masks[self.object_ids.index(object_id)] if mask is None else mask

    def prompt(self, frame: int, object_id: int) -> Prompt | None:
        """What was given about an object on a frame; None if nothing was."""
        return self._state.prompt(frame, object_id)

    def add_points(self, frame: int, object_id: int, points: Numbers, labels: Numbers) -> Mask:
        """Add clicks (p, 2) x, y with labels (p,), 1 in and 0 out, to the object's prompt.

        Returns the object's mask on the frame. A tracked frame is corrected, reading its memory; to
        track on from the correction call `propagate`. Raises IndexError for a frame that the clip
        does not have, ClipError, a ValueError, for one that cannot be read, and ValueError for a
        click outside the frame and anything else that is no prompt; the session is then unchanged.
        """
        added = Prompt.read(points, labels)
        before = self.prompt(frame, object_id) or Prompt()
        # A mask that was given is then fed back, as any prediction is.
        prompt = before.with_points(added.points, added.labels)
        return self._add(frame, object_id, prompt, fed_back=True)

    def add_box(self, frame: int, object_id: int, box: Numbers) -> Mask:
        """A box x0 y0 x1 y1 in place of the object's prompt; else as `add_points`."""
        return self._add(frame, object_id, Prompt.read(box=box))

    def add_mask(self, frame: int, object_id: int, mask: Numbers) -> Mask:
        """The object's mask (h, w), of the clip's size, used as it is; else as `add_box`.

        Bool, or whole numbers with 0 for background, as files have them. An empty mask means that
        the object is absent.
        """
        return self._add(frame, object_id, Prompt.read(mask=mask))

    def add_pet(self, frame: int, object_id: int) -> Mask:
        """The pet that the model finds without a prompt; an empty mask if it finds none."""
        return self._add(frame, object_id, Prompt())

    def _add(self, frame: int, object_id: int, prompt: Prompt, fed_back: bool = False) -> Mask:
        """Predict the object and remember it; raises before anything changes."""
        prompted = self._state.prompted(object_id)
        if frame not in prompted and len(prompted) >= MOST_PROMPTED:
            raise ValueError(
                f"object {object_id}: {MOST_PROMPTED} frames have prompts, the most that can be "
                "remembered; remove some with clear_frame"
            )
        self.clip.check(frame)
        prompt.check(self.clip.size)
        record, mask = predict_prompt(self._inputs, frame, object_id, prompt, fed_back)
        self._state.put_prompt(frame, object_id, record)
        self._inputs.refresh_prompt_memory(frame)
        return mask

    # Changes

    def clear_frame(self, frame: int, object_id: int | None = None) -> None:
        """Remove the prompts of an object, or of all, on a frame; raises ValueError if none.

        Where the frame was tracked before, that result counts again.
        """
        ids = self.object_ids if object_id is None else [self._existing(object_id)]
        ids = [each for each in ids if self.prompt(frame, each) is not None]
        if not ids:
            whose = "" if object_id is None else f" of object {object_id}"
            raise ValueError(f"frame {frame}: no prompts{whose} there")
        self._state.clear_prompts(frame, ids)

    def remove_object(self, object_id: int) -> None:
        """Forget an object with its prompts and masks; raises ValueError if there is none."""
        self._state.remove(self._existing(object_id))

    def undo(self) -> bool:
        """Undo the last prompt, `clear_frame` or `remove_object`; False if there is none.

        Masks that were tracked since stay until they are tracked again.
        """
        return self._state.undo()

    def reset(self) -> None:
        """Forget all objects; the clip stays open."""
        self._state.clear()

    def _existing(self, object_id: int) -> int:
        if object_id not in self.object_ids:
            raise ValueError(f"object {object_id}: does not exist; there are {self.object_ids}")
        return object_id

    # Tracking

    def propagate(
        self, start: int | None = None, end: int | None = None, *, reverse: bool = False
    ) -> Iterator[FrameMasks]:
        """Track all objects from `start` to `end`, both included: frame, object ids, masks.

        By default from the first prompted frame (`reverse`: the last) to the end of the clip.
        On prompted frames objects have the masks of their prompts. Prompts may be added and removed
        meanwhile, and count from the next frame on. Raises ValueError if there are no objects, or
        one without a prompt, or no frames from `start` to `end`, and IndexError for a frame that
        the clip does not have. For a frame that cannot be read ClipError is raised when its turn
        comes; the masks before it stay.
        """
        if not self.object_ids:
            raise ValueError("no objects: add points, a box or a mask first")
        for object_id in self.object_ids:
            if not self._state.prompted(object_id):
                raise ValueError(f"object {object_id}: no prompt is left; add one, or remove it")
        prompted = [frame for each in self.object_ids for frame in self._state.prompted(each)]
        start = (max(prompted) if reverse else min(prompted)) if start is None else start
        for frame in (start, end):
            if frame is not None:
                self.clip.check(frame)
        if end is not None and (end > start if reverse else end < start):
            raise ValueError(f"from frame {start} to {end}: no frames lie in this direction")
        return propagate(self._inputs, self._order(start, end, reverse), reverse)

    def _order(self, start: int, end: int | None, reverse: bool) -> Iterable[int]:
        if reverse:
            return range(start, -1 if end is None else end - 1, -1)
        stop = self.clip.count if end is None else end + 1
        return itertools.count(start) if stop is None else range(start, stop)

    def masks(self, frame: int) -> FrameMasks:
        """The newest masks of all objects on a frame; empty where one was not tracked."""
        self.clip.check(frame)
        ids = self.object_ids
        return FrameMasks(frame, ids, combine_masks(self._inputs, frame, ids))

    def scores(self, frame: int) -> dict[int, float]:
        """The probability that each object is there, of those that were prompted or tracked.

        Raises IndexError for a frame that the clip does not have.
        """
        self.clip.check(frame)
        records = {each: self._state.at(frame, each) for each in self.object_ids}
        logits = {each: one.object_logit for each, one in records.items() if one is not None}
        return {each: 1 / (1 + float(np.exp(-logit))) for each, logit in logits.items()}

    # Saving

    def save_session(self, path: str | Path) -> None:
        """Write prompts and masks to a file, for `VideoPredictor.load_session`."""
        session_file.save(Path(path), self.clip, self._state, self._inputs.tracker.fingerprint)
