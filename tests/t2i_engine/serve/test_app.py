"""The app, without a network: OpenAI's API, pictures by URL, errors, health, metrics."""

import base64
import io
import json
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from t2i_engine.engine import Engine
from t2i_engine.latents import LARGEST_SEED
from t2i_engine.serve import build_app
from t2i_engine.serve.queue import Ask, Drawn
from t2i_engine.serve.requests import MOST_WORDS
from t2i_engine.serve.service import Settings
from t2i_engine.serve.workers import InProcess
from t2i_engine.tensorrt.builder import Profile
from tests.t2i_engine.serve.processes import eventually

KEY = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def client(plain_bundle: Path) -> Iterator[TestClient]:
    with TestClient(build_app(plain_bundle, settings=Settings(workers=2)), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def resizing(plain_bundle: Path) -> Iterator[TestClient]:
    app = build_app(plain_bundle, settings=Settings(workers=1, resizes=True))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def engine(plain_bundle: Path) -> Engine:
    return Engine.open(plain_bundle)


def pixels(content: bytes) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))


def generate(client: TestClient, **body: object) -> httpx.Response:
    answer: httpx.Response = client.post("/v1/images/generations", json={"prompt": "a red bird"} | body)
    return answer


def drawn(client: TestClient) -> int:
    found = re.search(r'^t2i_pictures_drawn_total\{bundle="\w+"\} (\d+)', client.get("/metrics").text, re.MULTILINE)
    return int(found[1]) if found else 0


def test_openais_api_draws_what_the_engine_draws(client: TestClient, engine: Engine) -> None:
    answer = generate(client, n=3, seed=5, truncation=0.5, model=engine.bundle.name)
    assert answer.status_code == 200
    assert answer.json().keys() == {"created", "data", "size", "output_format"}
    assert (answer.json()["size"], answer.json()["output_format"]) == ("32x32", "png")
    for seed, part in zip((5, 6, 7), answer.json()["data"], strict=True):
        assert part["seed"] == seed
        expected = engine.generate("a red bird", seed, truncation=0.5).pixels
        assert np.abs(pixels(base64.b64decode(part["b64_json"])).astype(int) - expected).max() <= 1
    assert answer.headers["T2I-Seed"] == "5,6,7"
    assert re.fullmatch(r"queue;dur=[\d.]+, draw;dur=[\d.]+, encode;dur=[\d.]+", answer.headers["Server-Timing"])


def test_a_url_keeps_the_quality(client: TestClient) -> None:
    options: dict[str, object] = {"seed": 4, "output_format": "jpeg", "output_compression": 10}
    direct = base64.b64decode(generate(client, **options).json()["data"][0]["b64_json"])
    url = generate(client, response_format="url", **options).json()["data"][0]["url"]
    assert client.get(url).content == direct
    assert client.get(url.replace("output_compression=10", "output_compression=500")).status_code == 400
    assert len(client.get(url.replace("&output_compression=10", "")).content) > len(direct)


def test_without_a_seed_every_request_gets_one_and_says_which(client: TestClient) -> None:
    seeds = [generate(client).json()["data"][0]["seed"] for _ in range(4)]
    assert len(set(seeds)) == 4
    again = generate(client, seed=seeds[0]).json()["data"][0]
    assert again["seed"] == seeds[0]


def test_a_url_is_a_picture_that_is_drawn_when_it_is_fetched(client: TestClient) -> None:
    before = drawn(client)
    answer = generate(client, n=2, seed=4, truncation=0.7, response_format="url", output_format="webp").json()
    assert drawn(client) == before
    urls = [part["url"] for part in answer["data"]]
    assert urls[0].startswith("http://testserver/v1/pictures/tiny.webp?")
    fetched = client.get(urls[1])
    assert fetched.headers["content-type"] == "image/webp"
    assert fetched.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert fetched.headers["T2I-Seed"] == "5"
    assert drawn(client) == before + 1


