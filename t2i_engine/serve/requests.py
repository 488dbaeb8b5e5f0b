"""What clients ask for: bodies and query strings, checked into `Order`s, and errors in the shape of OpenAI's."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NoReturn

from t2i_engine.bundle import Bundle
from t2i_engine.errors import CaptionError, closest, listed, quoted
from t2i_engine.latents import LARGEST_SEED
from t2i_engine.serve.queue import Ask
from t2i_engine.tokenizer import Tokenizer

MOST_PICTURES = 10
LONGEST_CAPTION = 1_000
LARGEST_SIDE = 1_024
QUALITY = 95
KINDS = {"png": ("PNG", "image/png"), "jpeg": ("JPEG", "image/jpeg"), "webp": ("WEBP", "image/webp")}
IGNORED = ("quality", "style", "user", "background", "moderation")
"""OpenAI's, for which there is nothing to choose here."""


@dataclass(frozen=True)
class Model:
    """A served bundle."""

    name: str
    bundle: Bundle
    tokenizer: Tokenizer
    digest: str
    """Of its manifest, which lists the digests of all files: the first 12 hexadecimal digits of the SHA-256."""
    runs_as: str

    @property
    def side(self) -> int:
        """Of its pictures, in pixels."""
        return self.bundle.sizes.resolution


@dataclass(frozen=True)
class Order:
    """A request for pictures: one per seed."""

    model: Model
    asks: Sequence[Ask]
    unknown: Sequence[str]
    """Words that the model does not know and that were left out."""
    read_as: Sequence[tuple[str, str]]
    """Words that it does not know, with the known one that each was read as."""
    kind: str
    """A key of KINDS."""
    as_url: bool = False


