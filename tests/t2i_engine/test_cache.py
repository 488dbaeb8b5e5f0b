"""The cache: what is in it, and clearing it."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from t2i_engine.cli import main
from t2i_engine.errors import OutputError
from t2i_engine.files import cache, cache_folder, cache_is_writable, cached_file
from t2i_engine.pictures import Picture

MADE = {
    "ort/a.ort": 1500,
    "engines/a.engine": 2000,
    "engines/a.engine.json": 500,
    "benchmark/paper/bundle.json": 40,
    "synthbirds-7.pixels": 3_000_000,
    "synthbirds-7.lock": 0,
    "real-statistics-abc.pt": 100,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with files of several kinds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, size in MADE.items():
        (cache_folder() / name).parent.mkdir(parents=True, exist_ok=True)
        (cache_folder() / name).write_bytes(bytes(size))
    return cache_folder()


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["cache", *arguments])


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_kinds_are_listed_with_their_sizes(folder: Path) -> None:
    lines = _run().stdout.splitlines()
    assert lines[0] == str(folder)
    assert [line.split()[:4] for line in lines[2:]] == [
        ["benchmark", "1", "40", "B"],
        ["engines", "2", "2.5", "kB"],
        ["evaluation", "1", "100", "B"],
        ["ort", "1", "1.5", "kB"],
        ["pictures", "2", "3.0", "MB"],
    ]
    assert _files(folder) == set(MADE)


def test_everything_is_cleared(folder: Path) -> None:
    result = _run("clear")
    assert result.stdout == "7 files deleted, 3.0 MB freed\n"
    assert list(folder.iterdir()) == []
    assert _run().stdout.splitlines()[1:] == ["  (empty)"]
    assert _run("clear").stdout == "0 files deleted, 0 B freed\n"


@pytest.mark.parametrize(("kind", "prefix"), [("engines", "engines/"), ("pictures", "synthbirds-7.")])
def test_one_kind_is_cleared(folder: Path, kind: str, prefix: str) -> None:
    assert _run("clear", "--kind", kind).exit_code == 0
    assert _files(folder) == {name for name in MADE if not name.startswith(prefix)}
    assert not (folder / "engines").exists() or kind != "engines"


def test_unknown_kind_is_one_line_and_deletes_nothing(folder: Path) -> None:
    result = _run("clear", "--kind", "engine")
    assert result.exit_code == 2
    assert "unknown kind 'engine' (did you mean 'engines'?)" in result.stderr
    assert result.stderr.count("\n") == 1
    assert _files(folder) == set(MADE)


def test_links_are_deleted_and_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (folder / "ort" / "link").symlink_to(tmp_path / "precious")
    assert _run("clear").exit_code == 0
    assert (tmp_path / "precious" / "file").exists()
    assert list(folder.iterdir()) == []


def test_what_was_cached_after_clearing_is_there(folder: Path) -> None:
    _run("clear")
    cache(cached_file("ort", "part"), b"new")
    assert cached_file("ort", "part").read_bytes() == b"new"


def test_cache_that_was_never_used_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "missing"))
    assert _run().stdout.splitlines()[1:] == ["  (empty)"]
    assert _run("clear").exit_code == 0
    assert not (tmp_path / "missing").exists()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that this process may not enter."""
    folder = tmp_path / "locked"
    (folder / "inner").mkdir(parents=True)
    folder.chmod(0)
    cache_folder()  # imports what it needs
    root = os.geteuid() == 0
    if root:
        os.setresuid(65534, 65534, 0)
    yield folder
    if root:
        os.setresuid(0, 0, 0)
    folder.chmod(0o700)


def test_what_may_not_be_entered_cannot_be_written(locked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(locked / "inner"))
    assert not cache_is_writable()
    with pytest.raises(OutputError, match="its folder cannot be found"):
        Picture(np.zeros((8, 8, 3), np.uint8), "a bird", 0, "birds").save(locked / "inner" / "bird.png")
