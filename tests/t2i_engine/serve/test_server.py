"""The server as a process: the official client, slow clients, a drain, dead replicas, and starts that fail."""

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2 as httpx
import numpy as np
import openai
import pytest
from PIL import Image

from t2i_engine.engine import Engine
from tests.t2i_engine.serve.processes import COMMAND, SECONDS, Server, eventually, served


def picture_url(seed: int) -> str:
    return f"/v1/pictures/tiny.png?caption=a+red+bird&seed={seed}"


def same(content: bytes, expected: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> bool:
    with Image.open(io.BytesIO(content)) as picture:
        return bool(np.abs(np.asarray(picture).astype(int) - expected).max() <= 1)


def test_the_official_client_works_unchanged(server: Server, plain_bundle: Path) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    engine = Engine.open(plain_bundle)
    answer = client.images.generate(model="tiny", prompt="a red bird", n=2, extra_body={"seed": 3})
    assert answer.data is not None
    for seed, part in zip((3, 4), answer.data, strict=True):
        assert part.b64_json is not None
        assert same(base64.b64decode(part.b64_json), engine.generate("a red bird", seed).pixels)
    url = client.images.generate(model="tiny", prompt="a red bird", response_format="url", extra_body={"seed": 3})
    assert url.data is not None
    assert url.data[0].url is not None
    assert same(httpx.get(url.data[0].url).content, engine.generate("a red bird", 3).pixels)
    assert [model.id for model in client.models.list()] == ["tiny"]
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(model="none", prompt="a red bird")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        client.images.generate(model="tiny", prompt="a red bird", n=11)
    assert (bad.value.code, bad.value.param) == ("invalid_value", "n")


def test_the_official_client_tries_again_when_the_queue_is_full(plain_bundle: Path) -> None:
    with served(plain_bundle, "--queue", 10, "--workers", 1) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=20)
        answers: list[int] = []

        def ask() -> None:
            found = client.images.generate(model="tiny", prompt="a red bird", n=10)
            answers.append(len(found.data or []))

        threads = [threading.Thread(target=ask, daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert answers == [10] * 8


def test_a_client_that_sends_no_request_is_cut_off_without_hurting_others(server: Server) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
    slow = socket.create_connection(("127.0.0.1", server.port))
    slow.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-")
    half = socket.create_connection(("127.0.0.1", server.port))
    half.sendall(
        b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 50\r\n\r\n{"
    )
    again = socket.create_connection(("127.0.0.1", server.port))
    again.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while not answer.endswith(b"}"):
        answer += again.recv(1000)
    assert b" 200 " in answer.split(b"\r\n")[0]
    again.sendall(b"GET /v2 HTTP/1.1\r\nHo")
    large = socket.create_connection(("127.0.0.1", server.port))
    large.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000)
    assert b" 400 " in large.recv(1000).split(b"\r\n")[0]
    assert httpx.get(server.url + picture_url(1)).status_code == 200
    for connection in (*idle, slow, again, half):
        connection.settimeout(30)
    assert b" 408 " in half.recv(1000).split(b"\r\n")[0]
    assert [connection.recv(1) for connection in (*idle, slow, again)] == [b""] * 52
    for connection in (*idle, slow, again, half, large):
        connection.close()


def test_requests_are_logged_in_one_line_without_captions(plain_bundle: Path) -> None:
    with served(plain_bundle, "--log-format", "json") as server:
        httpx.get(server.url + picture_url(5), headers={"X-Request-Id": "mine"})
    logged = [json.loads(line) for line in server.lines if line.startswith("{")]
    found = next(line for line in logged if line.get("path") == "/v1/pictures/tiny.png")
    assert (found["id"], found["method"], found["status"], found["level"]) == ("mine", "GET", 200, "info")
    assert found["ms"] > 0
    assert "draw;dur=" in found["timing"]
    assert not any("red bird" in line or "red+bird" in line for line in server.lines)
    with served(plain_bundle, "--log-captions") as server:
        before = len(server.lines)
        caption = "a red bird\n2026-11-27 GET '/v2' 200 \x1b[31m"
        httpx.get(f"{server.url}/v1/pictures/tiny.png", params={"caption": caption})
    logged_captions = [line for line in server.lines[before:] if "a red bird" in line]
    assert len(logged_captions) == 1
    assert repr(caption) in logged_captions[0]
    assert not any(line.startswith("2026-11-27 GET") for line in server.lines)


def test_exact_words_are_an_option_of_the_command(plain_bundle: Path) -> None:
    with served(plain_bundle, "--exact-words") as server:
        answer = httpx.get(f"{server.url}/v1/pictures/tiny.png?caption=a+crimson+bird")
    assert answer.headers["T2I-Unknown-Words"] == "crimson"


def test_a_stopped_server_answers_what_it_accepted(plain_bundle: Path) -> None:
    with served(plain_bundle, "--workers", 1) as server:
        statuses: list[int] = []

        def ask(seed: int) -> None:
            body = {"prompt": "a red bird", "seed": seed, "n": 10}
            statuses.append(httpx.post(f"{server.url}/v1/images/generations", json=body, timeout=SECONDS).status_code)

        threads = [threading.Thread(target=ask, args=(seed,), daemon=True) for seed in range(20)]
        for thread in threads:
            thread.start()
        eventually(lambda: "t2i_pictures_drawn_total{" in httpx.get(f"{server.url}/metrics").text)
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: httpx.get(f"{server.url}/v2/health/ready").status_code == 503)
        assert server.process.wait(SECONDS) == 0
        for thread in threads:
            thread.join(SECONDS)
        assert statuses == [200] * 20


STOPPED = """
import os, signal
from t2i_engine.cli import main, serve

def announce(line):
    if line.startswith("LINE"):
        os.kill(os.getpid(), signal.SIGTERM)

serve.progress = announce
main()
"""


@pytest.mark.parametrize(
    ("line", "code"), [("listening on", 0), ("bundle", 143)], ids=["when it listens", "before it listens"]
)
def test_a_server_can_be_stopped_as_soon_as_its_replicas_run(
    plain_bundle: Path, tmp_path: Path, line: str, code: int
) -> None:
    script = STOPPED.replace("LINE", line)
    start = [sys.executable, "-c", script, "serve", "--port", "0", "--replicas", "1", str(plain_bundle)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    stopped = subprocess.run(start, capture_output=True, text=True, timeout=SECONDS, env=environment)
    assert stopped.returncode == code, stopped.stderr
    assert stopped.stderr.startswith("stopping") == (code == 0)
    assert not list(tmp_path.glob("t2i-engine-*"))  # the copy of its bundle


def replicas(process: subprocess.Popen[str]) -> list[int]:
    threads = Path(f"/proc/{process.pid}/task").glob("*/children")  # a replica is listed by the thread that started it
    started = [pid for file in threads for pid in file.read_text().split()]
    return [int(pid) for pid in started if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.skipif(sys.platform != "linux", reason="finds the replicas in /proc")
def test_a_replica_that_dies_is_replaced_and_its_pictures_are_drawn_again(plain_bundle: Path) -> None:
    engine = Engine.open(plain_bundle)
    with served(plain_bundle, "--replicas", 2) as server, httpx.Client(base_url=server.url, timeout=SECONDS) as client:
        first = replicas(server.process)
        assert len(first) == 2
        stop = threading.Event()
        failed: list[str] = []
        answered: list[int] = []

        def ask(number: int) -> None:
            seed = number
            while not stop.is_set():
                try:
                    answer = httpx.get(server.url + picture_url(seed), timeout=SECONDS)
                except httpx.HTTPError as error:
                    failed.append(repr(error))
                    break
                if answer.status_code != 200 or not same(answer.content, engine.generate("a red bird", seed).pixels):
                    failed.append(answer.text[:200])
                answered.append(seed)
                seed += 4

        threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            os.kill(replicas(server.process)[0], signal.SIGKILL)
            time.sleep(2)
        before = len(answered)
        eventually(lambda: failed or len(answered) >= before + 4)
        stop.set()
        for thread in threads:
            thread.join(SECONDS)
        assert failed == []
        eventually(lambda: "t2i_worker_restarts 2.0" in client.get("/metrics").text)
        last = eventually(lambda: found if len(found := replicas(server.process)) == 2 else [])
    assert server.process.returncode == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in last)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the replicas in /proc")
def test_a_second_signal_ends_the_server_and_its_replicas_whatever_is_in_progress(plain_bundle: Path) -> None:
    with served(plain_bundle, "--replicas", 1) as server:
        started = replicas(server.process)
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(
                b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 50\r\n\r\n{"
            )
            server.process.send_signal(signal.SIGINT)
            eventually(lambda: any(line.startswith("stopping") for line in server.lines))
            server.process.send_signal(signal.SIGINT)
            try:
                assert server.process.wait(30) == 0
            finally:
                server.process.kill()
    assert len(started) == 1
    assert not Path(f"/proc/{started[0]}").exists()
    assert not any("Traceback" in line for line in server.lines)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the replicas in /proc")
def test_a_bundle_that_changes_is_served_on_from_memory(plain_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain_bundle, tmp_path / "tiny"))
    with served(folder, "--replicas", 1) as server:
        before = httpx.get(server.url + picture_url(1)).content
        shutil.rmtree(folder)
        os.kill(replicas(server.process)[0], signal.SIGKILL)
        assert httpx.get(server.url + picture_url(1), timeout=SECONDS).content == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere"),
        (["--api-key-file", "nowhere.txt"], "--api-key-file 'nowhere.txt' cannot be read"),
        (["--workers", "0"], "workers are out of range"),
        (["--host", "256.1.1.1"], "cannot listen on 256.1.1.1"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line_before_anything_listens(arguments: list[str], message: str) -> None:
    found = subprocess.run([*COMMAND, "--port", "0", *arguments], capture_output=True, text=True, timeout=SECONDS)
    assert found.returncode == 2
    assert message in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert "listening" not in found.stderr


def test_a_port_in_use_and_a_broken_bundle_are_said_in_one_line(plain_bundle: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = subprocess.run([*COMMAND, str(plain_bundle), "--port", port], capture_output=True, text=True)
    assert (found.returncode, len(found.stderr.splitlines())) == (2, 1)
    assert f"cannot listen on 127.0.0.1:{port}" in found.stderr
    broken = Path(shutil.copytree(plain_bundle, tmp_path / "broken"))
    file = next(broken.glob("generator*.onnx"))
    file.write_bytes(file.read_bytes()[:-100])
    found = subprocess.run([*COMMAND, str(broken), "--port", "0"], capture_output=True, text=True)
    assert (found.returncode, len(found.stderr.splitlines())) == (2, 1)
    assert file.name in found.stderr


def test_an_open_address_without_a_key_is_warned_of(plain_bundle: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret\n", encoding="ascii")
    key.chmod(0o600)
    for arguments, warned in (([], True), (["--api-key-file", key], False)):
        with served(plain_bundle, "--host", "0.0.0.0", *arguments) as server:
            assert httpx.get(f"{server.url}/v1/models").status_code == (200 if warned else 401)
        assert any(re.search("warning: anyone who reaches", line) for line in server.lines) == warned
