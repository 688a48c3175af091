"""Answers: JSON, and what went wrong as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp import web


def reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """An answer in JSON, on one line."""
    from aiohttp import web

    return web.Response(text=json.dumps(value) + "\n", status=status, content_type="application/json", headers=headers)


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """What is wrong with a request."""
    return reply({"error": message}, status, headers)
