"""How training and evaluation show their progress."""

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from training.distributed import is_first


class Progress:
    """A progress bar with rate and losses on a terminal, plain lines elsewhere; on the first process only.

    A context manager: leaving it restores the terminal.
    """

    def __init__(self) -> None:
        console = Console(stderr=True, quiet=not is_first())
        self._bar = Bar(
            TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[rate]:.0f} pictures/s  {task.fields[losses]}"),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._phase = ""

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *of: object) -> None:
        self._bar.stop()

    def start(self, phase: str, total: int, done: int = 0) -> None:
        """Starts a phase of `total` steps or pictures, of which `done` are already complete."""
        self._phase, self._total = phase, total
        self._since, self._first = time.monotonic(), done
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._task = self._bar.add_task(phase, total=total, completed=done, rate=0.0, losses="")

    def report(self, done: int, losses: Mapping[str, float] | None = None, pictures_per_step: int = 1) -> None:
        """Shows the number of steps `done`, the rate since `start`, and the latest losses, if any."""
        rate = (done - self._first) * pictures_per_step / max(time.monotonic() - self._since, 1e-9)
        shown = "  ".join(f"{name} {value:.3f}" for name, value in (losses or {}).items())
        self._bar.update(self._task, completed=done, rate=rate, losses=shown)
        if self._bar.disable and not self._bar.console.quiet:
            print(f"{self._phase} {done}/{self._total}  {rate:.0f} pictures/s  {shown}", file=sys.stderr, flush=True)

    def note(self, line: str) -> None:
        """Prints a line above the bar."""
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
