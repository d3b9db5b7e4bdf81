"""What visitors have open on the server: so much at most, the least recently used goes first.

Pictures and clips are held by it, under ids that nobody else can guess.
"""

import collections
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar


class Expired(LookupError):
    """No such thing is open: it was dropped, or never sent."""


# Has `nbytes`, and `close()` for when it goes.
Thing = TypeVar("Thing")


class Shelf(Generic[Thing]):
    """Any number of threads may use it; things are closed by the thread that makes them go."""

    def __init__(
        self,
        what: str,
        most_bytes: int,
        keep_seconds: float,
        most: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`what` it holds, for words; `most` is how many, None for as many as the bytes allow."""
        self._what, self._most_bytes, self._keep_seconds = what, most_bytes, keep_seconds
        self._most, self._clock = most, clock
        self._things: collections.OrderedDict[str, tuple[Thing, float]] = collections.OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        with self._lock:
            return self._held()

    def __len__(self) -> int:
        return len(self._things)

    def get(self, name: str) -> Thing:
        """Raises Expired."""
        self.sweep()
        with self._lock:
            if name not in self._things:
                raise Expired(f"this {self._what} is not open any more; send it again")
            thing = self._things.pop(name)[0]
            self._things[name] = thing, self._clock()
            return thing

    def put(self, name: str, thing: Thing) -> None:
        """The newest stays even if it is larger than all that may be held."""
        with self._lock:
            gone = self._old()
            if name in self._things:
                gone.append(self._things.pop(name)[0])
            self._things[name] = thing, self._clock()
            while len(self._things) > 1 and self._is_too_much():
                gone.append(self._things.popitem(last=False)[1][0])
        _close(gone)

    def drop(self, name: str) -> None:
        """Let go of one thing, if it is there."""
        with self._lock:
            gone = [self._things.pop(name)[0]] if name in self._things else []
        _close(gone)

    def sweep(self) -> None:
        """Drop what was left for too long, even if nobody asks for anything any more."""
        with self._lock:
            gone = self._old()
        _close(gone)

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            gone = [thing for thing, _ in self._things.values()]
            self._things.clear()
        _close(gone)

    def _old(self) -> list[Thing]:
        gone, oldest = [], self._clock() - self._keep_seconds
        while self._things:
            name, (thing, used) = next(iter(self._things.items()))
            if used >= oldest:
                break
            del self._things[name]
            gone.append(thing)
        return gone

    def _is_too_much(self) -> bool:
        too_many = self._most is not None and len(self._things) > self._most
        return too_many or self._held() > self._most_bytes

    def _held(self) -> int:
        return sum(thing.nbytes for thing, _ in self._things.values())


def _close(things: list) -> None:
    """After the lock is let go of: closing may have to wait for who is at work with it."""
    for thing in things:
        thing.close()
