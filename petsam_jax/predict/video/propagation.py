"""One pass of tracking: frame after frame, each remembering those before it.

In: a clip and what is known of its objects, and the frames in their order. Out: the masks of each.
The device works on a frame while the masks of the one before are enlarged, stored and handed out,
and the next ones are read.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from petsam_jax.files.clip import Frame
from petsam_jax.models.prompts import Prompts
from petsam_jax.predict.video.crops import MaskInView, View, uncrop
from petsam_jax.predict.video.frame_masks import combine_masks, enlarge, resolve_overlaps
from petsam_jax.predict.video.numpy_bank import NumpyBank
from petsam_jax.predict.video.tracker import FrameOutput, HostOutput, to_host
from petsam_jax.predict.video.tracker_inputs import TrackerInputs
from petsam_jax.predict.video.tracks import RecentFrame, TrackedFrame, pack

# Frames that are read before their turn.
AHEAD = 1


class FrameMasks(NamedTuple):
    """The masks of all objects on a frame; no two of them overlap."""

    frame: int
    object_ids: list[int]
    masks: Bool[np.ndarray, "n h w"]


class _Step(NamedTuple):
    """A frame that the device works on; `memories` are those that it reads."""

    frame: int
    object_ids: list[int]
    view: View
    output: FrameOutput | None  # None where all objects are prompted
    memories: NumpyBank


class _TrackedStep(NamedTuple):
    """A `_Step` that the device is done with."""

    frame: int
    object_ids: list[int]
    view: View
    output: HostOutput | None

    def mask(self, object_id: int) -> MaskInView | None:
        """An object's tracked mask; None for objects that are prompted or new."""
        if self.output is None or object_id not in self.object_ids:
            return None
        row = self.object_ids.index(object_id)
        present = bool(self.output.object_logit[row] > 0)
        return MaskInView(self.output.logits[row], self.view, present, self.view)


def propagate(inputs: TrackerInputs, order: Iterable[int], reverse: bool) -> Iterator[FrameMasks]:
    """Track all objects on these frames; see `Session.propagate`."""
    state = inputs.state
    version, memories = state.version, None
    step: _Step | None = None
    fault: Exception | None = None

    def begin(frame: int, pixels: Frame, before: _TrackedStep | None = None) -> _Step:
        """Have the device work on a frame, with what is known by now and from `before`."""
        nonlocal version, memories
        if memories is None or version != state.version:
            version, memories = state.version, inputs.memories(state.object_ids, frame, reverse)
        return _start(inputs, frame, pixels, memories, before, reverse)

    for frame, pixels in _read_ahead(inputs, order):
        if isinstance(pixels, Exception):
            fault = pixels
            break
        before = None if step is None else _finish(inputs, step)
        step = begin(frame, pixels, before)
        if before is not None:
            yield _store(inputs, before, reverse)
            if not state.object_ids:
                return
            if version != state.version:
                step = begin(frame, pixels)
        if inputs.clip.live:
            yield _store(inputs, _finish(inputs, step), reverse)
            step = None
    if step is not None:
        yield _store(inputs, _finish(inputs, step), reverse)
    if fault is not None:
        raise fault


def _read_ahead(
    inputs: TrackerInputs, order: Iterable[int]
) -> Iterator[tuple[int, Frame | Exception]]:
    """Frames, read while the device works on those before; last the error, if one is damaged."""
    waiting: deque = deque()
    # A camera's frame is shown before the next one exists.
    ahead = 0 if inputs.clip.live else AHEAD
    for frame in order:
        try:
            waiting.append((frame, inputs.clip.read(frame)))
        except IndexError:
            break
        except Exception as error:
            waiting.append((frame, error))
            break
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def _start(
    inputs: TrackerInputs,
    frame: int,
    pixels: Frame,
    memories: NumpyBank,
    before: _TrackedStep | None,
    reverse: bool,
) -> _Step:
    ids = inputs.state.object_ids
    if all(_is_prompted(inputs, frame, each) for each in ids):
        return _Step(frame, ids, inputs.full_view, None, memories)
    last = _last_masks(inputs, frame, ids, before, reverse)
    view = inputs.view_of(last)
    rows = len(memories.bank.recent.frame)
    no = np.zeros(rows, bool)
    output = inputs.tracker.step(
        inputs.encode(frame, view, pixels).features,
        memories.bank,
        inputs.position(frame, reverse),
        _carried_masks(inputs, last, rows, view),
        initial=no,
        prompted=no,
    )
    return _Step(frame, ids, view, output, memories)


