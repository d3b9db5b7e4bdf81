"""What is known of one clip, and how the tracker reads and is told it.

In: a clip, and what prompts and tracking find. Out: frames encoded, memories as the model reads
them, masks at the clip's size. `session.py` changes it as the user says, `passes.py` by tracking.
"""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from petsam_jax.files.clip import Clip, ClipError, Frame
from petsam_jax.predict.image_predictor import EncodedImage, ImagePredictor
from petsam_jax.predict.postprocess import fill_holes, logits_at_size, masks_at_size
from petsam_jax.predict.video.crops import Seen, View, next_view, placed, whole
from petsam_jax.predict.video.numpy_bank import Memories
from petsam_jax.predict.video.overlaps import apart
from petsam_jax.predict.video.tracker import Tracker, Where
from petsam_jax.predict.video.tracks import (
    Logits,
    Map,
    Mask,
    PromptedFrame,
    RecentFrames,
    TrackedFrame,
    TrackedObject,
    unpack,
)

# Encodings that are kept for further prompts on the same frames.
ENCODED = 6
# Holes that are filled, as a share of the picture: SAM 2's 8 cells of 256 x 256.
HOLES = 8 / 256**2
# Logits, beside or above each other, that such a hole may have within it.
HOLE_CELLS = 8


class State:
    """Objects by id. `version` goes up with each change that tracking did not make itself."""

    def __init__(self, images: ImagePredictor, tracker: Tracker, clip: Clip, zoom: bool):
        """`zoom` is as `VideoPredictor` has it."""
        self.images, self.tracker, self.clip, self.zoom = images, tracker, clip, zoom
        self.objects: dict[int, TrackedObject] = {}
        self.window = RecentFrames(tracker.pointers)
        self.version = 0
        self._encoded: OrderedDict[tuple[int, View], EncodedImage] = OrderedDict()

    @property
    def object_ids(self) -> list[int]:
        return sorted(self.objects)

    def prompted_on(self, frame: int, object_id: int) -> bool:
        return frame in self.objects[object_id].prompted

    def encode(self, frame: int, view: View, pixels: Frame | None = None) -> EncodedImage:
        """What is in view of a frame, whose pixels may be at hand; raises as `Clip.read` does."""
        key = frame, view
        if key not in self._encoded:
            pixels = self.clip.read(frame) if pixels is None else pixels
            self._encoded[key] = self.images.encode(view.cut(pixels))
        self._encoded.move_to_end(key)
        while len(self._encoded) > ENCODED:
            self._encoded.popitem(last=False)
        return self._encoded[key]

    def where(self, frame: int, reverse: bool) -> Where:
        # Of a stream the model knows no length: pointers' ages are then as in the longest clips.
        frames = self.clip.count or self.tracker.pointers + 1
        return Where(np.int32(frame), np.int32(frames), np.bool_(reverse))

    # Where it looks

    @property
    def whole(self) -> View:
        return whole(self.clip.size)

    def view_around(self, frame: int, object_ids: list[int], mask: Mask | None = None) -> View:
        """Of what is known of these objects on a frame, and of a mask; whole if one is absent."""
        seen = [self.last_seen(frame, each) for each in object_ids]
        if mask is not None:
            seen.append(Seen(self.images.mask_prompt(mask), self.whole, True, None))
        return self.view_of(seen)

    def view_of(self, seen: Sequence[Seen | None]) -> View:
        """Of all of these objects; whole if one of them is not there, or nowhere known."""
        boxes = [each and each.box() for each in seen]
        if not self.zoom or None in boxes:
            return self.whole
        last = [each.last_view for each in seen if each.last_view is not None]
        return next_view(boxes, last, self.clip.size, self.images.size)

    def last_seen(self, frame: int, object_id: int) -> Seen | None:
        """What was answered there last, to be fed back as in training; None if nothing was."""
        one = self.objects.get(object_id)
        known = one.at(frame) if one else None
        if known is None:
            return None
        present = known.object_logit > 0
        if isinstance(known, PromptedFrame):
            return Seen(known.logits, known.view, present, known.memory_view)
        fresh = self.window.get(frame, object_id)
        if fresh is None:
            return Seen(self.mask_prompt(known.counts, self.whole), self.whole, present, None)
        return Seen(fresh.logits, fresh.view, present, fresh.view)

    def mask_prompt(self, counts: str, view: View) -> Logits:
        """A kept mask as logits, which are not kept."""
        return self.images.mask_prompt(view.cut(unpack(counts, self.clip.size)))

    # What the model remembers

    def memories(
        self, object_ids: list[int], frame: int, reverse: bool, without: int | None = None
    ) -> Memories:
        """What these objects remember when `frame` comes; nothing of the frame `without`."""
        prompted = [
            {at: known for at, known in self.objects[each].prompted.items() if at != without}
            for each in object_ids
        ]
        tracker = self.tracker
        memories = Memories(
            max(1, len(object_ids)),
            max(map(len, prompted), default=0),
            tracker.pointers,
            tracker.map_shape,
            tracker.pointer_width,
        )
        for row, each in enumerate(object_ids):
            for slot, (at, known) in enumerate(prompted[row].items()):
                memories.prompted(row, slot, at, known.memory, known.obj_ptr)
            for back in range(1, tracker.pointers + 1):
                self._remember(memories, row, each, frame + back * (1 if reverse else -1), back)
        return memories

    def _remember(self, memories: Memories, row: int, object_id: int, at: int, back: int) -> None:
        """One tracked frame, so many frames back."""
        known = self.objects[object_id].tracked.get(at)
        if known is None or self.prompted_on(at, object_id):
            return
        memory = 0.0
        if back <= self.tracker.memories:
            fresh = self.window.get(at, object_id)
            memory = self._recall(at, known) if fresh is None else fresh.memory
        if memory is not None:
            memories.tracked(row, at, memory, known.obj_ptr)

    def _recall(self, frame: int, known: TrackedFrame) -> Map | None:
        """The memory of a frame that has left the window, made of its mask; None if it is gone."""
        ids = [each for each in self.object_ids if self.objects[each].at(frame)]
        try:
            return self.recall(frame, known, self.view_around(frame, ids))
        except (ClipError, IndexError):
            # A stream's frames pass.
            return None

    def recall(self, frame: int, known: TrackedFrame | PromptedFrame, view: View) -> Map:
        """The memory of a view of a frame, made of its mask alone; raises as `encode` does."""
        features = self.encode(frame, view).features
        logits = self.mask_prompt(known.counts, view)[None]
        score = np.array([known.object_logit], np.float32)
        return np.asarray(self.tracker.recall(features, logits, score))[0]

    def refresh_prompt_memory(self, frame: int) -> None:
        """Remember a prompted frame as what is tracked is seen: around all objects on it."""
        ids = [each for each in self.object_ids if self.objects[each].at(frame)]
        view = self.view_around(frame, ids)
        for each in ids:
            known = self.objects[each].at(frame)
            if isinstance(known, PromptedFrame) and known.memory_view != view:
                memory = self.recall(frame, known, view)
                self.objects[each].prompted[frame] = known._replace(memory=memory, memory_view=view)

    # What is shown

    def enlarge(self, logits: Logits, view: View) -> Mask:
        """The mask at the size of a view, without small holes."""
        height, width = view.height, view.width
        mask = masks_at_size(logits, height, width)
        if not _may_have_holes(logits, height, width):
            return mask
        return fill_holes(mask, round(HOLES * height * width))

    def place(self, masks: Bool[np.ndarray, "*n H W"], view: View) -> Bool[np.ndarray, "*n h w"]:
        """Masks of a view at the clip's size."""
        return placed(masks, view, self.clip.size)

    def model_mask(self, mask: Bool[np.ndarray, "H W"]):
        """A mask at any size as one at the model's, batch and channel axes added."""
        side = self.images.size
        small = logits_at_size(mask.astype(np.float32), side, side) >= 0.5
        return small.astype(np.float32)[None, ..., None]

    def masks(
        self, frame: int, object_ids: list[int], tracked: dict[int, Mask] | None = None
    ) -> Bool[np.ndarray, "n h w"]:
        """All masks of a frame; none overlap. `tracked` are those that need not be unpacked.

        Where what was said of one object is in the way of what was tracked of another, it counts.
        """
        masks = np.zeros((len(object_ids), *self.clip.size), bool)
        said = {}
        for row, each in enumerate(object_ids):
            known = self.objects[each].at(frame)
            if isinstance(known, PromptedFrame):
                said[row] = self.last_seen(frame, each).moved(self.whole)
            if tracked is not None and each in tracked:
                masks[row] = tracked[each]
            elif known is not None:
                masks[row] = unpack(known.counts, self.clip.size)
        rows = list(said)
        masks[rows] = apart(masks[rows], list(said.values()))
        others = [row for row in range(len(masks)) if row not in said]
        masks[others] &= ~masks[rows].any(axis=0)
        return masks


def _may_have_holes(logits: Logits, height: int, width: int) -> bool:
    """Whether the enlarged mask can have holes that are filled; to look for them there takes longer
    than to enlarge it.

    Between logits there are only values between theirs, so that a hole has some within it.
    """
    if height < len(logits) or width < len(logits[0]):
        return True
    parts, _ = ndimage.label(logits <= 0)
    cells = np.bincount(parts.ravel())
    # What goes on beyond a side is no hole; neither is the mask itself.
    for side in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        cells[side] = parts.size
    cells[0] = parts.size
    return bool(cells.min() <= HOLE_CELLS)
