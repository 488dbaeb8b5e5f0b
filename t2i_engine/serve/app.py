"""The ASGI app: OpenAI's images API, pictures by URL, the Open Inference Protocol's health, metrics, and the page."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping
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

from t2i_engine.serve import openapi
from t2i_engine.serve.metrics import CONTENT_TYPE
from t2i_engine.serve.queue import Ask, Drawn
from t2i_engine.serve.requests import KINDS, ApiError, Order, parse_json
from t2i_engine.serve.service import Service

LARGEST_BODY = 64 << 10
SECONDS_FOR_BODY = 10.0
LONGEST_ID = 128
PAGE = Path(__file__).parent / "page"
PAGE_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MOST_UNKNOWN = 5
"""Words of a caption for which near ones are looked up."""

log = logging.getLogger("t2i_engine.serve")


def make_app(service: Service) -> Starlette:
    """The app of a service, which the app closes when the server stops."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    endpoints = _Endpoints(service)
    routes = [
        Route("/v1/images/generations", endpoints.generate, methods=["POST"]),
        Route("/v1/models", endpoints.models),
        Route("/v1/models/{name}", endpoints.model),
        Route("/v1/pictures/{name}.{suffix}", endpoints.picture),
        Route("/v2", endpoints.server),
        Route("/v2/health/live", endpoints.live),
        Route("/v2/health/ready", endpoints.ready),
        Route("/v2/models/{name}", endpoints.inference_model),
        Route("/v2/models/{name}/ready", endpoints.model_ready),
        Route("/metrics", endpoints.metrics),
        Route("/openapi.json", endpoints.openapi),
        *_page(),
    ]
    anything, origins = ["*"], list(service.settings.allow_origin)
    middleware = [Middleware(_Entrance, service=service)]
    if origins:  # outermost, because browsers ask without a key whether they may send one
        cors = Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=anything,
            allow_headers=anything,
            expose_headers=anything,
        )
        middleware.insert(0, cors)
    handlers: dict[Any, Any] = {ApiError: _api_error, HTTPException: _http_error, Exception: _fault}
    handlers |= {ClientDisconnect: _fault}  # by itself: what Exception handles is raised again, and logged
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lifespan)


def _page() -> list[Route]:
    """The page's files, read once, so that no path of a request reaches the file system."""
    files = {f"/{file.name}": file for file in PAGE.iterdir()}
    files["/"] = files.pop("/index.html")
    contents = {path: Response(file.read_bytes(), media_type=PAGE_TYPES[file.suffix]) for path, file in files.items()}
    return [Route(path, content, methods=["GET"]) for path, content in contents.items()]


