"""The deployed page in Chromium: its pictures are the engine's, with a network and without."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from t2i_engine.engine import Engine
from tests.chromium import links, wait_for_pictures, write
from tests.export.deploy.conftest import Host, hosted, levels_off


def kept(page: Page) -> list[str]:
    """What the service worker keeps."""
    return list(
        page.evaluate(
            """async () => {
                const [name] = await caches.keys();
                return (await (await caches.open(name)).keys()).map(({ url }) => url);
            }"""
        )
    )


@pytest.fixture(scope="module")
def host(tiny: Path) -> Iterator[Host]:
    """The tiny bundle's page."""
    with hosted(tiny) as host:
        yield host


def test_pictures_of_birds_are_the_engines_under_a_sub_path(page: Page, birds: Path) -> None:
    engine = Engine.open("birds", backend="onnxruntime", threads=1)
    requested: list[str] = []
    page.context.on("request", lambda request: requested.append(request.url))
    with hosted(birds.parent) as host:
        page.goto(f"{host.url}/birds/?caption=a+small+blue+bird&seed=7&count=4")
        wait_for_pictures(page, 4)
        assert levels_off(page, engine, "a small blue bird", list(range(7, 11))) <= 1
        write(page, "a bird with Yelow wings on a brench")
        expect(page.locator("#words")).to_have_text("Read “yelow” as “yellow”, “brench” as “branch”.")
        page.get_by_label("Truncation").fill("0.5")
        expect(page.locator('#pictures a[href*="truncation=0.5"]')).to_have_count(4)
        wait_for_pictures(page, 4)
        caption = page.get_by_label("Caption").input_value()
        assert levels_off(page, engine, caption, list(range(7, 11)), 0.5) <= 1
        expect(page.locator("#served")).to_contain_text(
            "128 × 128 pixels, drawn on this machine by ONNX Runtime Web 1.30"
        )
    assert all(one.startswith((f"{host.url}/birds/", "blob:")) for one in requested)


def test_it_is_drawn_without_a_network_after_the_first_visit(page: Page, tiny: Path, engine: Engine) -> None:
    with hosted(tiny) as host:
        page.goto(host.url)
        wait_for_pictures(page)
    page.goto(f"{host.url}/?caption=a+red+bird&seed=3&count=4")
    wait_for_pictures(page, 4)
    assert page.evaluate("crossOriginIsolated")  # so that it draws with threads
    assert levels_off(page, engine, "a red bird", [3, 4, 5, 6]) <= 1
    page.goto(links(page)[2])
    wait_for_pictures(page, 1)
    assert levels_off(page, engine, "a red bird", [5]) <= 1


def test_a_redeployed_page_replaces_the_one_that_was_kept(page: Page, birds: Path, tiny: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(birds, site)
    with hosted(site) as host:
        page.goto(host.url)
        expect(page.locator("#served")).to_contain_text("birds: 128 × 128 pixels, drawn")
        shutil.rmtree(site)
        shutil.copytree(tiny, site)
        page.reload()
        for _ in range(300):
            if not any("/model/" in url for url in kept(page)):  # the new service worker has taken over
                break
            page.wait_for_timeout(100)
        page.reload()
        expect(page.locator("#served")).to_contain_text("tiny: 32 × 32 pixels, drawn")
        wait_for_pictures(page)
    assert sum(".wasm.gzip" in line for line in host.log) == 1  # the same file
    assert sum("/generator.onnx" in line for line in host.log) == 2


def test_it_draws_without_tls_where_nothing_can_be_kept(page: Page, host: Host, engine: Engine) -> None:
    page.goto(host.url.replace("127.0.0.1", "page.example"))
    wait_for_pictures(page)
    assert not page.evaluate("isSecureContext")
    assert levels_off(page, engine, "a yellow bird", list(range(8))) <= 1


def test_unknown_words_are_told_as_the_servers_page_tells_them(page: Page, host: Host) -> None:
    page.goto(host.url)
    wait_for_pictures(page)
    write(page, "shirts shirt on a winds bird")
    words = page.get_by_role("status").filter(has_text="Unknown to the model")
    expect(words).to_contain_text("“shirts”, “shirt” short, “on”, “winds” wings")
    words.get_by_role("button", name="Write wings instead of winds").click()
    expect(page.get_by_label("Caption")).to_have_value("shirts shirt on a wings bird")
    write(page, "xylophone")
    expect(page.locator("#words")).to_contain_text("no word in the caption 'xylophone' is known")
    expect(page.locator("#pictures li")).to_have_count(0)


def test_what_is_typed_while_it_loads_stays(page: Page, host: Host) -> None:
    page.goto(host.url)
    expect(page.locator("#loading")).to_be_visible()
    write(page, "a red bird")
    wait_for_pictures(page)
    expect(page.get_by_role("img", name="a red bird")).to_have_count(8)


def test_altered_files_are_found_by_the_picture_they_draw(page: Page, tiny: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(tiny, site)
    reference = site / "model" / "reference.bin"
    reference.write_bytes(bytes(255 - level for level in reference.read_bytes()))
    with hosted(site) as host:
        page.goto(host.url)
        expect(page.locator("#words")).to_contain_text("this browser cannot draw: not WebAssembly: its picture is ")


def test_it_is_accessible_and_fits_a_small_screen(page: Page, host: Host) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    page.goto(host.url)
    wait_for_pictures(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
