"""Where this machine keeps what it can make again: `$XDG_CACHE_HOME/t2i-engine`, by default under `~/.cache`."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder, which may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t2i-engine"
