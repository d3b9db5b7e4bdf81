"""Memories of other frames in a fixed number of slots, so that tracking compiles once.

In: a memory map and an object pointer for each frame, written under the frame's number. Out: those
that the current frame may read, with their ages. Frames that the user prompted
(conditioning frames) are kept apart from frames that were tracked, which a ring of slots holds, the
newest displacing the oldest. With as many slots as frames nothing is ever displaced. Everything is
a pure function of arrays; frame number, direction and what was written may all be traced. SAM 2
(Ravi et al. 2024), section 4; which frames are read is as in its code.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int, Int32, Shaped

# Farther than any two frames are apart.
FAR = jnp.iinfo(jnp.int32).max // 2

Scalar = Int[Array, ""] | int


class Slots(NamedTuple):
    """Frames, one per slot, for each of b objects. The content of an invalid slot has no effect."""

    memory: Float32[Array, "b s h w e"]
    obj_ptr: Float32[Array, "b s c"]
    frame: Int32[Array, "b s"]
    valid: Bool[Array, "b s"]


class MemoryBank(NamedTuple):
    """All that is remembered of each of b objects."""

    conditioning: Slots  # frames with a prompt
    recent: Slots  # tracked frames: frame t is in slot t mod s


class Selection(NamedTuple):
    """What one frame reads: m memory maps and p object pointers of each object."""

    memory: Float32[Array, "b m h w e"]
    memory_age: Int32[Array, "b m"]  # 1 for the frame before, num_memories for a prompted one
    memory_valid: Bool[Array, "b m"]
    obj_ptr: Float32[Array, "b p c"]
    ptr_time: Int32[Array, "b p"]  # frames ago, in the direction of tracking; negative: to come
    ptr_valid: Bool[Array, "b p"]


def empty_bank(
    batch: int,
    height: int,
    width: int,
    memory_dim: int,
    pointer_dim: int,
    *,
    cond_slots: int = 4,
    recent_slots: int = 15,
) -> MemoryBank:
    """A bank for maps of height x width; 15 recent slots are all that SAM 2 reads in one pass."""

    def slots(number):
        return Slots(
            memory=jnp.zeros((batch, number, height, width, memory_dim)),
            obj_ptr=jnp.zeros((batch, number, pointer_dim)),
            frame=jnp.zeros((batch, number), jnp.int32),
            valid=jnp.zeros((batch, number), bool),
        )

    return MemoryBank(slots(cond_slots), slots(recent_slots))


def write(
    bank: MemoryBank,
    memory: Float32[Array, "b h w e"],
    obj_ptr: Float32[Array, "b c"],
    frame: Scalar,
    conditioning: Bool[Array, " b"],
) -> MemoryBank:
    """Write a frame, among the prompted ones where `conditioning`.

    A prompted frame replaces itself, else takes a free slot, else that of the frame farthest from
    it; if it was tracked before, that memory is dropped.
    """
    frame = jnp.asarray(frame, jnp.int32)
    new = (memory, obj_ptr, jnp.broadcast_to(frame, obj_ptr.shape[:1]))

    prompted = bank.conditioning
    itself = prompted.valid & (prompted.frame == frame)
    distance = jnp.where(prompted.valid, jnp.abs(prompted.frame - frame), FAR)
    slot = jnp.argmax(jnp.where(itself, FAR + 1, distance), axis=1)
    prompted = _put(prompted, new, slot, conditioning)

    recent = bank.recent
    again = conditioning[:, None] & (recent.frame == frame)
    recent = recent._replace(valid=recent.valid & ~again)
    slot = jnp.broadcast_to(frame % recent.frame.shape[1], slot.shape)
    return MemoryBank(prompted, _put(recent, new, slot, ~conditioning))


def _put(slots: Slots, new, slot: Int[Array, " b"], where: Bool[Array, " b"]) -> Slots:
    # Objects that are not to be written get a slot that does not exist.
    slot = jnp.where(where, slot, slots.frame.shape[1])
    row = jnp.arange(slot.shape[0])
    values = (*new, jnp.ones_like(where))
    put = [old.at[row, slot].set(v, mode="drop") for old, v in zip(slots, values, strict=True)]
    return Slots(*put)


def forget(bank: MemoryBank, where: Bool[Array, " b"]) -> MemoryBank:
    """The bank without the memories of the objects selected by `where`."""

    def invalid(slots):
        return slots._replace(valid=slots.valid & ~where[:, None])

    return MemoryBank(*(invalid(slots) for slots in bank))


def select(
    bank: MemoryBank,
    frame: Scalar,
    reverse: Bool[Array, ""] | bool = False,
    *,
    num_memories: int = 7,
    max_obj_ptrs: int = 16,
    max_cond_frames: int = 4,
    past_only: bool = True,
) -> Selection:
    """What `frame` reads when tracking forwards, or backwards if `reverse`.

    Of each object up to `max_cond_frames` prompted frames, and the `num_memories` - 1 frames
    before; pointers of both, going `max_obj_ptrs` - 1 frames back. With `past_only` (SAM 2: in
    evaluation, not in training) pointers of later prompted frames are left out; their memories
    stay.
    """
    frame = jnp.asarray(frame, jnp.int32)
    sign = jnp.where(reverse, -1, 1)
    prompted, others = _nearest_prompted(bank, frame, max_cond_frames)
    ago = (frame - prompted.frame) * sign

    # Prompted frames that are not among the nearest count as tracked ones.
    pool = [bank.recent] if others is None else [bank.recent, others]
    pool = jax.tree.map(lambda *slots: jnp.concatenate(slots, axis=1), *pool)
    back = jnp.arange(1, max_obj_ptrs, dtype=jnp.int32)[None]
    at = frame - sign * back
    found = pool.valid[:, None] & (pool.frame[:, None] == at[..., None])
    slot, found = jnp.argmax(found, axis=2), found.any(axis=2)
    back = jnp.broadcast_to(back, found.shape)

    recent = slice(0, num_memories - 1)
    tracked_memory = _take(pool.memory, slot[:, recent])
    memory_valid = jnp.concatenate([prompted.valid, found[:, recent]], axis=1)
    ptr_valid = prompted.valid & (ago >= 0) if past_only else prompted.valid
    ptr_valid = jnp.concatenate([ptr_valid, found], axis=1)
    memory = jnp.concatenate([prompted.memory, tracked_memory], axis=1)
    obj_ptr = jnp.concatenate([prompted.obj_ptr, _take(pool.obj_ptr, slot)], axis=1)
    age = jnp.full_like(ago, num_memories)
    return Selection(
        # Zeros in place of what an invalid slot holds, which may be NaN.
        memory=jnp.where(memory_valid[..., None, None, None], memory, 0.0),
        memory_age=jnp.concatenate([age, back[:, recent]], axis=1),
        memory_valid=memory_valid,
        obj_ptr=jnp.where(ptr_valid[..., None], obj_ptr, 0.0),
        ptr_time=jnp.where(ptr_valid, jnp.concatenate([ago, back], axis=1), 0),
        ptr_valid=ptr_valid,
    )


def _nearest_prompted(
    bank: MemoryBank, frame: Int[Array, ""], number: int
) -> tuple[Slots, Slots | None]:
    """The last before the frame, the first at or after it, then the nearest; and the rest."""
    slots = bank.conditioning
    if slots.frame.shape[1] <= number:
        return slots, None
    distance = jnp.where(slots.valid, jnp.abs(slots.frame - frame), FAR)
    before = slots.frame < frame
    for side in (before, ~before):
        side = side & slots.valid
        nearest = jnp.where(side, distance, FAR).min(axis=1, keepdims=True)
        distance = jnp.where(side & (distance == nearest), -1, distance)
    order = jnp.argsort(distance, axis=1)
    nearest, rest = order[:, :number], order[:, number:]
    return Slots(*(_take(x, nearest) for x in slots)), Slots(*(_take(x, rest) for x in slots))


def _take(x: Shaped[Array, "b s *rest"], index: Int[Array, "b n"]) -> Shaped[Array, "b n *rest"]:
    return jax.vmap(lambda one, i: one[i])(x, index)
