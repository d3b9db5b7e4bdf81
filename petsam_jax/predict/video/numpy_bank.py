"""The memories of one pass of tracking, as the model's bank holds them.

Numpy arrays, changed in place, with a row for each object. They are small, and changing them
compiles nothing. Rows and slots have few different numbers, so that a further object or prompted
frame seldom recompiles the step.
"""

import numpy as np
from jaxtyping import Float32

from petsam_jax.models.memory_bank import MemoryBank, Slots
from petsam_jax.predict.prompt_inputs import power_of_two

# Prompted frames of an object: a bank has slots for one of these numbers.
SLOTS = (1, 4, 16, 64)
MOST_PROMPTED = SLOTS[-1]


class NumpyBank:
    """A bank, empty at first."""

    def __init__(
        self,
        objects: int,
        prompted: int,
        recent: int,
        map_shape: tuple[int, int, int],
        pointer_width: int,
    ):
        """Rows for objects, slots for their prompted and their `recent` tracked frames."""
        rows = power_of_two(objects)

        def slots(number):
            return Slots(
                memory=np.zeros((rows, number, *map_shape), np.float32),
                obj_ptr=np.zeros((rows, number, pointer_width), np.float32),
                frame=np.zeros((rows, number), np.int32),
                valid=np.zeros((rows, number), bool),
            )

        room = next(number for number in SLOTS if number >= prompted)
        self.bank = MemoryBank(slots(room), slots(recent))

    def put_prompted(
        self,
        row: int,
        slot: int,
        frame: int,
        memory: Float32[np.ndarray, "h w e"],
        obj_ptr: Float32[np.ndarray, " c"],
    ) -> None:
        """Remember a prompted frame."""
        _put(self.bank.conditioning, row, slot, frame, memory, obj_ptr)

    def put_tracked(
        self,
        row: int,
        frame: int,
        memory: Float32[np.ndarray, "h w e"] | float,
        obj_ptr: Float32[np.ndarray, " c"],
    ) -> None:
        """Remember a tracked frame; of one far back only the pointer is read."""
        recent = self.bank.recent
        _put(recent, row, frame % recent.frame.shape[1], frame, memory, obj_ptr)


def _put(slots: Slots, row, slot, *values) -> None:
    frame, memory, obj_ptr = values
    slots.memory[row, slot], slots.obj_ptr[row, slot] = memory, obj_ptr
    slots.frame[row, slot], slots.valid[row, slot] = frame, True
