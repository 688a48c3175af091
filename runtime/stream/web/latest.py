"""The newest of a series of values, for readers at their own pace."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Latest(Generic[Value]):
    """Holds one value. A reader that is slow misses what came between, and holds up nobody. For one event loop."""

    def __init__(self) -> None:
        self.value: Value | None = None
        self.version = 0
        """Counts the values; 0 while there is none."""
        self._changed = asyncio.Event()

    def put(self, value: Value) -> None:
        """Takes a new value."""
        self.value = value
        self.version += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def after(self, version: int) -> tuple[int, Value]:
        """Waits until there is a value newer than that of ``version``; returns its version and the newest value."""
        while self.version <= version or self.value is None:
            await self._changed.wait()
        return self.version, self.value
