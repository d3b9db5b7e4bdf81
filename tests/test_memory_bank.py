"""The bank keeps and gives back the frames that SAM 2 would, in slots that never change shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from petsam_jax.models.memory_bank import MemoryBank, Slots, empty_bank, forget, select, write

YES, NO = jnp.ones(1, bool), jnp.zeros(1, bool)


@jax.jit
def put(bank, frame, conditioning):
    """A frame whose memory and pointer are its number."""
    batch, _, height, width, dim = bank.recent.memory.shape
    memory = jnp.full((batch, height, width, dim), frame, jnp.float32)
    pointer = jnp.full((batch, bank.recent.obj_ptr.shape[2]), frame, jnp.float32)
    return write(bank, memory, pointer, frame, conditioning)


def bank_of(prompted=(), tracked=(), batch=1, **slots):
    bank = empty_bank(batch, 1, 2, 3, 6, **slots)
    for frame in prompted:
        bank = put(bank, frame, jnp.ones(batch, bool))
    for frame in tracked:
        bank = put(bank, frame, jnp.zeros(batch, bool))
    return bank


def frames(slots):
    return sorted(np.asarray(slots.frame[0])[slots.valid[0]].tolist())


def memories(seen, row=0):
    """(frame, age) of what is read."""
    valid = np.asarray(seen.memory_valid[row])
    frame, age = np.asarray(seen.memory[row, :, 0, 0, 0])[valid], seen.memory_age[row][valid]
    return sorted((int(f), int(a)) for f, a in zip(frame, age, strict=True))


def pointers(seen, row=0):
    """(frame, time) of what is read."""
    valid = np.asarray(seen.ptr_valid[row])
    frame, time = np.asarray(seen.obj_ptr[row, :, 0])[valid], seen.ptr_time[row][valid]
    return sorted((int(f), int(t)) for f, t in zip(frame, time, strict=True))


@pytest.mark.slow
def test_reads_the_prompted_frame_and_the_window():
    seen = select(bank_of([0], range(1, 20)), 20)
    assert memories(seen) == [(0, 7)] + [(20 - age, age) for age in range(6, 0, -1)]
    assert pointers(seen) == [(0, 20)] + [(20 - back, back) for back in range(15, 0, -1)]
    assert seen.memory.shape[1] == 4 + 6 and seen.obj_ptr.shape[1] == 4 + 15


def test_reads_backwards():
    seen = select(bank_of([9], [8, 7, 6]), 5, reverse=True)
    assert memories(seen) == [(6, 1), (7, 2), (8, 3), (9, 7)]
    assert pointers(seen) == [(6, 1), (7, 2), (8, 3), (9, 4)]
    # Forwards the same bank has no past.
    assert memories(select(bank_of([9], [8, 7, 6]), 5)) == [(9, 7)]


@pytest.mark.parametrize("past_only, expected", [(True, [(0, 2)]), (False, [(0, 2), (6, -4)])])
def test_pointers_of_prompted_frames_to_come(past_only, expected):
    seen = select(bank_of([0, 6]), 2, past_only=past_only)
    assert pointers(seen) == expected and memories(seen) == [(0, 7), (6, 7)]
    back = select(bank_of([0, 6]), 2, reverse=True, past_only=past_only)
    assert pointers(back) == ([(6, 4)] if past_only else [(0, -2), (6, 4)])


def test_bounds_are_arguments():
    seen = select(bank_of([0], range(1, 20)), 20, num_memories=3, max_obj_ptrs=5)
    assert memories(seen) == [(0, 3), (18, 2), (19, 1)]
    assert pointers(seen) == [(0, 20), (16, 4), (17, 3), (18, 2), (19, 1)]


@pytest.mark.slow
def test_nearest_prompted_frames_and_the_others_as_tracked_ones():
    """The last before, the first from here on, then the nearest; one close by still counts."""
    bank = bank_of([0, 10, 17, 18, 19, 40], [], cond_slots=6)
    seen = select(bank, 20, max_cond_frames=2)
    assert memories(seen) == [(17, 3), (18, 2), (19, 7), (40, 7)]
    assert pointers(seen) == [(10, 10), (17, 3), (18, 2), (19, 1)]
    assert memories(select(bank, 20, max_cond_frames=3))[:2] == [(17, 3), (18, 7)]
    assert len(memories(select(bank, 20, max_cond_frames=6))) == 6


def test_a_full_bank_gives_up_the_furthest_prompted_frame():
    assert frames(bank_of([3, 9, 0, 8, 20]).conditioning) == [3, 8, 9, 20]
    # Prompting a frame again takes no further slot.
    assert frames(bank_of([3, 9, 0, 8, 9]).conditioning) == [0, 3, 8, 9]


def test_a_prompted_frame_is_no_longer_a_tracked_one():
    bank = put(bank_of([0], [1, 2]), 2, YES)
    assert frames(bank.conditioning) == [0, 2] and frames(bank.recent) == [1]


def test_ring_keeps_the_newest():
    assert frames(bank_of([], range(40), recent_slots=6).recent) == list(range(34, 40))
    assert frames(bank_of([], range(40), recent_slots=50).recent) == list(range(40))


def test_objects_have_their_own_frames():
    bank = put(bank_of(batch=2), 4, jnp.array([True, False]))
    seen = select(put(bank, 5, jnp.array([False, True])), 6)
    assert memories(seen, 0) == [(4, 7), (5, 1)] and memories(seen, 1) == [(4, 2), (5, 7)]


def test_forget_makes_nothing_valid():
    bank = forget(bank_of([0], [1, 2], batch=2), jnp.array([True, False]))
    seen = select(bank, 3)
    assert memories(seen, 0) == [] and pointers(seen, 0) == []
    assert len(memories(seen, 1)) == 3


@pytest.mark.parametrize("junk", [1e4, np.nan])
def test_content_of_invalid_slots_does_not_matter(rng, junk):
    bank = bank_of([0], [1, 2])

    def spoil(slots):
        def fill(x):
            noise = jnp.asarray(junk * rng.normal(size=x.shape), x.dtype)
            valid = slots.valid.reshape(slots.valid.shape + (1,) * (x.ndim - 2))
            return jnp.where(valid, x, noise)

        frame = jnp.where(slots.valid, slots.frame, 2)
        return Slots(fill(slots.memory), fill(slots.obj_ptr), frame, slots.valid)

    want, got = select(bank, 3), select(MemoryBank(*map(spoil, bank)), 3)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    grad = jax.grad(lambda b: jnp.square(select(b, 3).memory).sum(), allow_int=True)(
        MemoryBank(*map(spoil, bank))
    )
    assert np.isfinite(grad.recent.memory).all() and np.isfinite(grad.conditioning.memory).all()


def test_one_compile_for_all_frames_and_directions():
    step = jax.jit(lambda bank, *args: (select(bank, *args).memory_valid, put(bank, args[0], NO)))
    bank = bank_of([3])
    for frame in range(4, 30):
        valid, bank = step(bank, frame, False)
    valid, bank = step(bank, 2, True)
    assert step._cache_size() == 1
    assert int(valid.sum()) == 1
