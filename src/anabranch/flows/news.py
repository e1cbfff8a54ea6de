"""Whom a flow tells of runs that cannot tell themselves: notifiers that the registry keeps, and its own handlers.

The registry has them in case the flow does not load. It keeps no secrets, so a notifier that holds one is told as the
other handlers are: once the flow is loaded.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from anabranch.base import origins
from anabranch.base.errors import AnabranchError
from anabranch.base.known_secrets import MIN_SECRET
from anabranch.base.masking import SECRET_NAME, has_secret
from anabranch.base.states import State
from anabranch.base.texts import type_name
from anabranch.engine.driver.handlers import FlowHandlers
from anabranch.flows.flow import Flow
from anabranch.monitoring.bulletins import Bulletin, telling_of
from anabranch.monitoring.notifiers import Notifier
from anabranch.runs.registry.seal import check_seal
from anabranch.runs.store.flows import FlowRecord, FlowTable

_log = logging.getLogger("anabranch.service")


def pack_notifiers(flow: Flow) -> bytes | None:
    """The notifiers of a flow as the registry keeps them; None if there is none that it may keep."""
    kept = [each for each in flow.state_handlers if _is_kept(each)]
    last = flow.on_failure if _is_kept(flow.on_failure) else None
    return origins.dumps((kept, last)) if kept or last is not None else None


def tell(flows: FlowTable, name: str, state: State, *, run_id: str = "", loads: bool = True) -> None:
    """Tell of a run of a registered flow that has ended without its handlers, each of them once.

    Parameters
    ----------
    state
        In which it has ended.
    run_id
        Which run that is; empty if it is none.
    loads
        Whether the flow may be loaded for what the registry does not keep. That comes last, as it may end the process.
    """
    with telling_of(run_id) if run_id else nullcontext():
        try:
            record = flows.get(name)
            kept = _unpack(record)
            if kept is not None:
                kept.tell_last(state)
            others = _others(record, kept) if loads else None
        except (AnabranchError, RecursionError) as error:
            _log.warning("not all handlers of flow %s are told of a run that is %s: %s", name, state.name, error)
            return
        if others is not None:
            others.tell_last(state)


def tell_notifiers(flows: FlowTable, news: Bulletin) -> None:
    """Tell the notifiers of a registered flow of something that no handler is for, each of them once."""
    told: list[Notifier] = []
    try:
        record = flows.get(news.flow)
        kept = _unpack(record)
        # What the registry keeps comes first: the flow may not load.
        sources: list[Callable[[], FlowHandlers | None]] = [lambda: kept, lambda: _others(record, kept)]
        for find in sources:
            found = find()
            for each in (*found.state_handlers, found.on_failure) if found is not None else ():
                if isinstance(each, Notifier) and not any(each is other for other in told):
                    told.append(each)
                    each.tell(news)
    except (AnabranchError, RecursionError) as error:
        _log.warning("not all notifiers of flow %s are told that it is %s: %s", news.flow, news.state, error)


def _others(record: FlowRecord, kept: FlowHandlers | None) -> FlowHandlers:
    """The handlers of a flow, which is loaded for them, but those that the registry keeps."""
    from anabranch.flows.registered import load_registered

    flow = load_registered(record).flow
    handlers, last = [*flow.state_handlers], flow.on_failure
    if kept is not None:
        handlers, last = [each for each in handlers if not _is_kept(each)], None if _is_kept(last) else last
    return FlowHandlers(flow, handlers, last)


def _is_kept(handler: Any) -> bool:
    if not isinstance(handler, Notifier) or _names_secret(vars(handler)):
        return False
    try:
        pickled = origins.dumps(handler)
    except Exception:  # whatever a user's own raises when it is pickled
        return False
    found = (value for name, value in os.environ.items() if _is_secret(name) and len(value) >= MIN_SECRET)
    return not has_secret(pickled) and not any(value.encode(errors="surrogateescape") in pickled for value in found)


def _names_secret(values: Mapping[str, Any]) -> bool:
    """Whether one of these, or of what it holds (the body of a webhook may), is named like a secret."""
    named = ((str(name), value) for name, value in values.items() if value)
    return any(_is_secret(name) or (isinstance(value, Mapping) and _names_secret(value)) for name, value in named)


def _is_secret(name: str) -> bool:
    """Whether an attribute or a variable of this name has a secret, as the address of a webhook is one."""
    if name.lower().endswith("_env"):  # the name of a variable
        return False
    return SECRET_NAME.search(name) is not None or "hook" in name.lower() or "url" in name.lower().split("_")


def _unpack(record: FlowRecord) -> FlowHandlers | None:
    """What the registry keeps; None if that is nothing, or does not load here."""
    if record.notifiers is None:
        return None
    check_seal(record)
    try:
        handlers, last = pickle.loads(record.notifiers)
    except Exception as error:  # a pickle runs code, which may raise anything
        _log.warning("the notifiers of flow %s do not load: %s", record.name, type_name(error))
        return None
    return FlowHandlers(record, handlers, last)
