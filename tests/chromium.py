"""Chromium, and what tests of the server's page and of the deployed one do in it."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",  # root has no sandbox
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP page.example 127.0.0.1",
]
MILLISECONDS = 30_000


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """A browser. Where Chromium is not installed, the test is skipped, but fails in CI."""
    missing = "Chromium is not installed: apt-get install chromium"
    if not CHROMIUM and os.environ.get("CI") != "true":
        pytest.skip(missing)
    assert CHROMIUM, missing
    expect.set_options(timeout=MILLISECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *arguments])
        yield browser
        browser.close()


def wait_for_pictures(page: Page, count: int = 8) -> None:
    """Waits until this many pictures are drawn."""
    expect(page.get_by_role("list", name="Pictures").get_by_role("listitem")).to_have_count(count)
    expect(page.locator("#pictures")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#timings")).to_have_text(
        re.compile(rf"^{count} pictures? in \d+ ms, [\d.]+ ms of generator time each$")
    )


def links(page: Page) -> list[str]:
    """Where the pictures link to."""
    return [str(link.evaluate("link => link.href")) for link in page.locator("#pictures a").all()]


def shown(page: Page, number: int) -> bytes:
    """A picture's file."""
    content = page.locator("#pictures img").nth(number).evaluate(
        "async image => [...new Uint8Array(await (await fetch(image.src)).arrayBuffer())]"
    )  # fmt: skip
    return bytes(content)


def write(page: Page, caption: str) -> None:
    """Types a caption over the one that is there, key by key."""
    page.get_by_label("Caption").press("Control+a")
    page.keyboard.type(caption)
