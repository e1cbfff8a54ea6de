"""The API as an OpenAPI document: what `api` takes and gives, checked against each other by a fuzzer in the tests."""

from __future__ import annotations

from typing import Any

from anabranch.base.version import VERSION
from anabranch.service.web.actions import MAX_LIMIT

_TEXT = {"type": "string"}
_NAME = {"type": "string", "minLength": 1, "maxLength": 200}
START: dict[str, Any] = {
    "type": "object",
    "properties": {
        "parameters": {"type": "object"},
        "due": {"type": "string", "format": "date-time", "description": "Not before; default: now."},
        "idempotency_key": {"type": "string", "minLength": 1, "maxLength": 200},
    },
    "additionalProperties": False,
}
PAUSE: dict[str, Any] = {
    "type": "object",
    "properties": {"paused": {"type": "boolean"}},
    "required": ["paused"],
    "additionalProperties": False,
}
APPROVE: dict[str, Any] = {
    "type": "object",
    "properties": {"tasks": {"type": "array", "items": _NAME, "minItems": 1, "maxItems": 1_000}},
    "required": ["tasks"],
    "additionalProperties": False,
}
EMPTY: dict[str, Any] = {"type": "object", "additionalProperties": False}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(**properties: Any) -> dict[str, Any]:
    return {"type": "array", "items": _object(**properties)}


_RUN = {"run_id": _TEXT, "flow": _TEXT, "state": _TEXT, "message": _TEXT, "started": _TEXT}
_FLOW = {"name": _TEXT, "version": {"type": "integer"}, "schedule": _TEXT, "paused": {"type": "boolean"}}
_SLOT = {"run_id": _TEXT, "flow": _TEXT, "due": _TEXT, "state": _TEXT}


def _query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {**_NAME, "pattern": r"^[^/?#\x00-\x1f]+$"}}


_PAGE = [
    _query("limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}),
    _query("offset", {"type": "integer", "minimum": 0, "maximum": 10**9}),
]
_FILTER = {"type": "string", "minLength": 1, "maxLength": 200}


def _operation(
    name: str,
    summary: str,
    gives: dict[str, Any],
    *,
    parameters: list[dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
    status: int = 200,
    errors: tuple[int, ...] = (),
) -> dict[str, Any]:
    error = {"content": {"application/json": {"schema": _object(error=_TEXT)}}}
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "responses": {
            str(status): {"description": "Done.", "content": {"application/json": {"schema": gives}}},
            **{str(each): {"description": _WORDS[each], **error} for each in (400, 401, 403, 429, 503, *errors)},
        },
    }
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        content = {"application/json": {"schema": body}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


_WORDS = {
    400: "The request is not as this document has it.",
    401: "A token is needed.",
    403: "Another host or origin.",
    404: "There is no such flow or run.",
    409: "Not as things stand.",
    415: "The body is not JSON.",
    422: "The values cannot be.",
    429: "Too many wrong tokens.",
    503: "The run store does not answer.",
}
_CHANGES = (404, 409, 415, 422)


def document() -> dict[str, Any]:
    """The OpenAPI document."""
    flow, run = [_path("name")], [_path("run_id")]
    filters = [_query("flow", _FILTER), _query("state", _FILTER), *_PAGE]
    started = _object(run_id=_TEXT)
    changed = _object(run_id=_TEXT, state=_TEXT)
    paths: dict[str, Any] = {
        "/api/flows": {
            "get": _operation(
                "listFlows",
                "Registered flows, by name.",
                _object(flows=_list(**_FLOW), total={"type": "integer"}),
                parameters=[_query("project", _FILTER), *_PAGE],
            )
        },
        "/api/flows/{name}": {
            "get": _operation(
                "showFlow", "A flow, its graph and next times.", _object(**_FLOW), parameters=flow, errors=(404,)
            )
        },
        "/api/flows/{name}/runs": {
            "post": _operation(
                "startRun", "Start a run.", started, parameters=flow, body=START, status=202, errors=_CHANGES
            )
        },
        "/api/flows/{name}/pause": {
            "post": _operation(
                "pauseFlow",
                "Let the schedule rest, or go on.",
                _object(name=_TEXT),
                parameters=flow,
                body=PAUSE,
                errors=_CHANGES,
            )
        },
        "/api/runs": {
            "get": _operation("listRuns", "Runs, newest first.", _object(runs=_list(**_RUN)), parameters=filters)
        },
        "/api/runs/{run_id}": {
            "get": _operation(
                "showRun",
                "A run and its tasks.",
                _object(run_id=_TEXT, flow=_TEXT, state=_TEXT),
                parameters=run,
                errors=(404,),
            )
        },
        "/api/waiting": {
            "get": _operation(
                "listWaiting",
                "Runs that wait to begin.",
                _object(waiting=_list(**_SLOT), counts={"type": "object"}),
                parameters=[_query("flow", _FILTER), _PAGE[0]],
            )
        },
    }
    verbs = {
        "cancel": ("cancelRun", "Let a run not begin, or end.", EMPTY),
        "resume": ("resumeRun", "Let a run go on.", EMPTY),
        "approve": ("approveRun", "Let tasks run that wait for an approval.", APPROVE),
    }
    for verb, (name, summary, body) in verbs.items():
        operation = _operation(name, summary, changed, parameters=run, body=body, status=202, errors=_CHANGES)
        paths[f"/api/runs/{{run_id}}/{verb}"] = {"post": operation}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "anabranch service",
            "version": VERSION,
            "description": "Requests that change something have Content-Type: application/json.",
        },
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
    }