def _is_prompted(inputs: TrackerInputs, frame: int, object_id: int) -> bool:
    return frame in inputs.state.prompted(object_id)


def _last_masks(
    inputs: TrackerInputs, frame: int, ids: list[int], before: _TrackedStep | None, reverse: bool
) -> list[MaskInView | None]:
    """Each object's mask on the last frame; `before` is that frame, if it is not stored yet."""
    last = frame + (1 if reverse else -1)
    recent = before if before is not None and before.frame == last else None
    masks = []
    for each in ids:
        own = None if recent is None or _is_prompted(inputs, last, each) else recent.mask(each)
        masks.append(inputs.last_mask(last, each) if own is None else own)
    return masks


def _carried_masks(
    inputs: TrackerInputs, last: list[MaskInView | None], rows: int, view: View
) -> Prompts:
    """The last masks as prompts, where the model was trained with them; else no prompts."""
    prompts = inputs.tracker.no_prompts(rows)
    if not inputs.tracker.carried:
        return prompts
    mask, has_mask = np.zeros_like(prompts.mask_input), np.zeros_like(prompts.has_mask)
    for row, own in enumerate(last):
        if own is not None:
            mask[row, ..., 0], has_mask[row] = own.in_view(view), True
    arrays: dict[str, Any] = dict(mask_input=mask, has_mask=has_mask)
    return prompts._replace(**arrays)


def _finish(inputs: TrackerInputs, step: _Step) -> _TrackedStep:
    """Wait for a frame, and let the next one remember it."""
    if step.output is None:
        return _TrackedStep(step.frame, step.object_ids, step.view, None)
    output = to_host(step.output)
    for row, each in enumerate(step.object_ids):
        if not _is_prompted(inputs, step.frame, each):
            step.memories.put_tracked(row, step.frame, output.memory[row], output.obj_ptr[row])
    return _TrackedStep(step.frame, step.object_ids, step.view, output)


def _store(inputs: TrackerInputs, step: _TrackedStep, reverse: bool) -> FrameMasks:
    """Enlarge the masks of a frame and store them."""
    frame, ids, view, output = step
    if output is None:
        return FrameMasks(frame, ids, combine_masks(inputs, frame, ids))
    rows = {row: each for row, each in enumerate(ids) if not _is_prompted(inputs, frame, each)}
    masks = np.zeros((len(rows), view.height, view.width), bool)
    for mask, row in zip(masks, rows, strict=True):
        # Objects that are absent have no mask, whatever their logits.
        if output.object_logit[row] > 0:
            mask[:] = enlarge(output.logits[row], view)
    masks = resolve_overlaps(masks, [output.logits[row] for row in rows])
    masks = uncrop(masks, view, inputs.clip.size)
    for mask, (row, each) in zip(masks, rows.items(), strict=True):
        # Copies, which do not hold on to the arrays of all objects.
        score, obj_ptr = float(output.object_logit[row]), output.obj_ptr[row].copy()
        recent = RecentFrame(output.logits[row].copy(), output.memory[row].copy(), view)
        record = TrackedFrame(pack(mask), score, obj_ptr, reverse)
        inputs.state.put_tracked(frame, each, record, recent)
    tracked = dict(zip(rows.values(), masks, strict=True))
    return FrameMasks(frame, ids, combine_masks(inputs, frame, ids, tracked))
