"""The data sets by name: `cub:PATH`, `coco:PATH`, `folder:PATH`, `webdataset:PATTERN`, `synthbirds`, or a bare path.

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
DEFAULT_DRAWN = 20_000

OPENERS: dict[str, Callable[[str], Source]] = {
    "cub": lambda path: Cub(Path(path).expanduser()),
    "cub+attributes": lambda path: Cub(Path(path).expanduser(), attributes=True),
    "coco": lambda path: Coco(Path(path).expanduser()),
    "folder": lambda path: Folder(Path(path).expanduser()),
    "webdataset": WebDataset,
}


def open_source(name: str, drawn: int = DEFAULT_DRAWN) -> Source:
    """The data set of this name; `drawn` is how many pictures a split of synthbirds has.

    Raises `DataError` where the name means nothing, or what it means is not there.
    """
    kind, path = _parse(name)
    return Drawn(drawn) if kind == SYNTHBIRDS else OPENERS[kind](path)


def check_source(name: str) -> str:
    """Returns a name that means something, whether it is there or not. Raises `ValueError` for others."""
    try:
        _parse(name)
    except DataError as error:
        raise ValueError(error.message) from None
    return name


def public_name(name: str) -> str:
    """A name without the folders of this machine: `cub:birds` for `cub:/home/me/birds`."""
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
    raise DataError(
        f"unknown data source {quoted(name, 200)}{suggestion}; there are: {SYNTHBIRDS}, "
        f"{listed(f'{kind}:{_places(kind)}' for kind in OPENERS)}, or a folder that exists"
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
        f"the folder {quoted(str(folder), 200)} holds no data set that is known: neither CUB-200-2011 nor COCO captions"
        " nor tar shards nor pictures; check the path"
    )


def _places(kind: str) -> str:
    return "PATTERN" if kind == "webdataset" else "PATH"
