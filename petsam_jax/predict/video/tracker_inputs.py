"""What the tracker reads about a frame of a clip: features of a view, position, masks, memories.

In: a clip, and the state of its objects, which is only read here but for one thing: the memory of a
prompted frame is made again where the view of it changes (`refresh_prompt_memory`).
"""

from collections.abc import Sequence

import numpy as np
from cachetools import LRUCache
from jaxtyping import Bool

from petsam_jax.files.clip import Clip, ClipError, Frame
from petsam_jax.predict.image_predictor import EncodedImage, ImagePredictor
from petsam_jax.predict.postprocess import logits_at_size
from petsam_jax.predict.video.clip_state import ClipState
from petsam_jax.predict.video.crops import MaskInView, View, full_view, next_view
from petsam_jax.predict.video.numpy_bank import NumpyBank
from petsam_jax.predict.video.tracker import Position, Tracker
from petsam_jax.predict.video.tracks import (
    Logits,
    Mask,
    Memory,
    PromptedFrame,
    TrackedFrame,
    unpack,
)

# Encoded views that are kept for further prompts on the same frames.
ENCODED = 6


class TrackerInputs:
    """Reads one clip for the tracker."""

    def __init__(
        self,
        images: ImagePredictor,
        tracker: Tracker,
        clip: Clip,
        state: ClipState,
        zoom: bool,
    ):
        """`zoom` as for `VideoPredictor`."""
        self.images, self.tracker, self.clip, self.state = images, tracker, clip, state
        self.zoom = zoom
        self._encoded: LRUCache[tuple[int, View], EncodedImage] = LRUCache(ENCODED)

    def encode(self, frame: int, view: View, pixels: Frame | None = None) -> EncodedImage:
        """A view of a frame, whose pixels may have been read before; raises as `Clip.read` does."""
        key = frame, view
        if key not in self._encoded:
            pixels = self.clip.read(frame) if pixels is None else pixels
            self._encoded[key] = self.images.encode(view.crop(pixels))
        return self._encoded[key]

    def position(self, frame: int, reverse: bool) -> Position:
        """Where a frame is in the clip."""
        # For a stream, whose length is unknown, pointers are as old as in the longest clips.
        frames = self.clip.count or self.tracker.pointers + 1
        return Position(np.int32(frame), np.int32(frames), np.bool_(reverse))

    # Views and the last masks

    @property
    def full_view(self) -> View:
        """The whole frame."""
        return full_view(self.clip.size)

    def view_around(self, frame: int, object_ids: list[int], mask: Mask | None = None) -> View:
        """The view of these objects as known on a frame, and of a mask."""
        masks = [self.last_mask(frame, each) for each in object_ids]
        if mask is not None:
            masks.append(MaskInView(self.images.mask_prompt(mask), self.full_view, True, None))
        return self.view_of(masks)

    def view_of(self, masks: Sequence[MaskInView | None]) -> View:
        """The view of all of these; the whole frame if one of them is unknown or empty."""
        known = [each for each in masks if each is not None]
        boxes = [box for box in (each.box() for each in known) if box is not None]
        if not self.zoom or len(boxes) < len(masks):
            return self.full_view
        last = [each.memory_view for each in known if each.memory_view is not None]
        return next_view(boxes, last, self.clip.size, self.images.size)

    def last_mask(self, frame: int, object_id: int) -> MaskInView | None:
        """The last result there, to be fed back as in training; None without one."""
        record = self.state.at(frame, object_id)
        if record is None:
            return None
        present = record.object_logit > 0
        if isinstance(record, PromptedFrame):
            return MaskInView(record.logits, record.view, present, record.memory_view)
        recent = self.state.recent(frame, object_id)
        if recent is None:
            logits = self.mask_logits(record.counts, self.full_view)
            return MaskInView(logits, self.full_view, present, None)
        return MaskInView(recent.logits, recent.view, present, recent.view)

    def mask_logits(self, counts: str, view: View) -> Logits:
        """Logits in place of those that a mask was made of, which are no longer kept."""
        return self.images.mask_prompt(view.crop(unpack(counts, self.clip.size)))

    def model_mask(self, mask: Bool[np.ndarray, "H W"]):
        """A mask of any size at the model's, with batch and channel axes."""
        side = self.images.size
        small = logits_at_size(mask.astype(np.float32), side, side) >= 0.5
        return small.astype(np.float32)[None, ..., None]

    # Memories

    def memories(
        self, object_ids: list[int], frame: int, reverse: bool, without: int | None = None
    ) -> NumpyBank:
        """What these objects remember when `frame` comes, but for the frame `without`."""
        prompted = [
            {at: record for at, record in self.state.prompted(each).items() if at != without}
            for each in object_ids
        ]
        tracker = self.tracker
        bank = NumpyBank(
            max(1, len(object_ids)),
            max(map(len, prompted), default=0),
            tracker.pointers,
            tracker.map_shape,
            tracker.pointer_width,
        )
        step = 1 if reverse else -1
        for row, each in enumerate(object_ids):
            for slot, (at, record) in enumerate(prompted[row].items()):
                bank.put_prompted(row, slot, at, record.memory, record.obj_ptr)
            for back in range(1, tracker.pointers + 1):
                self._put_tracked(bank, row, each, frame + back * step, back)
        return bank

    def _put_tracked(self, bank: NumpyBank, row: int, object_id: int, at: int, back: int) -> None:
        """A tracked frame, `back` frames before the current one."""
        record = self.state.at(at, object_id)
        if not isinstance(record, TrackedFrame):
            return
        memory: Memory | float | None = 0.0
        if back <= self.tracker.memories:
            recent = self.state.recent(at, object_id)
            memory = self._old_memory(at, record) if recent is None else recent.memory
        if memory is not None:
            bank.put_tracked(row, at, memory, record.obj_ptr)

    def _old_memory(self, frame: int, record: TrackedFrame) -> Memory | None:
        """The memory of a frame that is not recent; None if its pixels cannot be read."""
        try:
            view = self.view_around(frame, self.state.ids_on(frame))
            return self.memory_of(frame, record, view)
        except (ClipError, IndexError):
            # The frames of a stream are gone.
            return None

    def memory_of(self, frame: int, record: TrackedFrame | PromptedFrame, view: View) -> Memory:
        """A view's memory, made from the mask alone; raises as `encode` does."""
        features = self.encode(frame, view).features
        logits = self.mask_logits(record.counts, view)[None]
        object_logit = np.array([record.object_logit], np.float32)
        return np.asarray(self.tracker.remember_mask(features, logits, object_logit))[0]

    def refresh_prompt_memory(self, frame: int) -> None:
        """Remember a prompted frame in the view that tracking takes of all objects on it."""
        ids = self.state.ids_on(frame)
        view = self.view_around(frame, ids)
        for each in ids:
            record = self.state.at(frame, each)
            if isinstance(record, PromptedFrame) and record.memory_view != view:
                memory = self.memory_of(frame, record, view)
                record = record._replace(memory=memory, memory_view=view)
                self.state.update_prompt(frame, each, record)
