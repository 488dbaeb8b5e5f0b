"""Reads pickles of lists, tuples, dictionaries, strings and integers, and never executes anything from them.

Published vocabularies are pickles of protocol 2. C's unpickler allocates whatever a file asks for; Python's own, once
only the opcodes of plain data are let through, needs no more memory than the file's size allows.
"""

import io
import pickle
import pickletools
from pathlib import Path

LARGEST_PICKLE = 64 << 20  # COCO's has about 30 MiB

_PLAIN = {
    "PROTO", "FRAME", "STOP", "MARK", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET",
    "INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
}  # fmt: skip
"""The opcodes of plain data; none of them imports or calls anything."""


class SafePickleError(ValueError):
    """A file that is not a pickle, or a pickle of more than plain data."""


def read_safe_pickle(path: Path) -> object:
    """The value of the pickle in `path`. Raises `SafePickleError`, and `OSError` if the file cannot be read."""
    if path.stat().st_size > LARGEST_PICKLE:
        raise SafePickleError(f"it is larger than {LARGEST_PICKLE >> 20} MiB")
    content = path.read_bytes()
    try:
        for opcode, _, _ in pickletools.genops(content):
            if opcode.name not in _PLAIN:
                raise SafePickleError(f"it holds more than lists, dictionaries, strings and integers ({opcode.name})")
        value: object = pickle._Unpickler(io.BytesIO(content), encoding="latin-1").load()
    except SafePickleError:
        raise
    except Exception as error:  # truncated, or not a pickle: neither module has an error of its own
        raise SafePickleError(f"it is not a complete pickle ({error})") from None
    return value
