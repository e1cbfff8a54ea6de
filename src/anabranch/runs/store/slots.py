"""Slots: runs that are to take place, as plain records and rows. Who gets to run one is decided in `slot_queue`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from anabranch.base.times import zone_in, zone_text
from anabranch.runs.store.codec import from_microseconds, read_json, to_microseconds, to_text
from anabranch.runs.store.schema import SLOTS

WAITING = "Waiting"
RUNNING = "Running"
SKIPPED = "Skipped"
"""State of a slot that a policy of its flow left out."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A run that is to take place at some time, goes on, or is over. Its run has its id."""

    run_id: str
    flow_name: str
    due: datetime
    """For when it is, in the time zone that was meant: the run's date."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """As JSON has them."""
    labels: tuple[str, ...] = ()
    origin: str = "manual"
    """``schedule``, ``manual``, ``backfill``, ``flow`` or ``resume``."""
    group: str = ""
    """Slots of a group run at most `group_most` at a time."""
    group_most: int | None = None
    approve: tuple[str, ...] = ()
    """Tasks that may run although they wait for an approval."""
    ready: datetime | None = None
    """When it may begin, or be tried again; None means when it is due."""
    state: str = WAITING
    """``Waiting``, ``Running``, ``Skipped``, or the state that the run ended in."""
    message: str = ""
    cancel: bool = False
    """Whether somebody wants it to end."""
    owner: str = ""
    token: str = field(default="", repr=False)
    run_epoch: int = 0
    """How many owners the run had had when the slot was claimed."""
    tries: int = 0
    """How often it has been claimed."""
    lease_until: datetime | None = None
    spent: timedelta = timedelta(0)
    """Time of earlier processes with the run, and of its waits for retries."""
    timeout_s: float | None = None
    """Seconds that the run may take, as its flow has it when it is claimed."""
    created: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    parent: str = ""
    """The run whose task has asked for it."""
    bond: bool = False
    """Whether it is cancelled with that."""
    told: bool = False
    """Whether that task knows that it has failed: asked again, it has it go on."""
    damage: str = ""
    """What of its row cannot be read; such a run does not begin."""


def wanted_since(slot: Slot) -> datetime:
    """Since when a slot's run is late if it has not begun: what is no schedule's may be for a date long past."""
    ready = slot.ready or slot.due
    return ready if slot.origin == "schedule" or slot.created is None else max(ready, slot.created)


def slot_id(flow_name: str, due: datetime, parameters: Mapping[str, Any], *, salt: str = "") -> str:
    """The id of the one run of a flow for a time with these parameters: the same whoever asks.

    Examples
    --------
    >>> from datetime import UTC
    >>> slot_id("etl", datetime(2026, 11, 21, tzinfo=UTC), {})
    'a0443443092330f6'
    """
    text = json.dumps([flow_name, to_microseconds(due), parameters, salt], sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def slot_row(slot: Slot, *, now: int) -> tuple[Any, ...]:
    """Row of a slot that begins to wait."""
    return (
        slot.run_id,
        to_text(slot.flow_name),
        to_microseconds(slot.due),
        to_microseconds(slot.ready or slot.due),
        to_text(json.dumps(slot.parameters, default=str)),
        to_text(json.dumps(list(slot.labels))),
        slot.origin,
        to_text(slot.group),
        slot.group_most,
        to_text(json.dumps(list(slot.approve))),
        slot.state,
        to_text(slot.message, 8_192),
        int(slot.cancel),
        slot.owner,
        slot.token,
        slot.run_epoch,
        slot.tries,
        to_microseconds(slot.lease_until),
        now,
        to_microseconds(slot.started),
        to_microseconds(slot.ended),
        zone_text(slot.due),
        slot.parent,
        int(slot.bond),
        int(slot.told),
        slot.spent // timedelta(microseconds=1),
    )


def slot_of(row: Sequence[Any]) -> Slot:
    """A slot of its row."""
    values = dict(zip(SLOTS.columns, row, strict=True))
    parameters = read_json(values["parameters"], dict)
    labels, approve = (read_json(values[name], list) for name in ("labels", "approve"))
    lost = {"parameters": parameters, "labels": labels, "approve": approve}
    return Slot(
        run_id=values["run_id"],
        flow_name=values["flow_name"],
        due=from_microseconds(values["due"]).astimezone(zone_in(values["zone"])),
        ready=from_microseconds(values["ready"]),
        parameters=parameters or {},
        labels=tuple(labels or ()),
        origin=values["origin"],
        group=values["grp"],
        group_most=values["grp_most"],
        approve=tuple(approve or ()),
        state=values["state"],
        message=values["message"],
        cancel=bool(values["cancel"]),
        owner=values["owner"],
        token=values["token"],
        run_epoch=values["run_epoch"],
        tries=values["tries"],
        lease_until=from_microseconds(values["lease_until"]),
        created=from_microseconds(values["created"]),
        spent=timedelta(microseconds=values["spent"]),
        started=from_microseconds(values["started"]),
        ended=from_microseconds(values["ended"]),
        parent=values["parent"],
        bond=bool(values["bond"]),
        told=bool(values["told"]),
        damage=", ".join(name for name, value in lost.items() if value is None),
    )
