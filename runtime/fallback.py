"""An executor that hands a search on when it has no engines for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from camscribe.runtime.errors import NoEngineError
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import Floats, SearchOptions, Selection, Trace

if TYPE_CHECKING:
    from camscribe.runtime.cuda.arrays import DeviceImage
    from camscribe.runtime.executor import Executor

_LOG = logging.getLogger(__name__)


class FallbackExecutor:
    """Searches with the first executor, and with a second one what the first has no engines for.

    Args:
        first: raises ``NoEngineError`` in ``encode`` for what it cannot do.
        second: opens the other one, when it is first needed.
    """

    def __init__(self, first: Executor, second: Callable[[], Executor]) -> None:
        self._first, self._open_second = first, second
        self._second: Executor | None = None
        self._active = first

    @property
    def poll(self) -> int:
        """See ``Executor``."""
        return self._active.poll

    def encode(self, images: Pixels | Sequence[Pixels | DeviceImage], options: SearchOptions, bias: Floats) -> None:
        """See ``Executor``."""
        try:
            self._active = self._first
            self._first.encode(images, options, bias)
        except NoEngineError as error:
            if self._second is None:
                _LOG.warning("camscribe: %s; the next fastest backend takes such searches", error)
                self._second = self._open_second()
            self._active = self._second
            self._second.encode(images, options, bias)

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
