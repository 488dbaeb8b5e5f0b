"""Reads pickles of lists, tuples, dictionaries, texts and integers, and nothing else: no code of a pickle ever runs.

Published vocabularies are pickles of protocol 2. Python's own unpickler, however restricted, allocates what a file asks
for; this follows the few opcodes that plain data needs, and what it holds is bounded by the size of the file.
"""

import pickletools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

LARGEST_PICKLE = 64 << 20  # the one for COCO has about 30 MiB

_VALUES = {"INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2"} | {
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
}  # fmt: skip


class PlainPickleError(ValueError):
    """A file that is no pickle, or one of more than plain data."""


def read_plain_pickle(path: Path) -> object:
    """The value of the pickle in `path`. Raises `PlainPickleError`, and `OSError` where the file cannot be read."""
    if path.stat().st_size > LARGEST_PICKLE:
        raise PlainPickleError(f"it is larger than {LARGEST_PICKLE >> 20} MiB")
    try:
        return _Machine().run(path.read_bytes())
    except PlainPickleError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # cut off, or no pickle
        raise PlainPickleError(f"it is not a whole pickle ({error})") from None


class _Machine:
    """The part of pickle's stack machine that plain data needs."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # what each MARK put aside
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
                raise PlainPickleError(f"it holds more than lists, dictionaries, texts and integers ({name})")

    def _close(self, value: object) -> None:
        self._stack = self._below.pop()
        self._stack.append(value)


def _pairs(items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(items[::2], items[1::2], strict=True)
