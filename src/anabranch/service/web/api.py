"""The HTTP API: requests to `actions`, and what these refuse to statuses. What there is to ask is in `openapi`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from tornado.web import HTTPError

from anabranch.base.actors import acting
from anabranch.base.errors import AnabranchError
from anabranch.service.web.actions import Actions
from anabranch.service.web.models import Asked, Refused, check_asked, status_of
from anabranch.service.web.openapi import Operation, build_document, by_path
from anabranch.web.guard import HEALTH, READY, Guard
from anabranch.web.handlers import JsonHandler, Route

Health = Callable[[], bool]


def api_routes(
    actions: Actions,
    is_well: Health,
    guard: Guard,
    *,
    is_ready: Health | None = None,
    broken: Callable[[], int] = int,
) -> list[Route]:
    """Routes of the API.

    Parameters
    ----------
    is_well
        Whether the service works; if not, it should be started anew.
    guard
        Says who asks.
    is_ready
        Whether it can do now what it is asked for; default: as long as it works.
    broken
        How many files cannot be registered, which whoever asks for its health is told, and no more.
    """
    routes: list[Route] = [
        (HEALTH, _Healthz, {"is_well": is_well, "problem": "stuck", "broken": broken}),
        (READY, _Healthz, {"is_well": is_ready or is_well, "problem": "not ready"}),
        (r"/api/openapi\.json", _Document, {}),
    ]
    for path, operations in by_path().items():
        pattern = re.sub(r"{\w+}", r"([^/]+)", path)
        routes.append((pattern, _Action, {"actions": actions, "operations": operations, "guard": guard}))
    return routes


class _Healthz(JsonHandler):
    def initialize(self, is_well: Health, problem: str, broken: Callable[[], int] = int) -> None:
        self._is_well = is_well
        self._problem = problem
        self._broken = broken

    def get(self) -> None:
        is_well = self._is_well()
        files = {"broken_files": number} if (number := self._broken()) else {}
        self.reply({"status": "ok" if is_well else self._problem, **files}, status=200 if is_well else 503)


class _Document(JsonHandler):
    def get(self) -> None:
        self.reply(build_document())


class _Action(JsonHandler):
    """Checks what is asked of an operation, does it, and sends what it gives."""

    def initialize(self, actions: Actions, operations: Sequence[Operation], guard: Guard) -> None:
        self._actions = actions
        self._guard = guard
        self._operations = {each.method: each for each in operations}

    def prepare(self) -> None:
        """Refuse other methods."""
        if (self.request.method or "").lower() not in self._operations:
            raise HTTPError(405)

    @property
    def _operation(self) -> Operation:
        return self._operations[(self.request.method or "").lower()]

    async def get(self, *names: str) -> None:
        """Do it in a thread, and send what it gives, or why it was refused."""
        operation = self._operation
        try:
            asked = self._asked()
            given = (*names, asked) if operation.asks is not Asked else names
            with acting(self._guard.name_of(self.request)):
                found = await asyncio.to_thread(operation.act, self._actions, *given)
        except AnabranchError as error:
            self.reply({"error": str(error)}, status=status_of(error))
        else:
            self.reply(found, status=operation.status)

    post = delete = get

    def _asked(self) -> Asked:
        """What the query of a GET asks, or the body of a POST."""
        query = {name: self.get_query_arguments(name, strip=False) for name in self.request.query_arguments}
        if twice := [name for name, values in query.items() if len(values) > 1]:
            raise Refused(400, f"{twice[0]:.80}: given twice")
        texts = {name: values[0] for name, values in query.items()}
        if self._operation.method == "get":
            return check_asked(self._operation.asks, texts, is_query=True)
        check_asked(Asked, texts, is_query=True)
        if self._operation.method == "delete":
            return Asked()
        try:
            body = json.loads(self.request.body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"the body is not JSON: {error}") from None
        return check_asked(self._operation.asks, body)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Refusals of Tornado's, and bugs, in the form of all others."""
        error = kwargs.get("exc_info", (None, None))[1]
        text = error.log_message if isinstance(error, HTTPError) and error.log_message else self._reason
        self.finish(json.dumps({"error": text}))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
