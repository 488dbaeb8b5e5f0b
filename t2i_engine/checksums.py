"""Checksums: a bundle's file is what its manifest says, or the error names it."""

import hashlib
from pathlib import Path

from t2i_engine.errors import BundleError


def check_file(path: Path, size: int, digest: str) -> None:
    """Raises `BundleError` where a file of a bundle is missing, truncated or altered, or leads out of the bundle."""
    cure = "copy or export the bundle again"
    try:
        if path.resolve().parent != path.parent.resolve():
            raise BundleError(f"{path} is a link out of the bundle; {cure}")
        if not path.is_file():
            raise BundleError(f"{path} is missing; {cure}")
        found = path.stat().st_size
        if found < size:
            raise BundleError(f"{path} is truncated, {found:,} of {size:,} bytes; {cure}")
        if found > size or sha256(path) != digest:
            raise BundleError(f"{path} is altered, its SHA-256 is not the manifest's; {cure}")
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); {cure}") from None


def sha256(content: bytes | Path) -> str:
    """The SHA-256 of bytes, or of a file's, in hexadecimal digits."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
