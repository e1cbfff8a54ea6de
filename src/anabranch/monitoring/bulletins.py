"""Bulletins: what people are told of a run or a flow, in parts, so that a message can be made of them in any form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from anabranch.base import context
from anabranch.base.errors import OptionError, RunStoreError, listed, nearest
from anabranch.base.masking import mask
from anabranch.base.names import short
from anabranch.base.settings import config
from anabranch.base.states import FIRST_FAILED_CODE, Cancelled, Failure, State, TriggerFailed

MAX_TEXT = 2_000  # characters of a message: the rest is in the history
NEWS = ("Late", "Stuck", "Backlog", "Recovered")
"""What is told by services, beside states: names, as `Notifier` takes them for its `states`."""
_NOT_ROOTS = (TriggerFailed.code, Cancelled.code)
_FIELD = re.compile(r"\{([a-z_]+)\}")
_about: ContextVar[str] = ContextVar("anabranch_told_run", default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulletin:
    """What a notifier is to tell. Secrets that this process knows are masked in all of it.

    Examples
    --------
    >>> from anabranch.notifiers import Bulletin
    >>> news = Bulletin(what="etl", state="Failed", message="no such host", run_id="3aab", task="parse[7]")
    >>> print(news.details)
    etl: Failed: no such host
    run 3aab
    task parse[7]
    """

    what: str
    """The flow, or a task of a flow, in words."""
    state: str
    """Name of a state, or ``Late``, ``Stuck``, ``Backlog`` or ``Recovered``."""
    message: str = ""
    flow: str = ""
    run_id: str = ""
    url: str = ""
    """Of the run's page, or the flow's; empty if ``service.url`` is not set."""
    task: str = ""
    """The task run that failed first, such as ``parse[777]``."""
    error: str = ""
    """Its exception, on one line."""
    line: str = ""
    """``file:line`` of the user's code that raised it."""
    left_out: int = 0
    """Number of messages before this one that were not sent."""

    @property
    def title(self) -> str:
        """What happened to what."""
        text = f"{self.what}: {self.state}" + (f": {self.message}" if self.message else "")
        return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"

    @property
    def details(self) -> str:
        """A message with all that is known, one thing a line."""
        cause = f"task {self.task}" + (f": {self.error}" if self.error and self.error not in self.message else "")
        lines = (self.run_id and f"run {self.run_id}", cause if self.task else "", self.line, self.url, self._left_out)
        return "\n".join([self.title, *filter(None, lines)])

    @property
    def _left_out(self) -> str:
        return f"({self.left_out:,} messages before this one were left out)" if self.left_out else ""

    @property
    def fields(self) -> dict[str, str]:
        """All parts as texts, by name, with ``title`` and ``text``: what is in braces in a template."""
        return {**{name: str(value) for name, value in asdict(self).items()}, "title": self.title, "text": self.details}


FIELDS = tuple(Bulletin(what="", state="").fields)
_SHOWN = listed(FIELDS)


@contextmanager
def telling_of(run_id: str) -> Iterator[None]:
    """Within it, what is told is about this run, where nothing else says which it is about."""
    token = _about.set(run_id)
    try:
        yield
    finally:
        _about.reset(token)


def bulletin_of(subject: Any, state: State) -> Bulletin:
    """What to tell of a state that a handler has seen."""
    name = getattr(subject, "name", subject)
    name = name if isinstance(name, str) else short(name, 200)
    running, flow = context.get("task_full_name"), context.get("flow_name") or name
    whole = getattr(state.result, "_whole", None)  # of a run that has ended in this process
    run_id = context.get("run_id") or (whole.plan.run_id if whole is not None else _about.get())
    task, failure = running or "", state.failure
    if not running:
        runs = whole.runs.values() if whole is not None else ()
        task, failure = _root(state.failure, [each.state.failure for each in runs if _is_root(each.state.code)])
        if not task and run_id and state.is_failed():
            task, failure = _recorded_root(run_id)
    return Bulletin(
        what=mask(f"task {running} of flow {flow}" if running else name),
        state=state.name,
        message=mask(state.message),
        flow=mask(flow),
        run_id=run_id,
        url=page_of(run_id=run_id, flow=flow),
        task=mask(task) if state.is_failed() else "",
        error=mask(failure.headline()) if failure is not None and task else "",
        line=mask(_line_of(failure)),
    )


