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

from petsam_jax.image_predictor import EncodedImage
from petsam_jax.prompts import Prompts
from petsam_jax.video.memories import Memories
from petsam_jax.video.overlaps import apart
from petsam_jax.video.records import Fresh, Tracked, pack
from petsam_jax.video.state import State
from petsam_jax.video.tracker import Answer

# Frames that are read and encoded before their turn.
AHEAD = 2


class Found(NamedTuple):
    """The masks of all objects on a frame; no two of them overlap."""

    frame: int
    object_ids: list[int]
    masks: Bool[np.ndarray, "n h w"]


class _Step(NamedTuple):
    frame: int
    object_ids: list[int]
    answer: Answer | None  # None where all objects are prompted


def run_pass(state: State, order: Iterable[int], reverse: bool) -> Iterator[Found]:
    """Track all objects on these frames; see `Session.propagate`."""
    known = memories = before = fault = None

    def begin(frame, image, before=None):
        """Have the device work on a frame, with what is known by now and from `before`."""
        nonlocal known, memories
        if known != state.version:
            known, memories = state.version, state.memories(state.object_ids, frame, reverse)
        return _start(state, frame, image, memories, before, reverse)

    for frame, image in _read_ahead(state, order):
        if isinstance(image, Exception):
            fault = image
            break
        step = begin(frame, image, before)
        if before is not None:
            yield _keep(state, before, reverse)
            if not state.objects:
                return
            if known != state.version:
                step = begin(frame, image)
        before = _finish(state, step, memories)
        if state.clip.live:
            yield _keep(state, before, reverse)
            before = None
    if before is not None:
        yield _keep(state, before, reverse)
    if fault is not None:
        raise fault


def _read_ahead(
    state: State, order: Iterable[int]
) -> Iterator[tuple[int, EncodedImage | Exception]]:
    """Frames with their encodings, at work; at last what is wrong with a frame, if any is."""
    waiting: deque = deque()
    # A camera's frame is of use before the next one is there.
    ahead = 0 if state.clip.live else AHEAD
    for frame in order:
        try:
            waiting.append((frame, state.encode(frame)))
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
    image: EncodedImage,
    memories: Memories,
    before: _Step | None,
    reverse: bool,
) -> _Step:
    ids = state.object_ids
    if all(state.prompted_on(frame, each) for each in ids):
        return _Step(frame, ids, None)
    rows = len(memories.bank.recent.frame)
    no = np.zeros(rows, bool)
    answer = state.tracker.step(
        image.features,
        memories.bank,
        state.where(frame, reverse),
        _shown(state, frame, ids, rows, before, reverse),
        initial=no,
        prompted=no,
    )
    return _Step(frame, ids, answer)


def _shown(
    state: State, frame: int, ids: list[int], rows: int, before: _Step | None, reverse: bool
) -> Prompts:
    """No prompts but, where the model was trained with them, the masks of the frame before.

    `before` is that frame, if it is not kept yet.
    """
    nothing = state.tracker.nothing(rows)
    if not state.tracker.carried:
        return nothing
    last = frame + (1 if reverse else -1)
    fresh = {}
    if before is not None and before.frame == last and before.answer is not None:
        fresh = dict(zip(before.object_ids, before.answer.logits, strict=False))
    mask, has_mask = np.zeros_like(nothing.mask_input), np.zeros_like(nothing.has_mask)
    for row, each in enumerate(ids):
        logits = None if state.prompted_on(last, each) else fresh.get(each)
        logits = state.last_logits(last, each) if logits is None else logits
        if logits is not None:
            mask[row, ..., 0], has_mask[row] = logits, True
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
    frame, ids, answer = step
    rows = {row: each for row, each in enumerate(ids) if not state.prompted_on(frame, each)}
    masks = np.zeros((len(rows), *state.clip.size), bool)
    for mask, row in zip(masks, rows, strict=True):
        # What is not there has no mask, whatever its logits.
        if answer.object_logit[row] > 0:
            mask[:] = state.enlarge(answer.logits[row])
    masks = apart(masks, [answer.logits[row] for row in rows])
    for mask, (row, each) in zip(masks, rows.items(), strict=True):
        # Copies, which do not hold on to what was found of all objects.
        score, obj_ptr = float(answer.object_logit[row]), answer.obj_ptr[row].copy()
        state.objects[each].tracked[frame] = Tracked(pack(mask), score, obj_ptr, reverse)
        fresh = Fresh(answer.logits[row].copy(), answer.memory[row].copy())
        state.window.put(frame, each, fresh)
    found = dict(zip(rows.values(), masks, strict=True))
    return Found(frame, ids, state.masks(frame, ids, found))
