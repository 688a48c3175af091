"""JSON as frozen dataclasses: the types of the fields are the schema, and every problem is found, not just one."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

from camscribe.runtime.errors import CamscribeError


def parse(text: str) -> Any:
    """Parses JSON strictly.

    Raises:
        ValueError: it is not JSON, holds NaN or infinity, or is nested too deep.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("is nested too deep") from error


def decode(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    """Builds a value of type ``kind`` from parsed JSON.

    Args:
        kind: a dataclass, ``str``, ``int``, ``float``, ``bool``, ``Any``, ``Literal``, ``X | Y``, ``tuple[X, ...]``,
            ``tuple[X, Y]`` or ``dict[str, X]``.
        value: what the JSON holds.
        where: name of the value in messages.
        problems: gets one line for each thing that is wrong.

    Returns:
        The value, to be used only if ``problems`` stayed empty.
    """
    if type(value) is kind:  # most values are plain
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_dataclass(kind, value, where, problems)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is typing.Literal:
        if not any(type(value) is type(choice) and value == choice for choice in arguments):
            problems.append(f"{where} is {_short(value)}; expected {' or '.join(map(repr, arguments))}")
        return value
    if origin in (types.UnionType, typing.Union):
        return _decode_union(arguments, value, where, problems)
    if origin is tuple:
        return _decode_tuple(arguments, value, where, problems)
    if origin is dict:
        if not isinstance(value, dict):
            problems.append(f"{where} is {_short(value)}; expected an object")
            return None
        return {key: decode(arguments[1], item, f"{where}.{key:.60}", problems) for key, item in value.items()}
    # bool is an int to Python, and JSON writes 1.0 as 1.
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not kind:
        problems.append(f"{where} is {_short(value)}; expected {_NAMES[kind]}")
    return value


def encode(value: Any) -> Any:
    """The plain dicts, lists and scalars that ``decode`` reads."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


_NAMES: dict[Any, str] = {
    str: "a text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    types.NoneType: "null",
}


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """Types of the fields of a dataclass."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _decode_dataclass(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(value, dict):
        problems.append(f"{where} is {_short(value)}; expected an object")
        return None
    hints = _hints(kind)
    names = list(hints)
    before = len(problems)
    problems += [f"{where}.{name} is missing" for name in names if name not in value]
    problems += [f"{where}.{name:.60} is unknown" for name in value if name not in names]
    items = {name: decode(hints[name], value[name], f"{where}.{name}", problems) for name in names if name in value}
    if len(problems) > before:
        return None
    try:
        return kind(**items)
    except CamscribeError as error:
        problems.append(f"{where}: {error}")
        return None


def _decode_union(kinds: tuple[Any, ...], value: Any, where: str, problems: list[str]) -> Any:
    for kind in kinds:
        tried: list[str] = []
        decoded = decode(kind, value, where, tried)
        if not tried:
            return decoded
    expected = " or ".join(_NAMES.get(kind, "another form") for kind in kinds)
    problems.append(f"{where} is {_short(value)}; expected {expected}")
    return None


def _decode_tuple(kinds: tuple[Any, ...], value: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(value, list):
        problems.append(f"{where} is {_short(value)}; expected a list")
        return ()
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    elif len(kinds) != len(value):
        problems.append(f"{where} has {len(value)} items; expected {len(kinds)}")
        return ()
    return tuple(
        decode(kind, item, f"{where}[{index}]", problems)
        for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"holds {name}, which is not JSON")


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