class ApiError(Exception):
    """An answer other than pictures; every one has OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The body, which the `openai` client reads `message`, `code` and `param` from."""
        kinds = {HTTPStatus.UNAUTHORIZED: "authentication_error", HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error"}
        kind = kinds.get(HTTPStatus(self.status), "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> NoReturn:
    """Raises the error of a request that cannot be met."""
    raise ApiError(HTTPStatus.BAD_REQUEST, message, code, param)


def parse_json(body: bytes) -> dict[str, Any]:
    """The object in a body. Raises `ApiError`."""
    try:
        found = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        invalid(f"the body is not JSON: {reason}", code="invalid_json")
    if not isinstance(found, dict):
        invalid("the body is not a JSON object", code="invalid_json")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


@dataclass(frozen=True)
class Catalogue:
    """The models there are, by name, the first of which is the default; and whether pictures are resized."""

    models: Mapping[str, Model]
    resizes: bool = False

    def find(self, name: str, param: str | None = "model") -> Model:
        """The model of this name. Raises `ApiError`."""
        if name not in self.models:
            near = closest(name, self.models)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            message = f"there is no model {quoted(name)}{meant}; there are: {listed(self.models)}"
            raise ApiError(HTTPStatus.NOT_FOUND, message, "model_not_found", param)
        return self.models[name]

    def generation(self, body: Mapping[str, Any]) -> Order:
        """The order in the body of POST /v1/images/generations. Raises `ApiError`."""
        known = {"prompt", "model", "n", "size", "response_format", "output_format", "output_compression", "seed"}
        known |= {"truncation", "stream", *IGNORED}
        for key in body:
            if key not in known:
                near = closest(key, known)
                meant = f"; did you mean {near[0]!r}?" if near else ""
                param = key[:100].encode(errors="replace").decode()  # a lone surrogate cannot be sent back
                invalid(f"unknown parameter {quoted(key)}{meant}", param, "unknown_parameter")
        if body.get("stream"):
            invalid("pictures are not streamed: leave out 'stream'", "stream", "unsupported_parameter")
        model = self.find(_text(body, "model", next(iter(self.models))))
        count = _whole(body, "n", 1, MOST_PICTURES, 1)
        first = _whole(body, "seed", 0, LARGEST_SEED, secrets.randbelow(LARGEST_SEED + 2 - count))
        if first + count - 1 > LARGEST_SEED:
            invalid(f"seeds {first} to {first + count - 1} end after {LARGEST_SEED}", "seed")
        kind = _one_of(body, "output_format", KINDS, "png")
        as_url = _one_of(body, "response_format", ("b64_json", "url"), "b64_json") == "url"
        side = self._side(model, _text(body, "size", "auto"))
        quality = _whole(body, "output_compression", 0, 100, QUALITY)
        seeds = range(first, first + count)
        return _order(model, body.get("prompt"), "prompt", seeds, _truncation(body), kind, quality, side, as_url)

    def picture(self, name: str, kind: str, query: Mapping[str, str]) -> Order:
        """The order in the URL of a picture. Raises `ApiError`."""
        model = self.find(name, None)
        for key in query:
            if key not in ("caption", "seed", "truncation", "v", "size"):
                invalid(f"unknown parameter {quoted(key)}", key[:100], "unknown_parameter")
        if query.get("v", model.digest) != model.digest:
            message = f"version {quoted(query['v'])} of {name} is not served; its version here is {model.digest}"
            raise ApiError(HTTPStatus.NOT_FOUND, message, "version_not_found", "v")
        found: dict[str, Any] = {"seed": 0}
        for key in ("seed", "truncation"):
            if key in query:
                try:
                    found[key] = json.loads(query[key][:40], parse_constant=_no_constant)
                except (ValueError, RecursionError):
                    invalid(f"{key} is {quoted(query[key])}; a number expected", key)
        seed, side = _whole(found, "seed", 0, LARGEST_SEED, 0), self._side(model, query.get("size", "auto"))
        caption = query.get("caption")
        return _order(model, caption, "caption", [seed], _truncation(found), kind, QUALITY, side, False)

    def _side(self, model: Model, size: str) -> int | None:
        own = f"{model.side}x{model.side}"
        if size in ("auto", own):
            return None
        width, cross, height = size.partition("x")
        if not self.resizes:
            invalid(f"size {quoted(size)} is not drawn by {model.name}; use 'auto' or '{own}'", "size")
        if not (cross and width == height and width.isdecimal() and 1 <= int(width[:5]) <= LARGEST_SIDE):
            invalid(f"size {quoted(size)} is no square up to {LARGEST_SIDE}x{LARGEST_SIDE}", "size")
        return int(width)


def _order(
    model: Model,
    caption: object,
    param: str,
    seeds: Sequence[int],
    truncation: float,
    kind: str,
    quality: int,
    side: int | None,
    as_url: bool,
) -> Order:
    if not isinstance(caption, str):
        invalid(f"'{param}' is missing; describe a picture", param, "missing_required_parameter")
    if len(caption) > LONGEST_CAPTION:
        invalid(f"the caption has {len(caption):,} characters; at most {LONGEST_CAPTION:,} expected", param)
    if any("\ud800" <= letter <= "\udfff" for letter in caption):
        invalid("the caption holds half a character (a lone surrogate)", param)
    try:
        tokens = model.tokenizer.encode(caption)
    except CaptionError as error:
        invalid(error.message, param, "unknown_caption")
    picture = KINDS[kind][0]
    asks = [Ask(model.name, caption, tokens.ids, seed, truncation, picture, quality, side) for seed in seeds]
    return Order(model, asks, tokens.unknown, tokens.read_as, kind, as_url)


def _text(body: Mapping[str, Any], key: str, default: str) -> str:
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        invalid(f"'{key}' is no text", key, "invalid_type")
    return value


def _one_of(body: Mapping[str, Any], key: str, names: "Sequence[str] | Mapping[str, Any]", default: str) -> str:
    value = _text(body, key, default)
    if value not in names:
        invalid(f"'{key}' is {quoted(value)}; one of {listed(names)} expected", key)
    return value


def _whole(body: Mapping[str, Any], key: str, least: int, most: int, default: int) -> int:
    value = body.get(key)
    if value is None:
        return default
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # to JSON, 1.0 and 1 are one number
    if not isinstance(value, int) or isinstance(value, bool):
        invalid(f"'{key}' is no whole number", key, "invalid_type")
    if not least <= value <= most:
        invalid(f"'{key}' is out of range; {least} to {most} expected", key)
    return value


def _truncation(body: Mapping[str, Any]) -> float:
    value = body.get("truncation")
    if value is None:
        return 1.0
    if not isinstance(value, int | float) or isinstance(value, bool):
        invalid("'truncation' is no number", "truncation", "invalid_type")
    if not 0 < value <= 1:
        invalid("'truncation' is out of range; above 0 and at most 1 expected", "truncation")
    return float(value)
