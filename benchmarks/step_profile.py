"""Where a training step's time goes (`t2i-engine train CONFIG --profile N`), and how the benchmark times one."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import count, islice
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import product_peak
from benchmarks.tables import figure, thread_count
from t2i_engine.table import aligned
from t2i_engine.tokenizer import Tokenizer
from training.config import RunConfig, model_sizes
from training.damsm import DamsmPhase
from training.data.feed import Feed
from training.data.loading import load_training_data
from training.distributed import device
from training.dry_run import flops_of
from training.models.text_to_image import TextToImage
from training.phase import tune_process
from training.precision import computed_precision
from training.step import GanPhase

WARM_UP = {"cpu": 1, "cuda": 6}
"""Untimed steps with the gradient penalty; on a GPU, they end with the capture of the CUDA graph."""
PROFILED = 5
"""Steps under the profiler: enough to estimate shares, and the profiler's record stays small."""
OPERATORS = 10
ELSEWHERE = "other"


@contextmanager
def opened(config: RunConfig) -> Iterator[GanPhase]:
    """A config's GAN, ready for its first step, with encoders as they are initialised. Raises `UserError`."""
    data = load_training_data(config.data)
    batches = data.batches(Tokenizer(data.words))
    model = TextToImage(model_sizes(config, len(data.words)))
    damsm = DamsmPhase(config, model.text_encoder, device(), train_text=False, pretrained=False)
    gan = GanPhase(config, damsm.text_encoder, damsm.image_encoder, model.generator, device())
    settings = config.gan
    feed = Feed(
        batches, config.seed, settings.batch_size, device(), max_words=None, hard_negatives=settings.hard_negatives
    )
    with closing(feed):
        gan.begin(feed, batches.unique_captions)
        yield gan


def eager(config: RunConfig) -> RunConfig:
    """The same run without a CUDA graph, whose operators can be counted and profiled."""
    return config.model_copy(update={"cuda_graph": False})


def steps_of(gan: GanPhase) -> Iterator[Callable[[], object]]:
    """The steps after the discriminator's warm-up, beginning with one that computes the gradient penalty."""
    settings = gan.config.gan
    interval = settings.gradient_penalty_interval
    first = interval * math.ceil(settings.discriminator_warmup / interval)
    return (partial(gan.step, number) for number in count(first))


def gflop_per_step(gan: GanPhase) -> float:
    """GFLOP of the convolutions and matrix products in a step: the mean from one gradient penalty to the next."""
    interval = gan.config.gan.gradient_penalty_interval
    return sum(flops_of(step) for step in islice(steps_of(gan), interval)) / interval / 1e9


def seconds_of(steps: Iterable[Callable[[], object]]) -> float:
    """The mean seconds of some steps, run one after the other, until the device is done with them."""
    wait: Callable[[], object] = torch.cuda.synchronize if device().type == "cuda" else lambda: None
    wait()
    started, done = time.perf_counter(), 0
    for step in steps:
        step()
        done += 1
    wait()
    return (time.perf_counter() - started) / done


def profile_training(config: RunConfig, steps: int) -> list[str]:
    """Times `steps` steps of the GAN phase and profiles a few more; returns the lines to print.

    Stages are the `record_function` ranges of the step. On a GPU their time is that of the kernels launched in them.
    Raises `UserError` of the config or its data.
    """
    tune_process()
    kind, interval = device().type, config.gan.gradient_penalty_interval
    profiled = interval * math.ceil(min(steps, PROFILED) / interval)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if kind == "cuda" else [])]
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages would fill the terminal
    with opened(eager(config)) as gan:
        gflop, following = gflop_per_step(gan), steps_of(gan)
        seconds_of(islice(following, interval))
        with profile(activities=activities) as profiler:
            under = seconds_of(islice(following, profiled))
    with opened(config) as gan:
        following = steps_of(gan)
        seconds_of(islice(following, WARM_UP[kind] * interval))
        seconds = seconds_of(islice(following, steps))
    operators = operator_times(profiler.key_averages(), kind)
    whole = under * 1e6 * profiled if kind == "cpu" else sum(took for _, took, _ in operators)
    stages = stage_times(profiler.events() or [], kind)
    stages[ELSEWHERE] = max(0.0, whole - sum(stages.values()))

    def row(name: str, microseconds: float, *more: str) -> tuple[str, ...]:
        return name, f"{microseconds / profiled / 1e3:,.1f}", figure(microseconds / whole, ".0%"), *more

    precision = computed_precision(device(), config.precision)
    peak = product_peak(precision, kind)
    pictures = config.gan.batch_size * config.gan.gradient_accumulation
    where = "kernels only, without a CUDA graph" if kind == "cuda" else thread_count(torch.get_num_threads())
    return [
        f"{config.name}: {config.data.resolution}², {pictures} pictures per step, {precision}, {kind}",
        f"{1000 * seconds:,.1f} ms/step, {pictures / seconds:,.1f} images/s, {gflop:,.2f} GFLOP/step, "
        f"{gflop / seconds / 1000:.3f} TFLOP/s: "
        f"{figure(gflop / seconds / peak, '.0%')} of the {peak / 1000:.3f} that torch.mm reaches",
        f"{profiled} profiled steps ({where}); profiling adds overhead:",
        "",
        *aligned([("stage", "ms/step", "share"), *(row(*stage) for stage in stages.items())]),
        "",
        *aligned(
            [
                ("operator", "ms/step", "share", "calls/step"),
                *(row(name, took, f"{calls / profiled:,.0f}") for name, took, calls in operators[:OPERATORS]),
            ]
        ),
    ]


def stage_times(events: Iterable[FunctionEvent], device: str) -> dict[str, float]:
    """Microseconds of each stage, in order of appearance, without those of stages inside it."""
    events = [event for event in events if event.device_type.name == "CPU"]
    ranges = sorted((event for event in events if is_stage(event)), key=lambda event: event.time_range.start)
    found = dict.fromkeys((one.name for one in ranges), 0.0)
    if device == "cpu":
        for one in ranges:
            took = one.time_range.end - one.time_range.start
            found[one.name] += took
            if outer := _innermost(ranges, one):
                found[outer.name] -= took
    else:  # by time, because backward passes launch their kernels from another thread, which the main one waits for
        for event in events:
            if event.kernels and not event.is_user_annotation and (stage := _innermost(ranges, event)):
                found[stage.name] += sum(kernel.duration for kernel in event.kernels)
    return found


def is_stage(event: FunctionEvent) -> bool:
    """Whether an event of the profiler is a range of the step's own; PyTorch's ranges have a # in their names."""
    return bool(event.is_user_annotation) and "#" not in event.name


def operator_times(averages: Iterable[Any], device: str) -> list[tuple[str, float, int]]:
    """Name, microseconds and calls of the operators on the device, without those that they call, the heaviest first."""
    found = [
        (one.key, one.self_cpu_time_total if device == "cpu" else one.self_device_time_total, one.count)
        for one in averages
        if one.device_type.name == "CPU" and not one.is_user_annotation
    ]
    return sorted(found, key=lambda one: one[1], reverse=True)


def _innermost(ranges: Sequence[FunctionEvent], event: FunctionEvent) -> FunctionEvent | None:
    """The last of the ranges, sorted by start, that began before an event and had not ended; None if there is none."""
    start = event.time_range.start
    inside = (
        one for one in reversed(ranges) if one is not event and one.time_range.start <= start < one.time_range.end
    )
    return next(inside, None)
