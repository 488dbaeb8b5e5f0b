"""What clients ask for: bodies and query strings, checked into `Order`s, and errors in the shape of OpenAI's.

openapi.json defines the parameters with their types, ranges and defaults; requests are checked against it.
"""

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from t2i_engine.bundle import Bundle
from t2i_engine.errors import CaptionError, listed, quoted, unknown
from t2i_engine.serve.queue import Ask
from t2i_engine.tokenizer import Tokenizer, Tokens

LARGEST_SIDE = 1_024
MOST_WORDS = 256
"""Most known words of a caption: TensorRT's engines take no more."""
VERSION = version("t2i-engine")
DOCUMENT = json.loads(Path(__file__).with_name("openapi.json").read_bytes())
_BODY = DOCUMENT["components"]["schemas"]["Generation"]["properties"]
_PICTURE = DOCUMENT["paths"]["/v1/pictures/{name}.{suffix}"]["get"]["parameters"]
_QUERY = [parameter["name"] for parameter in _PICTURE if parameter.get("in") == "query"]
_LARGEST_SEED = _BODY["seed"]["maximum"]
_LONGEST_CAPTION = DOCUMENT["components"]["schemas"]["Caption"]["maxLength"]
_SIZE = re.compile(DOCUMENT["components"]["schemas"]["Size"]["pattern"])
_TYPES = {"string": (str, "text"), "integer": (int, "a whole number"), "number": (int | float, "a number")}


@dataclass(frozen=True)
class Model:
    """A served bundle."""

    bundle: Bundle
    tokenizer: Tokenizer
    digest: str
    """The first 12 hexadecimal digits of the SHA-256 of its manifest, which lists the digests of all files."""
    runs_as: str

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.bundle.name

    @property
    def side(self) -> int:
        """The side of its pictures, in pixels."""
        return self.bundle.sizes.resolution


@dataclass(frozen=True)
class Order:
    """A request for pictures: one per seed."""

    model: Model
    tokens: Tokens
    """The caption's tokens."""
    asks: Sequence[Ask]
    as_url: bool = False


@dataclass(eq=False)
class ApiError(Exception):
    """An answer other than pictures, in the shape of OpenAI's errors."""

    status: int
    message: str
    code: str
    param: str | None = None
    headers: Mapping[str, str] | None = None

    def body(self) -> dict[str, Any]:
        """The body, which the `openai` client reads `message`, `code` and `param` from."""
        kinds: dict[int, str] = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
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


