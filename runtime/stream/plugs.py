"""Parts that are imported when they are asked for, and that say which extra brings what they lack."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from camscribe.runtime.errors import EngineError


class Plug(NamedTuple):
    """A source or a sink that is imported when it is asked for."""

    target: str
    """``module:function``, or ``module:class``."""
    extra: str
    """What ``pip install "camscribe[...]"`` must have brought."""

    def __call__(self, what: str, *arguments: object, **options: object) -> Any:
        """Imports the target and calls it.

        Args:
            what: was asked for, such as ``--mcap`` or ``ros2://``; begins the message.
            arguments: for the target.
            options: for the target.

        Raises:
            EngineError: a library is missing.
        """
        module, _, name = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), name)(*arguments, **options)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing == "camscribe":
                raise  # a part of this package: no user's fault
            raise EngineError(
                f'{what} needs {missing}, which is not installed: pip install "camscribe[{self.extra}]"'
            ) from error
