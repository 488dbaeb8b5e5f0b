"""The app on uvicorn, with limits for slow and many clients, a drain, and a log line per request."""

import asyncio
import json
import logging
import socket
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from types import FrameType
from typing import Any, ClassVar

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from t2i_engine.errors import OptionError
from t2i_engine.serve.app import log, make_app
from t2i_engine.serve.requests import ApiError
from t2i_engine.serve.service import Service

SECONDS_FOR_HEADERS = 10.0
"""From the beginning of a connection, or the end of an answer, to the end of the next request's headers."""
SECONDS_TO_READ = 60.0
"""For a client to make room for more of its answer, or to take the rest of it."""
MOST_HEADERS = 16 << 10
"""Bytes."""
SECONDS_TO_DRAIN = 8
SECONDS_ACCEPTING = 1.0
"""While draining, so that a load balancer notices before connections are refused."""
MOST_CONNECTIONS = 1_000
SECONDS_TO_SWITCH = 1e-4
"""Between Python threads; at the default of 5 ms, a request waits for drawing threads as long as a picture takes."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `OptionError` if the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(2048)
    except (OSError, OverflowError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise OptionError(f"cannot listen on {host}:{port} ({reason}); choose another --host or --port") from None
    return bound


def run(service: Service, bound: socket.socket, log_format: str, on_ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT, then answers what was accepted.

    Calls `on_ready` once requests are answered and both signals are handled.
    """
    _log_as(log_format)
    sys.setswitchinterval(SECONDS_TO_SWITCH)
    config = uvicorn.Config(
        make_app(service),
        http=_Protocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_DRAIN,
    )
    _Server(config, service, on_ready).run([bound])


class _Server(uvicorn.Server):
    """Drains before it stops."""

    def __init__(self, config: uvicorn.Config, service: Service, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.service, self._on_ready = service, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On the first signal, accepts for one more second; on the second, cuts off all clients."""
        loop = asyncio.get_running_loop()
        if self.service.draining:
            loop.call_soon_threadsafe(self._cut_off)
            return
        self.service.draining = True
        log.info("stopping: answering accepted requests first")
        loop.call_soon_threadsafe(loop.call_later, SECONDS_ACCEPTING, self._stop)

    def _stop(self) -> None:  # instead of uvicorn's, which re-raises the signal: this exits with 0
        self.should_exit = True

    def _cut_off(self) -> None:
        """Leaves nothing to wait for. `force_exit` would skip the lifespan, which ends the replicas."""
        self._stop()
        for connection in [*self.server_state.connections]:
            connection.transport.abort()
        logging.getLogger("uvicorn.error").disabled = True  # a traceback for each request
        for task in self.server_state.tasks:
            task.cancel()


class _Protocol(HttpToolsProtocol):
    """Bounds headers in size and time and, where there are too many clients, cuts off the one that was idle longest.

    A flood of idle connections thus displaces itself, not new clients or those that have made requests.
    """

    _new: ClassVar[dict["_Protocol", None]] = {}
    _kept: ClassVar[dict["_Protocol", None]] = {}
    """Connections that wait for their first request, and for a further one: sets in order."""
    _timer: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None
    _unfinished = 0
    """Bytes received of headers that are not complete."""
    _in_headers = False
    _data = b""
    """The data being parsed."""
    _ended = False
    """Whether a request ended in `_data`: then it is unknown how much of it belongs to the next request's headers."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_headers()
        if len(self.connections) > MOST_CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._data, self._ended = data, False
        super().data_received(data)
        self._data = b""
        self._unfinished = self._unfinished + len(data) if self._in_headers and not self._ended else 0
        if self._unfinished > MOST_HEADERS and not self.transport.is_closing():
            self.send_400_response("")

    def on_message_begin(self) -> None:
        self._in_headers = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Raises `ValueError`, which ends the connection, as the parser's own errors do."""
        self._in_headers = False
        if self.parser.should_upgrade():
            return  # for _unsupported_upgrade_warning
        if self.parser.get_http_version() == "1.1" and sum(name == b"host" for name, _ in self.headers) != 1:
            raise ValueError("RFC 9112, section 3.2")
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MOST_HEADERS:
            raise ValueError("too large")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._ended = True
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Declines an upgrade, such as Java's client offers with every request, by reading the request without it.

        uvicorn itself would lose the body (https://github.com/Kludex/uvicorn/issues/2722).
        """
        method, offer = self.parser.get_method(), sys.exception()
        if method == b"CONNECT":
            self.send_400_response("")
            return
        assert isinstance(offer, httptools.HttpParserUpgrade)
        rest = self._data[offer.args[0] :]
        kept = [header for header in self.headers if header[0] not in (b"connection", b"upgrade")]
        head = [b"%s %s HTTP/1.1" % (method, self.url), *(b"%s: %s" % header for header in kept)]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*head, b"", rest]))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait_for_headers()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading = self.loop.call_later(SECONDS_TO_READ, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading:
            self._reading.cancel()

    def send_400_response(self, msg: str) -> None:
        """Answers in OpenAI's shape, unless another answer has begun."""
        if self._is_idle() or not self.cycle.response_started:
            message = f"this is not HTTP, or has headers of more than {MOST_HEADERS:,} bytes"
            content = json.dumps(ApiError(HTTPStatus.BAD_REQUEST, message, "invalid_http").body()).encode()
            head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
            self.transport.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + content)
        self.transport.close()

    def _wait_for_headers(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(SECONDS_FOR_HEADERS, self._cut_off)
        (self._new if self.cycle is None else self._kept)[self] = None

    def _stop_waiting(self) -> None:
        self._new.pop(self, None)
        self._kept.pop(self, None)
        if self._timer:
            self._timer.cancel()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _cut_off(self) -> None:
        if self._is_idle():
            self.transport.close()  # once its answer is read
            self._timer = self.loop.call_later(SECONDS_TO_READ, self.transport.abort)

    def _make_room(self) -> None:
        while waiting := self._new or self._kept:
            oldest = next(iter(waiting))
            oldest._stop_waiting()
            if oldest._is_idle():  # unless its request has begun
                oldest.transport.abort()
                return


class _Lines(logging.Formatter):
    """A line per request for people, or JSON for programs."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self.as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """The log line of a record."""
        fields: dict[str, Any] | None = getattr(record, "request", None)
        at = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(record.created))
        message = record.getMessage() if record.exc_info is None else super().format(record)
        if self.as_json:
            content = fields or {"message": message}
            return json.dumps({"time": at, "level": record.levelname.lower(), **content}, ensure_ascii=False)
        if fields is None:
            return message
        fields = fields | {key: repr(fields[key]) for key in ("path", "caption") if key in fields}  # from clients
        rest = " ".join(f"{key}={value}" for key, value in fields.items() if key not in ("method", "path", "status"))
        return f"{at} {fields['method']} {fields['path']} {fields['status']} {rest}"


def _log_as(log_format: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(log_format == "json"))
    for name, level in (("t2i_engine", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
