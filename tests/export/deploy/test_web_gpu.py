"""The deployed page on WebGPU: Chromium's software adapter, which the page leaves alone, because it is slow."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from t2i_engine.engine import Engine
from tests.chromium import chromium, wait_for_pictures
from tests.export.deploy.conftest import hosted, levels_off


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan") as browser:
        yield browser


def test_webgpu_draws_the_same_pictures(page: Page, tiny: Path, engine: Engine, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(tiny, site)
    worker = site / "worker.js"
    worker.write_text(worker.read_text("utf-8").replace("!adapter.info?.isFallbackAdapter", "true"), "utf-8")
    with hosted(site) as host:
        page.goto(f"{host.url}/?count=1")
        wait_for_pictures(page, 1)
        expect(page.locator("#served")).to_contain_text("(WebGPU)")
        assert levels_off(page, engine, "a yellow bird", [0]) <= 1
