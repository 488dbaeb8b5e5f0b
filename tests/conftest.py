"""What the tests of all packages share."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from export.pipeline import export_bundle
from t2i_engine.bundle import Bundle, write_bundle
from t2i_engine.formats import find
from t2i_engine.parity import GateSize
from tests.tiny_model import RUNS_HERE, write_checkpoint

if TYPE_CHECKING:  # machines that only test GPUs have no playwright
    from playwright.sync_api import Browser, BrowserContext, Page


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for the tests alone, so that they neither use nor fill the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def unmeasured() -> Iterator[None]:
    """`auto` goes by the table of formats: measuring every test's bundle would take minutes (test_speed.py)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("t2i_engine.speed._measure", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a tiny model; not to be written to."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny.pt")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The folder of the tiny model's bundle, exported and verified; not to be written to."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    names = ",".join(row.name for row in RUNS_HERE)
    size = GateSize(rounds=1, pairs=64, emulated=8)
    exported = export_bundle(tiny_checkpoint, folder, "tiny", lambda _: None, names, gate_size=size)
    assert exported.rejected == {}
    return exported.folder


@pytest.fixture(scope="session")
def plain_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """The tiny bundle with only ONNX in fp32 and the weights, for tests that need no further formats."""
    manifest = Bundle.open(tiny_bundle).manifest
    rows = [find("onnx"), find("pytorch")]
    words = manifest.tokenizer.vocabulary, manifest.tokenizer.near_words
    names = {*words, manifest.reference, *(file for row in rows for file in row.all_files)}
    plain = replace(
        manifest,
        files={name: entry for name, entry in manifest.files.items() if name in names},
        parity={row.name: manifest.parity[row.name] for row in rows},
        rejected={},
    )
    folder = tmp_path_factory.mktemp("bundles") / "plain"
    return write_bundle(folder, plain, {name: tiny_bundle / name for name in plain.files})


@pytest.fixture(scope="module")  # its event loop would be in the way of other modules' own
def browser() -> "Iterator[Browser]":
    """Chromium, without a GPU."""
    from tests.chromium import chromium

    with chromium("--disable-gpu") as browser:
        yield browser


@pytest.fixture
def context(browser: "Browser") -> "Iterator[BrowserContext]":
    """A browser's context, which has visited nothing."""
    from tests.chromium import MILLISECONDS

    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(MILLISECONDS)
    yield context
    context.close()


@pytest.fixture
def page(context: "BrowserContext") -> "Iterator[Page]":
    """An empty page, which must not end in an error of JavaScript's."""
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    assert errors == []