def page_of(*, run_id: str = "", flow: str = "") -> str:
    """Where the page of a run, or of a flow, is for people; empty if that is not known."""
    base = config.service.url.rstrip("/")
    if not base or not (run_id or flow):
        return ""
    return f"{base}/run?id={quote(run_id, safe='')}" if run_id else f"{base}/flow?name={quote(flow, safe='')}"


def _is_root(code: int) -> bool:
    return code >= FIRST_FAILED_CODE and code not in _NOT_ROOTS


def _root(failure: Failure | None, found: list[Failure | None]) -> tuple[str, Failure | None]:
    """The task run that failed first, and how, among the failures of a run's tasks."""
    known = [each for each in found if each is not None and each.root]
    wanted = failure.root if failure is not None else ""
    first = next((each for each in known if each.root == wanted), known[0] if known else failure)
    return (first.root, first) if first is not None else ("", None)


def _recorded_root(run_id: str) -> tuple[str, Failure | None]:
    from anabranch.runs.record.reports import failure_of
    from anabranch.runs.store.opening import current_store

    try:
        store = current_store()
        rows = [] if store is None else [each for each in store.task_runs(run_id) if _is_root(each.code)]
    except RunStoreError:  # what is told is told without it
        return "", None
    rows.sort(key=lambda row: (row.end is None, row.end))
    for row in rows:
        failure = failure_of(row)
        if failure is not None:
            return failure.root or row.slug, failure
    return (rows[0].slug, None) if rows else ("", None)


def _line_of(failure: Failure | None) -> str:
    from anabranch.monitoring.failures import own_place

    place = own_place(failure) if failure is not None else None
    return f"{place.file}:{place.line}" if place is not None else ""


# Bodies of one's own --------------------------------------------------------------------------------------------------


def check_template(template: object) -> None:
    """Refuse what is neither a template nor a function.

    Raises
    ------
    OptionError
        It is neither, or names a field that there is not.
    """
    if callable(template):
        return
    if not isinstance(template, (str, Mapping, list)):
        raise OptionError(f"body: expected a text, a dict, a list or a function, found {short(template)}")
    for text in _texts_in(template):
        for name in _FIELD.findall(text):
            if name not in FIELDS:
                raise OptionError(f"body: a bulletin has no {{{name}}}{nearest(name, FIELDS)}; it has: {_SHOWN}")


def fill(template: Any, news: Bulletin) -> bytes:
    """The body of a message: what a function gives, or a template with its fields filled in; JSON, if it is no text."""
    body = template(news) if callable(template) else _filled(template, news.fields)
    if isinstance(body, bytes):
        return body
    return (body if isinstance(body, str) else json.dumps(body, default=str)).encode()


def _texts_in(template: object) -> Iterator[str]:
    if isinstance(template, str):
        yield template
    elif isinstance(template, Mapping):
        for name, each in template.items():
            yield from _texts_in(name)
            yield from _texts_in(each)
    elif isinstance(template, list):
        for each in template:
            yield from _texts_in(each)


def _filled(template: Any, fields: Mapping[str, str], *, is_inside: bool = False) -> Any:
    if isinstance(template, str):
        # A text that is JSON gets texts as JSON has them between its quotes.
        is_json = not is_inside and template.lstrip()[:1] in ("{", "[")
        return _FIELD.sub(lambda at: json.dumps(fields[at[1]])[1:-1] if is_json else fields[at[1]], template)
    if isinstance(template, Mapping):
        items = template.items()
        return {_filled(k, fields, is_inside=True): _filled(each, fields, is_inside=True) for k, each in items}
    return [_filled(each, fields, is_inside=True) for each in template] if isinstance(template, list) else template
