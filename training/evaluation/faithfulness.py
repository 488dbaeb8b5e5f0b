"""Faithfulness: how often a generated picture shows what its caption asked for, beside renders of the same captions."""

from dataclasses import dataclass
from typing import Any

from training.evaluation.attributes import ATTRIBUTES, asked
from training.evaluation.classifier import Classifier
from training.evaluation.report import percent, table
from training.evaluation.samples import Sample

EVERYTHING = "everything asked for"


@dataclass
class Tally:
    """How often an attribute was asked for, and how often it was found in generated pictures and in renders."""

    asked: int = 0
    generated: int = 0
    renders: int = 0


class Faithfulness:
    """Takes in samples, and judges both of their pictures with the classifier.

    The renders are what the captions were written for: what the classifier misses in them is its own fault, or too
    small to be seen, so they are the ceiling.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.captions = 0
        self.tallies = {name: Tally() for name in (*ATTRIBUTES, EVERYTHING)}

    def update(self, sample: Sample) -> None:
        """Takes in a batch."""
        generated = self.classifier.classify(sample.pixels)
        renders = self.classifier.classify(sample.real)
        for caption, drawn, real in zip(sample.captions, generated, renders, strict=True):
            self.captions += 1
            wanted = asked(caption)
            for name, value in wanted.items():
                self._count(name, drawn[name] == value, real[name] == value)
            if wanted:
                shows = [all(found[name] == value for name, value in wanted.items()) for found in (drawn, real)]
                self._count(EVERYTHING, *shows)

    def result(self) -> "AttributeTable":
        """The tallies of the attributes that were asked for at all."""
        found = {name: tally for name, tally in self.tallies.items() if tally.asked}
        return AttributeTable(self.captions, found, self.classifier.accuracies)

    def _count(self, name: str, generated: bool, render: bool) -> None:
        tally = self.tallies[name]
        tally.asked += 1
        tally.generated += generated
        tally.renders += render


@dataclass(frozen=True)
class AttributeTable:
    """Tallies over a number of captions, and the classifier's own accuracies on renders that it had not seen."""

    captions: int
    tallies: dict[str, Tally]
    accuracies: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Per attribute how often it was asked for, and in percent how often it was there."""
        attributes = {
            name: {
                "asked": tally.asked,
                "generated": percent(tally.generated, tally.asked),
                "renders": percent(tally.renders, tally.asked),
            }
            for name, tally in self.tallies.items()
        }
        classifier = {name: round(100 * share, 2) for name, share in self.accuracies.items()}
        return {"faithfulness": {"captions": self.captions, "attributes": attributes, "classifier": classifier}}

    def as_markdown(self) -> str:
        """One row for each attribute."""
        rows = [
            (name, f"{tally.asked:,}", *(f"{percent(n, tally.asked):.1f} %" for n in (tally.generated, tally.renders)))
            for name, tally in self.tallies.items()
        ]
        accuracies = ", ".join(f"{name} {100 * share:.1f}" for name, share in self.accuracies.items())
        head = ("attribute", "asked for", "generated", "renders")
        return (
            f"{table(head, rows)}\n\n{self.captions:,} captions, judged by a classifier trained on renders alone; "
            f"right on unseen renders, in percent: {accuracies}."
        )
