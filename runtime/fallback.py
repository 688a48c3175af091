"""An executor that hands a search on when it has no engines for it, or when its device fails."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from camscribe.runtime.errors import EngineError, NoEngineError
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import Floats, SearchOptions, Selection, Trace

if TYPE_CHECKING:
    from camscribe.runtime.cuda.arrays import DeviceImage
    from camscribe.runtime.executor import Executor

_LOG = logging.getLogger(__name__)


class FallbackExecutor:
    """Searches with the first executor, and with a second one what the first has no engines for.

    A search in which the first one fails is over; ``give_up`` leaves all that follow to the second.

    Args:
        first: raises ``NoEngineError`` in ``encode`` for what it cannot do.
        second: opens the other one, when it is first needed.
    """

    def __init__(self, first: Executor, second: Callable[[], Executor]) -> None:
        self._first, self._open_second = first, second
        self._second: Executor | None = None
        self._active = first
        self._lost = False

    @property
    def poll(self) -> int:
        """See ``Executor``."""
        return self._active.poll

    def encode(self, images: Pixels | Sequence[Pixels | DeviceImage], options: SearchOptions, bias: Floats) -> None:
        """See ``Executor``."""
        if not self._lost:
            try:
                self._active = self._first
                self._first.encode(images, options, bias)
                return
            except NoEngineError as error:
                if self._second is None:
                    _LOG.warning("camscribe: %s; the next fastest backend takes such searches", error)
                    self._second = self._open_second()
                self._active = self._second
        self._active.encode(images, options, bias)

    def give_up(self, error: EngineError) -> bool:
        """Leaves everything to the second executor from now on, which is said; the search begins anew there.

        Args:
            error: what the device failed with.

        Returns:
            False where it was the second that failed, and it has none behind it.

        Raises:
            EngineError: the second cannot be opened.
        """
        if self._active is not self._first:
            return isinstance(self._active, FallbackExecutor) and self._active.give_up(error)
        _LOG.warning("camscribe: %s; the next fastest backend goes on", error)
        self._lost = True
        with contextlib.suppress(EngineError):  # what failed need not close either; its memory may be needed
            self._first.close()
        self._second = self._second or self._open_second()
        self._active = self._second
        return True

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

    def close(self) -> None:
        """See ``Executor``."""
        self._first.close()
        if self._second is not None:
            self._second.close()
