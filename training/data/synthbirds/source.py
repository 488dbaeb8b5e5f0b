"""`synthbirds` as one of the data sets: pictures are drawn, so a split holds as many as are asked for."""

from dataclasses import dataclass

from t2i_engine.tokenizer import Tokenizer
from training.data.source import Example, Listing, Split
from training.data.synthbirds import VERSION, SynthBirds
from training.data.synthbirds.grammar import BirdGrammar


@dataclass(frozen=True)
class Bird:
    """One picture by its number."""

    split: Split
    number: int

    @property
    def key(self) -> str:
        """The picture's name and seed."""
        return f"synthbirds/{self.split}/{self.number:06d}"

    @property
    def unit(self) -> str:
        """Itself: birds are independent."""
        return self.key

    @property
    def captions(self) -> tuple[str, ...]:
        """Its captions, without drawing it."""
        return SynthBirds(self.split, self.number + 1, 32).captions(self.number)

    def load(self, resolution: int) -> Example:
        """Draws it."""
        return SynthBirds(self.split, self.number + 1, resolution)[self.number]


@dataclass(frozen=True)
class Drawn:
    """`synthbirds` with this many pictures in each split."""

    pictures: int
    name: str = "synthbirds"

    def listing(self, split: Split) -> Listing:
        """The first pictures of a split."""
        birds = [Bird(split, number) for number in range(self.pictures)]
        return Listing(birds, f"synthbirds-{VERSION}-{split}-{self.pictures}", str(VERSION))

    def grammar(self, tokenizer: Tokenizer) -> BirdGrammar:
        """The grammar of its captions, in a vocabulary."""
        return BirdGrammar(tokenizer)
