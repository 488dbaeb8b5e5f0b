"""Where this machine keeps what it can make again: `$XDG_CACHE_HOME/t2i-engine`, by default under `~/.cache`."""

import contextlib
import hashlib
import os
import platform
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path


def cache_folder() -> Path:
    """The folder, which may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t2i-engine"


def kept_file(kind: str, *parts: str) -> Path:
    """The place of a file that depends on `parts` and nothing else; `kind` is its folder and its suffix."""
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    return cache_folder() / kind / f"{key}.{kind}"


def keep(file: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make a file under another name and moves it into place, whole or not at all.

    A machine that cannot keep it makes it again next time.
    """
    temporary = file.with_name(f".{os.getpid()}.{file.name}")
    try:
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
            temporary.replace(file)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def processor() -> str:
    """What code that was made for this CPU depends on: its kind, and its name and features where Linux tells them."""
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    lines: list[str] = []
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as described:
        lines = [line.strip() for line in takewhile(str.strip, described) if line.startswith(names)]  # of the first one
    return "\n".join([platform.machine(), *lines])
