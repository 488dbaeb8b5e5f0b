"""The page's JavaScript against the Python that it follows: words and noise, in Chromium."""

import base64
import json
import random
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from t2i_engine import latents
from t2i_engine.bundle import Bundle
from t2i_engine.errors import CaptionError
from t2i_engine.tokenizer import Tokenizer, split
from tests.export.deploy.captions import AWKWARD, made_captions
from tests.export.deploy.conftest import hosted

SCRIPTS = Path(__file__).parents[3] / "export" / "deploy" / "page"


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """A page next to the scripts; `import` finds them."""
    with hosted(SCRIPTS) as host:
        page = browser.new_page()
        page.goto(f"{host.url}/noise.js")
        yield page


def read_by(tokenizer: Tokenizer, caption: str) -> dict[str, Any] | None:
    try:
        tokens = tokenizer.encode(caption)
    except CaptionError:
        return None
    return {"ids": [*tokens.ids], "unknown": [*tokens.unknown], "readAs": [*map(list, tokens.read_as)]}


def evaluate(page: Page, script: str, argument: object) -> list[Any]:
    """What a function of JavaScript returns; both travel as one text, since Playwright is slow with large objects."""
    found: list[Any] = json.loads(
        page.evaluate(
            f"text => Promise.resolve(({script})(JSON.parse(text))).then(JSON.stringify)", json.dumps(argument)
        )
    )
    return found


@pytest.mark.parametrize(("bundle", "exact"), [("birds", False), ("birds", True), ("cub", False)])
def test_captions_are_read_as_python_reads_them(page: Page, bundle: str, exact: bool) -> None:
    tokenizer = Bundle.open(bundle).tokenizer(exact)
    captions = [*AWKWARD, *made_captions(Bundle.open(bundle).tokenizer(), 1500)]
    found = evaluate(
        page,
        """async ([words, near, captions]) => {
            const { Tokenizer } = await import("/tokenizer.js");
            const tokenizer = new Tokenizer(words, near);
            return captions.map((caption) => {
                try {
                    return tokenizer.encode(caption);
                } catch (error) {
                    return null;
                }
            });
        }""",
        [tokenizer.words, tokenizer.near, captions],
    )
    expected = [read_by(tokenizer, caption) for caption in captions]
    differ = [
        (caption, js, python) for caption, js, python in zip(captions, found, expected, strict=True) if js != python
    ]
    assert differ == []
    assert sum(one is not None for one in expected) > 1400


def test_the_nearest_words_are_pythons(page: Page) -> None:
    tokenizer = Bundle.open("birds").tokenizer()
    words = [word for caption in made_captions(tokenizer, 400) for word in split(caption)]
    found = evaluate(
        page,
        """async ([words, unknown]) => {
            const { Tokenizer } = await import("/tokenizer.js");
            const tokenizer = new Tokenizer(words);
            return unknown.map((word) => tokenizer.nearest(word));
        }""",
        [tokenizer.words, words],
    )
    assert found == [tokenizer.nearest(word) for word in words]


def test_every_character_parts_words_as_in_python(page: Page) -> None:
    """Every one that Python's Unicode has; the browser's may be newer."""
    assigned = [code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    tokenizer = Tokenizer(["<end>", "a", "aa"])
    expected = [len(tokenizer.encode(f"a a{chr(code)}a").ids) for code in assigned]
    found = evaluate(
        page,
        """async (codes) => {
            const { Tokenizer } = await import("/tokenizer.js");
            const tokenizer = new Tokenizer(["<end>", "a", "aa"]);
            return codes.map((code) => tokenizer.encode(`a a${String.fromCodePoint(code)}a`).ids.length);
        }""",
        assigned,
    )
    differ = [hex(code) for code, js, python in zip(assigned, found, expected, strict=True) if js != python]
    assert differ == []
    assert {1, 2, 3} == {*expected}


@pytest.mark.parametrize("truncation", [1.0, 0.35])
def test_noise_is_pythons(page: Page, truncation: float) -> None:
    seeds = [0, 1, 2**31, latents.LARGEST_SEED, *random.Random(0).sample(range(2**32), 2000)]
    encoded = page.evaluate(
        """async ([seeds, truncation]) => {
            const { normals } = await import("/noise.js");
            const content = new Blob(seeds.map((seed) => normals(seed, 357, truncation)));
            const reader = new FileReader();
            return new Promise((done) => {
                reader.onload = () => done(reader.result.split(",")[1]);
                reader.readAsDataURL(content);
            });
        }""",
        [seeds, truncation],
    )
    found = np.frombuffer(base64.b64decode(encoded), np.float32).reshape(len(seeds), 357)
    drawn = latents.draw(seeds, 100, 257, truncation)
    np.testing.assert_array_max_ulp(found, np.hstack([drawn.noise, drawn.condition_noise]), 1)
