"""What can be asked of the API, as a table and as an OpenAPI document, which a fuzzer checks in the tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from anabranch.base.version import VERSION
from anabranch.service.web import models
from anabranch.service.web.actions import Actions
from anabranch.service.web.models import Asked


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that can be asked of the API."""

    method: str
    path: str
    name: str
    act: Callable[..., dict[str, Any]]
    """Of `Actions`: takes the names in the path and, unless it asks nothing, what is asked."""
    gives: type[BaseModel]
    asks: type[Asked] = Asked
    """The query of a GET, the body of a POST; nothing of a DELETE."""
    status: int = 200


OPERATIONS = (
    Operation("get", "/api/flows", "listFlows", Actions.flows, models.Flows, models.FlowsAsked),
    Operation("get", "/api/flows/{name}", "showFlow", Actions.flow, models.Flow),
    Operation("delete", "/api/flows/{name}", "removeFlow", Actions.remove, models.Flow),
    Operation("post", "/api/flows/{name}/runs", "startRun", Actions.start, models.Started, models.StartAsked, 202),
    Operation("post", "/api/flows/{name}/pause", "pauseFlow", Actions.pause, models.Flow, models.PauseAsked),
    Operation("get", "/api/runs", "listRuns", Actions.runs, models.Runs, models.RunsAsked),
    Operation("get", "/api/runs/{run_id}", "showRun", Actions.run, models.Run),
    Operation("post", "/api/runs/{run_id}/cancel", "cancelRun", Actions.cancel, models.Run, status=202),
    Operation("post", "/api/groups/{group}/cancel", "cancelGroup", Actions.cancel_group, models.Group, status=202),
    Operation("post", "/api/runs/{run_id}/resume", "resumeRun", Actions.resume, models.Run, status=202),
    Operation(
        "post", "/api/runs/{run_id}/approve", "approveRun", Actions.approve, models.Run, models.ApproveAsked, 202
    ),
    Operation("get", "/api/waiting", "listWaiting", Actions.waiting, models.Waiting, models.WaitingAsked),
    Operation("get", "/api/audit", "listDeeds", Actions.deeds, models.Deeds, models.DeedsAsked),
)
_SCHEMAS = "#/components/schemas/"
_NAME = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": r"^[^/?#\x00-\x1f]+$"}
_REFUSALS = {
    400: "The request does not match this document.",
    401: "A token is needed.",
    403: "The role, host, origin or site is not allowed.",
    404: "There is no such flow, run or group.",
    409: "The state of the flow or run does not allow it.",
    415: "The body is not JSON.",
    422: "The values are not valid.",
    429: "Too many wrong tokens.",
    503: "The run store does not answer.",
}


def by_path() -> dict[str, list[Operation]]:
    """The operations of each path."""
    found: dict[str, list[Operation]] = {}
    for each in OPERATIONS:
        found.setdefault(each.path, []).append(each)
    return found


def build_document() -> dict[str, Any]:
    """The OpenAPI document."""
    used: set[type[BaseModel]] = {models.Problem}.union(*({each.asks, each.gives} for each in OPERATIONS))
    template = f"{_SCHEMAS}{{model}}"
    _, schemas = models_json_schema([(each, "validation") for each in sorted(used, key=str)], ref_template=template)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "anabranch service",
            "version": VERSION,
            "description": "Requests that change something have Content-Type: application/json.",
        },
        "paths": {
            path: {each.method: _describe_operation(each, schemas["$defs"]) for each in operations}
            for path, operations in by_path().items()
        },
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _describe_operation(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    names = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    is_change, has_body = operation.method != "get", operation.method == "post"
    refusals = {400, 401, 403, 429, 503} | ({404} if names else set()) | ({409, 415, 422} if is_change else set())
    found: dict[str, Any] = {
        "operationId": operation.name,
        "summary": (operation.act.__doc__ or "").partition("\n")[0],
        "parameters": [{"name": each, "in": "path", "required": True, "schema": _NAME} for each in names],
        "responses": {
            str(operation.status): {"description": "Done.", **_json(operation.gives)},
            **{str(each): {"description": _REFUSALS[each], **_json(models.Problem)} for each in sorted(refusals)},
        },
    }
    if has_body:
        found["requestBody"] = {"required": True, **_json(operation.asks)}
    else:
        for name, schema in schemas[operation.asks.__name__].get("properties", {}).items():
            plain = schema["anyOf"][0] if "anyOf" in schema else schema  # a query has no null
            found["parameters"].append({"name": name, "in": "query", "schema": plain})
    return found


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": {"$ref": f"{_SCHEMAS}{model.__name__}"}}}}
