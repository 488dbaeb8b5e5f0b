"""The ASGI app: OpenAI's images API, pictures by URL, the Open Inference Protocol's health, metrics, and the page."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from t2i_engine.pictures import QUALITY
from t2i_engine.serve.metrics import CONTENT_TYPE
from t2i_engine.serve.queue import Ask, Drawn, QueueFull
from t2i_engine.serve.requests import VERSION, ApiError, Model, Order, parse_json
from t2i_engine.serve.service import Service

LARGEST_BODY = 64 << 10
SECONDS_FOR_BODY = 10.0
LONGEST_ID = 128
PICTURE_TYPES = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}
PAGE_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
PAGE = {
    f"/{file.name.removesuffix('index.html')}": Response(file.read_bytes(), media_type=PAGE_TYPES[file.suffix])
    for file in (Path(__file__).parent / "page").iterdir()
}
"""The page's files by path, read once, so that no path in a request reaches the file system."""
MOST_UNKNOWN = 5
"""Unknown words of a caption for which near ones are looked up, at most."""

log = logging.getLogger("t2i_engine.serve")


def make_app(service: Service) -> Starlette:
    """The app of a service, which the app closes when the server stops."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.to_thread(service.close)

    endpoints = _Endpoints(service)
    routes = [
        Route("/v1/images/generations", endpoints.generate, methods=["POST"]),
        Route("/v1/models", endpoints.models),
        Route("/v1/models/{name}", endpoints.model),
        Route("/v1/pictures/{name}.{suffix}", endpoints.picture),
        Route("/v2/health/ready", endpoints.ready),
        Route("/v2/models/{name}", endpoints.inference_model),
        Route("/v2/models/{name}/ready", endpoints.model_ready),
        Route("/metrics", endpoints.metrics),
    ]
    fixed: dict[str, Response] = {
        "/v2": JSONResponse({"name": "t2i-engine", "version": VERSION, "extensions": []}),
        "/v2/health/live": JSONResponse({"live": True}),
        "/openapi.json": JSONResponse(service.catalogue.openapi()),
    }
    routes += [Route(path, content, methods=["GET"]) for path, content in (fixed | PAGE).items()]
    middleware = [Middleware(_Entrance, service=service)]
    if origins := service.settings.allow_origin:  # outermost: browsers' preflight requests carry no key
        cors = Middleware(CORSMiddleware, origins, allow_methods="*", allow_headers="*", expose_headers="*")
        middleware.insert(0, cors)
    handlers: dict[Any, Any] = {ApiError: _api_error, QueueFull: _full, HTTPException: _http_error}
    handlers[ClientDisconnect] = _left
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lifespan)


class _Endpoints:
    """One method per route."""

    def __init__(self, service: Service) -> None:
        self.service, self.catalogue = service, service.catalogue
        self._started = int(time.time())

    async def generate(self, request: Request) -> Response:
        body = parse_json(await _read(request))
        if body.get("response_format") != "url":  # early: refusals take time from drawing
            self.service.queue.check_room()
        order = self.catalogue.generation(body)
        first = order.asks[0]
        request.scope["caption"], headers = first.caption, _origin(order)
        if order.as_url:  # drawn when it is fetched
            base = str(request.base_url).rstrip("/")
            data = [{"url": f"{base}{_url(order.model, ask)}"} for ask in order.asks]
        else:
            drawn = await self.service.draw(order, _deadline(request))
            headers |= _timing(drawn)
            data = [{"b64_json": base64.b64encode(picture.content).decode()} for picture in drawn]
        side = first.side or order.model.side
        answer = {
            "created": int(time.time()),
            "size": f"{side}x{side}",
            "output_format": first.kind,
            "data": [part | {"seed": ask.seed} for part, ask in zip(data, order.asks, strict=True)],
        }
        return JSONResponse(answer, headers=headers)

    async def picture(self, request: Request) -> Response:
        name, suffix = request.path_params["name"], request.path_params["suffix"]
        if suffix not in PICTURE_TYPES:
            raise ApiError(HTTPStatus.NOT_FOUND, f"pictures are .png, .jpg or .webp, not .{suffix[:20]}", "not_found")
        if "if-none-match" not in request.headers:
            self.service.queue.check_room()
        order = self.catalogue.picture(name, PICTURE_TYPES[suffix], request.query_params)
        request.scope["caption"], tag = order.asks[0].caption, _tag(order)
        final = "v" in request.query_params and not (order.tokens.unknown or order.tokens.read_as)
        caches = "public" if self.service.settings.api_key is None else "private"
        headers = _origin(order) | {
            "ETag": f'W/"{tag}"',
            "Cache-Control": f"{caches}, max-age=31536000, immutable" if final else "no-cache",
        }
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        drawn = await self.service.draw(order, _deadline(request))
        return Response(drawn[0].content, media_type=f"image/{PICTURE_TYPES[suffix]}", headers=headers | _timing(drawn))

    async def models(self, _: Request) -> Response:
        models = map(self._described, self.catalogue.models.values())
        return JSONResponse({"object": "list", "data": list(models)})

    async def model(self, request: Request) -> Response:
        return JSONResponse(self._described(self.catalogue.find(request.path_params["name"])))

    def _described(self, model: Model) -> dict[str, Any]:
        return {
            "id": model.name,
            "object": "model",
            "created": self._started,
            "owned_by": "t2i-engine",
            "digest": model.digest,
            "size": f"{model.side}x{model.side}",
            "runs_as": model.runs_as,
            "license": model.bundle.license,
        }

    async def ready(self, _: Request) -> Response:
        if reason := self.service.not_ready():
            raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, reason, "not_ready", headers={"Connection": "close"})
        return JSONResponse({"ready": True})

    async def model_ready(self, request: Request) -> Response:
        self.catalogue.find(request.path_params["name"])
        return await self.ready(request)

    async def inference_model(self, request: Request) -> Response:
        model = self.catalogue.find(request.path_params["name"])
        inputs = [("caption", "BYTES"), ("seed", "UINT32")]
        return JSONResponse(
            {
                "name": model.name,
                "versions": [model.digest],
                "platform": model.runs_as,
                "inputs": [{"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in inputs],
                "outputs": [{"name": "pixels", "datatype": "UINT8", "shape": [-1, model.side, model.side, 3]}],
            }
        )

    async def metrics(self, _: Request) -> Response:
        return Response(self.service.metrics.exposition(), media_type=CONTENT_TYPE)


async def _read(request: Request) -> bytes:
    """The body of a request. Raises `ApiError` if it is not JSON, is too large, or comes too slowly."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        message = f"the body is {kind[:60] or 'of no type'}; application/json expected"
        raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message, "unsupported_media_type")
    body, close = bytearray(), {"Connection": "close"}
    try:
        async with asyncio.timeout(SECONDS_FOR_BODY):
            async for part in request.stream():
                body += part
                if len(body) > LARGEST_BODY:
                    message = f"the body has more than {LARGEST_BODY:,} bytes"
                    raise ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, "body_too_large", headers=close)
    except TimeoutError:
        message = f"the body did not come within {SECONDS_FOR_BODY:g} s"
        raise ApiError(HTTPStatus.REQUEST_TIMEOUT, message, "body_too_slow", headers=close) from None
    return bytes(body)


