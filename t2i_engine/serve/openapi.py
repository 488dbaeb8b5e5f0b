"""The OpenAPI document of a server."""

from importlib.metadata import version
from typing import Any

from t2i_engine.latents import LARGEST_SEED
from t2i_engine.serve.requests import IGNORED, KINDS, LONGEST_CAPTION, MOST_PICTURES, Catalogue

VERSION = version("t2i-engine")

_ERROR = {
    "description": "An error, in OpenAI's shape",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
_SEED = {"type": "integer", "minimum": 0, "maximum": LARGEST_SEED}
_TRUNCATION = {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 1}
_CAPTION = {"type": "string", "minLength": 1, "maxLength": LONGEST_CAPTION}


def document(catalogue: Catalogue) -> dict[str, Any]:
    """The document, whose models are those that are served."""
    names = list(catalogue.models)
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "enum": names}}
    size = _size(catalogue)
    kinds = {media: {"schema": {"type": "string", "format": "binary"}} for _, media in KINDS.values()}
    picture = {
        "summary": "A picture, drawn when it is asked for",
        "parameters": [
            name,
            {"name": "suffix", "in": "path", "required": True, "schema": {"enum": ["png", "jpg", "webp"]}},
            {"name": "caption", "in": "query", "required": True, "schema": _CAPTION},
            {"name": "seed", "in": "query", "schema": _SEED | {"default": 0}},
            {"name": "truncation", "in": "query", "schema": _TRUNCATION},
            {"name": "v", "in": "query", "description": "The bundle's digest: the answer never changes",
             "schema": {"enum": [model.digest for model in catalogue.models.values()]}},
            {"name": "size", "in": "query", "schema": size},
        ],
        "responses": {
            "200": {"description": "The picture", "content": kinds},
            "304": {"description": "The client has it"},
            **_errors(400, 404, 429, 503, 504),
        },
    }  # fmt: skip
    generation = {
        "summary": "Pictures of a caption",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Generation"}}},
        },
        "responses": {
            "200": _json("The pictures", {"$ref": "#/components/schemas/Pictures"}),
            **_errors(400, 404, 408, 413, 415, 429, 503, 504),
        },
    }
    paths = {
        "/v1/images/generations": {"post": generation},
        "/v1/models": {"get": _get("The models that are served")},
        "/v1/models/{name}": {"get": _get("A model", 404)},
        "/v1/pictures/{name}.{suffix}": {"get": picture},
        "/v2": {"get": _get("The server, by the Open Inference Protocol")},
        "/v2/health/live": {"get": _get("Whether the process answers")},
        "/v2/health/ready": {"get": _get("Whether requests are accepted", 503)},
        "/v2/models/{name}": {"get": _get("A model, by the Open Inference Protocol", 404)},
        "/v2/models/{name}/ready": {"get": _get("Whether a model is ready", 404, 503)},
    }
    for path, operations in paths.items():
        for operation in operations.values():
            operation.setdefault("parameters", [name] if "{name}" in path else [])
    return {
        "openapi": "3.1.0",
        "info": {"title": "t2i-engine", "version": VERSION, "summary": "Pictures of captions, in milliseconds"},
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _ERROR_SCHEMA, "Generation": _generation(names, size), "Pictures": _PICTURES},
        },
    }


def _size(catalogue: Catalogue) -> dict[str, Any]:
    if catalogue.resizes:
        return {"type": "string", "pattern": "^(auto|[1-9][0-9]{0,3}x[1-9][0-9]{0,3})$", "default": "auto"}
    own = {f"{model.side}x{model.side}" for model in catalogue.models.values()}
    return {"type": "string", "enum": ["auto", *sorted(own)], "default": "auto"}


def _generation(names: list[str], size: dict[str, Any]) -> dict[str, Any]:
    properties = {
        "prompt": _CAPTION,
        "model": {"type": ["string", "null"], "enum": [*names, None], "default": names[0]},
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": MOST_PICTURES, "default": 1},
        "size": {"anyOf": [size, {"type": "null"}]},
        "response_format": {"enum": ["b64_json", "url", None], "default": "b64_json"},
        "output_format": {"enum": [*KINDS, None], "default": "png"},
        "output_compression": {"type": ["integer", "null"], "minimum": 0, "maximum": 100},
        "seed": _SEED | {"type": ["integer", "null"], "description": "Of the first picture; random if left out"},
        "truncation": _TRUNCATION | {"type": ["number", "null"]},
        "stream": {"enum": [False, None]},
        **{key: {"description": "Ignored"} for key in IGNORED},
    }
    return {"type": "object", "required": ["prompt"], "properties": properties, "additionalProperties": False}


_PICTURES = {
    "type": "object",
    "required": ["created", "data", "size", "output_format"],
    "properties": {
        "created": {"type": "integer"},
        "size": {"type": "string"},
        "output_format": {"enum": list(KINDS)},
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["seed"],
                "properties": {"b64_json": {"type": "string"}, "url": {"type": "string"}, "seed": _SEED},
            },
        },
    },
}

_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def _get(summary: str, *statuses: int) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": _json(summary, {"type": "object"}), **_errors(*statuses)}}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _errors(*statuses: int) -> dict[str, Any]:
    return {str(status): _ERROR for status in (*statuses, 401)}
