"""Stopping a run on purpose: the first Ctrl-C finishes the step and saves, the second stops at once."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from t2i_engine.errors import Interrupted as Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """A context in which SIGINT (Ctrl-C) and SIGTERM are recorded, for a run to check between steps."""

    def __init__(self, note: Callable[[str], None]) -> None:
        """`note` prints a line for the user."""
        self.number = 0
        """The signal that was received; 0 if none."""
        self._note = note
        self._process = os.getpid()

    def __enter__(self) -> "Interruption":
        self._before: dict[int, Any] = {}
        with suppress(ValueError):  # only the main thread can handle signals
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not installed by Python

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise SystemExit(128 + number)
        self.number = number
        if os.getpid() == self._process:  # data loading workers inherit the handler and receive Ctrl-C too
            self._note("finishing the step, then saving; press again to stop at once")
