"""The HTTP API: paths and bodies to `actions`, and what these refuse to statuses."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from tornado.web import HTTPError

from anabranch.base.errors import RunQueryError, RunStoreError
from anabranch.service.web import openapi
from anabranch.service.web.actions import MAX_LIMIT, Actions, Refused
from anabranch.service.web.server import JsonHandler, Route

_SEGMENT = r"([^/]+)"
Health = Callable[[], bool]


def api_routes(actions: Actions, is_well: Health) -> list[Route]:
    """Routes of the API; `is_well` says whether the service's turns go on."""
    options = {"actions": actions}
    return [
        (r"/healthz", _Healthz, {"is_well": is_well}),
        (r"/api/openapi\.json", _Document, {}),
        (r"/api/flows", _Flows, options),
        (rf"/api/flows/{_SEGMENT}", _Flow, options),
        (rf"/api/flows/{_SEGMENT}/runs", _Start, options),
        (rf"/api/flows/{_SEGMENT}/pause", _Pause, options),
        (r"/api/runs", _Runs, options),
        (rf"/api/runs/{_SEGMENT}", _Run, options),
        (rf"/api/runs/{_SEGMENT}/cancel", _Cancel, options),
        (rf"/api/runs/{_SEGMENT}/resume", _Resume, options),
        (rf"/api/runs/{_SEGMENT}/approve", _Approve, options),
        (r"/api/waiting", _Waiting, options),
    ]


class _Healthz(JsonHandler):
    def initialize(self, is_well: Health) -> None:
        self._is_well = is_well

    def get(self) -> None:
        is_well = self._is_well()
        self.reply({"status": "ok" if is_well else "stuck"}, status=200 if is_well else 503)


class _Document(JsonHandler):
    def get(self) -> None:
        self.reply(openapi.document())


class _Action(JsonHandler):
    """What all routes have: names from the path, values from the query, a body as its schema has it."""

    def initialize(self, actions: Actions) -> None:
        self.actions = actions

    async def do(self, work: Callable[[], Any], *, status: int = 200) -> None:
        """Do something in a thread, and send what it gives, or why it was refused."""
        try:
            found = await asyncio.get_running_loop().run_in_executor(None, work)
        except Refused as error:
            self.reply({"error": str(error)}, status=error.status)
        except RunQueryError as error:
            self.reply({"error": str(error)}, status=400)
        except RunStoreError as error:
            self.reply({"error": str(error)}, status=503)
        else:
            self.reply(found, status=status)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Refusals of Tornado's, and bugs, in the form of all others."""
        error = kwargs.get("exc_info", (None, None))[1]
        text = error.log_message if isinstance(error, HTTPError) and error.log_message else self._reason
        self.finish(json.dumps({"error": text}))

    def text(self, name: str) -> str | None:
        """A value of the query, if it is given."""
        values = self.get_query_arguments(name, strip=False)
        if len(values) > 1:
            raise _bad(f"{name}: given twice")
        if values and not 1 <= len(values[0]) <= 200:
            raise _bad(f"{name}: expected 1 to 200 characters, found {len(values[0])}")
        return values[0] if values else None

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """A number of the query."""
        text = self.text(name)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) or not least <= int(text) <= most:
            raise _bad(f"{name}: expected a number from {least:,} to {most:,}, found {text!r:.40}")
        return int(text)

    def page(self) -> tuple[int, int]:
        """Limit and offset."""
        return self.number("limit", 100, 1, MAX_LIMIT), self.number("offset", 0, 0, 10**9)

    def only(self, *names: str) -> None:
        """Refuse a query that asks for something else."""
        unknown = [name for name in self.request.query_arguments if name not in names]
        if unknown:
            raise _bad(f"there is no {unknown[0]!r:.80} to ask for; there are: {', '.join(names) or 'none'}")

    def body(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """The request's body, checked."""
        self.only()
        try:
            value = json.loads(self.request.body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise _bad(f"the body is not JSON: {error}") from None
        problem = problem_of(value, schema, "the body")
        if problem:
            raise _bad(problem)
        found: dict[str, Any] = value
        return found


def problem_of(value: Any, schema: Mapping[str, Any], what: str) -> str | None:
    """What is wrong with a value, as far as the schemas of `openapi` go; None if nothing is."""
    kinds: dict[str, tuple[type, ...]] = {"object": (dict,), "string": (str,), "boolean": (bool,), "array": (list,)}
    kind = schema.get("type")
    if kind in kinds and not isinstance(value, kinds[kind]):
        return f"{what}: expected {_article(kind)}, found {type(value).__name__}"
    if kind == "string" and not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**6):
        return f"{what}: expected {schema.get('minLength', 0)} to {schema.get('maxLength', 10**6)} characters"
    if kind == "array":
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 10**6):
            return f"{what}: expected {schema.get('minItems', 0)} to {schema.get('maxItems', 10**6)} entries"
        problems = (problem_of(each, schema["items"], f"{what}[{index}]") for index, each in enumerate(value))
        return next((problem for problem in problems if problem), None)
    if kind == "object":
        known = schema.get("properties", {})
        for name in schema.get("required", ()):
            if name not in value:
                return f"{what}: {name} is missing"
        for name, each in value.items():
            if name not in known and schema.get("additionalProperties") is False:
                return f"{what}: there is no {name!r:.80}; there are: {', '.join(known) or 'none'}"
            if name in known and (problem := problem_of(each, known[name], name)):
                return problem
    return None


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeio' else 'a'} {kind}"


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _bad(text: str) -> HTTPError:
    return HTTPError(400, text.replace("%", "%%"))


class _Flows(_Action):
    async def get(self) -> None:
        self.only("project", "limit", "offset")
        project, (limit, offset) = self.text("project"), self.page()
        await self.do(lambda: self.actions.flows(project, limit, offset))


class _Flow(_Action):
    async def get(self, name: str) -> None:
        self.only()
        await self.do(lambda: self.actions.flow(name))


class _Start(_Action):
    async def post(self, name: str) -> None:
        body = self.body(openapi.START)
        await self.do(lambda: self.actions.start(name, body), status=202)


class _Pause(_Action):
    async def post(self, name: str) -> None:
        body = self.body(openapi.PAUSE)
        await self.do(lambda: self.actions.pause(name, body))


class _Runs(_Action):
    async def get(self) -> None:
        self.only("flow", "state", "limit", "offset")
        flow, state, (limit, offset) = self.text("flow"), self.text("state"), self.page()
        await self.do(lambda: self.actions.runs(flow, state, limit, offset))


class _Run(_Action):
    async def get(self, run_id: str) -> None:
        self.only()
        await self.do(lambda: self.actions.run(run_id))


class _Cancel(_Action):
    async def post(self, run_id: str) -> None:
        self.body(openapi.EMPTY)
        await self.do(lambda: self.actions.cancel(run_id), status=202)


class _Resume(_Action):
    async def post(self, run_id: str) -> None:
        self.body(openapi.EMPTY)
        await self.do(lambda: self.actions.resume(run_id), status=202)


class _Approve(_Action):
    async def post(self, run_id: str) -> None:
        body = self.body(openapi.APPROVE)
        await self.do(lambda: self.actions.approve(run_id, body), status=202)


class _Waiting(_Action):
    async def get(self) -> None:
        self.only("flow", "limit")
        flow, limit = self.text("flow"), self.number("limit", 100, 1, MAX_LIMIT)
        await self.do(lambda: self.actions.waiting(flow, limit))
