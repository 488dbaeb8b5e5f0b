"""`t2i-engine evaluate`: draws pictures for test captions once, and measures them in every way that was asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from t2i_engine.errors import OptionError, listed, unknown
from t2i_engine.files import cache_folder
from training.data.rendered import Rendered, render
from training.data.source import Listing, Source, Split, require_usable, summary
from training.data.sources import SYNTHBIRDS, open_source, public_name
from training.distributed import device
from training.evaluation.classifier import Recipe, trained_classifier
from training.evaluation.comparison import FIGURES, Comparison
from training.evaluation.distances import Distances
from training.evaluation.diversity import CAPTIONS, SEEDS, Diversity, measure_diversity
from training.evaluation.faithfulness import Faithfulness
from training.evaluation.inception import FeatureNetwork, Inception
from training.evaluation.r_precision import CANDIDATES, RPrecision, load_encoders
from training.evaluation.reference import add_reference
from training.evaluation.report import Conditions, Measure, Report, Section
from training.evaluation.samples import Requests
from training.evaluation.subject import Subject
from training.progress import Progress

Metric = Literal["fid", "fid-floor", "kid", "r-precision", "attributes", "diversity"]
METRICS: tuple[Metric, ...] = get_args(Metric)
OF_SYNTHBIRDS: tuple[Metric, ...] = ("attributes", "diversity")
PAPERS_COUNT = 30_000


@dataclass(frozen=True)
class Instruments:
    """What measures; tests take smaller ones."""

    network: FeatureNetwork | None = None
    """None: Inception, where it is needed."""
    recipe: Recipe = field(default_factory=Recipe)
    seeds: int = SEEDS


def evaluate(
    subject: Subject,
    data: str,
    metrics: Sequence[str],
    encoders: str,
    count: int = PAPERS_COUNT,
    cache: Path | None = None,
    instruments: Instruments = Instruments(),
) -> Report:
    """Measures a model on the test split of a data source, by drawing `count` of its captions.

    `encoders` is the checkpoint whose DAMSM encoders judge R-precision. What cannot be measured is said before anything
    is drawn. Raises a `UserError`.
    """
    wanted = _check(metrics, count)
    source = open_source(data, count)
    if source.name != SYNTHBIRDS and (foreign := [metric for metric in OF_SYNTHBIRDS if metric in wanted]):
        raise OptionError(f"{listed(foreign)}: known for synthbirds only; leave out, or give --data synthbirds")
    matching = RPrecision(load_encoders(encoders)) if "r-precision" in wanted else None
    network = instruments.network
    if network is None and wanted & {*FIGURES, "diversity"}:
        network = Inception(device())
    listing = source.listing("test")
    with Progress() as progress:
        session = _Session(subject, source, count, cache or cache_folder(), progress)
        pictures = session.pictures("test", listing)
        measures: list[Measure] = [matching] if matching else []
        if network and wanted & FIGURES:
            measures.insert(0, session.comparison(pictures, listing.fingerprint, network, wanted))
        if "attributes" in wanted:
            measures.append(session.faithfulness(instruments.recipe))
        drawn = session.draw(pictures, measures) if measures else None
        sections: list[Section] = [measure.result() for measure in measures]
        if network and "diversity" in wanted:
            sections.append(session.diversity(network, instruments.seeds))
    problems = summary((*listing.problems, *pictures.broken))
    notes = [listing.note, f"left out of the data: {problems}" if problems else ""]
    conditions = Conditions(
        model=subject.name,
        runs_as=subject.runs_as,
        resolution=subject.resolution,
        data=public_name(data),
        split="test",
        note="; ".join(note for note in notes if note),
        captions=drawn or 0,
        rejected=0 if drawn is None else count - drawn,
    )
    return Report(conditions, sections)


def _check(metrics: Sequence[str], count: int) -> frozenset[str]:
    for name in metrics:
        if name not in METRICS:
            raise OptionError(unknown("metric", name, METRICS))
    if not metrics:
        raise OptionError(f"no metric given; there are: {listed(METRICS)}")
    least = CANDIDATES if "r-precision" in metrics else 2
    if count < least:
        raise OptionError(f"{count} pictures are too few for {listed(metrics)}; at least {least} expected")
    return frozenset(metrics)


@dataclass(frozen=True)
class _Session:
    """The steps of an evaluation, each with its progress."""

    subject: Subject
    source: Source
    count: int
    cache: Path
    progress: Progress

    def pictures(self, split: Split, listing: Listing) -> Rendered:
        """The real pictures of a split at the model's side."""
        require_usable(self.source.name, split, len(listing.items), listing.problems)
        self.progress.start(f"pictures to {split} with", len(listing.items))
        rendered = render(listing, self.subject.resolution, self.cache, self._report)
        require_usable(self.source.name, split, len(rendered.keys), rendered.broken)
        return rendered

    def comparison(
        self, real: Rendered, fingerprint: str, network: FeatureNetwork, figures: frozenset[str]
    ) -> Comparison:
        """FID and KID, with the real pictures' features already taken in."""
        training = None
        if "fid-floor" in figures:
            training = self.pictures("train", self.source.listing("train")).pictures[: self.count]
        distances = Distances(network.width)
        self.progress.start("features of real pictures", len(real.pictures))
        add_reference(distances, real.pictures, fingerprint, network, self.cache, self._report)
        return Comparison(distances, network, figures, training)

    def faithfulness(self, recipe: Recipe) -> Faithfulness:
        """The judge of attributes; it is trained where it is not at hand."""
        phases: list[str] = []

        def show(phase: str, done: int, total: int) -> None:
            if phase not in phases:
                phases.append(phase)
                self.progress.start(phase, total)
            self._report(done)

        return Faithfulness(trained_classifier(show, recipe, self.cache))

    def draw(self, real: Rendered, measures: Sequence[Measure]) -> int:
        """Shows every batch to all measures; returns how many captions could be drawn."""
        drawn = 0
        self.progress.start("drawing", self.count)
        for sample in Requests(self.subject.sampler, real, self.count).draw():
            for measure in measures:
                measure.update(sample)
            drawn += len(sample.captions)
            self._report(drawn)
        if drawn < 2:
            raise OptionError(
                f"'{self.subject.name}' knows no word in {self.count - drawn:,} of {self.count:,} captions of "
                f"{self.source.name}; measure it on data like those that it was trained on"
            )
        return drawn

    def diversity(self, network: FeatureNetwork, seeds: int) -> Diversity:
        """The spread of each caption."""
        self.progress.start("diversity", len(CAPTIONS))
        spreads = []
        for caption in CAPTIONS:
            spreads.append(measure_diversity(caption, seeds, self.subject.sampler, network))
            self._report(len(spreads))
        return Diversity(network.name, seeds, spreads)

    def _report(self, done: int) -> None:
        self.progress.report(done, {})
