"""The curves of a phase in TensorBoard's format: `tensorboard --logdir runs` shows all runs beside each other."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter


class Board:
    """A context manager: leaving it writes out what waits."""

    def __init__(self, folder: Path | None, first: int) -> None:
        """Goes on behind step `first`: what a stopped run told of later steps is taken back. None: writes nothing."""
        self._writer = SummaryWriter(folder, purge_step=first + 1) if folder else None

    def __enter__(self) -> "Board":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer:
            self._writer.close()

    def numbers(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Adds a point to the curve of each name."""
        if self._writer is None:
            return
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def picture(self, name: str, file: Path, step: int) -> None:
        """Shows a picture file."""
        if self._writer is None:
            return
        with Image.open(file) as picture:
            self._writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def flush(self) -> None:
        """Writes out what waits."""
        if self._writer:
            self._writer.flush()
