"""What is known of the objects of one clip: their prompts, and where they were tracked.

Records are read from outside and changed only by the methods here, which also keep the history.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from petsam_jax.predict.prompt_inputs import Prompt
from petsam_jax.predict.video.tracks import (
    PromptedFrame,
    RecentEntry,
    RecentFrame,
    RecentFrames,
    TrackedFrame,
    TrackedObject,
)

# Earlier states that `undo` can go back to.
UNDO_STEPS = 100


class ClipState:
    """Objects by id, whatever whole numbers the caller names them by."""

    def __init__(
        self,
        reach: int,
        objects: Mapping[int, TrackedObject] | None = None,
        recent: Iterable[RecentEntry] = (),
    ):
        """`reach` is how many recent frames are kept; the rest is that of a saved session."""
        self._reach = reach
        self._objects = dict(objects or {})
        self._recent = RecentFrames(reach, recent)
        self._history: deque[dict[int, TrackedObject]] = deque(maxlen=UNDO_STEPS)
        self._version = 0

    # What is known

    @property
    def version(self) -> int:
        """Goes up with each change but those by tracking."""
        return self._version

    @property
    def object_ids(self) -> list[int]:
        """All objects, in order."""
        return sorted(self._objects)

    def ids_on(self, frame: int) -> list[int]:
        """The objects that were prompted or tracked on a frame."""
        return [each for each in self.object_ids if self.at(frame, each)]

    def at(self, frame: int, object_id: int) -> PromptedFrame | TrackedFrame | None:
        """What is known of an object on a frame; its prompts count before what was tracked."""
        known = self._objects.get(object_id)
        if known is None:
            return None
        return known.prompted.get(frame) or known.tracked.get(frame)

    def prompt(self, frame: int, object_id: int) -> Prompt | None:
        """What was given about an object on a frame."""
        record = self.prompted(object_id).get(frame)
        return record and record.prompt

    def prompted(self, object_id: int) -> Mapping[int, PromptedFrame]:
        """The prompted frames of an object, by number."""
        known = self._objects.get(object_id)
        return MappingProxyType(known.prompted if known else {})

    def tracked(self, object_id: int) -> Mapping[int, TrackedFrame]:
        """The tracked frames of an object, by number; some may have been prompted since."""
        known = self._objects.get(object_id)
        return MappingProxyType(known.tracked if known else {})

    def recent(self, frame: int, object_id: int) -> RecentFrame | None:
        """What only recent frames keep."""
        return self._recent.get(frame, object_id)

    def recent_entries(self) -> list[RecentEntry]:
        """All that recent frames keep, for a saved session."""
        return self._recent.entries()

    # Changes that can be undone

    def put_prompt(self, frame: int, object_id: int, record: PromptedFrame) -> None:
        """A prompt of an object, which may be new, with its result."""
        self._remember()
        known = self._objects.setdefault(int(object_id), TrackedObject())
        known.prompted[frame] = record

    def clear_prompts(self, frame: int, object_ids: Iterable[int]) -> None:
        """Take back the prompts of objects on a frame."""
        self._remember()
        for each in object_ids:
            del self._objects[each].prompted[frame]

    def remove(self, object_id: int) -> None:
        """Forget an object."""
        self._remember()
        del self._objects[object_id]
        self._recent.drop(object_id)

    def undo(self) -> bool:
        """Take back the last of these changes; False if there is none."""
        if not self._history:
            return False
        self._objects = self._history.pop()
        self._version += 1
        return True

    def _remember(self) -> None:
        self._history.append({each: known.copy() for each, known in self._objects.items()})
        self._version += 1

    # Changes that cannot

    def put_tracked(
        self, frame: int, object_id: int, record: TrackedFrame, recent: RecentFrame
    ) -> None:
        """Where tracking found an object, or that it did not."""
        self._objects[object_id].tracked[frame] = record
        self._recent.put(frame, object_id, recent)

    def update_prompt(self, frame: int, object_id: int, record: PromptedFrame) -> None:
        """The same prompt, remembered in another way."""
        self._objects[object_id].prompted[frame] = record

    def clear(self) -> None:
        """Forget all objects and the history."""
        self._history.clear()
        self._objects = {}
        self._recent = RecentFrames(self._reach)
        self._version += 1
