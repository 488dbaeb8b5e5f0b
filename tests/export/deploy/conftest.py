"""What the tests of the deployed page share: pages, and static hosts to serve them."""

import gzip
import io
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from playwright.sync_api import Page

from t2i_engine.cli import main
from t2i_engine.engine import Engine
from tests.chromium import shown


class Host(NamedTuple):
    url: str
    log: list[str]


@contextmanager
def hosted(folder: Path) -> Iterator[Host]:
    """A static host of a folder."""
    log: list[str] = []

    class Handler(SimpleHTTPRequestHandler):  # what `python -m http.server` answers with
        def log_message(self, format: str, *values: object) -> None:  # noqa: A002
            log.append(format % values)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Host(f"http://127.0.0.1:{server.server_port}", log)
    server.shutdown()
    server.server_close()


def levels_off(page: Page, engine: Engine, caption: str, seeds: list[int], truncation: float = 1.0) -> int:
    """By how much the pictures that are shown differ from the engine's, in levels of 255."""
    found = [np.asarray(Image.open(io.BytesIO(shown(page, number))).convert("RGB")) for number in range(len(seeds))]
    expected = [picture.pixels for picture in engine.generate_all([caption], seeds, truncation)]
    return int(np.abs(np.stack(found).astype(int) - np.stack(expected)).max())


def deploy(*arguments: object) -> Path:
    """Runs `t2i-engine deploy web`; the folder that it prints."""
    result = CliRunner().invoke(main, ["deploy", "web", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return Path(result.stdout.strip())


@pytest.fixture(scope="package")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of birds, with the runtime that npm fetched; not to be written to."""
    if not shutil.which("npm"):
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
            "npm, which fetches ONNX Runtime Web, is not installed"
        )
    return deploy("birds", "--out", tmp_path_factory.mktemp("sites") / "birds")


@pytest.fixture(scope="package")
def runtime(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runtime as npm installs it."""
    folder = tmp_path_factory.mktemp("node_modules") / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    for file in (birds / "runtime").iterdir():
        content = file.read_bytes()
        unpacked = gzip.decompress(content) if file.suffix == ".gzip" else content
        (folder / "dist" / file.name.removesuffix(".gzip")).write_bytes(unpacked)
    return folder


@pytest.fixture(scope="package")
def tiny(runtime: Path, plain_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the tiny bundle; not to be written to."""
    return deploy(plain_bundle, "--out", tmp_path_factory.mktemp("sites") / "tiny", "--runtime", runtime)


@pytest.fixture(scope="package")
def engine(plain_bundle: Path) -> Engine:
    """The tiny bundle in ONNX Runtime."""
    return Engine.open(plain_bundle, backend="onnxruntime", threads=1)