@pytest.mark.parametrize("caption", ["a crimson bird", "a red brench"])
def test_what_other_settings_read_in_another_way_is_not_cached_forever(client: TestClient, caption: str) -> None:
    version = client.get("/v1/models/tiny").json()["digest"]
    fetched = client.get("/v1/pictures/tiny.png", params={"caption": caption, "v": version})
    assert (fetched.status_code, fetched.headers["cache-control"]) == (200, "no-cache")


@pytest.mark.parametrize(("kind", "suffix"), [("png", "png"), ("jpeg", "jpg"), ("webp", "webp")])
def test_every_format_is_what_it_says(client: TestClient, kind: str, suffix: str) -> None:
    answer = generate(client, seed=1, output_format=kind, output_compression=90).json()
    with Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))) as picture:
        assert (picture.format, picture.size) == (kind.upper(), (32, 32))
    fetched = client.get(f"/v1/pictures/tiny.{suffix}?caption=a+red+bird&seed=1")
    assert fetched.headers["content-type"] == f"image/{kind}"
    with Image.open(io.BytesIO(fetched.content)) as picture:
        assert picture.format == kind.upper()


def test_a_client_that_has_a_picture_is_told_so_without_drawing(client: TestClient) -> None:
    url = "/v1/pictures/tiny.png?caption=a+red+bird&seed=9"
    first = client.get(url)
    assert first.headers["cache-control"] == "no-cache"
    tag, before = first.headers["etag"], drawn(client)
    assert tag.startswith('W/"')
    again = client.get(url, headers={"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get(url.replace("9", "8"), headers={"If-None-Match": tag}).status_code == 200
    assert drawn(client) == before + 1


def test_a_version_that_is_not_served_is_not_drawn(client: TestClient) -> None:
    answer = client.get("/v1/pictures/tiny.png?caption=a+red+bird&v=123")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "version_not_found")


def test_unknown_words_are_told(client: TestClient) -> None:
    answer = client.get("/v1/pictures/tiny.png", params={"caption": "a red wörm on a brench"})
    assert answer.status_code == 200
    assert answer.headers["T2I-Unknown-Words"] == "w%C3%B6rm, on, brench"
    near = client.get("/v1/pictures/tiny.png", params={"caption": "a crimson bird with yelow winds"})
    assert near.headers["T2I-Read-As"] == "crimson=red, yelow=yellow"
    assert near.headers["T2I-Unknown-Words"] == "with, winds;near=wings"


def test_with_exact_words_none_is_read_as_another(plain_bundle: Path) -> None:
    with TestClient(build_app(plain_bundle, settings=Settings(exact_words=True))) as client:
        answer = client.get("/v1/pictures/tiny.png", params={"caption": "a crimson bird with yelow winds"})
        assert "T2I-Read-As" not in answer.headers
        assert answer.headers["T2I-Unknown-Words"] == "crimson, with, yelow;near=yellow, winds;near=wings"
        assert generate(client, prompt="crimson").json()["error"]["code"] == "unknown_caption"


BAD = [
    ({"prompt": ""}, 400, "prompt", "unknown_caption"),
    ({"prompt": "x" * 1001}, 400, "prompt", "invalid_value"),
    ({"prompt": "a " * (MOST_WORDS + 1)}, 400, "prompt", "invalid_value"),
    ({"prompt": "xylophone"}, 400, "prompt", "unknown_caption"),
    ({"prompt": "a red bird \ud800"}, 400, "prompt", "invalid_value"),
    ({"prompt": None}, 400, "prompt", "missing_required_parameter"),
    ({"prompt": ["a red bird"]}, 400, "prompt", "missing_required_parameter"),
    ({"n": 0}, 400, "n", "invalid_value"),
    ({"n": 10**9}, 400, "n", "invalid_value"),
    ({"n": 1.5}, 400, "n", "invalid_type"),
    ({"n": True}, 400, "n", "invalid_type"),
    ({"seed": -1}, 400, "seed", "invalid_value"),
    ({"seed": 2**64}, 400, "seed", "invalid_value"),
    ({"seed": 2**32 - 1, "n": 2}, 400, "seed", "invalid_value"),
    ({"truncation": 0}, 400, "truncation", "invalid_value"),
    ({"truncation": 10**400}, 400, "truncation", "invalid_value"),
    ({"truncation": "1"}, 400, "truncation", "invalid_type"),
    ({"size": "512x512"}, 400, "size", "invalid_value"),
    ({"output_format": "gif"}, 400, "output_format", "invalid_value"),
    ({"model": "dall-e"}, 404, "model", "model_not_found"),
    ({"model": "../tiny"}, 404, "model", "model_not_found"),
    ({"stream": True}, 400, "stream", "unsupported_parameter"),
    ({"sede": 1}, 400, "sede", "unknown_parameter"),
]


@pytest.mark.parametrize(("change", "status", "param", "code"), BAD, ids=[str(bad[0])[:40] for bad in BAD])
def test_bad_requests_are_told_what_to_change(
    client: TestClient, change: dict[str, object], status: int, param: str, code: str
) -> None:
    content = json.dumps({"prompt": "a red bird"} | change)
    answer = client.post("/v1/images/generations", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"] == {
        "message": answer.json()["error"]["message"],
        "type": "invalid_request_error",
        "param": param,
        "code": code,
    }


def test_every_format_takes_captions_of_as_many_words_as_are_accepted(client: TestClient) -> None:
    Profile().check({"B": 1, "T": MOST_WORDS})
    assert generate(client, prompt="a " * MOST_WORDS).status_code == 200


def test_errors_name_what_there_is(client: TestClient) -> None:
    def message(**change: object) -> str:
        return str(generate(client, **change).json()["error"]["message"])

    assert "'auto' or '32x32'" in message(size="512x512")
    assert message(model="tin").endswith("(did you mean 'tiny'?); available: tiny")
    assert "did you mean 'seed'?" in message(sede=1)
    assert "wings" in message(prompt="winds")


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"{", "application/json", 400, "invalid_json"),
        (b"[1]", "application/json", 400, "invalid_json"),
        (b"\xff\xfe", "application/json", 400, "invalid_json"),
        (b'{"seed": NaN}', "application/json", 400, "invalid_json"),
        (b"[" * 60_000, "application/json", 400, "invalid_json"),
        (b'{"seed": ' + b"9" * 60_000 + b"}", "application/json", 400, "invalid_json"),
        (b'{"prompt": "' + b"a" * 70_000 + b'"}', "application/json", 413, "body_too_large"),
        (b"prompt=a+red+bird", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
    ],
)
def test_bodies_that_are_not_json_get_an_error_in_openais_shape(
    client: TestClient, body: bytes, kind: str, status: int, code: str
) -> None:
    answer = client.post("/v1/images/generations", content=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert client.get("/v2/health/ready").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/pictures/tiny.gif?caption=a+red+bird", 404, "not_found"),
        ("GET", "/v1/pictures/..%2F..%2Fetc%2Fpasswd.png?caption=a", 404, "not_found"),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404, "not_found"),
        ("GET", "/v1/pictures/tiny.png?caption=a+red+bird&seed=x", 400, "invalid_value"),
        ("GET", f"/v1/pictures/tiny.png?caption=a+red+bird&seed=1{'+' * 45}x", 400, "invalid_value"),
        ("GET", f"/v1/pictures/tiny.png?caption=a+red+bird&seed={'1' * 5_000}", 400, "invalid_value"),
        ("GET", "/v1/pictures/tiny.png?caption=a+red+bird&sed=1", 400, "unknown_parameter"),
        ("GET", "/v1/models/none", 404, "model_not_found"),
        ("PUT", "/v1/images/generations", 405, "method_not_allowed"),
    ],
)
def test_every_other_error_has_openais_shape_too(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@given(
    st.dictionaries(
        st.sampled_from(["prompt", "n", "seed", "size", "truncation", "model", "output_format", "user", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=5,
        ),
    )
)
@settings(max_examples=150, deadline=None)
def test_no_body_makes_the_server_fail(client: TestClient, resizing: TestClient, body: dict[str, object]) -> None:
    for one in (client, resizing):
        answer = one.post("/v1/images/generations", json=body)
        assert answer.status_code in (200, 400, 404, 413)


def test_the_inference_protocol_says_what_is_served_and_whether_it_is_ready(client: TestClient, engine: Engine) -> None:
    assert client.get("/v2").json()["name"] == "t2i-engine"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/tiny/ready").status_code == 200
    model = client.get("/v2/models/tiny").json()
    assert model["outputs"] == [{"name": "pixels", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}]
    assert model["platform"] == str(engine.selection)
    listed = client.get("/v1/models").json()["data"][0]
    assert (listed["id"], listed["object"], listed["digest"]) == ("tiny", "model", model["versions"][0])
    assert listed == client.get("/v1/models/tiny").json()


def test_metrics_count_requests_by_route_and_never_by_what_clients_make_up(client: TestClient) -> None:
    client.get("/made-up-by-a-client")
    generate(client, seed=1)
    metrics = client.get("/metrics").text
    assert 't2i_requests_total{route="/v1/images/generations",status="200"}' in metrics
    assert 't2i_requests_total{route="other",status="404"}' in metrics
    assert "made-up" not in metrics
    assert "t2i_ready 1.0" in metrics
    assert 't2i_picture_seconds_count{stage="encode"}' in metrics


def test_a_request_keeps_its_id_and_trace(client: TestClient) -> None:
    answer = client.get("/v2", headers={"X-Request-Id": "abc-1", "traceparent": "00-0af7-b7ad-01"})
    assert (answer.headers["x-request-id"], answer.headers["traceparent"]) == ("abc-1", "00-0af7-b7ad-01")
    assert re.fullmatch("[0-9a-f]{16}", client.get("/v2", headers={"X-Request-Id": "x" * 200}).headers["x-request-id"])


def test_a_failure_is_answered_and_counted_as_one(plain_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> list[Drawn]:
        raise RuntimeError("broken")

    monkeypatch.setattr(InProcess, "draw", fail)
    app = build_app(plain_bundle, settings=Settings(workers=1, allow_origin=("https://a.example",)))
    with TestClient(app, raise_server_exceptions=False, headers={"Origin": "https://a.example"}) as client:
        failed = generate(client)
        assert (failed.status_code, failed.json()["error"]["code"]) == (500, "fault")
        assert re.fullmatch("[0-9a-f]{16}", failed.headers["x-request-id"])
        assert failed.headers["access-control-allow-origin"] == "https://a.example"
        counted = 't2i_requests_total{route="/v1/images/generations",status="500"} 1.0'
        assert counted in client.get("/metrics").text


def test_with_a_key_only_health_and_the_page_are_open(plain_bundle: Path) -> None:
    app = build_app(plain_bundle, settings=Settings(api_key="secret", allow_origin=("https://a.example",)))
    with TestClient(app) as client:
        for path in ("/v2/health/ready", "/", "/page.js", "/style.css"):
            assert client.get(path).status_code == 200
        asks_first = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
        assert client.options("/v1/images/generations", headers=asks_first).status_code == 200
        for headers in ({}, {"Authorization": "Bearer secre"}, {"Authorization": "secret"}):
            refused = client.get("/v1/models", headers=headers)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
        allowed = client.get("/v1/models", headers=KEY | {"Origin": "https://a.example"})
        assert allowed.status_code == 200
        url = f"/v1/pictures/tiny.png?caption=a+red+bird&v={allowed.json()['data'][0]['digest']}"
        assert client.get(url, headers=KEY).headers["cache-control"] == "private, max-age=31536000, immutable"
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        assert "access-control-allow-origin" not in client.get(
            "/v1/models", headers=KEY | {"Origin": "https://b.example"}
        ).headers  # fmt: skip


def test_sizes_are_resized_to_if_the_server_says_so(resizing: TestClient) -> None:
    answer = generate(resizing, size="48x48", seed=1).json()
    assert answer["size"] == "48x48"
    assert pixels(base64.b64decode(answer["data"][0]["b64_json"])).shape == (48, 48, 3)
    url = generate(resizing, size="48x48", seed=1, response_format="url").json()["data"][0]["url"]
    assert pixels(resizing.get(url).content).shape == (48, 48, 3)


SIZES = ["48x32", "9999x9999", "1025x1025", "0048x0048", "001100x001100", "48x48\n", "٤٨x٤٨", "x", ""]


@pytest.mark.parametrize("size", SIZES)
def test_sizes_that_are_none_are_not_resized_to(resizing: TestClient, size: str) -> None:
    refused = generate(resizing, size=size)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "size")


def test_a_full_queue_and_a_passed_deadline_say_so(plain_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TestClient(build_app(plain_bundle, settings=Settings(queue=2, workers=1))) as client:
        full = generate(client, n=3)
        assert (full.status_code, full.json()["error"]["type"]) == (429, "rate_limit_error")
        assert (full.headers["Retry-After"], full.headers["retry-after-ms"]) == ("1", "500")
        body = {"prompt": "a red bird"}
        url = "/v1/pictures/tiny.png?caption=a+red+bird&seed=1"
        tag = client.get(url).headers["etag"]
        released = threading.Event()
        drawing = InProcess.draw

        def stuck(drawer: InProcess, asks: Sequence[Ask]) -> list[Drawn]:
            released.wait(60)
            return drawing(drawer, asks)

        monkeypatch.setattr(InProcess, "draw", stuck)
        for _ in range(3):  # one that is drawn, and two that wait
            late = client.post("/v1/images/generations", json=body, headers={"T2I-Deadline-Ms": "50"})
            assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_passed")
        refused = [client.get(url), client.get("/v1/pictures/tiny.png?caption=xylophone"), generate(client)]
        assert [answer.status_code for answer in refused] == [429] * 3
        assert refused[0].headers["Retry-After"] == "1"
        assert client.get(url, headers={"If-None-Match": tag}).status_code == 304  # as it takes no drawing
        assert generate(client, response_format="url").status_code == 200
        released.set()
        eventually(lambda: generate(client).status_code != 429)
        assert generate(client).status_code == 200


@pytest.mark.parametrize("deadline", ["x", "", "0", "-1", "1.5", "600001", "0000006000000000", "0000001" + "0" * 4_400])
def test_a_deadline_that_is_not_a_number_in_range_is_refused(client: TestClient, deadline: str) -> None:
    bad = client.get("/v1/pictures/tiny.png?caption=a+red+bird", headers={"T2I-Deadline-Ms": deadline})
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "invalid_value")


def test_the_document_describes_every_route_and_what_is_served(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    paths = {route.path for route in client.app.routes if route.path.startswith("/v")}  # type: ignore[attr-defined]
    assert paths == set(document["paths"])
    schemas = document["components"]["schemas"]
    assert schemas["Model"]["enum"] == [schemas["Generation"]["properties"]["model"]["default"]] == ["tiny"]
    assert schemas["Version"]["enum"] == [client.get("/v1/models/tiny").json()["digest"]]
    assert schemas["Size"]["enum"] == ["auto", "32x32"]
    assert schemas["Seed"]["maximum"] == schemas["Generation"]["properties"]["seed"]["maximum"] == LARGEST_SEED
