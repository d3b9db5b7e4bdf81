"""A cache limited by bytes, number of items and idle time, for what visitors have open.

Keys are ids that nobody else can guess.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar, runtime_checkable

from cachetools import TTLCache


class Expired(LookupError):
    """The item was closed, or never opened."""


@runtime_checkable
class Closable(Protocol):
    """An item: `nbytes` must not change while it is in the cache."""

    nbytes: int

    def close(self) -> None: ...


Item = TypeVar("Item", bound=Closable)


class ByteLimitedCache(Generic[Item]):
    """Closes the least recently used items first. Thread-safe.

    cachetools keeps the order, the ages and the total size. The limits are applied here, because
    there are two of them and because evicted items must be closed.
    """

    def __init__(
        self,
        kind: str,
        max_bytes: int,
        max_idle_seconds: float,
        max_items: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`kind` names an item in error messages."""
        self._kind, self._max_bytes, self._max_items = kind, max_bytes, max_items
        self._items: TTLCache[str, Item] = TTLCache(
            float("inf"), max_idle_seconds, timer=clock, getsizeof=lambda item: item.nbytes
        )
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        with self._locked():
            return int(self._items.currsize)

    def __len__(self) -> int:
        with self._locked():
            return len(self._items)

    def __contains__(self, name: str) -> bool:
        with self._locked():
            return name in self._items

    def get(self, name: str) -> Item:
        """The item, which counts as used now; raises Expired."""
        with self._locked():
            if name not in self._items:
                raise Expired(f"this {self._kind} is no longer open; send it again")
            item = self._items[name]
            # Setting it again restarts its idle time.
            self._items[name] = item
            return item

    def put(self, name: str, item: Item) -> None:
        """Add an item, in place of any other of that name.

        It stays even if it alone is over the limit.
        """
        with self._locked() as removed:
            if name in self._items:
                removed.append(self._items.pop(name))
            self._items[name] = item
            while len(self._items) > 1 and self._is_over_limit():
                removed.append(self._items.popitem()[1])

    def drop(self, name: str) -> None:
        """Close an item, if it is there."""
        with self._locked() as removed:
            if name in self._items:
                removed.append(self._items.pop(name))

    def sweep(self) -> None:
        """Close the items that were idle for too long."""
        with self._locked():
            pass

    def clear(self) -> None:
        """Close all items."""
        with self._locked() as removed:
            removed += self._items.values()
            self._items.clear()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[list[Item]]:
        """Holds the lock; then closes expired items and those that were put on the list.

        cachetools drops expired items in passing. With its clock stopped there are none but those
        that `expire` returned. Closing may wait for a thread that uses the item, so it comes after.
        """
        removed: list[Item] = []
        try:
            with self._lock, self._items.timer as now:
                removed += [item for _, item in self._items.expire(now)]
                yield removed
        finally:
            for item in removed:
                item.close()

    def _is_over_limit(self) -> bool:
        too_many = self._max_items is not None and len(self._items) > self._max_items
        return too_many or self._items.currsize > self._max_bytes
