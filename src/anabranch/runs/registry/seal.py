"""What the registry keeps of flows that becomes code when it is read: sealed with a key, where there is one.

Whoever can write to the registry, or to a flow storage, can have code run by the services. With the setting
``service.key``, only those can who also have the key: what has no seal of it is not loaded. A seal covers the flow's
name and all its code together, so that no part of it can be moved to another flow, nor put back from an older one.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from typing import Any

import cloudpickle

from anabranch.base.errors import ScheduleError, SealError
from anabranch.base.settings import config
from anabranch.base.signing import is_signed, sign
from anabranch.runs.store.flows import FlowRecord
from anabranch.schedules import Schedule
from anabranch.schedules.as_json import NoForm, from_form, names_code, to_form

_PURPOSE = "registered flow 1"
_DIGITS = 64


def seal_record(record: FlowRecord) -> str:
    """The seal of a flow, which begins with the digest of stored code; empty where there is no key."""
    key, digest = config.service.key, _digest(record.code)
    return digest + sign(key, _PURPOSE, _covered(record, digest)) if key else ""


def check_seal(record: FlowRecord) -> None:
    """Refuse a flow that nobody who has the key has registered like this.

    Raises
    ------
    SealError
        There is a key, and the seal is none of it; or there is a seal, and no key.
    """
    key, digest = config.service.key, record.seal[:_DIGITS]
    if not key and record.seal:
        raise SealError(
            f"flow {record.name!r} is sealed, and this process has no service.key to check that; set "
            "ANABRANCH__SERVICE__KEY"
        )
    is_whole = record.code is None or _digest(record.code) == digest  # lists are read without code
    if key and not (is_whole and is_signed(key, _PURPOSE, _covered(record, digest), record.seal[_DIGITS:])):
        found = "another key's seal, or was changed since" if record.seal else "no seal"
        raise SealError(f"flow {record.name!r} has {found}; register it again, with the key (service.key)")


def _covered(record: FlowRecord, digest: str) -> bytes:
    """The name of a flow, and all that becomes code: code in a flow storage is read by its digest."""
    further = [_digest(record.notifiers)] if record.notifiers is not None else []  # seals without them stay good
    covered = [record.name, record.source, record.storage, digest, _digest(record.schedule), *further]
    return json.dumps(covered).encode()


def _digest(data: bytes | None) -> str:
    return hashlib.sha256(data or b"").hexdigest()


def pack_schedule(schedule: Schedule) -> bytes:
    """A schedule as the registry keeps it: JSON if that can say it, else a pickle.

    Raises
    ------
    Exception
        It cannot be pickled either.
    """
    try:
        return json.dumps(to_form(schedule), sort_keys=True).encode()
    except NoForm:
        found: bytes = cloudpickle.dumps(schedule)
        return found


def schedule_of(record: FlowRecord, *, may_load: bool = True) -> Schedule | None:
    """The schedule of a registered flow.

    Parameters
    ----------
    may_load
        False: a schedule is refused whose times only code can tell.

    Raises
    ------
    SealError
        It is code, and its flow's seal is refused, see `check_seal`.
    ScheduleError
        It does not load here, or it is code and must not be.
    """
    if record.schedule is None:
        return None
    form = _form(record.schedule)
    if form is None or names_code(form):
        if not may_load:
            raise ScheduleError("only code knows the times of this schedule; services load it")
        check_seal(record)
    return from_form(form) if form is not None else _unpickled(record.schedule)


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
