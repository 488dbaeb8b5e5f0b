"""Reads pickles of lists, tuples, dictionaries, strings and integers, and never executes anything from them.

Published vocabularies are pickles of protocol 2. Python's unpickler, however restricted, allocates whatever a file asks
for; this one implements only the opcodes of plain data, and its memory is bounded by the size of the file.
"""

import pickletools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

LARGEST_PICKLE = 64 << 20  # COCO's has about 30 MiB

_VALUES = {"INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2"} | {
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
}  # fmt: skip


class SafePickleError(ValueError):
    """A file that is not a pickle, or a pickle of more than plain data."""


def read_safe_pickle(path: Path) -> object:
    """The value of the pickle in `path`. Raises `SafePickleError`, and `OSError` if the file cannot be read."""
    if path.stat().st_size > LARGEST_PICKLE:
        raise SafePickleError(f"it is larger than {LARGEST_PICKLE >> 20} MiB")
    try:
        return _Machine().run(path.read_bytes())
    except SafePickleError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # truncated, or not a pickle
        raise SafePickleError(f"it is not a complete pickle ({error})") from None


class _Machine:
    """The part of the pickle stack machine that plain data needs."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks set aside by MARKs
        self._memo: dict[object, Any] = {}

    def run(self, content: bytes) -> object:
        for opcode, argument, _ in pickletools.genops(content):
            self._step(opcode.name, argument)
        return self._stack.pop()

    def _step(self, name: str, argument: object) -> None:
        stack = self._stack
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _ if name in _VALUES:
                stack.append(argument)
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "MARK":
                self._below.append(stack)
                self._stack = []
            case "LIST":
                self._close(list(stack))
            case "DICT":
                self._close(dict(_pairs(stack)))
            case "TUPLE":
                self._close(tuple(stack))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                stack[-2].append(stack.pop())
            case "APPENDS":
                self._stack = self._below.pop()
                self._stack[-1].extend(stack)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                stack[-1][key] = value
            case "SETITEMS":
                self._stack = self._below.pop()
                self._stack[-1].update(_pairs(stack))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case _:
                raise SafePickleError(f"it holds more than lists, dictionaries, strings and integers ({name})")

    def _close(self, value: object) -> None:
        self._stack = self._below.pop()
        self._stack.append(value)


def _pairs(items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(items[::2], items[1::2], strict=True)
