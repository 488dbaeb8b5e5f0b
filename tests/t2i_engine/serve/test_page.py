"""The page in Chromium: what it draws, keeps and says, by keyboard, on small and large screens."""

import io
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx2 as httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from tests.chromium import links, shown, wait_for_pictures, write
from tests.t2i_engine.serve.processes import Server, served


@pytest.fixture(scope="module")
def both(plain_bundle: Path) -> Iterator[Server]:
    """A server of two bundles, tiny and cub."""
    with served(plain_bundle, "cub") as server:
        yield server


def side(page: Page) -> int:
    image = page.locator("#pictures img").first
    return int(image.evaluate("image => image.decode().then(() => image.naturalWidth)"))


def test_pictures_are_drawn_while_a_caption_is_typed_and_each_is_a_permalink(page: Page, both: Server) -> None:
    page.goto(both.url)
    wait_for_pictures(page)
    expect(page.get_by_label("Caption")).to_be_focused()
    write(page, "a red bird")
    expect(page.get_by_role("img", name="a red bird")).to_have_count(8)
    wait_for_pictures(page)
    assert side(page) == 32
    for seed, url in enumerate(links(page)):
        assert f"/v1/pictures/tiny.png?caption=a+red+bird&seed={seed}&v=" in url
    fetched = httpx.get(links(page)[3])
    assert fetched.headers["cache-control"].endswith("immutable")
    assert pixels(shown(page, 3)) == pixels(fetched.content)


def pixels(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content)) as picture:
        return picture.tobytes()


def test_nothing_is_drawn_of_an_empty_or_unknown_caption(page: Page, both: Server) -> None:
    page.goto(both.url)
    wait_for_pictures(page)
    write(page, "xylophone")
    expect(page.locator("#words")).to_contain_text("no word in the caption 'xylophone' is known")
    expect(page.locator("#pictures li")).to_have_count(0)
    expect(page.locator("#timings")).to_have_text("")
    write(page, " ")
    expect(page.locator("#words")).to_have_text("")


def test_the_truncation_is_set_by_a_slider(page: Page, both: Server) -> None:
    page.goto(both.url)
    wait_for_pictures(page)
    slider = page.get_by_role("slider", name="Truncation")
    for _ in range(6):
        slider.press("ArrowLeft")
    expect(page.locator("#shown-truncation")).to_have_text("0.7")
    expect(page.locator('#pictures a[href*="truncation=0.7"]')).to_have_count(8)
    wait_for_pictures(page)


def test_another_bundle_can_be_chosen(page: Page, both: Server) -> None:
    page.goto(both.url)
    wait_for_pictures(page)
    expect(page.locator("#served")).to_contain_text("tiny: 32 × 32 pixels")
    page.get_by_label("Model").select_option("cub")
    expect(page.locator("#served")).to_contain_text("research only")
    expect(page.locator('#pictures a[href*="/cub.png"]')).to_have_count(8)
    assert side(page) == 128


def test_an_unknown_word_is_told_and_replaced_by_a_near_one(page: Page, both: Server) -> None:
    page.goto(both.url)
    wait_for_pictures(page)
    write(page, "shirts shirt on a winds bird")
    words = page.get_by_role("status").filter(has_text="Unknown to the model")
    expect(words).to_contain_text("“shirts”, “shirt” short, “on”, “winds” wings")
    words.get_by_role("button", name="Write short instead of shirt").click()
    expect(page.get_by_label("Caption")).to_have_value("shirts short on a winds bird")
    expect(page.get_by_label("Caption")).to_be_focused()
    words.get_by_role("button", name="Write wings instead of winds").press("Enter")
    expect(page.get_by_label("Caption")).to_have_value("shirts short on a wings bird")
    expect(words).to_have_text("Unknown to the model, and left out: “shirts”, “on”")


def test_pictures_that_come_leave_the_focus_where_it_is(page: Page, both: Server) -> None:
    page.goto(both.url)
    wait_for_pictures(page)
    write(page, "a bird with winds")
    button = page.get_by_role("button", name="Write wings instead of winds")
    button.focus()
    for seed in ("7", "8"):
        page.get_by_label("First seed").evaluate(
            "(field, seed) => { field.value = seed; field.dispatchEvent(new Event('input')); }", seed
        )
        expect(page.locator(f'#pictures a[href*="seed={seed}&"]')).to_have_count(1)
        wait_for_pictures(page)
        expect(button).to_be_focused()


def test_a_word_that_is_read_as_another_is_told(page: Page, both: Server) -> None:
    page.goto(both.url)
    wait_for_pictures(page)
    write(page, "a crimson bird yelow shirts")
    expect(page.locator("#words")).to_have_text(
        "Read “crimson” as “red”, “yelow” as “yellow”. Unknown to the model, and left out: “shirts”"
    )


def test_other_seeds_and_the_number_of_pictures(page: Page, both: Server) -> None:
    page.goto(both.url)
    wait_for_pictures(page)
    page.get_by_role("combobox", name="Pictures").select_option("4")
    wait_for_pictures(page, 4)
    page.get_by_role("button", name="Other seeds").press("Enter")
    expect(page.get_by_label("First seed")).to_have_value("4")
    expect(page.locator("#pictures a").last).to_have_text("seed 7")
    page.get_by_label("First seed").fill("4294967295")
    wait_for_pictures(page, 1)
    assert "seed=4294967295" in links(page)[0]


