"""Stopping a run on purpose: the first Ctrl-C lets it finish its step and save, the second one stops it at once."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from t2i_engine.errors import Interrupted as Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """While it is entered, notes SIGINT (Ctrl-C) and SIGTERM, for a run to look at between two steps."""

    def __init__(self, note: Callable[[str], None]) -> None:
        """`note` shows a line to whoever pressed Ctrl-C."""
        self.number = 0
        """The signal that came; 0 as long as none did."""
        self._note = note
        self._process = os.getpid()

    def __enter__(self) -> "Interruption":
        self._before: dict[int, Any] = {}
        with suppress(ValueError):  # only the main thread may take signals
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not one of Python's

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise SystemExit(128 + number)
        self.number = number
        if os.getpid() == self._process:  # readers of data inherit this; Ctrl-C reaches them as well
            self._note("finishing the step, then saving; once more stops at once")
