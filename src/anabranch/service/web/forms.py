"""Forms with which people start, cancel, resume and approve runs from pages: each asks first, and is sent by POST.

They are plain HTML, without scripts. Who may send one, and from where, is decided before.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from anabranch.base.actors import acting
from anabranch.base.errors import AnabranchError
from anabranch.monitoring.pages.looks import safe
from anabranch.service.web.actions import Actions
from anabranch.service.web.inputs import PREFIX, BadInput, read_values, render_fields
from anabranch.service.web.models import (
    ApproveAsked,
    DeedsAsked,
    PauseAsked,
    Refused,
    StartAsked,
    check_asked,
    status_of,
)
from anabranch.web.guard import FORMS, Guard, root_of
from anabranch.web.handlers import FormHandler, PageHandler, Route
from anabranch.web.plain import build_page, exact


def form_routes(actions: Actions, guard: Guard) -> list[Route]:
    """Routes of the forms."""
    options = {"actions": actions, "guard": guard}
    kinds: dict[str, type[_Form]] = {
        "run": _Start, "pause": _Pause, "cancel": _Cancel, "resume": _Resume, "approve": _Approve
    }  # fmt: skip
    return [(AUDIT, _Audit, options), *((rf"{FORMS}{name}", kind, options) for name, kind in kinds.items())]


AUDIT = "/audit"
"""The path of the page that shows who did what: of all, or with ``?of=`` of a flow, run or group."""


class _Audit(PageHandler):
    """Who did what."""

    def initialize(self, actions: Actions, guard: Guard) -> None:
        self._actions = actions

    async def get(self) -> None:
        """Show it."""
        subject = self.get_query_argument("of", None)
        try:
            asked = check_asked(DeedsAsked, {"limit": 1_000, **({"subject": subject} if subject else {})})
            found = (await asyncio.to_thread(self._actions.deeds, asked))["deeds"]
        except AnabranchError as error:
            self.notice(str(error), status=status_of(error))
            return
        shown = ("at", "who", "verb", "subject", "detail")
        cells = ("".join(f"<td>{safe(each[name], 500)}</td>" for name in shown) for each in found)
        lines = "".join(f"<tr>{each}</tr>" for each in cells)
        head = "<tr><th>when</th><th>who</th><th>did</th><th>to</th><th></th></tr>"
        table = f"<table>{head}{lines}</table>" if found else "<p>Nothing yet.</p>"
        title = f"Who did what{f': {subject}' if subject else ''}"
        self.page(build_page(title, f'{table}<p><a href="{root_of(self.request)}">All runs</a></p>'))


class _Form(FormHandler):
    """A page that asks, and a POST that does it and leads to the result."""

    def initialize(self, actions: Actions, guard: Guard) -> None:
        self.actions = actions
        self.guard = guard

    async def get(self) -> None:
        """Ask."""
        await self._tell(self.asked)

    async def post(self) -> None:
        """Do it."""
        await self._tell(self.done)

    async def _tell(self, work: Callable[[], tuple[str, str]]) -> None:
        """Do work in a thread; it gives a place to go to, or else a page."""
        try:
            with acting(self.guard.name_of(self.request)):
                place, text = await asyncio.to_thread(work)
        except BadInput as error:
            self.page(str(error), status=422)
        except AnabranchError as error:
            self.notice(str(error), status=status_of(error))
        else:
            if place:
                self.to(place)
            else:
                self.page(text)

    def asked(self) -> tuple[str, str]:
        """The page that asks."""
        raise NotImplementedError

    def done(self) -> tuple[str, str]:
        """Do it; where to look then."""
        raise NotImplementedError

    def name(self, name: str) -> str:
        """The flow or run of the form: an argument of its address."""
        found = self.get_query_arguments(name, strip=False)
        if len(found) != 1 or not 1 <= len(found[0]) <= 200:
            raise Refused(400, f"{name}: expected one name")
        self.subject = found[0]
        return self.subject

    def confirm(self, title: str, inner: str, button: str, back: str) -> str:
        """A form around some fields."""
        return build_page(title, self.form(f'{inner}<button>{safe(button)}</button> <a href="{exact(back)}">back</a>'))


class _Start(_Form):
    """Start a run of a flow."""

    def asked(self) -> tuple[str, str]:
        return "", self._page(self.actions.flow(self.name("flow")), None, "", secrets.token_hex(8))

    def done(self) -> tuple[str, str]:
        flow = self.actions.flow(self.name("flow"))
        once = self.get_body_argument("once", "")
        given = {
            name.removeprefix(PREFIX): self.get_body_argument(name, strip=False)
            for name in self.request.body_arguments
            if name.startswith(PREFIX)
        }
        try:
            body: dict[str, Any] = {"parameters": read_values(flow["parameters"], given)}
            if once:  # the same form sent twice starts one run
                body["idempotency_key"] = f"form {once[:100]}"
            started = self.actions.start(flow["name"], check_asked(StartAsked, body))
        except (BadInput, Refused) as error:
            if isinstance(error, Refused) and error.status != 422:
                raise
            raise BadInput(self._page(flow, given, str(error), once)) from None
        return f"/run?id={quote(started['run_id'], safe='')}&said=run", ""

    def _page(self, flow: dict[str, Any], given: dict[str, str] | None, problem: str, once: str) -> str:
        name = flow["name"]
        told = f'<p class="notice" role="alert">{safe(problem, 2_000)}</p>' if problem else ""
        hidden = f'<input type="hidden" name="once" value="{exact(once)}">'
        inner = told + hidden + render_fields(flow["parameters"], given)
        return self.confirm(f"Run {name}", inner, "Start the run", f"../flow?name={quote(name, safe='')}")


class _Pause(_Form):
    """Pause a flow's schedule, or continue it."""

    def asked(self) -> tuple[str, str]:
        flow = self.actions.flow(self.name("flow"))
        name, paused = flow["name"], flow["paused"]
        text = "Missed times get no runs." if paused else "It starts no runs until it is continued."
        inner = f'<p>{text}</p><input type="hidden" name="paused" value="{"" if paused else "yes"}">'
        title = f"{'Continue' if paused else 'Pause'} the schedule of {name}"
        return "", self.confirm(title, inner, title, f"../flow?name={quote(name, safe='')}")

    def done(self) -> tuple[str, str]:
        name = self.name("flow")
        self.actions.pause(name, PauseAsked(paused=self.get_body_argument("paused", "") == "yes"))
        return f"/flow?name={quote(name, safe='')}", ""


