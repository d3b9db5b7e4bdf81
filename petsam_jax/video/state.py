"""What is known of one clip, and how the tracker reads and is told it.

In: a clip, and what prompts and tracking find. Out: frames encoded, memories as the model reads
them, masks at the clip's size. `session.py` changes it as the user says, `passes.py` by tracking.
"""

from collections import OrderedDict

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from petsam_jax.image_predictor import EncodedImage, ImagePredictor
from petsam_jax.postprocess import fill_holes, logits_at_size, masks_at_size
from petsam_jax.video.frames import Clip, ClipError
from petsam_jax.video.memories import Memories
from petsam_jax.video.overlaps import apart
from petsam_jax.video.records import (
    Logits,
    Map,
    Mask,
    Prompted,
    Tracked,
    TrackedObject,
    Window,
    unpack,
)
from petsam_jax.video.tracker import Tracker, Where

# Encodings that are kept for further prompts on the same frames.
ENCODED = 6
# Holes that are filled, as a share of the picture: SAM 2's 8 cells of 256 x 256.
HOLES = 8 / 256**2
# Logits, beside or above each other, that such a hole may have within it.
HOLE_CELLS = 8


class State:
    """Objects by id. `version` goes up with each change that tracking did not make itself."""

    def __init__(self, images: ImagePredictor, tracker: Tracker, clip: Clip):
        self.images, self.tracker, self.clip = images, tracker, clip
        self.objects: dict[int, TrackedObject] = {}
        self.window = Window(tracker.pointers)
        self.version = 0
        self._encoded: OrderedDict[int, EncodedImage] = OrderedDict()

    @property
    def object_ids(self) -> list[int]:
        return sorted(self.objects)

    def prompted_on(self, frame: int, object_id: int) -> bool:
        return frame in self.objects[object_id].prompted

    def encode(self, frame: int) -> EncodedImage:
        """Raises as `Clip.read` does."""
        if frame not in self._encoded:
            self._encoded[frame] = self.images.encode(self.clip.read(frame))
        self._encoded.move_to_end(frame)
        while len(self._encoded) > ENCODED:
            self._encoded.popitem(last=False)
        return self._encoded[frame]

    def where(self, frame: int, reverse: bool) -> Where:
        # Of a stream the model knows no length: pointers' ages are then as in the longest clips.
        frames = self.clip.count or self.tracker.pointers + 1
        return Where(np.int32(frame), np.int32(frames), np.bool_(reverse))

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

    def _recall(self, frame: int, known: Tracked) -> Map | None:
        """The memory of a frame that has left the window, made of its mask; None if it is gone."""
        try:
            image = self.encode(frame)
        except (ClipError, IndexError):
            # A stream's frames pass.
            return None
        logits = self.mask_prompt(known.counts)[None]
        score = np.array([known.object_logit], np.float32)
        return np.asarray(self.tracker.recall(image.features, logits, score))[0]

    def last_logits(self, frame: int, object_id: int) -> Logits | None:
        """What was answered there last, to be fed back as in training; None if nothing was."""
        one = self.objects.get(object_id)
        known = one.at(frame) if one else None
        if known is None or isinstance(known, Prompted):
            return known and known.logits
        fresh = self.window.get(frame, object_id)
        return self.mask_prompt(known.counts) if fresh is None else fresh.logits

    def mask_prompt(self, counts: str) -> Logits:
        """A kept mask as logits, which are not kept."""
        return self.images.mask_prompt(unpack(counts, self.clip.size))

    # What is shown

    def enlarge(self, logits: Logits) -> Mask:
        """The mask at the clip's size, without small holes."""
        height, width = self.clip.size
        mask = masks_at_size(logits, height, width)
        if not _may_have_holes(logits, height, width):
            return mask
        return fill_holes(mask, round(HOLES * height * width))

    def model_mask(self, mask: Mask):
        """A mask at the clip's size as one at the model's, batch and channel axes added."""
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
            if isinstance(known, Prompted):
                said[row] = known.logits
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
