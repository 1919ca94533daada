"""From plain JSON to dataclasses: every field there, known and of its type, or one sentence why not."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dosing.errors import UserError

T = TypeVar("T")

_WORDS: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    types.NoneType: "null",
}


def typed(kind: type[T], content: Any, where: str) -> T:
    """Build a dataclass from the JSON object of its fields, nested ones included.

    Args:
        kind: a dataclass whose fields are texts, numbers, flags, tuples, mappings, literals, dataclasses, or
            a choice of these.
        content: as ``json.loads`` returns it.
        where: the file, for the message.

    Raises:
        UserError: a field is missing, unknown or of another type, or the dataclass refuses the values.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{where} must be a JSON object, got {_short(content)}.")
    hints = _hints(kind)  # type: ignore[arg-type]
    known = {field.name: field for field in fields(kind) if field.init}  # type: ignore[arg-type]
    if unknown := [name for name in content if name not in known]:
        raise UserError(f"{where} has the field {unknown[0]!r}, which this version does not know.")
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in content]:
        raise UserError(f"{where} lacks {', '.join(missing)}; the file is damaged or of another version.")
    values = {name: _value(hints[name], value, f"{where}: {name}") for name, value in content.items()}
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


_hints = functools.cache(get_type_hints)


def _value(hint: Any, value: Any, where: str) -> Any:
    """One value in the type of its field."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _choice(inner, value, where)
    if origin is Literal:
        if value in inner and type(value) in {type(one) for one in inner}:
            return value
        raise UserError(f"{where} must be one of {', '.join(map(str, inner))}, got {_short(value)}.")
    if origin is not None:
        return _container(origin, inner, value, where)
    if is_dataclass(hint):
        return value if isinstance(value, hint) else typed(hint, value, where)  # type: ignore[arg-type]
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise UserError(f"{where} must be {_WORDS.get(hint, hint)}, got {_short(value)}.")
    return value


def _container(kind: Any, inner: tuple[Any, ...], value: Any, where: str) -> Any:
    """A tuple of values of one type, or a mapping."""
    if kind is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where} must be a list, got {_short(value)}.")
        return tuple(_value(inner[0], one, f"{where}[{k}]") for k, one in enumerate(value))
    if not isinstance(value, Mapping):
        raise UserError(f"{where} must be a JSON object, got {_short(value)}.")
    return {name: _value(inner[1], one, f"{where}.{name}") for name, one in value.items()}


def _choice(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """The first of several types that takes the value; the last one says what is wrong with it."""
    if value is None and types.NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not types.NoneType]
    for kind in others[:-1]:
        try:
            return _value(kind, value, where)
        except UserError:
            continue
    return _value(others[-1], value, where)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
