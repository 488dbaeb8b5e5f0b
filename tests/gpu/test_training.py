"""Training on a GPU: replayed steps are the eager ones, and a resumed run goes on with them.

Passed on an H200, except the last, which has not been run.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tests.gpu.helpers import NEEDS_GPU
from tests.training.test_learning import config, gan_phase, read
from training.cuda_graph import WARM_UP, CapturedSteps
from training.phase import StepLosses
from training.step import GanPhase

pytestmark = NEEDS_GPU
GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
    torch.use_deterministic_algorithms(False)


def phase(precision: str, captured: bool, **gan: object) -> GanPhase:
    settings = config(mismatches=2, hard_negatives=2, **gan)
    settings = settings.model_copy(update={"precision": precision, "cuda_graph": captured})
    return gan_phase(settings, scale=0.02, device=GPU)


def assert_same_steps(captured: GanPhase, eager: GanPhase, steps: int, tolerance: float) -> None:
    """Compares step by step, each from one state: the smallest difference grows a thousandfold in ten steps.

    Adam moves weights by their gradients' signs, so a few whose gradients are nearly 0 go either way.
    """
    for number in range(steps):
        eager.load_state(copy.deepcopy(captured.state()))
        assert read(captured.step(number)) == pytest.approx(read(eager.step(number)), rel=tolerance, abs=tolerance)
        ours, theirs = (torch.cat([p.flatten() for p in gan.average.parameters()]) for gan in (captured, eager))
        assert torch.isclose(ours, theirs, rtol=tolerance, atol=tolerance).float().mean() > 0.99


@pytest.mark.parametrize(
    ("precision", "interval", "steps", "tolerance"), [("fp32", 3, 20, 1e-4), ("bf16", 1, WARM_UP + 6, 1e-2)]
)
@pytest.mark.parametrize("discriminator", ["dfgan", "projected"])
def test_captured_steps_are_the_eager_ones(
    precision: str, interval: int, steps: int, tolerance: float, discriminator: str
) -> None:
    """With a penalty at every third step, two kinds of step are captured."""
    changes = {"discriminator": discriminator, "diffaugment": True, "gradient_penalty_interval": interval}
    captured, eager = (phase(precision, captured, **changes) for captured in (True, False))
    assert_same_steps(captured, eager, steps, tolerance)


def test_a_resumed_run_goes_on_with_the_same_batches_and_noise() -> None:
    whole = phase("fp32", captured=True)
    for number in range(6):
        whole.step(number)
    resumed = phase("fp32", captured=True)
    resumed.load_state(copy.deepcopy(whole.state()))
    for number in range(6, 12):
        assert read(resumed.step(number)) == pytest.approx(read(whole.step(number)), rel=1e-4, abs=1e-4)


class Numbers(NamedTuple):
    values: Tensor


def test_each_kind_is_captured_by_itself_and_other_shapes_are_stepped_eagerly() -> None:
    calls = []

    def step(parts: Sequence[Numbers], doubled: bool) -> StepLosses:
        calls.append(doubled)
        return StepLosses(("sum",), (2 if doubled else 1) * parts[0].values.sum()[None])

    steps = CapturedSteps(step)
    for number in range(2 * (WARM_UP + 3)):
        numbers, doubled = torch.full((4,), float(number), device=GPU), number % 2 == 1
        assert read(steps([Numbers(numbers)], doubled)) == {"sum": (8 if doubled else 4) * number}
    assert len(calls) == 2 * (WARM_UP + 1)
    with pytest.warns(UserWarning, match="shapes"):
        assert read(steps([Numbers(torch.ones(3, device=GPU))], False)) == {"sum": 3}
    assert len(calls) == 2 * (WARM_UP + 1) + 1


def test_steps_without_the_generator_are_captured_too() -> None:
    captured, eager = (phase("fp32", captured, discriminator_warmup=WARM_UP + 2) for captured in (True, False))
    assert_same_steps(captured, eager, steps=2 * WARM_UP + 4, tolerance=1e-4)