class _Endpoints:
    """One method per route."""

    def __init__(self, service: Service) -> None:
        self.service, self.catalogue = service, service.catalogue
        self._openapi = openapi.document(self.catalogue)
        self._started = int(time.time())

    async def generate(self, request: Request) -> Response:
        body = await _read(request)
        order = self.catalogue.generation(parse_json(body))
        request.scope["caption"] = order.asks[0].caption
        side = order.asks[0].side or order.model.side
        answer: dict[str, Any] = {"created": int(time.time()), "size": f"{side}x{side}", "output_format": order.kind}
        headers = _origin(order)
        if order.as_url:  # drawn when it is fetched
            base = str(request.base_url).rstrip("/")
            data = [{"url": f"{base}{_url(order, ask)}"} for ask in order.asks]
        else:
            drawn = await self.service.draw(order, _deadline(request))
            headers |= _timing(drawn)
            data = [{"b64_json": base64.b64encode(picture.content).decode()} for picture in drawn]
        answer["data"] = [part | {"seed": ask.seed} for part, ask in zip(data, order.asks, strict=True)]
        return JSONResponse(answer, headers=headers)

    async def picture(self, request: Request) -> Response:
        suffix = request.path_params["suffix"]
        kind = {"jpg": "jpeg"}.get(suffix, suffix)
        if kind not in KINDS:
            raise ApiError(HTTPStatus.NOT_FOUND, f"pictures are .png, .jpg or .webp, not .{suffix[:20]}", "not_found")
        order = self.catalogue.picture(request.path_params["name"], kind, request.query_params)
        request.scope["caption"] = order.asks[0].caption
        fixed = "v" in request.query_params
        headers = _origin(order) | {
            "ETag": f'W/"{_tag(order)}"',
            "Cache-Control": "public, max-age=31536000, immutable" if fixed else "no-cache",
        }
        if _tag(order) in request.headers.get("if-none-match", ""):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        drawn = await self.service.draw(order, _deadline(request))
        return Response(drawn[0].content, media_type=KINDS[kind][1], headers=headers | _timing(drawn))

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model(name) for name in self.catalogue.models]})

    async def model(self, request: Request) -> Response:
        return JSONResponse(self._model(self.catalogue.find(request.path_params["name"], None).name))

    def _model(self, name: str) -> dict[str, Any]:
        model = self.catalogue.models[name]
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "t2i-engine",
            "digest": model.digest,
            "size": f"{model.side}x{model.side}",
            "runs_as": model.runs_as,
            "license": model.bundle.license,
        }

    async def server(self, _: Request) -> Response:
        return JSONResponse({"name": "t2i-engine", "version": openapi.VERSION, "extensions": []})

    async def live(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, _: Request) -> Response:
        if reason := self.service.not_ready():
            raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, reason, "not_ready", headers={"Connection": "close"})
        return JSONResponse({"ready": True})

    async def model_ready(self, request: Request) -> Response:
        self.catalogue.find(request.path_params["name"], None)
        return await self.ready(request)

    async def inference_model(self, request: Request) -> Response:
        model = self.catalogue.find(request.path_params["name"], None)
        return JSONResponse(
            {
                "name": model.name,
                "versions": [model.digest],
                "platform": model.runs_as,
                "inputs": [
                    {"name": "caption", "datatype": "BYTES", "shape": [-1]},
                    {"name": "seed", "datatype": "UINT32", "shape": [-1]},
                ],
                "outputs": [{"name": "pixels", "datatype": "UINT8", "shape": [-1, model.side, model.side, 3]}],
            }
        )

    async def metrics(self, _: Request) -> Response:
        return Response(self.service.metrics.exposition(), media_type=CONTENT_TYPE)

    async def openapi(self, _: Request) -> Response:
        return JSONResponse(self._openapi)


async def _read(request: Request) -> bytes:
    """The body of a request. Raises `ApiError` if it is not JSON, is too large, or comes too slowly."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        message = f"the body is {kind[:60] or 'of no type'}; application/json expected"
        raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message, "unsupported_media_type")
    too_large = ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {LARGEST_BODY:,} bytes",
                         "body_too_large", headers={"Connection": "close"})  # fmt: skip
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > LARGEST_BODY:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS_FOR_BODY):
            async for part in request.stream():
                body += part
                if len(body) > LARGEST_BODY:
                    raise too_large
    except TimeoutError:
        message = f"the body did not come within {SECONDS_FOR_BODY:g} s"
        headers = {"Connection": "close"}
        raise ApiError(HTTPStatus.REQUEST_TIMEOUT, message, "body_too_slow", headers=headers) from None
    return bytes(body)


def _deadline(request: Request) -> float | None:
    text = request.headers.get("t2i-deadline-ms")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:9]) <= 600_000):
        raise ApiError(HTTPStatus.BAD_REQUEST, "T2I-Deadline-Ms is no number from 1 to 600000", "invalid_value")
    return int(text) / 1000


def _url(order: Order, ask: Ask) -> str:
    query: dict[str, Any] = {"caption": ask.caption, "seed": ask.seed}
    if ask.truncation != 1:
        query["truncation"] = ask.truncation
    if ask.side is not None:
        query["size"] = f"{ask.side}x{ask.side}"
    return f"/v1/pictures/{quote(ask.bundle)}.{order.kind}?{urlencode(query | {'v': order.model.digest})}"


def _tag(order: Order) -> str:
    """A picture's weak tag: weak, because it may differ by a level between batches."""
    ask = order.asks[0]
    made_of = [order.model.digest, ask.ids, ask.seed, ask.truncation, ask.kind, ask.quality, ask.side]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:24]


