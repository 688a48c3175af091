"""What hands work on to the next backend: when it has no engines for it, or when its device fails."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, TypeVar

from camscribe.runtime.errors import EngineError, NoEngineError
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import Floats, SearchOptions, Selection, Trace

if TYPE_CHECKING:
    from camscribe.runtime.cuda.arrays import DeviceImage
    from camscribe.runtime.executor import Executor  # noqa: F401 (named in a base, as text)

_LOG = logging.getLogger(__name__)


class Closable(Protocol):
    """What a ``Fallback`` asks of the two."""

    def close(self) -> None:
        """Gives its memory back."""


Backend = TypeVar("Backend", bound=Closable)
Begun = TypeVar("Begun")


class Fallback(Generic[Backend]):
    """Works with the first of two, and with the second what the first has no engines for.

    Work in which the first one fails is over; ``give_up`` leaves all that follows to the second.

    Args:
        first: raises ``NoEngineError`` at the beginning of what it cannot do.
        second: opens the other one, when it is first needed.
    """

    work: ClassVar[str]
    """What is handed on, for messages."""

    def __init__(self, first: Backend, second: Callable[[], Backend]) -> None:
        self._first, self._open_second = first, second
        self._second: Backend | None = None
        self._active = first
        self._lost = False

    def _begin(self, begin: Callable[[Backend], Begun]) -> Begun:
        """Begins a piece of work with the one that can do it."""
        if not self._lost:
            try:
                self._active = self._first
                return begin(self._first)
            except NoEngineError as error:
                if self._second is None:
                    _LOG.warning("camscribe: %s; the next fastest backend takes such %s", error, self.work)
                    self._second = self._open_second()
                self._active = self._second
        return begin(self._active)

    def give_up(self, error: EngineError) -> bool:
        """Leaves everything to the second one from now on, which is said; the work begins anew there.

        Args:
            error: what the device failed with.

        Returns:
            False where it was the second that failed, and it has none behind it.

        Raises:
            EngineError: the second cannot be opened.
        """
        if self._active is not self._first:
            return isinstance(self._active, Fallback) and self._active.give_up(error)
        _LOG.warning("camscribe: %s; the next fastest backend goes on", error)
        self._lost = True
        with contextlib.suppress(EngineError):  # what failed need not close either; its memory may be needed
            self._first.close()
        self._second = self._second or self._open_second()
        self._active = self._second
        return True

    def close(self) -> None:
        """Closes both."""
        self._first.close()
        if self._second is not None:
            self._second.close()


class FallbackExecutor(Fallback["Executor"]):
    """Searches in the first executor or the second. See ``Executor`` and ``Fallback``."""

    work = "searches"

    @property
    def poll(self) -> int:
        """See ``Executor``."""
        return self._active.poll

    def encode(self, images: Pixels | Sequence[Pixels | DeviceImage], options: SearchOptions, bias: Floats) -> None:
        """See ``Executor``."""
        self._begin(lambda executor: executor.encode(images, options, bias))

    def step(self) -> None:
        """See ``Executor``."""
        self._active.step()

    def propose(self) -> Floats:
        """See ``Executor``."""
        return self._active.propose()

    def choose(self, selection: Selection) -> None:
        """See ``Executor``."""
        self._active.choose(selection)

    def trace(self, *, attention: bool = False) -> Trace:
        """See ``Executor``."""
        return self._active.trace(attention=attention)

    def boxes(self) -> Floats | None:
        """See ``Executor``."""
        return self._active.boxes()
