"""Data sources by name: `cub:PATH`, `coco:PATH`, `folder:PATH`, `webdataset:PATTERN`, `synthbirds`, or a bare path.

A bare path is recognised by what it holds.
"""

from collections.abc import Callable
from pathlib import Path

from t2i_engine.errors import closest, listed, quoted
from training.data.coco import Coco
from training.data.cub import Cub
from training.data.folder import Folder
from training.data.source import DataError, Source
from training.data.synthbirds.source import Drawn
from training.data.webdataset import WebDataset

SYNTHBIRDS = "synthbirds"
SYNTHBIRDS_COUNT = 20_000

OPENERS: dict[str, Callable[[str], Source]] = {
    "cub": lambda path: Cub(Path(path).expanduser()),
    "cub+attributes": lambda path: Cub(Path(path).expanduser(), attributes=True),
    "coco": lambda path: Coco(Path(path).expanduser()),
    "folder": lambda path: Folder(Path(path).expanduser()),
    "webdataset": WebDataset,
}


def open_source(name: str, synthbirds_count: int = SYNTHBIRDS_COUNT) -> Source:
    """The data source of this name; `synthbirds_count` is the size of each synthbirds split.

    Raises `DataError` if the name is unknown or the data are not there.
    """
    kind, path = _parse(name)
    return Drawn(synthbirds_count) if kind == SYNTHBIRDS else OPENERS[kind](path)


def check_source(name: str) -> str:
    """Returns a name that is well-formed, whether or not its data exist. Raises `ValueError` for others."""
    try:
        _parse(name)
    except DataError as error:
        raise ValueError(error.message) from None
    return name


def public_name(name: str) -> str:
    """A name without this machine's folders: `cub:birds` for `cub:/home/me/birds`."""
    kind, path = _parse(name)
    return f"{kind}:{Path(path).name}" if path else kind


def _parse(name: str) -> tuple[str, str]:
    """The kind of a source and its path or pattern; recognises bare paths."""
    kind, _, path = name.partition(":")
    if kind in OPENERS and path:
        return kind, path
    if name == SYNTHBIRDS:
        return name, ""
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return _recognise(folder)
    if name.endswith(".tar"):
        return "webdataset", name
    meant = closest(kind, [SYNTHBIRDS, *OPENERS], likeness=0.5)
    suggestion = f" (did you mean {meant[0]!r}?)" if meant else ""
    forms = listed(f"{kind}:{'PATTERN' if kind == 'webdataset' else 'PATH'}" for kind in OPENERS)
    raise DataError(
        f"unknown data source {quoted(name, 200)}{suggestion}; there are: {SYNTHBIRDS}, {forms}, or an existing folder"
    )


def _recognise(folder: Path) -> tuple[str, str]:
    if Cub.recognises(folder):
        return "cub", str(folder)
    if Coco.recognises(folder):
        return "coco", str(folder)
    if any(folder.glob("*.tar")):
        return "webdataset", str(folder / "*.tar")
    if Folder.recognises(folder):
        return "folder", str(folder)
    raise DataError(
        f"the folder {quoted(str(folder), 200)} holds no known data set: no CUB-200-2011, COCO captions, tar shards "
        "or pictures; check the path"
    )