def _deadline(request: Request) -> float | None:
    text = request.headers.get("t2i-deadline-ms")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 6 and 1 <= int(text) <= 600_000):
        raise ApiError(HTTPStatus.BAD_REQUEST, "T2I-Deadline-Ms is no number from 1 to 600000", "invalid_value")
    return int(text) / 1000


def _url(model: Model, ask: Ask) -> str:
    query: dict[str, Any] = {"caption": ask.caption, "seed": ask.seed}
    if ask.truncation != 1:
        query["truncation"] = ask.truncation
    if ask.side is not None:
        query["size"] = f"{ask.side}x{ask.side}"
    if ask.quality != QUALITY:
        query["output_compression"] = ask.quality
    return f"/v1/pictures/{quote(ask.bundle)}.{ask.kind}?{urlencode(query | {'v': model.digest})}"


def _tag(order: Order) -> str:
    """A picture's weak ETag: weak, because the picture may differ by a level between batches."""
    ask = order.asks[0]
    made_of = [order.model.digest, ask.ids, ask.seed, ask.truncation, ask.kind, ask.quality, ask.side]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:24]


def _origin(order: Order) -> dict[str, str]:
    """Headers with which anyone can draw the same picture again."""
    model, tokens = order.model, order.tokens
    headers = {
        "T2I-Bundle": f"{model.name}@{model.digest}",
        "T2I-Seed": ",".join(str(ask.seed) for ask in order.asks),
        "T2I-Backend": model.runs_as,
    }
    if tokens.read_as:
        headers["T2I-Read-As"] = ", ".join("=".join(map(quote, pair)) for pair in tokens.read_as[:MOST_UNKNOWN])
    if tokens.unknown:  # each with the known words that it may stand for: yelow;near=yellow
        with_near = ((word, *model.tokenizer.nearest(word)) for word in tokens.unknown[:MOST_UNKNOWN])
        headers["T2I-Unknown-Words"] = ", ".join(";near=".join(quote(text[:60]) for text in one) for one in with_near)
    return headers