def test_the_address_holds_all_of_the_page(page: Page, both: Server) -> None:
    page.goto(f"{both.url}/?caption=a+red+bird&model=cub&seed=7&count=4&truncation=0.5")
    wait_for_pictures(page, 4)
    before = links(page)
    assert "/cub.png?caption=a+red+bird&seed=7&truncation=0.5" in before[0]
    write(page, "a blue bird")
    expect(page.locator('#pictures a[href*="a+blue+bird"]')).to_have_count(4)
    address = page.url
    page.goto(address)
    wait_for_pictures(page, 4)
    expect(page.get_by_label("Caption")).to_have_value("a blue bird")
    assert links(page) == [link.replace("red", "blue") for link in before]


@pytest.mark.parametrize("host", ["127.0.0.1", "page.example"])  # with a clipboard, and without, for want of TLS
def test_the_code_that_is_copied_runs(page: Page, both: Server, host: str) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=both.url)
    page.goto(f"http://{host}:{both.port}/?seed=5&count=16&truncation=0.5")
    wait_for_pictures(page, 16)
    caption = """a "red" bird's \\ wings"""
    write(page, caption)
    expect(page.get_by_role("img", name=caption)).to_have_count(16)
    copied = {}
    for language in ("curl", "Python"):
        page.get_by_role("button", name=f"Copy {language}").click()
        expect(page.locator(f"[data-copy={language.lower()}]")).to_have_text("Copied")
        other = page.context.new_page()
        other.goto(f"{both.url}/icon.svg")
        copied[language] = str(other.evaluate("navigator.clipboard.readText()")).replace("page.example", "127.0.0.1")
        other.close()
    program, url, header, kind, data, body = shlex.split(copied["curl"])
    assert (program, header, data) == ("curl", "-H", "-d")
    answer = httpx.post(url, content=body, headers=dict([kind.split(": ")]))
    assert [part["seed"] for part in answer.json()["data"]] == list(range(5, 15))  # the API draws ten at most
    found: dict[str, Any] = {}
    exec(copied["Python"], found)
    assert [part.b64_json for part in found["answer"].data] == [part["b64_json"] for part in answer.json()["data"]]
    assert httpx.get(links(page)[0].replace("page.example", "127.0.0.1")).status_code == 200


def test_a_key_is_asked_for_and_not_shown(page: Page, plain_bundle: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sesame", encoding="ascii")
    key.chmod(0o600)
    with served(plain_bundle, "--api-key-file", key) as server:
        page.goto(server.url)
        expect(page.get_by_label("API key")).to_be_focused()
        write(page, "a red bird")
        page.get_by_label("API key").focus()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#words")).to_have_text("the API key is missing or wrong")
        page.get_by_label("API key").fill("sesame")
        page.keyboard.press("Enter")
        wait_for_pictures(page)
        expect(page.get_by_label("API key")).to_be_hidden()
        expect(page.locator("#curl")).to_contain_text("-H 'Authorization: Bearer KEY'")
        expect(page.locator("#python")).to_contain_text('api_key="KEY"')


def test_a_full_queue_is_waited_for_and_a_server_that_is_gone_is_told(page: Page, both: Server) -> None:
    refused: list[str] = []

    def refuse_once(route: Route) -> None:
        if refused:
            route.fallback()
        else:
            refused.append(route.request.url)
            error = {"error": {"message": "full", "type": "rate_limit_error", "param": None, "code": "queue_full"}}
            route.fulfill(status=429, headers={"retry-after-ms": "10"}, json=error)

    page.route("**/v1/pictures/**", refuse_once)
    page.goto(both.url)
    wait_for_pictures(page)
    assert len(refused) == 1
    page.route("**/v1/pictures/**", lambda route: route.abort())
    write(page, "a red bird")
    expect(page.locator("#words")).to_have_text("Failed to fetch")
    expect(page.locator("#pictures li")).to_have_count(0)


def test_everything_is_reached_by_the_tab_key_in_the_order_of_the_page(page: Page, both: Server) -> None:
    page.goto(f"{both.url}/?count=1&caption=a+shirt+bird")
    wait_for_pictures(page, 1)
    reached = []
    for _ in range(10):
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Tab")
    form = ["caption", "model", "seed", "count", "truncation", "more"]
    assert reached == [*form, "short", "seed 0", "Copy curl", "Copy Python"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280, 3840])
def test_every_screen_shows_it_without_scrolling_sideways(
    browser: Browser, both: Server, width: int, scheme: Literal["light", "dark"]
) -> None:
    context = browser.new_context(viewport={"width": width, "height": width * 9 // 16}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{both.url}/?model=cub&caption=a+yelow+bird+{'x' * 300}")
    wait_for_pictures(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (min(background) > 200) if scheme == "light" else (max(background) < 50)
    fields = page.locator("input:visible, select:visible, button:visible").all()
    cut = [field.get_attribute("id") for field in fields if field.evaluate("one => one.scrollWidth > one.clientWidth")]
    assert cut == ["caption"]
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    context.close()
