"""`t2i-engine evaluate`: draws pictures for test captions once, and computes every requested metric from them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from t2i_engine.backend_selection import AUTO
from t2i_engine.bundle import Bundle, check_target, write_bundle
from t2i_engine.engine import Engine
from t2i_engine.errors import OptionError, listed, quoted, unknown
from t2i_engine.files import cache_folder
from t2i_engine.latents import check_truncation
from t2i_engine.sampler import Sampler
from t2i_engine.tokenizer import Tokenizer
from training.data.loading import loaded_resolution
from training.data.source import SYNTHBIRDS, open_source, public_name, summary
from training.distributed import device as training_device
from training.evaluation import Conditions, Evaluation, Measure
from training.evaluation.attribute_accuracy import AttributeAccuracy, Recipe, trained_classifier
from training.evaluation.clip import Clip
from training.evaluation.distances import DISTANCES, DistanceMeasure, RealStatistics, real_statistics
from training.evaluation.diversity import CAPTIONS, SEEDS, measure_diversity
from training.evaluation.draws import CaptionDraws, RealPictures, load_pictures, load_split
from training.evaluation.features import FeatureNetwork
from training.evaluation.inception import Inception
from training.evaluation.r_precision import CANDIDATES, RPrecision, load_encoders
from training.progress import Progress
from training.sampling import network_sampler
from training.state import is_trained, load_trained

METRICS = ("fid", "fid-floor", "kid", "clip-fid", "r-precision", "attributes", "diversity")
SYNTHBIRDS_METRICS = ("attributes", "diversity")
PAPER_COUNT = 30_000
LARGEST_REAL_RESOLUTION = 1024


@dataclass(frozen=True)
class EvaluatedModel:
    """A model as a sampler, and what an evaluation calls it."""

    name: str
    runs_as: str
    """Format, device and backend."""
    sampler: Sampler
    provenance: Mapping[str, Any] = field(default_factory=dict)


def open_model(model: str, backend: str = AUTO, precision: str = AUTO, device: str = AUTO) -> EvaluatedModel:
    """Opens a checkpoint or state (a file) or a bundle (by name or folder). Raises `UserError` on failure."""
    if not is_trained(model):
        # Exact words, so that figures stay those of the words that the model has learnt.
        engine = Engine.open(model, backend, precision, device, exact_words=True)
        return EvaluatedModel(engine.bundle.name, str(engine.selection), engine, engine.bundle.manifest.provenance)
    if backend not in (AUTO, "pytorch") or precision not in (AUTO, "fp32"):
        raise OptionError(
            f"checkpoints run in PyTorch and fp32, not with backend {backend!r} and precision {precision!r}; "
            "export it and measure the bundle"
        )
    if device == AUTO:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    trained = load_trained(Path(model))
    network = trained.model.to(device)
    runs_as = f"checkpoint, averaged weights (fp32) on {device} with torch {torch.__version__}"
    sampler = network_sampler(network.sizes, Tokenizer(trained.words), network.text_encoder, network.generator)
    return EvaluatedModel(Path(model).name, runs_as, sampler, trained.provenance)


def own_data(model: EvaluatedModel) -> str:
    """The data source that a model was trained on, if its test split needs no path. Raises `OptionError` if not."""
    dataset = model.provenance.get("dataset")
    source = (dataset.get("origin") or dataset.get("source")) if isinstance(dataset, dict) else None
    if source == SYNTHBIRDS:
        return SYNTHBIRDS
    was = f"was trained on {quoted(str(source))}" if source else "does not say what it was trained on"
    raise OptionError(f"'{model.name}' {was}; name its test data, for example --data cub:data/birds")


@dataclass(frozen=True)
class Instruments:
    """The networks and numbers that metrics depend on; tests use smaller ones."""

    network: FeatureNetwork | None = None
    """None: Inception, if a metric needs it."""
    recipe: Recipe = field(default_factory=Recipe)
    seeds: int = SEEDS
    clip: FeatureNetwork | None = None
    """None: CLIP, for `clip-fid`."""


def evaluate(
    model: EvaluatedModel,
    data: str,
    metrics: Sequence[str],
    encoders: str,
    count: int = PAPER_COUNT,
    real_resolution: int | None = None,
    truncation: float = 1.0,
    cache: Path | None = None,
    instruments: Instruments = Instruments(),
) -> Evaluation:
    """Evaluates a model on the test split of a data source, by drawing `count` of its captions.

    `encoders` is the checkpoint whose DAMSM encoders measure R-precision. Distances compare with real pictures of
    `real_resolution`, by default the model's, and with crops if the model was trained on crops; everything else with
    pictures of the model's own resolution. Raises `UserError`,
    before anything is drawn if the metrics cannot be computed.
    """
    resolution = model.sampler.sizes.resolution
    real_resolution = resolution if real_resolution is None else real_resolution
    wanted = check_request(metrics, count, real_resolution)
    check_truncation(truncation)
    source = open_source(data, count)
    if source.name != SYNTHBIRDS and (foreign := [metric for metric in SYNTHBIRDS_METRICS if metric in wanted]):
        raise OptionError(f"{listed(foreign)}: available for synthbirds only; drop them, or use --data synthbirds")
    matching = RPrecision(load_encoders(encoders), source) if "r-precision" in wanted else None
    network = instruments.network
    if network is None and wanted & {*DISTANCES, "diversity"}:
        network = Inception(training_device())
    clip = instruments.clip or (Clip(training_device()) if "clip-fid" in wanted else None)
    cache = cache or cache_folder()
    trained_on = (model.provenance.get("config") or {}).get("data") or {}
    cropped, mirrored = bool(trained_on.get("random_crop")), bool(trained_on.get("horizontal_flip", True))
    loaded = loaded_resolution(real_resolution, cropped)
    with Progress() as progress:
        listing, shown = load_split(source, "test", loaded_resolution(resolution, cropped), cache, progress)
        compared = shown
        if real_resolution != resolution and wanted & {*DISTANCES, "clip-fid"}:
            compared = load_pictures(listing, source.name, "test", loaded, cache, progress)
        real = RealPictures.as_compared(compared.pictures, real_resolution, count, mirrored)
        margin = (shown.pictures.shape[1] - resolution) // 2
        centre = slice(margin, margin + resolution)
        shown = replace(shown, pictures=shown.pictures[:, centre, centre])

        def statistics(network: FeatureNetwork) -> RealStatistics:
            progress.start("features of real pictures", len(real.pictures) * real.views)
            return real_statistics(network, real, listing.fingerprint, cache, progress.report)

        measures: list[Measure] = []
        if network and wanted & DISTANCES:
            training = None
            if "fid-floor" in wanted:
                pictures = load_split(source, "train", loaded, cache, progress)[1].pictures
                training = replace(real, pictures=pictures, views=1).batches(count)
            measures.append(DistanceMeasure(network, statistics(network), wanted, training))
        if clip and "clip-fid" in wanted:
            measures.append(DistanceMeasure(clip, statistics(clip), wanted, prefix="clip-"))
        if matching:
            measures.append(matching)
        if "attributes" in wanted:
            classifier = trained_classifier(progress.start, progress.report, instruments.recipe, cache)
            measures.append(AttributeAccuracy(classifier))
        draws = CaptionDraws(model.sampler, shown, count, truncation=truncation)
        drawn = _draw(model.name, source.name, draws, measures, progress) if measures else None
        results = [measure.result() for measure in measures]
        if network and "diversity" in wanted:
            progress.start("diversity", len(CAPTIONS))
            results.append(measure_diversity(model.sampler, network, instruments.seeds, truncation, progress.report))
    problems = summary((*listing.problems, *shown.broken))
    conditions = Conditions(
        model=model.name,
        runs_as=model.runs_as,
        resolution=resolution,
        real_resolution=real_resolution,
        data=public_name(data),
        split="test",
        note=f"left out of the data: {problems}" if problems else "",
        captions=drawn or 0,
        truncation=truncation,
        skipped=0 if drawn is None else count - drawn,
        crops=real.views if cropped else 0,
    )
    return Evaluation(conditions, results)


def check_request(metrics: Sequence[str], count: int, real_resolution: int) -> frozenset[str]:
    """Returns the metrics if this many pictures, and real ones of this size, suffice for them. Raises `OptionError`."""
    for name in metrics:
        if name not in METRICS:
            raise OptionError(unknown("metric", name, METRICS))
    if not metrics:
        raise OptionError(f"no metric given; available: {listed(METRICS)}")
    least = CANDIDATES if "r-precision" in metrics else 2
    if count < least:
        raise OptionError(f"{count} pictures are too few for {listed(metrics)}; at least {least} expected")
    if not 1 <= real_resolution <= LARGEST_REAL_RESOLUTION:
        raise OptionError(f"real resolution {real_resolution} is out of range; 1 to {LARGEST_REAL_RESOLUTION} expected")
    return frozenset(metrics)


def _draw(model: str, source: str, draws: CaptionDraws, measures: Sequence[Measure], progress: Progress) -> int:
    """Passes every batch to all measures; returns the number of captions drawn."""
    drawn = 0
    progress.start("drawing", draws.count)
    for batch in draws.batches():
        for measure in measures:
            measure.update(batch)
        drawn += len(batch.captions)
        progress.report(drawn)
    if drawn < 2:
        raise OptionError(
            f"'{model}' knows no word in {draws.count - drawn:,} of {draws.count:,} captions of {source}; "
            "evaluate it on data similar to its training data"
        )
    return drawn


def open_writable_bundle(model: str) -> Bundle:
    """A bundle that evaluations can be added to. Raises `OptionError` for a checkpoint, `OutputError` if read-only."""
    if is_trained(model):
        raise OptionError("--update-manifest needs a bundle, and a checkpoint has no manifest; export it first")
    bundle = Bundle.open(model)
    check_target(bundle.folder)
    return bundle


def add_to_manifest(bundle: Bundle, evaluation: Evaluation) -> None:
    """Adds an evaluation to the metrics in a bundle's provenance, merged into one with equal conditions; atomic.

    Raises `OutputError` if the bundle cannot be written.
    """
    provenance: dict[str, Any] = dict(bundle.manifest.provenance)
    conditions = asdict(evaluation.conditions).items()
    metrics = dict(provenance.get("metrics") or {})
    others, values = [], evaluation.as_json()
    for found in metrics.get("evaluations", []):
        if conditions <= (_defaults(found) | found).items():
            values = found | values
        else:
            others.append(found)
    metrics["evaluations"] = [*others, values]
    manifest = replace(bundle.manifest, provenance=provenance | {"metrics": metrics})
    write_bundle(bundle.folder, manifest, {name: bundle.path(name) for name in manifest.files})


def _defaults(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Conditions that earlier evaluations do not state."""
    return {"real_resolution": evaluation.get("resolution"), "truncation": 1.0, "crops": 0}
