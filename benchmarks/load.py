"""Load for a server: requests over connections that are kept alive; every answer is kept for checking."""

import asyncio
import re
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

_BLANK = b"\r\n\r\n"
_LAST_CHUNK = b"\r\n0\r\n\r\n"


class Answer(NamedTuple):
    """The outcome of one request."""

    request: int
    """Its index."""
    status: int
    """0: the connection ended without an answer."""
    milliseconds: float
    headers: Mapping[str, str]
    content: bytes
    """With its chunk headers, if it came in chunks."""


@dataclass(frozen=True)
class Load:
    """The answers to a load, and the seconds that it took."""

    answers: Sequence[Answer]
    seconds: float

    def milliseconds(self, status: int = 200) -> list[float]:
        """The latencies of the answers with this status."""
        return [answer.milliseconds for answer in self.answers if answer.status == status]

    def rate(self, status: int = 200) -> float:
        """Answers with this status per second."""
        return len(self.milliseconds(status)) / self.seconds


def get(target: str, headers: Mapping[str, str] | None = None) -> bytes:
    """A request for a path and query."""
    lines = [
        f"GET {target} HTTP/1.1",
        "Host: localhost",
        *(f"{key}: {value}" for key, value in (headers or {}).items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def closed_loop(port: int, requests: Sequence[bytes], concurrency: int, goes_on: Callable[[int, float], bool]) -> Load:
    """`concurrency` clients, each of which asks again as soon as it has an answer; requests are taken round robin.

    `goes_on` decides by the number of requests so far and the seconds since the start whether to continue.
    """
    return _run(partial(_closed_loop, port, requests, concurrency, goes_on))


def closed_loop_of(port: int, requests: Sequence[bytes], concurrency: int, total: int) -> Load:
    """As `closed_loop`, until `total` requests were sent."""
    return closed_loop(port, requests, concurrency, lambda sent, _: sent < total)


def open_loop(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Load:
    """`rate` requests per second, whether or not answers arrive."""
    return _run(partial(_open_loop, port, requests, rate, seconds))


def _run(ask: Callable[[list[Answer]], Coroutine[Any, Any, None]]) -> Load:
    """Runs a coroutine that appends answers to a list: asyncio.run formats results, which takes long for answers."""
    answers: list[Answer] = []
    start = time.perf_counter()
    asyncio.run(ask(answers))
    return Load(answers, time.perf_counter() - start)


async def _closed_loop(
    port: int, requests: Sequence[bytes], concurrency: int, goes_on: Callable[[int, float], bool], answers: list[Answer]
) -> None:
    start, sent = time.perf_counter(), 0

    async def client() -> None:
        nonlocal sent
        connection = _Connection(port)
        while goes_on(sent, time.perf_counter() - start):
            number = sent % len(requests)
            sent += 1
            answers.append(await connection.ask(number, requests[number]))
            if not answers[-1].status:
                await asyncio.sleep(0.01)  # a server that is gone refuses thousands a second
        connection.close()

    await asyncio.gather(*(client() for _ in range(concurrency)))


async def _open_loop(port: int, requests: Sequence[bytes], rate: float, seconds: float, answers: list[Answer]) -> None:
    start = time.perf_counter()
    idle: list[_Connection] = []
    opened: list[_Connection] = []

    async def ask(number: int) -> None:
        if not idle:
            opened.append(_Connection(port))
        connection = idle.pop() if idle else opened[-1]
        answers.append(await connection.ask(number, requests[number]))
        idle.append(connection)

    async with asyncio.TaskGroup() as group:
        for turn in range(int(rate * seconds)):
            wait = start + turn / rate - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            group.create_task(ask(turn % len(requests)))
    for connection in opened:
        connection.close()


class _Connection(asyncio.Protocol):
    """One connection, opened at the first request and reopened after it ends.

    The client shares the processors with what it measures, and a protocol costs less than half of what streams do.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._size = 0
        self._answer: asyncio.Future[bytes] | None = None

    async def ask(self, number: int, request: bytes) -> Answer:
        """Sends a request, and waits for its answer."""
        loop, sent = asyncio.get_running_loop(), time.perf_counter()
        self._received.clear()
        self._size, self._answer = 0, loop.create_future()
        try:
            if self._transport is None:
                await loop.create_connection(lambda: self, "127.0.0.1", self.port)
            assert self._transport is not None
            self._transport.write(request)
            answer = await self._answer
        except OSError:
            return Answer(number, 0, 1000 * (time.perf_counter() - sent), {}, b"")
        milliseconds = 1000 * (time.perf_counter() - sent)
        head, _, content = answer.partition(_BLANK)
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines)}
        if headers.get("connection") == "close":
            self.close()
        return Answer(number, int(first.split()[1]), milliseconds, headers, content)

    def close(self) -> None:
        """Ends the connection, if there is one."""
        if self._transport:
            self._transport.close()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol`."""
        self._received += data
        if not self._size and (end := self._received.find(_BLANK)) >= 0:
            head = self._received[:end]
            if length := re.search(rb"(?i)content-length: (\d+)", head):
                self._size = end + len(_BLANK) + int(length[1])
            elif not re.search(rb"(?i)transfer-encoding: chunked", head) or self._received.endswith(_LAST_CHUNK):
                self._size = len(self._received)
        if self._answer and self._size and len(self._received) >= self._size and not self._answer.done():
            self._answer.set_result(bytes(self._received))

    def connection_lost(self, exc: Exception | None) -> None:
        """As `asyncio.Protocol`."""
        if not (self._transport and self._transport.is_closing()):
            return  # a former connection, which was closed here
        self._transport = None
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())