class _OfRun(_Form):
    """A form about a run."""

    title = ""
    text = ""
    said = ""

    def asked(self) -> tuple[str, str]:
        run_id = self.name("run")
        run = self.actions.run(run_id)
        inner = (
            f"<p>Run <b>{safe(run_id)}</b> of flow <b>{safe(run['flow'])}</b> is {safe(run['state'])}. {self.text}</p>"
            f"{self.more(run)}"
        )
        return "", self.confirm(self.title, inner, self.title, f"../run?id={quote(run_id, safe='')}")

    def more(self, run: dict[str, Any]) -> str:
        """Further fields."""
        return ""

    def done(self) -> tuple[str, str]:
        run_id = self.name("run")
        self.act(run_id)
        return f"/run?id={quote(run_id, safe='')}&said={self.said}", ""

    def act(self, run_id: str) -> None:
        """Do it."""
        raise NotImplementedError


class _Cancel(_OfRun):
    title, said = "Cancel the run", "cancel"
    text = "What runs now may still end; the run can be resumed."

    def act(self, run_id: str) -> None:
        self.actions.cancel(run_id)


class _Resume(_OfRun):
    title, said = "Resume the run", "resume"
    text = "What has finished does not run again."

    def act(self, run_id: str) -> None:
        self.actions.resume(run_id)


class _Approve(_OfRun):
    title, said = "Approve", "approve"
    text = "These tasks wait for an approval; those that you choose run, and the run continues."

    def more(self, run: dict[str, Any]) -> str:
        waiting = [slug for slug, task in run.get("tasks", {}).items() if task["state"] == "Paused"]
        if not waiting:
            raise Refused(409, f"no task of run {run['run_id']} waits for an approval")
        return "".join(
            f'<label><input type="checkbox" name="task" value="{exact(slug)}" checked>{safe(slug)}</label>'
            for slug in waiting
        )

    def act(self, run_id: str) -> None:
        tasks = self.get_body_arguments("task", strip=False)
        if not tasks:
            raise Refused(422, "no task was chosen; go back, and choose one")
        self.actions.approve(run_id, check_asked(ApproveAsked, {"tasks": tasks}))
