"""What the pages of runs and flows show and offer in a service, beside what is recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote

from anabranch.base.errors import RunStoreError
from anabranch.monitoring.pages.library import Library
from anabranch.monitoring.pages.log_route import log_route
from anabranch.runs.store.opening import store_to_show
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.runs.store.slots import RUNNING, WAITING
from anabranch.web.guard import FORMS, OPERATOR, Guard
from anabranch.web.handlers import Route
from anabranch.web.server import Make, Served

_FORMS = FORMS.strip("/")  # addresses are relative, so that a proxy may serve the pages below another path


class ServiceDesk:
    """What a service knows of runs that have not begun, and what it does for who may ask.

    Parameters
    ----------
    store
        The run store, with the registry in it.
    """

    def __init__(self, store: RelationalRunStore) -> None:
        self._queue = SlotQueue(store.database)

    def standing(self, run_id: str) -> str | None:
        """What is known of a run that is not recorded; None if nothing is."""
        slot = self._queue.get(run_id)
        if slot is None:
            return None
        if slot.state == WAITING:
            why = f": {slot.message}" if slot.message else ""
            return f"Run {run_id} of flow {slot.flow_name} waits to begin, at {slot.due:%Y-%m-%d %H:%M:%S %Z}{why}"
        if slot.state == RUNNING:
            return f"Run {run_id} of flow {slot.flow_name} is about to begin, at {slot.owner}"
        return f"Run {run_id} of flow {slot.flow_name} did not begin: {slot.state}: {slot.message}"

    def run_links(self, run_id: str, state: str, role: str) -> Sequence[tuple[str, str]]:
        """Addresses of the forms for a run, with texts."""
        verbs = {"Running": ["cancel"], "Waiting": ["cancel"], "Success": [], "Paused": ["approve", "resume"]}
        known = verbs.get(state, ["resume"]) if role == OPERATOR else []
        links = [(f"{_FORMS}/{verb}?run={quote(run_id, safe='')}", f"{verb}…") for verb in known]
        return [*links, (f"audit?of={quote(run_id, safe='')}", "who did what")]

    def flow_links(self, name: str, role: str, *, paused: bool | None) -> Sequence[tuple[str, str]]:
        """Addresses of the forms for a registered flow, with texts."""
        flow = quote(name, safe="")
        audit = (f"audit?of={flow}", "who did what")
        if role != OPERATOR:
            return [audit]
        links = [(f"{_FORMS}/run?flow={flow}", "run…")]
        if paused is not None:
            links.append((f"{_FORMS}/pause?flow={flow}", f"{'continue' if paused else 'pause'} its schedule…"))
        return [*links, audit]

    def counts(self) -> str:
        """How many runs wait and run, in words; nothing if none does."""
        try:
            counts = self._queue.counts()
        except RunStoreError:
            return ""
        parts = [
            f"{counts[state]:,} {text}"
            for state, text in ((WAITING, "wait to begin"), (RUNNING, "run"))
            if counts.get(state)
        ]
        return ", ".join(parts)


def pages_of(store: RelationalRunStore, guard: Guard, broken: Callable[[], Mapping[str, str]] = dict) -> Make:
    """What serves the pages of runs and flows beside the service's own routes.

    Parameters
    ----------
    store
        The run store, with the registry in it.
    guard
        Knows who looks.
    broken
        Files that cannot be registered, with the reasons.
    """

    def make(routes: list[Route]) -> Served:
        from anabranch.monitoring.pages.documents import applications  # only now: Bokeh's server takes half a second
        from anabranch.web.bokeh import BokehPages

        library = Library(store_to_show, desk=ServiceDesk(store), broken=broken)
        return BokehPages(applications(library), guard, [*routes, log_route(library)])

    return make