def _origin(order: Order) -> dict[str, str]:
    """Headers by which anyone can draw the same picture again."""
    headers = {
        "T2I-Bundle": f"{order.model.name}@{order.model.digest}",
        "T2I-Seed": ",".join(str(ask.seed) for ask in order.asks),
        "T2I-Backend": order.model.runs_as,
    }
    if order.read_as:
        pairs = (map(quote, pair) for pair in order.read_as[:MOST_UNKNOWN])
        headers["T2I-Read-As"] = ", ".join("=".join(pair) for pair in pairs)
    if order.unknown:
        headers["T2I-Unknown-Words"] = ", ".join(_with_near(order, word) for word in order.unknown[:MOST_UNKNOWN])
    return headers


def _with_near(order: Order, word: str) -> str:
    """An unknown word and the known ones that it may stand for: `yelow;near=yellow`."""
    return ";near=".join(quote(text[:60]) for text in (word, *order.model.tokenizer.nearest(word)))


def _timing(drawn: list[Drawn]) -> dict[str, str]:
    worst = [max(getattr(picture, stage) for picture in drawn) for stage in ("queue", "draw", "encode")]
    return {"Server-Timing": "queue;dur={:.1f}, draw;dur={:.1f}, encode;dur={:.1f}".format(*worst)}


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"{request.method} is not allowed here; allowed: {(error.headers or {}).get('Allow', 'GET')}"
    else:
        message = f"nothing is at {request.url.path[:200]!r}; see /openapi.json"
    code = HTTPStatus(error.status_code).name.lower()
    return await _api_error(request, ApiError(error.status_code, message, code, headers=error.headers))


async def _fault(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)
    fault = ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; see its log", "fault")
    return await _api_error(request, fault)


class _Entrance:
    """Checks the key; adds request ids; counts and logs every request in one line."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        key = service.settings.api_key
        self._key = None if key is None else f"Bearer {key}".encode()
        # Load balancers have no key, and the page asks for it.
        self._open = {"/v2/health/live", "/v2/health/ready", "/", *(f"/{file.name}" for file in PAGE.iterdir())}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 499  # the client went away
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if given.isascii() and given.isprintable() and 0 < len(given) <= LONGEST_ID else ""
        request_id = request_id or f"{random.getrandbits(64):016x}"  # no system call
        timing = ""

        async def answer(message: Message) -> None:
            nonlocal status, timing
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(b"x-request-id", request_id.encode())]
                if trace := headers.get(b"traceparent"):
                    own.append((b"traceparent", trace[:200]))
                timing = dict(message["headers"]).get(b"server-timing", b"").decode()
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        try:
            if self._key and scope["path"] not in self._open and not self._allowed(headers):
                error = ApiError(HTTPStatus.UNAUTHORIZED, "the API key is missing or wrong", "invalid_api_key",
                                 headers={"WWW-Authenticate": "Bearer"})  # fmt: skip
                await JSONResponse(error.body(), error.status, error.headers)(scope, receive, answer)
            else:
                await self.app(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - start
            route = _route(scope)
            self.service.metrics.answered(route, status, seconds)
            self._log(scope, request_id, status, seconds, timing)

    def _allowed(self, headers: Mapping[bytes, bytes]) -> bool:
        return hmac.compare_digest(headers.get(b"authorization", b""), self._key or b"")

    def _log(self, scope: Scope, request_id: str, status: int, seconds: float, timing: str) -> None:
        fields: dict[str, Any] = {
            "id": request_id,
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(seconds * 1000, 1),
        }
        if timing:
            fields["timing"] = timing
        if self.service.settings.log_captions and "caption" in scope:
            fields["caption"] = scope["caption"]
        log.info("%s", fields["path"], extra={"request": fields})


def _route(scope: Scope) -> str:
    """The route's pattern: paths that clients make up must not become labels."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    return path if isinstance(path, str) and path else "other"