@dataclass(frozen=True)
class Catalogue:
    """The served models by name, of which the first is the default, and whether pictures are resized."""

    models: Mapping[str, Model]
    resizes: bool = False

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, with the models that are served."""
        document: dict[str, Any] = deepcopy(DOCUMENT)
        schemas = document["components"]["schemas"]
        document["info"]["version"] = VERSION
        schemas["Model"]["enum"] = names = list(self.models)
        schemas["Generation"]["properties"]["model"]["default"] = names[0]
        schemas["Version"]["enum"] = [model.digest for model in self.models.values()]
        if not self.resizes:
            schemas["Size"]["enum"] = [
                "auto",
                *sorted({f"{model.side}x{model.side}" for model in self.models.values()}),
            ]
        return document

    def find(self, name: str, param: str | None = None) -> Model:
        """The model of this name. Raises `ApiError`."""
        if name not in self.models:
            raise ApiError(HTTPStatus.NOT_FOUND, unknown("model", name, self.models), "model_not_found", param)
        return self.models[name]

    def generation(self, body: Mapping[str, Any]) -> Order:
        """The order in the body of POST /v1/images/generations. Raises `ApiError`."""
        _check_names(body, _BODY)
        if body.get("stream"):
            invalid("pictures are not streamed: leave out 'stream'", "stream", "unsupported_parameter")
        name, count, first = (_value(body, key) for key in ("model", "n", "seed"))
        model = self.find(next(iter(self.models)) if name is None else name, "model")
        if first is None:
            first = secrets.randbelow(_LARGEST_SEED + 2 - count)
        if first + count - 1 > _LARGEST_SEED:
            invalid(f"seeds {first} to {first + count - 1} end after {_LARGEST_SEED}", "seed")
        as_url = _value(body, "response_format") == "url"
        return self._order(model, body, "prompt", range(first, first + count), as_url)

    def picture(self, name: str, kind: str, query: Mapping[str, str]) -> Order:
        """The order in the URL of a picture. Raises `ApiError`."""
        model = self.find(name)
        _check_names(query, _QUERY)
        if query.get("v", model.digest) != model.digest:
            message = f"version {quoted(query['v'])} of {name} is not served; its version here is {model.digest}"
            raise ApiError(HTTPStatus.NOT_FOUND, message, "version_not_found", "v")
        values: dict[str, Any] = {**query, "output_format": kind}
        for key in query.keys() & {"seed", "truncation", "output_compression"}:
            try:
                values[key] = json.loads(query[key], parse_constant=_no_constant)
            except (ValueError, RecursionError):
                invalid(f"{key} is {quoted(query[key])}; a number expected", key)
        return self._order(model, values, "caption", [_value(values, "seed") or 0])

    def _order(
        self, model: Model, values: Mapping[str, Any], key: str, seeds: Iterable[int], as_url: bool = False
    ) -> Order:
        truncation, kind, quality = (
            _value(values, key) for key in ("truncation", "output_format", "output_compression")
        )
        side, caption = self._side(model, _value(values, "size")), values.get(key)
        if not isinstance(caption, str):
            invalid(f"'{key}' is missing; describe a picture", key, "missing_required_parameter")
        if len(caption) > _LONGEST_CAPTION:
            invalid(f"the caption has {len(caption):,} characters; at most {_LONGEST_CAPTION:,} expected", key)
        if caption.encode(errors="replace").decode() != caption:
            invalid("the caption holds half a character (a lone surrogate)", key)
        try:
            tokens = model.tokenizer.encode(caption)
        except CaptionError as error:
            invalid(error.message, key, "unknown_caption")
        if len(tokens.ids) > MOST_WORDS:
            invalid(f"the caption has {len(tokens.ids)} words; at most {MOST_WORDS} expected", key)
        asks = [Ask(model.name, caption, tokens.ids, seed, float(truncation), kind, quality, side) for seed in seeds]
        return Order(model, tokens, asks, as_url)

    def _side(self, model: Model, size: str) -> int | None:
        own = f"{model.side}x{model.side}"
        if size in ("auto", own):
            return None
        if not self.resizes:
            invalid(f"size {quoted(size)} is not drawn by {model.name}; use 'auto' or '{own}'", "size")
        width, _, height = size.partition("x")
        if not (_SIZE.fullmatch(size) and width == height and int(width) <= LARGEST_SIDE):
            invalid(f"size {quoted(size)} is not a square up to {LARGEST_SIDE}x{LARGEST_SIDE}", "size")
        return int(width)


def _check_names(values: Iterable[str], known: Iterable[str]) -> None:
    for name in values:
        if name not in known:
            param = name[:100].encode(errors="replace").decode()  # a lone surrogate cannot be sent back
            invalid(unknown("parameter", name, known), param, "unknown_parameter")


def _value(values: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401
    """The value of a parameter, by default its default or None. Raises `ApiError` if it does not fit."""
    value, schema = values.get(name), _BODY[name]
    if value is None:
        return schema.get("default")
    kind, noun = _TYPES[schema["type"][0]]
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # to JSON, 1.0 and 1 are one number
    if not isinstance(value, kind) or isinstance(value, bool):
        invalid(f"'{name}' is not {noun}", name, "invalid_type")
    if isinstance(value, str):
        if value not in schema.get("enum", [value]):
            invalid(f"'{name}' is {quoted(value)}; one of {listed(filter(None, schema['enum']))} expected", name)
        return value
    least, above, most = schema.get("minimum"), schema.get("exclusiveMinimum"), schema["maximum"]
    if not ((least <= value if above is None else above < value) and value <= most):
        expected = f"{least} to" if above is None else f"above {above} and at most"
        invalid(f"'{name}' is out of range; {expected} {most} expected", name)
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")
