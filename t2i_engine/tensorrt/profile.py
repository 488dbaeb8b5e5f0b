"""The sizes that an engine is built for: B pictures or captions at once, captions of T tokens."""

from collections.abc import Mapping
from dataclasses import dataclass

from t2i_engine.bundle import TensorSpec
from t2i_engine.errors import BackendError

Triple = tuple[int, ...]


@dataclass(frozen=True)
class Range:
    """The least, the best supported and the largest size."""

    least: int
    best: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.best <= self.most:
            raise ValueError(f"sizes {self.least}, {self.best}, {self.most} are not in order from 1")


@dataclass(frozen=True)
class Profile:
    """A range for each letter of a shape."""

    batch: Range = Range(1, 4, 16)
    tokens: Range = Range(1, 16, 256)

    def shapes(self, tensor: TensorSpec) -> tuple[Triple, Triple, Triple]:
        """The least, best and largest shape of an input."""
        least, best, most = (
            tuple(getattr(self._range(size), name) if isinstance(size, str) else size for size in tensor.shape)
            for name in ("least", "best", "most")
        )
        return least, best, most

    def check(self, sizes: Mapping[str, int]) -> None:
        """Raises `BackendError` where B or T is outside of its range."""
        for letter, what, cure in (
            ("B", "a batch of {}", "draw fewer at once with --batch-size {}"),
            ("T", "a caption of {} words", "shorten it to {} words"),
        ):
            size, allowed = sizes.get(letter), self._range(letter)
            if size is not None and not allowed.least <= size <= allowed.most:
                raise BackendError(
                    f"{what.format(size)} is outside of what the engine was built for, {allowed.least} to "
                    f"{allowed.most}; {cure.format(allowed.most)}, or use another backend"
                )

    def _range(self, letter: str) -> Range:
        return {"B": self.batch, "T": self.tokens}[letter]
