"""Bad input over a network: not HTTP, too large, too many or never read. test_app.py has bad requests in HTTP."""

import errno
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import openai
import pytest
from click.testing import CliRunner

from t2i_engine.cli import main
from tests.t2i_engine.serve.processes import SECONDS, Server, served

POST = b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
GET = b"GET /v2 HTTP/1.1\r\nHost: x\r\n"
READY = b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n"
TEN_MEGABYTES = 10_000_000


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), SECONDS)


def answer(connection: socket.socket, request: bytes) -> bytes:
    """The first answer, head and body; what came until the server closed."""
    connection.sendall(request)
    with connection.makefile("rb") as stream:
        head = b"".join(iter(stream.readline, b"\r\n"))
        length = next((int(line[15:]) for line in head.splitlines() if line.lower().startswith(b"content-length:")), 0)
        return head + stream.read(length)


def error(content: bytes) -> dict[str, str | None]:
    """The error in an answer, which has OpenAI's shape."""
    found: dict[str, str | None] = json.loads(content[content.index(b"{") :])["error"]
    assert found.keys() == {"message", "type", "param", "code"}
    return found


def is_ready(server: Server) -> bool:
    return httpx.get(f"{server.url}/v2/health/ready", timeout=SECONDS).status_code == 200


def ten_megabytes() -> Iterator[bytes]:
    for _ in range(100):
        yield b"x" * (TEN_MEGABYTES // 100)


@pytest.mark.parametrize(
    ("path", "kind", "code"),
    [
        ("/v1/images/generations", "application/json", "body_too_large"),
        ("/v1/images/generations", "text/plain", "unsupported_media_type"),
        ("/v1/models", "application/json", "method_not_allowed"),
        ("/nowhere", "application/json", "not_found"),
    ],
)
def test_ten_megabytes_are_refused_before_they_are_read(server: Server, path: str, kind: str, code: str) -> None:
    for body in (b"x" * TEN_MEGABYTES, ten_megabytes()):  # with a length, and in chunks
        refused = httpx.post(server.url + path, content=body, headers={"Content-Type": kind}, timeout=SECONDS)
        assert error(refused.content)["code"] == code
    assert is_ready(server)


def test_the_official_client_is_told_that_a_body_is_too_large(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.APIStatusError) as refused:
        client.images.generate(model="tiny", prompt="a red bird " * 1_000_000)
    assert (refused.value.status_code, refused.value.code) == (413, "body_too_large")


@pytest.mark.parametrize(
    "request_",
    [
        b"hello\r\n\r\n",
        bytes.fromhex("160301020001000001fc0303"),  # TLS
        GET + b"X: " + b"x" * 100_000,
        GET + b"X: " + b"x" * 20_000 + b"\r\n\r\n",
        GET + b"X: a\r\n" * 3_000 + b"\r\n",
        b"GET /v2 HTTP/1.1\r\n\r\n",  # no host
        GET + b"Host: y\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        GET + b"X: a\x00b\r\n\r\n",
        GET + b"X\xff: a\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        POST + b"Content-Length: -5\r\n\r\nhello",
        POST + b"Content-Length: " + b"9" * 50 + b"\r\n\r\nhello",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        POST + b"Transfer-Encoding: gzip\r\n\r\nhello",
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_not_http_gets_an_error_in_openais_shape(server: Server, request_: bytes) -> None:
    with connect(server) as connection:
        refused = answer(connection, request_)
    assert refused.split()[1] in (b"400", b"501"), refused
    assert error(refused)["type"] == "invalid_request_error"
    assert is_ready(server)


def test_headers_that_never_end_are_refused(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(GET + b"X: ")
        for _ in range(16):
            connection.sendall(b"x" * 1_000)
            time.sleep(0.01)
        assert error(answer(connection, b"x" * 1_000))["code"] == "invalid_http"


def test_a_request_that_comes_with_the_beginning_of_another_is_answered(server: Server) -> None:
    body = json.dumps({"prompt": "a red bird", "user": "x" * 30_000}).encode()
    with connect(server) as connection:
        first = answer(connection, POST + b"Content-Length: %d\r\n\r\n%s" % (len(body), body) + GET[:-2])
        assert first.startswith(b"HTTP/1.1 200")
        assert answer(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("at_once", [True, False])
def test_an_offer_of_http_2_is_declined_and_the_request_answered(server: Server, at_once: bool) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"  # Java's
    body = b'{"prompt": "a red bird", "size": "9x9"}'
    with connect(server) as connection:
        for length in (
            b"Content-Length: %d\r\n\r\n" % len(body),
            b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body),
        ):
            assert b" 200 " in answer(connection, GET + offer + b"\r\n")
            head, rest = POST + offer + length, body + (b"\r\n0\r\n\r\n" if b"chunked" in length else b"")
            if not at_once:
                connection.sendall(head)
                time.sleep(0.05)
                head = b""
            assert error(answer(connection, head + rest))["param"] == "size"


def test_what_follows_an_answer_must_be_http_too(server: Server) -> None:
    with connect(server) as connection:
        assert b" 200 " in answer(connection, GET + b"\r\n")
        assert error(answer(connection, b"hello\r\n\r\n"))["code"] == "invalid_http"


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py",
        "/../../../../../../../../etc/passwd",
        "/..%2f..%2fserver.py",
        "/%2e%2e/server.py",
        "/..%5c..%5cserver.py",
        "//etc/passwd",
        "/page.js%00",
        "/page.js/../../server.py",
        "/%ff%fe",
        "/" + "a" * 5_000,
        "http://elsewhere/etc/passwd",
        "/v1/models/..%2f..%2fbundle.json",
        "/v1/pictures/..%2ftiny.png?caption=a+red+bird",
        "/v1/pictures/tiny.png%2f..%2fbundle.json?caption=a+red+bird",
    ],
)
def test_no_path_leads_to_a_file(server: Server, path: str) -> None:
    with connect(server) as connection:
        refused = answer(connection, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert refused.split()[1] == b"404"
    assert error(refused)["code"] in ("not_found", "model_not_found")


@pytest.mark.parametrize(
    "key", ["prompt", "model", "size", "output_format", "response_format", "n", "seed", "truncation", "user\ud800"]
)
def test_a_lone_surrogate_anywhere_is_refused(server: Server, key: str) -> None:
    body = json.dumps({"prompt": "a red bird"} | {key: "\ud800"})
    headers = {"Content-Type": "application/json"}
    refused = httpx.post(f"{server.url}/v1/images/generations", content=body, headers=headers, timeout=SECONDS)
    assert refused.status_code in (400, 404), refused.text
    assert error(refused.content)["param"]


def test_clients_that_leave_are_logged_in_one_line(plain_bundle: Path) -> None:
    with served(plain_bundle) as server:
        for request in (POST + b"Content-Length: 50\r\n\r\n{", POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"):
            connect(server).sendall(request)
        connect(server).sendall(GET[:-2])
        assert is_ready(server)
    assert sum(" 499 " in line for line in server.lines) == 2
    assert not any("Traceback" in line for line in server.lines)


def test_a_flood_of_idle_connections_pushes_itself_out(plain_bundle: Path) -> None:
    with served(plain_bundle, limits={"MOST_CONNECTIONS": 50}) as server:
        early, busy = connect(server), connect(server)
        assert b" 200 " in answer(early, READY)
        busy.sendall(POST + b"Content-Length: 10\r\n\r\n{")
        flood = []
        for _ in range(200):
            flood.append(connect(server))
            if len(flood) % 20 == 0:
                assert is_ready(server)
        assert b" 200 " in answer(early, READY)
        busy.sendall(b'"n": 1} ')
        assert error(answer(busy, b" "))["code"] == "missing_required_parameter"
        assert [connection.recv(1) for connection in flood[:150]] == [b""] * 150
        assert b" 200 " in answer(flood[-1], READY)
        for connection in (early, busy, *flood):
            connection.close()


def test_answers_that_are_not_read_end(plain_bundle: Path) -> None:
    asked = 1_000
    with served(plain_bundle, limits={"SECONDS_TO_READ": 0.2, "SECONDS_FOR_HEADERS": 0.2}) as server:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(b"GET /page.js HTTP/1.1\r\nHost: x\r\n\r\n" * asked)
            time.sleep(2)
            connection.settimeout(SECONDS)
            received = b""
            try:
                while part := connection.recv(1 << 20):
                    received += part
            except ConnectionResetError:
                pass
        assert b"HTTP/1.1 400" not in received
        assert 0 < received.count(b"HTTP/1.1 200") < asked
        assert is_ready(server)


def test_a_full_disk_is_said_in_one_line_before_replicas_start(
    plain_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Path, target: Path, **_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, None, target)

    monkeypatch.setattr(shutil, "copyfile", fail)
    result = CliRunner().invoke(main, ["serve", str(plain_bundle), "--port", "0", "--replicas", "1"])
    assert result.exit_code == 2
    assert "cannot copy tiny (No space left on device); set TMPDIR" in result.stderr.splitlines()[-1]


def test_a_bundle_that_is_altered_or_deleted_is_served_on_from_memory(plain_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain_bundle, tmp_path / "tiny"))
    with served(folder) as server:
        url = f"{server.url}/v1/pictures/tiny.png?caption=a+red+bird&seed=1"
        before = httpx.get(url).content
        for file in folder.iterdir():
            file.write_bytes(b"x" * file.stat().st_size)
        assert httpx.get(url).content == before
        shutil.rmtree(folder)
        assert httpx.get(url).content == before
        assert is_ready(server)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "holds no key"), (b"\xff", "not ASCII"), (b"two\nlines", "holds no key"), (None, "cannot be read")],
)
def test_a_key_file_without_a_key_is_said_in_one_line(tmp_path: Path, content: bytes | None, reason: str) -> None:
    file = tmp_path / "key"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    result = CliRunner().invoke(main, ["serve", "--port", "0", "--api-key-file", str(file)])
    assert result.exit_code == 2
    assert reason in result.stderr.splitlines()[-1]
    assert "listening" not in result.stderr
