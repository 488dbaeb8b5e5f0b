"""What the benchmarks of servers share: pictures to request, and measured figures with their targets."""

import io
from dataclasses import dataclass
from urllib.parse import urlencode

import numpy as np
from PIL import Image

from benchmarks.fixtures import make_captions
from benchmarks.load import Load, get
from t2i_engine.engine import Engine

CAPTIONS, SEEDS = 16, 8


@dataclass(frozen=True)
class Bar:
    """A measured figure and its target."""

    name: str
    found: str
    bar: str
    reached: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.found} (target: {self.bar}; {'met' if self.reached else 'missed'})"


class Requests:
    """The pictures to request, and the engine's own pictures to compare them with."""

    def __init__(self, engine: Engine) -> None:
        captions = make_captions(engine.bundle.tokenizer(), CAPTIONS)
        self.pictures = [(caption, seed) for seed in range(SEEDS) for caption in captions]
        path = f"/v1/pictures/{engine.bundle.name}.png"
        self.targets = [f"{path}?{urlencode({'caption': caption, 'seed': seed})}" for caption, seed in self.pictures]
        self.sent = [get(target) for target in self.targets]
        self._expected = [engine.generate(caption, seed).pixels for caption, seed in self.pictures]
        self._checked: dict[tuple[int, bytes], bool] = {}

    def wrong(self, load: Load) -> int:
        """Pictures that differ from the engine's by more than a level: batches round differently."""
        return sum(not self._right(answer.request, answer.content) for answer in load.answers if answer.status == 200)

    def _right(self, number: int, content: bytes) -> bool:
        if (number, content) not in self._checked:
            with Image.open(io.BytesIO(content)) as picture:
                difference = np.abs(np.asarray(picture).astype(int) - self._expected[number]).max()
            self._checked[number, content] = bool(difference <= 1)
        return self._checked[number, content]
