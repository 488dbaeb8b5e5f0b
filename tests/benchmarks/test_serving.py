"""The server's benchmark: its client counts what a server does, and its checks find what a server gets wrong."""

import asyncio
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.bars import Bar, Requests
from benchmarks.load import Answer, Load, closed_loop, closed_loop_of, get, open_loop
from benchmarks.server import served
from benchmarks.serving import (
    CONCURRENCIES,
    ONE_PROCESS,
    TWO_REPLICAS,
    Round,
    as_markdown,
    kills,
    not_modified,
    overload,
    terminations,
    throughput_bars,
)
from t2i_engine.engine import Engine


@contextmanager
def stub(seconds: float = 0.0) -> Iterator[int]:
    """The port of a server that answers with the path. /last ends the connection; so does /end, without an answer."""
    port, started = 0, threading.Event()
    stop: Callable[[], object]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            path = line.split()[1]
            await asyncio.sleep(seconds)
            if path == b"/end":
                break
            ends = b"Connection: close\r\n" * (path == b"/last")
            if path == b"/chunks":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Path: %s\r\n\r\n" % path)
                await writer.drain()
                writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(path), path))
                continue
            head = b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\nX-Path: %s\r\n\r\n" % (ends, len(path), path)
            writer.write(head + path)
            if ends:
                break
        writer.close()

    async def serve() -> None:
        nonlocal port, stop
        stopped, loop = asyncio.Event(), asyncio.get_running_loop()
        stop = partial(loop.call_soon_threadsafe, stopped.set)
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            started.set()
            await stopped.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield port
    finally:
        stop()
        thread.join(60)


def test_every_answer_is_kept_with_its_request() -> None:
    with stub() as port:
        load = closed_loop_of(port, [get("/a"), get("/bc")], 3, 20)
    assert len(load.answers) == 20
    assert {(answer.request, answer.content, answer.headers["x-path"]) for answer in load.answers} == {
        (0, b"/a", "/a"),
        (1, b"/bc", "/bc"),
    }
    assert all(answer.status == 200 for answer in load.answers)


def test_a_connection_that_ends_without_an_answer_is_counted() -> None:
    with stub() as port:
        load = closed_loop_of(port, [get("/a"), get("/end")], 1, 10)
    assert [answer.status for answer in load.answers] == [200, 0] * 5
    assert len(load.milliseconds()) == 5


def test_answers_are_kept_apart_however_they_end() -> None:
    with stub() as port:
        load = closed_loop_of(port, [get("/a"), get("/last"), get("/chunks")], 2, 40)
    assert all(answer.status == 200 and answer.headers["x-path"].encode() in answer.content for answer in load.answers)


def test_a_closed_loop_waits_for_answers_and_an_open_one_does_not() -> None:
    with stub(seconds=0.2) as port:
        assert 2 <= len(closed_loop(port, [get("/a")], 2, lambda _, elapsed: elapsed < 0.7).answers) <= 8
        load = open_loop(port, [get("/a")], 100, 0.5)
    assert len(load.answers) == 50
    assert load.seconds < 2


@pytest.fixture(scope="module")
def requests(plain_bundle: Path) -> Requests:
    return Requests(Engine.open(plain_bundle, threads=1))


def test_a_wrong_picture_is_found(requests: Requests, plain_bundle: Path) -> None:
    caption, seed = requests.pictures[5]
    pixels = Engine.open(plain_bundle).generate(caption, seed).pixels
    assert requests.wrong(answered(5, pixels)) == 0
    assert requests.wrong(answered(6, pixels)) == 1  # another seed's
    pixels[3, 4, 1] ^= 2
    assert requests.wrong(answered(5, pixels)) == 1


def answered(number: int, pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> Load:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return Load([Answer(number, 200, 1.0, {}, content.getvalue())], 1.0)


def test_bars_that_are_missed_say_so(requests: Requests, plain_bundle: Path) -> None:
    caption, seed = requests.pictures[0]
    right = answered(0, Engine.open(plain_bundle).generate(caption, seed).pixels)
    loads = {name: dict.fromkeys(CONCURRENCIES, right) for name in (ONE_PROCESS, TWO_REPLICAS)}
    reached = {bar.name: bar.reached for bar in throughput_bars([Round(1.0, 1.0, loads)], requests)}
    assert all(reached.values())
    missed = {bar.name for bar in throughput_bars([Round(1.3, -1.0, loads)], requests) if not bar.reached}
    assert missed == {
        "one process: throughput at concurrency 32, relative to the engine's",
        "one process: p50 latency at concurrency 1, above the engine's",
    }
    failed = Load([replaced._replace(status=503) for replaced in right.answers] * 2 + list(right.answers), 1.0)
    loads[TWO_REPLICAS] = {**loads[TWO_REPLICAS], 8: failed}
    bars = throughput_bars([Round(1.0, 1.0, loads)], requests)
    (failures,) = (bar for bar in bars if bar.name.startswith("two replicas: requests that fail"))
    assert failures.found == "2 of 5"
    table = as_markdown([replace(bars[0], reached=False), Bar("memory", "1", "2", True)], "Here.")
    assert "**missed** |\n| memory | 1 | 2 | met |" in table


def test_a_server_is_measured(requests: Requests, plain_bundle: Path) -> None:
    with served(plain_bundle, "--queue", 256) as server:
        assert server.seconds_to_ready > 0
        assert server.resources().memory > 10
        assert not_modified(server, requests, 0.5)[0].found.endswith(" 0 responses other than 304, 0 pictures drawn")
        answers, *_ = overload(server, requests, 50.0, 0.5)
        assert answers.found == "100 pictures, 0 rejections, 0 other, 0 wrong"
    assert terminations(plain_bundle, (), requests, times=1)[0].reached
    with served(plain_bundle, "--replicas", 2) as server:
        assert len(server.replicas()) == 2
        failed, _ = kills(server, requests, 1, 100)
        assert failed.name.startswith("SIGKILL of a replica, 1 times in ")
        assert failed.reached