def _timing(drawn: Sequence[Drawn]) -> dict[str, str]:
    worst = ((stage, max(getattr(picture, stage) for picture in drawn)) for stage in ("queue", "draw", "encode"))
    return {"Server-Timing": ", ".join(f"{stage};dur={milliseconds:.1f}" for stage, milliseconds in worst)}


async def _api_error(_: Request, error: ApiError) -> Response:
    return JSONResponse(error.body(), error.status, error.headers)


async def _full(request: Request, error: QueueFull) -> Response:
    headers = {"Retry-After": "1", "retry-after-ms": "500"}
    message = f"{error}; try again in a second"
    return await _api_error(request, ApiError(HTTPStatus.TOO_MANY_REQUESTS, message, "queue_full", headers=headers))


async def _http_error(request: Request, error: HTTPException) -> Response:
    status, headers = HTTPStatus(error.status_code), error.headers or {}
    message = f"nothing is at {request.url.path[:200]!r}; see /openapi.json"
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"{request.method} is not allowed here; allowed: {headers.get('Allow', 'GET')}"
    return await _api_error(request, ApiError(status, message, status.name.lower(), headers=headers))


async def _left(_: Request, __: ClientDisconnect) -> Response:
    return Response(status_code=499)


class _Entrance:
    """Checks the key, adds request ids, answers when anything fails, and counts and logs every request in one line.

    A Starlette handler for `Exception` would answer outside of this class and of CORS.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        key = service.settings.api_key
        self._key = None if key is None else f"Bearer {key}".encode()
        # Load balancers have no key, and the page asks for it.
        self._open = {"/v2/health/live", "/v2/health/ready", *PAGE}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, timing = time.perf_counter(), 499, ""  # the client went away
        started = False
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id", b"").decode("latin-1")
        if not (request_id.isascii() and request_id.isprintable() and 0 < len(request_id) <= LONGEST_ID):
            request_id = f"{random.getrandbits(64):016x}"  # no system call
        own = [(b"x-request-id", request_id.encode())]
        if trace := headers.get(b"traceparent"):
            own.append((b"traceparent", trace[:200]))

        async def answer(message: Message) -> None:
            nonlocal started, status, timing
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                timing = dict(message["headers"]).get(b"server-timing", b"").decode()
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        given = headers.get(b"authorization", b"")
        keyless = not self._key or scope["path"] in self._open
        app = self.app if keyless or hmac.compare_digest(given, self._key) else _UNAUTHORIZED
        try:
            await app(scope, receive, answer)
        except Exception:
            if not started:
                await _FAULT(scope, receive, answer)
            raise  # to be logged
        finally:
            seconds = time.perf_counter() - start
            # The route's pattern: paths that clients make up must not become labels.
            self.service.metrics.answered(getattr(scope.get("route"), "path", "other"), status, seconds)
            fields = {"id": request_id, "method": scope["method"], "path": scope["path"], "status": status}
            fields["ms"] = round(seconds * 1000, 1)
            if timing:
                fields["timing"] = timing
            if self.service.settings.log_captions and "caption" in scope:
                fields["caption"] = scope["caption"]
            log.info("%s", scope["path"], extra={"request": fields})


_FAILED = ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; see its log", "fault")
_FAULT = JSONResponse(_FAILED.body(), _FAILED.status)
_NO_KEY = ApiError(HTTPStatus.UNAUTHORIZED, "the API key is missing or wrong", "invalid_api_key")
_UNAUTHORIZED = JSONResponse(_NO_KEY.body(), _NO_KEY.status, {"WWW-Authenticate": "Bearer"})
