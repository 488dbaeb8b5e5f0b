"""Where a model comes from: the provenance in a checkpoint and, through it, in a bundle."""

import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from t2i_engine.backends.base import installed_versions
from training.config import RunConfig
from training.data.source import public_name

TOOLS = ("t2i-engine", "torch", "torchvision", "numpy", "pillow")


def describe_run(
    config: RunConfig, dataset: Mapping[str, Any], position: Mapping[str, Any], initial: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The data, steps, hours, code and config of a run, as plain JSON values without this machine's folders."""
    settings = config.model_dump(mode="json")
    settings["data"]["source"] = public_name(config.data.source)
    del settings["init_from"], settings["damsm"]["init_from"]
    return {
        "run": config.name,
        "dataset": dict(dataset),
        "steps": dict(position["steps"]),
        "hours": round(position["seconds"] / 3600, 2),
        "metrics": {
            "losses": {phase: dict(losses) for phase, losses in position["losses"].items()},
            **({"fid": dict(position["fid"])} if position["fid"] else {}),
        },
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
