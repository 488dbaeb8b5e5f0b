"""How a run shows its progress: on the terminal, and as curves for TensorBoard."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from training.distributed import is_first
from training.stepping import Losses


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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start(self, phase: str, total: int, done: int = 0) -> None:
        """Starts a phase of `total` steps or pictures, of which `done` are already complete."""
        self._phase, self._total = phase, total
        self._since, self._first = time.monotonic(), done
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._task = self._bar.add_task(phase, total=total, completed=done, rate=0.0, losses="")

    def report(self, done: int, losses: Losses | None = None, pictures_per_step: int = 1) -> None:
        """Shows the number of steps `done`, the rate since `start`, and the latest losses, if any."""
        rate = (done - self._first) * pictures_per_step / max(time.monotonic() - self._since, 1e-9)
        shown = "  ".join(f"{name} {value:.3f}" for name, value in (losses or {}).items())
        self._bar.update(self._task, completed=done, rate=rate, losses=shown)
        if self._bar.disable and not self._bar.console.quiet:
            print(f"{self._phase} {done}/{self._total}  {rate:.0f} pictures/s  {shown}", file=sys.stderr, flush=True)

    def note(self, line: str) -> None:
        """Prints a line above the bar."""
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)


class TensorBoard:
    """The curves of a phase: `tensorboard --logdir runs` shows all runs side by side.

    A context manager: leaving it flushes.
    """

    def __init__(self, folder: Path | None, first: int) -> None:
        """Continues after step `first`, dropping what a stopped run logged beyond it. `folder` None: writes nothing."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and evaluation never writes curves

        self._writer = SummaryWriter(folder, purge_step=first + 1) if folder else None

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer:
            self._writer.close()

    def numbers(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each named curve."""
        if self._writer is None:
            return
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def picture(self, name: str, file: Path, step: int) -> None:
        """Adds a picture file."""
        if self._writer is None:
            return
        with Image.open(file) as picture:
            self._writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def flush(self) -> None:
        """Writes out what is buffered."""
        if self._writer:
            self._writer.flush()
