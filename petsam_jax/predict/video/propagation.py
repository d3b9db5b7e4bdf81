"""One pass of tracking: frame after frame, each remembering those before it.

In: what is known of a clip, and the frames in their order. Out: the masks of each. The device works
on a frame while the masks of the one before it are enlarged, kept and handed out, and the next ones
are read.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool

from petsam_jax.files.clip import Frame
from petsam_jax.models.prompts import Prompts
from petsam_jax.predict.video.clip_state import State
from petsam_jax.predict.video.crops import Seen, View
from petsam_jax.predict.video.numpy_bank import Memories
from petsam_jax.predict.video.overlaps import apart
from petsam_jax.predict.video.tracker import FrameOutput
from petsam_jax.predict.video.tracks import RecentFrame, TrackedFrame, pack

# Frames that are read before their turn.
AHEAD = 1


class Found(NamedTuple):
    """The masks of all objects on a frame; no two of them overlap."""

    frame: int
    object_ids: list[int]
    masks: Bool[np.ndarray, "n h w"]


class _Step(NamedTuple):
    frame: int
    object_ids: list[int]
    view: View
    answer: FrameOutput | None  # None where all objects are prompted

    def seen(self, object_id: int) -> Seen | None:
        """What tracking says of an object; None for what was prompted, or is new."""
        if self.answer is None or object_id not in self.object_ids:
            return None
        row = self.object_ids.index(object_id)
        present = bool(self.answer.object_logit[row] > 0)
        return Seen(self.answer.logits[row], self.view, present, self.view)


def run_pass(state: State, order: Iterable[int], reverse: bool) -> Iterator[Found]:
    """Track all objects on these frames; see `Session.propagate`."""
    known = memories = step = fault = None

    def begin(frame, pixels, before=None):
        """Have the device work on a frame, with what is known by now and from `before`."""
        nonlocal known, memories
        if known != state.version:
            known, memories = state.version, state.memories(state.object_ids, frame, reverse)
        return _start(state, frame, pixels, memories, before, reverse)

    for frame, pixels in _read_ahead(state, order):
        if isinstance(pixels, Exception):
            fault = pixels
            break
        before = None if step is None else _finish(state, step, memories)
        step = begin(frame, pixels, before)
        if before is not None:
            yield _keep(state, before, reverse)
            if not state.objects:
                return
            if known != state.version:
                step = begin(frame, pixels)
        if state.clip.live:
            yield _keep(state, _finish(state, step, memories), reverse)
            step = None
    if step is not None:
        yield _keep(state, _finish(state, step, memories), reverse)
    if fault is not None:
        raise fault


def _read_ahead(state: State, order: Iterable[int]) -> Iterator[tuple[int, Frame | Exception]]:
    """Frames, read while the device works on those before; at last what is wrong, if a frame is."""
    waiting: deque = deque()
    # A camera's frame is of use before the next one is there.
    ahead = 0 if state.clip.live else AHEAD
    for frame in order:
        try:
            waiting.append((frame, state.clip.read(frame)))
        except IndexError:
            break
        except Exception as error:
            waiting.append((frame, error))
            break
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def _start(
    state: State,
    frame: int,
    pixels: Frame,
    memories: Memories,
    before: _Step | None,
    reverse: bool,
) -> _Step:
    ids = state.object_ids
    if all(state.prompted_on(frame, each) for each in ids):
        return _Step(frame, ids, state.whole, None)
    seen = _last_seen(state, frame, ids, before, reverse)
    view = state.view_of(seen)
    rows = len(memories.bank.recent.frame)
    no = np.zeros(rows, bool)
    answer = state.tracker.step(
        state.encode(frame, view, pixels).features,
        memories.bank,
        state.where(frame, reverse),
        _shown(state, seen, rows, view),
        initial=no,
        prompted=no,
    )
    return _Step(frame, ids, view, answer)


def _last_seen(
    state: State, frame: int, ids: list[int], before: _Step | None, reverse: bool
) -> list[Seen | None]:
    """What the frame before says of each object; `before` is that frame, if it is not kept yet."""
    at = frame + (1 if reverse else -1)
    fresh = before if before is not None and before.frame == at else None
    found = []
    for each in ids:
        own = None if fresh is None or state.prompted_on(at, each) else fresh.seen(each)
        found.append(state.last_seen(at, each) if own is None else own)
    return found


def _shown(state: State, seen: list[Seen | None], rows: int, view: View) -> Prompts:
    """No prompts but, where the model was trained with them, the masks of the frame before."""
    nothing = state.tracker.nothing(rows)
    if not state.tracker.carried:
        return nothing
    mask, has_mask = np.zeros_like(nothing.mask_input), np.zeros_like(nothing.has_mask)
    for row, last in enumerate(seen):
        if last is not None:
            mask[row, ..., 0], has_mask[row] = last.moved(view), True
    return nothing._replace(mask_input=mask, has_mask=has_mask)


def _finish(state: State, step: _Step, memories: Memories) -> _Step:
    """Wait for a frame, and let the next one remember it."""
    if step.answer is None:
        return step
    answer = jax.tree.map(np.asarray, step.answer)
    for row, each in enumerate(step.object_ids):
        if not state.prompted_on(step.frame, each):
            memories.tracked(row, step.frame, answer.memory[row], answer.obj_ptr[row])
    return step._replace(answer=answer)


def _keep(state: State, step: _Step, reverse: bool) -> Found:
    """Enlarge a frame's answers and keep them."""
    frame, ids, view, answer = step
    rows = {row: each for row, each in enumerate(ids) if not state.prompted_on(frame, each)}
    masks = np.zeros((len(rows), view.height, view.width), bool)
    for mask, row in zip(masks, rows, strict=True):
        # What is not there has no mask, whatever its logits.
        if answer.object_logit[row] > 0:
            mask[:] = state.enlarge(answer.logits[row], view)
    masks = state.place(apart(masks, [answer.logits[row] for row in rows]), view)
    for mask, (row, each) in zip(masks, rows.items(), strict=True):
        # Copies, which do not hold on to what was found of all objects.
        score, obj_ptr = float(answer.object_logit[row]), answer.obj_ptr[row].copy()
        state.objects[each].tracked[frame] = TrackedFrame(pack(mask), score, obj_ptr, reverse)
        fresh = RecentFrame(answer.logits[row].copy(), answer.memory[row].copy(), view)
        state.window.put(frame, each, fresh)
    found = dict(zip(rows.values(), masks, strict=True))
    return Found(frame, ids, state.masks(frame, ids, found))
