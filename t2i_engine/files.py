"""Files that the project writes and trusts: atomic writes, SHA-256 sums, and the cache of what can be regenerated."""

import contextlib
import hashlib
import os
import platform
import threading
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryFile

from t2i_engine.errors import BundleError, OptionError, OutputError, quoted, unknown

CACHE_KINDS = {
    "ort": "graphs optimised by ONNX Runtime",
    "openvino": "graphs compiled by OpenVINO",
    "engines": "TensorRT engines",
    "speed": "speed of each format on this machine",
    "benchmark": "the benchmark's paper-sized network",
    "pictures": "rendered data sets",
    "evaluation": "statistics of real pictures, attribute classifiers",
}
"""What the cache holds, by kind."""


def write_atomically(
    path: Path,
    content: bytes | Callable[[Path], object],
    cure: str = "choose another place",
    durable: bool = True,
) -> Path:
    """Writes a file completely or not at all, creating its folder if necessary, and returns its path.

    `content` is the bytes, or a function that writes to the temporary path it is given. A crash at any moment leaves
    the previous file in place; with `durable`, which waits for the disk, so does a power cut. Raises `OutputError`,
    whose message ends in `cure`, if the file cannot be written.
    """
    digest = hashlib.sha256(path.name.encode("utf-8", "surrogatepass")).hexdigest()[:8]  # a name may be at its limit
    writer = f"{os.getpid()}-{threading.get_native_id()}"  # if two threads write the same file, the last one wins
    temporary = path.with_name(f".{writer}-{digest}.partial{path.suffix[:10]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content)
        if durable:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        temporary.replace(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write {quoted(str(path), 200)} ({reason}); {cure}") from error
    finally:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink()
    return path


def exists(path: Path) -> bool:
    """Whether something is at a path, as far as this process may see."""
    try:
        return path.exists()
    except PermissionError:  # of a folder that may not be searched, before Python 3.14
        return False


def require_writable(folder: Path, cure: str) -> None:
    """Makes a folder and tries to write there, before work that would be lost. Raises `OutputError`, with the cure."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write to {quoted(str(folder), 200)} ({reason}); {cure}") from None


def sha256(content: bytes | Path) -> str:
    """The SHA-256 of bytes, or of a file's content, in hexadecimal digits."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, size: int, digest: str) -> None:
    """Raises `BundleError` if a bundle's file is missing, truncated, altered, or a link out of the bundle."""
    cure = "copy or export the bundle again"
    try:
        if not _is_at_home(path):
            raise BundleError(f"{path} is a link to a file outside the bundle; {cure}")
        if not path.is_file():
            raise BundleError(f"{path} is missing; {cure}")
        found = path.stat().st_size
        if found < size:
            raise BundleError(f"{path} is truncated, {found:,} of {size:,} bytes; {cure}")
        if found > size or sha256(path) != digest:
            raise BundleError(f"{path} is altered: its SHA-256 does not match the manifest; {cure}")
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); {cure}") from None


def is_hub_snapshot(folder: Path) -> bool:
    """Whether a folder is a commit in the Hugging Face hub's cache: its files are links, and not ours to change."""
    above = folder.absolute().parent
    return above.name == "snapshots" and above.parent.name.startswith("models--")


def _is_at_home(path: Path) -> bool:
    """Whether a file lies in its folder or, in the hub's cache, in the blobs of its repository or of the cache."""
    target, home = path.resolve().parent, path.parent.resolve()
    blobs = [above / "blobs" for above in home.parents[1:3]] if is_hub_snapshot(home) else []
    return target == home or any(target.is_relative_to(folder) for folder in blobs)


def cache_folder() -> Path:
    """The user's cache folder for this project, which may not exist yet; on Linux `~/.cache/t2i-engine`."""
    from platformdirs import user_cache_path

    return user_cache_path("t2i-engine", appauthor=False)


def cached_file(kind: str, *parts: str) -> Path:
    """The cache path of a file that is determined by `parts` alone; `kind` is its folder and suffix."""
    return cache_folder() / kind / f"{sha256(chr(10).join(parts).encode())[:32]}.{kind}"


def cache_is_writable() -> bool:
    """Whether the cache appears to be writable; checked without writing to it."""
    folder = cache_folder()
    nearest = next(path for path in (folder, *folder.parents) if exists(path))
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def cache(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Writes a file to the cache; if that fails, the file is made again next time."""
    with contextlib.suppress(OutputError):
        write_atomically(path, content)


def cache_contents() -> dict[str, list[Path]]:
    """The cached files by kind: the name of their folder or, for files at the top level, the matching `CACHE_KINDS`."""
    found: dict[str, list[Path]] = {}
    for path in sorted(cache_folder().rglob("*")):
        if path.is_symlink() or not path.is_dir():
            first, *inner = path.relative_to(cache_folder()).parts
            kind = first if inner else {".pt": "evaluation"}.get(path.suffix, "pictures")
            found.setdefault(kind, []).append(path)
    return dict(sorted(found.items()))


def size_on_disk(file: Path) -> int:
    """A file's bytes; 0 for one that another process has just replaced."""
    with contextlib.suppress(FileNotFoundError):
        return file.lstat().st_size
    return 0


def clear_cache(kind: str | None = None) -> tuple[int, int]:
    """Deletes everything in the cache, or one kind; returns the number of files deleted and their bytes.

    Raises `OptionError` for an unknown kind, and `OutputError` if a file cannot be deleted.
    """
    contents = cache_contents()
    if kind is not None and kind not in contents.keys() | CACHE_KINDS.keys():
        raise OptionError(unknown("kind", kind, CACHE_KINDS.keys() | contents.keys()))
    files = [file for name, group in contents.items() if kind in (None, name) for file in group]
    deleted = freed = 0
    for file in files:
        try:
            size = file.lstat().st_size
            file.unlink()
            deleted, freed = deleted + 1, freed + size
        except FileNotFoundError:  # another process replaced it
            continue
        except OSError as error:
            raise OutputError(f"cannot delete {quoted(str(file), 200)} ({error.strerror}); delete it by hand") from None
    for folder in sorted((path for path in cache_folder().rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):  # it holds files of another kind
            folder.rmdir()
    return deleted, freed


def processor() -> str:
    """What code compiled for this CPU depends on: its architecture and, on Linux, its model and features."""
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    lines: list[str] = []
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as described:
        lines = [line.strip() for line in takewhile(str.strip, described) if line.startswith(names)]  # the first CPU's
    return "\n".join([platform.machine(), *lines])
