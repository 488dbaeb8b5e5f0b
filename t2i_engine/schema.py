"""JSON to frozen dataclasses, strictly: every field is present and of its declared type, or the error names it."""

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from t2i_engine.errors import quoted

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Kind = TypeVar("Kind", bound="DataclassInstance")


class SchemaError(ValueError):
    """JSON that does not match its dataclass; the message names the field."""


def read_json(content: bytes) -> object:
    """Parses JSON, except Infinity, NaN and numbers that overflow to infinity. Raises `SchemaError`."""
    try:
        return json.loads(content, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"it is not JSON ({error})") from None


def read_dataclass(kind: type[Kind], found: object, where: str = "") -> Kind:
    """Builds a dataclass from parsed JSON. Raises `SchemaError`, also for values that the dataclass itself rejects."""
    if not isinstance(found, dict):
        raise _mismatch(where or kind.__name__, found, "an object")
    hints = get_type_hints(kind)
    declared = {field.name: field for field in fields(kind)}
    strange = [name for name in found if name not in declared]
    if strange:
        raise SchemaError(f"{_join(where, strange[0])} is not a known field")
    values: dict[str, Any] = {}
    for name, field in declared.items():
        if name in found:
            values[name] = _read(hints[name], found[name], _join(where, name))
        elif field.default is MISSING and field.default_factory is MISSING:
            raise SchemaError(f"{_join(where, name)} is missing")
    try:
        return kind(**values)
    except SchemaError:
        raise
    except ValueError as error:
        raise SchemaError(f"{where}: {error}" if where else str(error)) from None


def _read(kind: type, found: object, where: str) -> object:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is object:
        return found
    if is_dataclass(kind):
        return read_dataclass(kind, found, where)
    if origin in (types.UnionType, Union):
        return None if found is None and type(None) in arguments else _read(arguments[0], found, where)
    if origin is Mapping:
        if not isinstance(found, dict):
            raise _mismatch(where, found, "an object")
        return {name: _read(arguments[1], value, _join(where, name)) for name, value in found.items()}
    if origin is tuple:
        if not isinstance(found, list):
            raise _mismatch(where, found, "an array")
        return tuple(_read(arguments[0], value, _join(where, str(index))) for index, value in enumerate(found))
    if kind is float and type(found) is int and abs(found) < 1 << 53:
        return float(found)
    if kind is float and type(found) is float and not math.isfinite(found):
        raise _mismatch(where, found, "a finite number")
    if type(found) is not kind:
        raise _mismatch(
            where, found, {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]
        )
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(number: str) -> float:
    found = float(number)
    if math.isinf(found):
        raise ValueError(f"the number {quoted(number)} is too large")
    return found


def _join(where: str, name: str) -> str:
    name = quoted(name)[1:-1]
    return f"{where}.{name}" if where else name


def _mismatch(where: str, found: object, expected: str) -> SchemaError:
    return SchemaError(f"{where} is {quoted(str(found))}, {expected} expected")
