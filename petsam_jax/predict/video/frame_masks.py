"""From logits to the masks of a frame: at the clip's size, without small holes or overlaps."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage

from petsam_jax.predict.postprocess import fill_holes, logits_at_size, masks_at_size
from petsam_jax.predict.video.crops import View
from petsam_jax.predict.video.tracker_inputs import TrackerInputs
from petsam_jax.predict.video.tracks import Logits, Mask, PromptedFrame, unpack

# Largest hole that is filled, as a share of the image: SAM 2's 8 cells of 256 x 256.
HOLES = 8 / 256**2
# How many logits, beside or above each other, may lie within such a hole.
HOLE_CELLS = 8


def enlarge(logits: Logits, view: View) -> Mask:
    """The mask at the size of its view, without small holes."""
    height, width = view.height, view.width
    mask = masks_at_size(logits, height, width)
    if not _may_have_holes(logits, height, width):
        return mask
    return fill_holes(mask, round(HOLES * height * width))


def _may_have_holes(logits: Logits, height: int, width: int) -> bool:
    """Whether the enlarged mask can have small holes; to search it takes longer than to enlarge it.

    Between logits there are only values between theirs, so a hole has some of them within it.
    """
    if height < len(logits) or width < len(logits[0]):
        return True
    parts, _ = ndimage.label(logits <= 0)
    cells = np.bincount(parts.ravel())
    # What continues beyond a side is no hole, and neither is the mask itself.
    for side in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        cells[side] = parts.size
    cells[0] = parts.size
    return bool(cells.min() <= HOLE_CELLS)


def resolve_overlaps(
    masks: Bool[np.ndarray, "n h w"], logits: Sequence[Float32[np.ndarray, "h4 w4"]]
) -> Bool[np.ndarray, "n h w"]:
    """Pixels of several masks go to the object whose logit is highest, as in SAM 2.

    Logits are compared only where masks overlap, and a hole that was filled in one mask stays with
    the object that shows through it.
    """
    shared = masks.sum(axis=0, dtype=np.uint8) > 1
    if len(masks) < 2 or not shared.any():
        return masks
    height, width = masks.shape[1:]
    claims = np.stack([logits_at_size(each, height, width)[shared] for each in logits])
    claims = np.where(masks[:, shared], claims, -np.inf)
    masks = masks.copy()
    masks[:, shared] = np.arange(len(masks))[:, None] == claims.argmax(axis=0)
    return masks


def combine_masks(
    inputs: TrackerInputs,
    frame: int,
    object_ids: list[int],
    tracked: dict[int, Mask] | None = None,
) -> Bool[np.ndarray, "n h w"]:
    """The masks of objects on a frame, without overlaps; `tracked` need not be unpacked.

    Prompted objects take pixels from tracked ones.
    """
    height, width = inputs.clip.size
    masks = np.zeros((len(object_ids), height, width), bool)
    prompted = {}
    for row, each in enumerate(object_ids):
        record = inputs.state.at(frame, each)
        own = inputs.last_mask(frame, each) if isinstance(record, PromptedFrame) else None
        if own is not None:
            prompted[row] = own.in_view(inputs.full_view)
        if tracked is not None and each in tracked:
            masks[row] = tracked[each]
        elif record is not None:
            masks[row] = unpack(record.counts, inputs.clip.size)
    rows = list(prompted)
    masks[rows] = resolve_overlaps(masks[rows], list(prompted.values()))
    others = [row for row in range(len(masks)) if row not in prompted]
    masks[others] = masks[others] & ~masks[rows].any(axis=0)
    return masks
