"""Where a model comes from: the provenance in a checkpoint and, through it, in a bundle."""

import platform
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from t2i_engine.backends.base import available_threads, installed_versions
from t2i_engine.files import processor
from training.config import RunConfig
from training.data.source import public_name
from training.distributed import world

TOOLS = ("t2i-engine", "torch", "torchvision", "numpy", "pillow")
FRESH_MOMENTS = "fresh optimizer moments"

Segment = dict[str, Any]
"""What one process, or several on equal machines that resumed one another exactly, contributed to a run, as plain JSON:
commit, hardware, torch; `steps`, the first and last of each phase; hours; and a note where something was not restored.
"""


def begin_segment(previous: Sequence[Mapping[str, Any]], steps: Mapping[Any, int], exact: bool) -> list[Segment]:
    """The segments of a run whose process starts after `steps` of each phase; the last one is its own.

    An `exact` resume continues the last of the `previous` ones if code, hardware and torch are the same; otherwise the
    networks alone were restored.
    """
    here: Segment = {"commit": working_commit(), "hardware": hardware(), "torch": str(torch.__version__)}
    if exact and previous and here.items() <= previous[-1].items():
        return [dict(one) for one in previous]
    here |= {"steps": {phase: [count, count] for phase, count in steps.items()}, "hours": 0.0}
    if previous and not exact:
        here["note"] = FRESH_MOMENTS
    return [*map(dict, previous), here]


def segments_until(segments: Sequence[Mapping[str, Any]], steps: Mapping[Any, int], seconds: float) -> list[Segment]:
    """The segments of a run that has come to `steps` of each phase in so many `seconds`, all segments together."""
    *before, last = map(dict, segments)
    reached = {phase: [last["steps"].get(phase, [count])[0], count] for phase, count in steps.items()}
    hours = seconds / 3600 - sum(one["hours"] for one in before)
    return [*before, last | {"steps": reached, "hours": round(hours, 2)}]


def segments_of(provenance: Mapping[str, Any]) -> list[Segment]:
    """The segments of a run; one of unknown hardware if it was trained before they were recorded."""
    if provenance.get("segments"):
        return [dict(one) for one in provenance["segments"]]
    steps = {phase: [0, count] for phase, count in provenance.get("steps", {}).items()}
    torch_version = provenance.get("versions", {}).get("torch")
    hours = provenance.get("hours", 0.0)
    return [{"commit": provenance.get("commit"), "torch": torch_version, "steps": steps, "hours": hours}]


def describe_run(
    config: RunConfig,
    dataset: Mapping[str, Any],
    position: Mapping[str, Any],
    initial: Mapping[str, Any] | None,
    segments: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The data, steps, hours, segments, code and config of a run, as plain JSON without this machine's folders.

    `segments` are those of `begin_segment`, completed here up to `position`.
    """
    settings = config.model_dump(mode="json")
    settings["data"]["source"] = public_name(config.data.source)
    del settings["init_from"], settings["damsm"]["init_from"], settings["stages"]  # told by `initial`
    return {
        "run": config.name,
        "dataset": dict(dataset),
        "steps": dict(position["steps"]),
        "hours": round(position["seconds"] / 3600, 2),
        "metrics": {
            "losses": {phase: dict(losses) for phase, losses in position["losses"].items()},
            **({"fid": dict(position["fid"])} if position["fid"] else {}),
        },
        "segments": segments_until(segments, position["steps"], position["seconds"]) if segments else [],
        "initial": dict(initial) if initial else None,
        "commit": working_commit(),
        "versions": tool_versions(),
        "config": settings,
    }


@cache
def tool_versions() -> dict[str, str]:
    """Versions, at first call, of the installed packages that training depends on."""
    return {"python": platform.python_version(), **installed_versions(TOOLS)}


@cache
def hardware() -> str:
    """The GPUs of a run, one for each of its processes, and this machine's processor and the cores it may use."""
    models = [line.partition(":")[2].strip() for line in processor().splitlines() if line.startswith("model name")]
    parts = [*(models or [platform.machine()]), f"{available_threads()} cores"]
    if torch.cuda.is_available():
        parts.insert(0, (f"{world()} × " if world() > 1 else "") + torch.cuda.get_device_name())
    return ", ".join(parts)


@cache
def working_commit() -> str | None:
    """The commit of the checkout that this code runs from, with `-dirty` if modified; None outside one."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
