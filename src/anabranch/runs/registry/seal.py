"""What the registry keeps of flows that becomes code when it is read: sealed with a key, where there is one.

Whoever can write to the registry, or to a flow storage, can have code run by the services. With the setting
``service.key``, only those can who also have the key: what has no seal of it is not loaded. A seal covers the flow's
name, so that it cannot be moved to another flow.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import pickle
from typing import Any

import cloudpickle

from anabranch.base.errors import ScheduleError, SealError
from anabranch.base.settings import config
from anabranch.runs.store.flows import FlowRecord
from anabranch.schedules import Schedule
from anabranch.schedules.as_json import NoForm, from_form, names_code, to_form

_MARK = b"anabranch-sealed:"
_DIGITS = 64
_CURE = "register it again, with the key (service.key)"


def seal_record(record: FlowRecord) -> str:
    """The seal of where a flow's code is, and of the code that is in the registry; empty where there is no key."""
    code = hashlib.sha256(record.code).hexdigest() if record.code is not None else ""
    return _mac("flow", record.name, json.dumps([record.source, record.storage, code]).encode())


def check_seal(record: FlowRecord) -> None:
    """Refuse a flow that nobody who has the key has registered.

    Raises
    ------
    SealError
        There is a key, and the seal is none of it.
    """
    if config.service.key and not hmac.compare_digest(record.seal.encode(), seal_record(record).encode()):
        found = "another key's seal, or was changed since" if record.seal else "no seal"
        raise SealError(f"flow {record.name!r} has {found}; {_CURE}")


def pack_schedule(schedule: Schedule, name: str) -> bytes:
    """A schedule as the registry keeps it: JSON if that can say it, else a pickle.

    Raises
    ------
    Exception
        It cannot be pickled either.
    """
    try:
        form = to_form(schedule)
    except NoForm:
        return _sealed("schedule", name, cloudpickle.dumps(schedule))
    data = json.dumps(form, sort_keys=True).encode()
    return _sealed("schedule", name, data) if names_code(form) else data


def schedule_of(record: FlowRecord, *, may_load: bool = True) -> Schedule | None:
    """The schedule of a registered flow.

    Parameters
    ----------
    may_load
        False: a schedule is refused whose times only code can tell.

    Raises
    ------
    SealError
        It is code, there is a key, and the seal is none of it.
    ScheduleError
        It does not load here, or it is code and must not be.
    """
    if record.schedule is None:
        return None
    sealed = record.schedule.startswith(_MARK)
    data = record.schedule[len(_MARK) + _DIGITS + 1 :] if sealed else record.schedule
    form = _form(data)
    if form is None or names_code(form):
        if not may_load:
            raise ScheduleError("only code knows the times of this schedule; services load it")
        if config.service.key:
            _check("schedule", record.name, record.schedule, data)
    return from_form(form) if form is not None else _unpickled(data)


def sealed_code(name: str, pickled: bytes) -> bytes:
    """A pickled flow as a flow storage keeps it."""
    return _sealed("code", name, pickled)


def opened_code(name: str, data: bytes) -> bytes:
    """The pickled flow of what a flow storage keeps.

    Raises
    ------
    SealError
        There is a key, and the seal is none of it.
    """
    rest = data[len(_MARK) + _DIGITS + 1 :] if data.startswith(_MARK) else data
    if config.service.key:
        _check("code", name, data, rest)
    return rest


def _form(data: bytes) -> dict[str, Any] | None:
    """The JSON that is kept; None if it is a pickle."""
    if not data.startswith(b"{"):
        return None
    try:
        found: dict[str, Any] = json.loads(data)
    except ValueError as error:
        raise ScheduleError(f"the stored schedule is incomplete: {error}") from error
    return found


def _unpickled(data: bytes) -> Schedule:
    try:
        found = pickle.loads(data)
    except Exception as error:  # a pickle runs code, which may raise anything
        raise ScheduleError(f"the schedule does not load here: {type(error).__name__}: {error}") from error
    if not isinstance(found, Schedule):
        raise ScheduleError(f"expected a schedule, found a {type(found).__name__}")
    return found


def _mac(what: str, name: str, data: bytes) -> str:
    key = config.service.key
    if not key:
        return ""
    head = json.dumps(["anabranch", what, name]).encode()
    return hmac.new(key.encode(), head + b"\0" + data, hashlib.sha256).hexdigest()


def _sealed(what: str, name: str, data: bytes) -> bytes:
    mac = _mac(what, name, data)
    return b"%b%b:%b" % (_MARK, mac.encode(), data) if mac else data


def _check(what: str, name: str, whole: bytes, data: bytes) -> None:
    if not hmac.compare_digest(whole, _sealed(what, name, data)):
        found = "another key's seal, or was changed since" if whole.startswith(_MARK) else "no seal"
        raise SealError(
            f"the {'schedule' if what == 'schedule' else 'stored code'} of flow {name!r} has {found}; {_CURE}"
        )
