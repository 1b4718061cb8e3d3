"""A bounded queue between two threads that can be closed under both."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Closed(Exception):
    """The run is over: whoever waits on a channel ends."""


class Channel(Generic[Item]):
    """A first-in-first-out queue; unlike `queue.Queue` before Python 3.13 it can be closed."""

    def __init__(self, size: int, items: Iterable[Item] = ()) -> None:
        self._items: deque[Item] = deque(items)
        self._size = size
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: Item) -> None:
        """Add an item, waiting for room.

        Raises:
            Closed: the channel is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._size)
            if self._closed:
                raise Closed
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> Item:
        """Take the oldest item, waiting for one.

        Raises:
            Closed: the channel is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items)
            if self._closed:
                raise Closed
            self._changed.notify_all()
            return self._items.popleft()

    def __len__(self) -> int:
        return len(self._items)

    def close(self) -> None:
        """End whoever waits, now or later."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
