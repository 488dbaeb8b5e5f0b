"""`python -m benchmarks.training`: whole training steps of this project against DF-GAN's, written plainly.

Both train the same networks from the same weights, in turns, on a GPU if there is one. The reference
(reference_step.py) computes in fp32, with PyTorch's defaults, on a batch that is ready; this project's step includes
its data and the moving average, which DF-GAN's code does not have.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice, repeat
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import Load, LoadMeter, describe_machine, product_peak
from benchmarks.reference_step import ReferenceStep
from benchmarks.statistics import Estimate, Rounds, paired_ratio, summarise
from benchmarks.step_profile import WARM_UP, eager, gflop_per_step, opened, seconds_of, steps_of
from benchmarks.tables import figure, ratio, thread_count
from t2i_engine.errors import OptionError, UserError, unknown
from t2i_engine.files import write_atomically
from training.config import RunConfig, model_sizes, parse_config
from training.distributed import device
from training.dry_run import flops_of
from training.phase import tune_process
from training.precision import multiplies_in_bf16
from training.provenance import working_commit
from training.step import GanPhase

ROUNDS = 5
SECONDS = {"cpu": 3.0, "cuda": 1.0}
"""Minimum seconds of each step in a round."""
BARS = {("cpu", "fp32"): 1.35, ("cpu", "bf16"): 2.5, ("cuda", "bf16"): 4.0}
"""Minimum speed relative to DF-GAN's step, by device and precision."""
HEAD = (
    "step", "plain implementation, images/s", "this project, images/s", "speed-up", "target",
    "plain implementation, GFLOP/step", "this project, GFLOP/step", "this project, GFLOP/s", "% of torch.mm",
    "other load",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A step to measure: DF-GAN's, or the full method's, with its contributions and contrastive losses."""

    full: bool
    resolution: int
    batch: int
    precision: str
    device: str

    @property
    def name(self) -> str:
        """What `--rows` calls it."""
        return f"{'full' if self.full else 'dfgan'}-{self.resolution}-{self.batch}-{self.precision}"

    @property
    def title(self) -> str:
        """What the table calls it."""
        network = "full method" if self.full else "DF-GAN"
        return f"{network} {self.resolution}², batch {self.batch}, {self.precision}"

    @property
    def bar(self) -> float | None:
        """The minimum ratio that is aimed at."""
        return None if self.full else BARS[self.device, self.precision]

    @property
    def config(self) -> RunConfig:
        """A run that takes such steps."""
        return parse_config(
            {
                "name": self.name,
                "precision": self.precision,
                "data": {"synthbirds_count": 2 * self.batch, "resolution": self.resolution},
                "model": {"conditioning_augmentation": self.full, "adaptive_block": self.full},
                "damsm": {"image_encoder": "cnn"},
                "gan": {"batch_size": self.batch, "contrastive": {"enabled": self.full}},
            },
            self.name,
        )


@dataclass(frozen=True)
class Measured:
    """The figures of a row."""

    row: Row
    reference: Rounds
    """Milliseconds per step, round by round."""
    ours: Rounds
    reference_gflop: float
    """GFLOP per step."""
    our_gflop: float
    limit: float
    """GFLOP/s of torch.mm in the row's precision, measured along with it."""
    load: tuple[float, ...]
    """Processors that others used, one figure per round."""

    @property
    def ratio(self) -> Estimate:
        """How many times faster than the reference, as the median of paired rounds."""
        return paired_ratio(self.reference, self.ours)

    @property
    def rates(self) -> tuple[float, float]:
        """Images per second of the reference and of this project, by their median rounds."""
        reference, ours = (1000 * self.row.batch / summarise(rounds).p50 for rounds in (self.reference, self.ours))
        return reference, ours

    @property
    def gflops(self) -> float:
        """GFLOP/s of this project's step."""
        return self.our_gflop * self.rates[1] / self.row.batch


def all_rows(kind: str) -> list[Row]:
    """The rows for a device, "cpu" or "cuda"."""
    if kind == "cuda":
        return [Row(False, side, batch, "bf16", kind) for side in (128, 256) for batch in (32, 64)]
    precisions = ("fp32", "bf16") if multiplies_in_bf16(kind) else ("fp32",)
    networks = ((False, 64), (True, 64), (True, 128))
    return [Row(full, side, 16, precision, kind) for full, side in networks for precision in precisions]


def measure(row: Row, rounds: int) -> Measured:
    """Times a row's two steps in turns, each in a process of its own, after a warm-up.

    Raises `torch.OutOfMemoryError`.
    """
    flops = gflop_counts(row)
    torch.cuda.empty_cache()  # the processes need all of a GPU's memory
    times: tuple[list[list[float]], list[list[float]]] = ([], [])
    with _Timer(row, reference=True) as reference, _Timer(row, reference=False) as ours:
        timers = (reference, ours)
        steps = [1 + int(SECONDS[row.device] / timer.seconds(1)) for timer in timers]
        meter, load = LoadMeter(), []
        for number in range(rounds):
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                times[which].append([1000 * timers[which].seconds(steps[which])])
            load.append(meter.read())
    limit = product_peak(row.precision, row.device)
    return Measured(row, *times, *flops, limit, tuple(load))


def gflop_counts(row: Row) -> tuple[float, float]:
    """GFLOP of the reference's step and of this project's."""
    with opened(eager(row.config)) as gan:
        return flops_of(reference_step(gan)) / 1e9, gflop_per_step(gan)


class _Timer:
    """A process that takes a row's steps on request, so that process-wide settings, such as of memory, are its own."""

    def __init__(self, row: Row, reference: bool) -> None:
        self.connection, theirs = get_context("spawn").Pipe()
        self.process = get_context("spawn").Process(target=_take_steps, args=(theirs, row, reference), daemon=True)

    def __enter__(self) -> "_Timer":
        self.process.start()
        self._receive()  # it is warm
        return self

    def __exit__(self, *of: object) -> None:
        self.process.terminate()
        self.process.join()

    def seconds(self, count: int) -> float:
        """The mean seconds of `count` steps."""
        self.connection.send(count)
        return self._receive()

    def _receive(self) -> float:
        found = self.connection.recv()
        if isinstance(found, str):
            raise torch.OutOfMemoryError(found)
        return float(found)


def _take_steps(connection: Connection, row: Row, reference: bool) -> None:
    try:
        if not reference:
            tune_process()
        with opened(row.config) as gan:
            steps = repeat(reference_step(gan)) if reference else steps_of(gan)
            found = seconds_of(islice(steps, WARM_UP[row.device]))
            while True:
                connection.send(found)
                found = seconds_of(islice(steps, connection.recv()))
    except torch.OutOfMemoryError as error:
        connection.send(str(error))


def reference_step(gan: GanPhase) -> Callable[[], None]:
    """DF-GAN's step from the same weights, on a batch of the same sizes."""
    config = gan.config
    sizes = model_sizes(config, vocabulary_size=1)
    step = ReferenceStep(
        sizes,
        gan.generator.state_dict(),
        gan.discriminator.state_dict(),
        device(),
        gan.image_encoder if config.gan.contrastive.enabled else None,
        config.gan.contrastive,
        config.gan.kl_weight,
    )
    real = 2 * torch.rand(config.gan.batch_size, 3, sizes.resolution, sizes.resolution, device=device()) - 1
    return partial(step, real, torch.randn(config.gan.batch_size, sizes.sentence_width, device=device()))


def as_table(measured: Sequence[Measured]) -> str:
    """The rows as a Markdown table."""
    limits = best_limits(measured)
    lines: list[tuple[str, ...]] = [HEAD, ("---",) * len(HEAD)]
    for one in measured:
        reference, ours = one.rates
        bar = "" if one.row.bar is None else f"≥ {one.row.bar:g}: {_verdict(one.ratio.value, one.row.bar)}"
        cells: tuple[str, ...] = (one.row.title, f"{reference:,.1f}", f"{ours:,.1f}", ratio(one.ratio), bar)
        cells += (f"{one.reference_gflop:,.0f}", f"{one.our_gflop:,.0f}", f"{one.gflops:,.0f}")
        cells += (figure(one.gflops / limits[one.row.precision], ".0%"), f"{max(one.load):.2f}")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def best_limits(measured: Sequence[Measured]) -> dict[str, float]:
    """The best GFLOP/s of torch.mm, measured with every row, by precision."""
    limits: dict[str, float] = {}
    for one in measured:
        limits[one.row.precision] = max(one.limit, limits.get(one.row.precision, 0.0))
    return limits


def _figures(one: Measured) -> dict[str, Any]:
    """A row for a program to read."""
    reference, ours = one.rates
    rates = {"reference": reference, "ours": ours}
    return asdict(one) | {"name": one.row.name, "images_per_second": rates, "ratio": asdict(one.ratio)}


def _verdict(value: float, bar: float) -> str:
    return "met" if value >= bar else "missed"


def conditions(measured: Sequence[Measured], load: Load) -> str:
    """What the figures were measured on, as a paragraph under the table."""
    limits = best_limits(measured).items()
    reached = ", ".join(f"{limit:,.0f} GFLOP/s in {precision}" for precision, limit in limits)
    rounds = len(measured[0].ours)
    return (
        f"{describe_machine().identity}; PyTorch {torch.__version__}, {thread_count(torch.get_num_threads())}; commit "
        f"{(working_commit() or 'unknown')[:12]}. Medians of {rounds} paired rounds, speed-ups with 95 % confidence "
        f"intervals. torch.mm reaches {reached}. Other load: {load.before:.2f} processors used by other processes "
        f"before, at most {max(load.during):.2f} in a round{'; measure again on an idle machine' if load.busy else ''}."
    )


def run(names: Sequence[str], rounds: int) -> Iterator[Measured]:
    """Measures rows one by one; without names, all rows of the device.

    Raises `OptionError` for an unknown name, and for a row that does not fit the GPU's memory.
    """
    rows = {row.name: row for row in all_rows(device().type)}
    for name in names:
        if name not in rows:
            raise OptionError(unknown("row", name, rows))
    for name in names or rows:
        try:
            yield measure(rows[name], rounds)
        except torch.OutOfMemoryError:
            raise OptionError(f"{name} does not fit the GPU's memory; choose other --rows") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and prints the table with its conditions."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description="Compare training steps with a plain implementation of DF-GAN.",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"paired rounds (default: {ROUNDS})")
    names = ", ".join(row.name for row in all_rows(device().type))
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help=f"some of: {names} (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every round's times")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds: 1 or more expected")
    meter = LoadMeter()
    time.sleep(1)
    before = meter.read()
    measured, failure = [], ""
    try:
        for one in run(options.rows, options.rounds):
            measured.append(one)
            print(f"{one.row.title}: {one.ratio.value:.2f} times the plain implementation's images/s", file=sys.stderr)
    except UserError as error:
        failure = f"error: {error.message}\n"
    if measured:  # even if a later row failed
        text = conditions(measured, Load(before, tuple(load for one in measured for load in one.load)))
        print(f"{as_table(measured)}\n\n{text}")
        if options.json:
            content = {"conditions": text, "rows": [_figures(one) for one in measured]}
            try:
                write_atomically(options.json, json.dumps(content, indent=1).encode(), "choose another --json")
            except UserError as error:
                failure += f"error: {error.message}\n"
    if failure:
        parser.exit(2, failure)


if __name__ == "__main__":
    main()
