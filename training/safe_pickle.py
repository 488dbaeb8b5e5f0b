"""Reads pickles of lists, tuples, dictionaries, strings and integers, and never executes anything from them.

Published vocabularies are pickles of protocol 2. Python's own unpickler in Python, unlike the one in C, can be confined
to the opcodes of plain data, and allocates no more than the file holds.
"""

import io
import pickle
import struct
from pathlib import Path
from typing import ClassVar

LARGEST_PICKLE = 64 << 20  # COCO's has about 30 MiB

_PLAIN = (
    "PROTO FRAME STOP INT LONG LONG1 LONG4 BININT BININT1 BININT2 STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE EMPTY_LIST EMPTY_DICT EMPTY_TUPLE MARK LIST DICT TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS "
    "SETITEM SETITEMS PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET"
)


class SafePickleError(ValueError):
    """A file that is not a pickle, or a pickle of more than plain data."""


class _PlainUnpickler(pickle._Unpickler):
    dispatch: ClassVar = {
        opcode: pickle._Unpickler.dispatch[opcode] for name in _PLAIN.split() for opcode in getattr(pickle, name)
    }


def read_safe_pickle(path: Path) -> object:
    """The value of the pickle in `path`. Raises `SafePickleError`, and `OSError` if the file cannot be read."""
    if path.stat().st_size > LARGEST_PICKLE:
        raise SafePickleError(f"it is larger than {LARGEST_PICKLE >> 20} MiB")
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin-1").load()
    except KeyError as opcode:
        raise SafePickleError(f"it holds more than lists, dictionaries, strings and integers ({opcode})") from None
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        EOFError,
        struct.error,
        pickle.UnpicklingError,
    ) as reason:
        raise SafePickleError(f"it is not a complete pickle ({reason})") from None
