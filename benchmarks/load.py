"""Load for a server: requests over asyncio connections that are kept alive; every answer is kept for checking."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple


class Answer(NamedTuple):
    """What came of one request."""

    request: int
    """Its index."""
    status: int
    """0: the connection ended without an answer."""
    sent: float
    """Seconds, as of time.perf_counter."""
    milliseconds: float
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True)
class Load:
    """The answers to a load, and the seconds that it took."""

    answers: Sequence[Answer]
    seconds: float

    def milliseconds(self, status: int = 200) -> list[float]:
        """Of the answers with this status."""
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


def closed_loop(port: int, requests: Sequence[bytes], concurrency: int, seconds: float) -> Load:
    """`concurrency` clients that each ask again as soon as they have an answer; requests are taken round robin."""
    return asyncio.run(_closed_loop(port, requests, concurrency, lambda sent, elapsed: elapsed < seconds))


def closed_loop_of(port: int, requests: Sequence[bytes], concurrency: int, total: int) -> Load:
    """As `closed_loop`, until `total` requests were sent."""
    return asyncio.run(_closed_loop(port, requests, concurrency, lambda sent, elapsed: sent < total))


def open_loop(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Load:
    """`rate` requests per second, whether answers come or not."""
    return asyncio.run(_open_loop(port, requests, rate, seconds))


async def _closed_loop(
    port: int, requests: Sequence[bytes], concurrency: int, goes_on: Callable[[int, float], bool]
) -> Load:
    start, numbers, sent = time.perf_counter(), count(), 0
    answers: list[Answer] = []

    async def client() -> None:
        nonlocal sent
        async with _Connection(port) as connection:
            while goes_on(sent, time.perf_counter() - start):
                sent += 1
                number = next(numbers) % len(requests)
                answers.append(await connection.ask(number, requests[number]))
                if not answers[-1].status:
                    await asyncio.sleep(0.01)  # a server that is gone refuses thousands a second

    await _all(client() for _ in range(concurrency))
    return Load(answers, time.perf_counter() - start)


async def _open_loop(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Load:
    start = time.perf_counter()
    answers: list[Answer] = []
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
    seconds = time.perf_counter() - start
    for connection in opened:
        await connection.close()
    return Load(answers, seconds)


async def _all(clients: Iterator[Awaitable[None]]) -> None:
    await asyncio.gather(*clients)


class _Connection:
    """One connection, opened at the first request and again after its end."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> "_Connection":
        return self

    async def __aexit__(self, *of: object) -> None:
        await self.close()

    async def ask(self, number: int, request: bytes) -> Answer:
        """Sends a request, and waits for its answer."""
        sent = time.perf_counter()
        status, headers, content = 0, dict[str, str](), b""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = self._streams
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in head[1:] if line)}
            content = await reader.readexactly(int(headers.get("content-length", 0)))
            status = int(head[0].split()[1])
        except (OSError, asyncio.IncompleteReadError):
            await self.close()
        if headers.get("connection") == "close":
            await self.close()
        return Answer(number, status, sent, 1000 * (time.perf_counter() - sent), headers, content)

    async def close(self) -> None:
        """Ends the connection, if there is one."""
        if self._streams:
            _, writer = self._streams
            self._streams = None
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
