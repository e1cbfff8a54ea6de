"""The permits of one run: what its driver asks of the run store, and the sign of life for what it was given."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from anabranch.base.errors import RunStoreError, RunStoreUnavailable
from anabranch.engine.machine.permits import Claim, Grant, Spent, name_of, option_of
from anabranch.runs.store.records import Ownership, RunStore

if TYPE_CHECKING:
    from anabranch.runs.store.permit_table import Holder, PermitTable, Settled

_PROMPT_S = 0.5  # that the driver waits for an answer: beside all else that it does, a cancel takes two seconds at most
_MAX_SHOWN = 3  # others that hold what is waited for, in a message

_logger = logging.getLogger(__name__)


class RunPermits:
    """Permits of a run in its run store. Nothing is done there before something is claimed.

    A store that does not answer is no reason to stop: what it gave is good until its lease is over, by this machine's
    clock. After that nothing more begins until it answers again.

    Parameters
    ----------
    store, ownership
        Where the run is, and who its driver is.
    flow_name
        For people.
    outside
        Limits of which the task that runs this flow holds a permit.
    clock
        Seconds, of a clock that does not go back.
    """

    def __init__(
        self,
        store: RunStore,
        ownership: Ownership,
        flow_name: str,
        *,
        outside: frozenset[str] = frozenset(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.outside = outside
        self._store = store
        self._ownership = ownership
        self._flow_name = flow_name
        self._clock = clock
        self._opened: tuple[PermitTable, Holder] | None = None
        self._names: frozenset[str] = frozenset()
        """Limits of which the table may have something of ours."""
        self._may_use: Mapping[str, int] = {}
        self._deadline = 0.0
        self._told: set[tuple[str, int]] = set()
        """Sizes that the user was told of."""
        self._is_failing = False
        self._asked: Future[Any] | None = None
        """The newest answer, which may be on its way."""

    def settle(self, claim: Claim) -> Grant:
        """Say what is used and wanted; what was had beyond that is given back."""
        names = self._names.union(claim.in_use, *(bundle for bundle, _ in claim.wants))
        if not names:
            return Grant()
        before = self._names
        self._names = names
        began = self._clock()
        try:
            found = self._ask(lambda: self._settle(claim, names))
        except (RunStoreError, TimeoutError) as error:
            if isinstance(error, TimeoutError):  # what is beyond that may be given back at any time now
                self._may_use = {name: min(n, claim.in_use.get(name, 0)) for name, n in self._may_use.items()}
            if not self._is_failing:
                _logger.warning("named limits are as they were until the run store answers: %s", error)
            self._is_failing = True
            if began >= self._deadline:
                self._may_use = {}
            return Grant(may_use=self._may_use, is_answered=False)
        self._is_failing = False
        self._deadline = began + self._store.lease_s
        verdict = found.verdict
        self._names = frozenset({*verdict.held, *(name for bundle in verdict.waiting for name in bundle)})
        self._may_use = verdict.may_use
        return Grant(
            may_use=verdict.may_use,
            lost=verdict.lost,
            ahead=verdict.ahead,
            waits_for=_waits_for(found),
            notes=tuple(self._notes(claim, found, before)),
        )

    def _settle(self, claim: Claim, names: frozenset[str]) -> Settled:
        table, holder = self._open()
        return table.settle(holder, claim, names, lease_s=self._store.lease_s)

    def _ask(self, act: Callable[[], Any]) -> Any:
        """What the store answers. One that does not in time is not asked again until it has.

        Raises
        ------
        TimeoutError
            It has been asked, and will do this some time.
        RunStoreError
            It does not answer.
        """
        if self._asked is not None and not self._asked.done():
            raise RunStoreUnavailable("the run store has not answered yet")
        self._asked = _apart(act)
        try:
            return self._asked.result(_PROMPT_S)
        except TimeoutError:
            raise TimeoutError(f"{_PROMPT_S:g} s were not enough for it") from None

    def renew(self) -> None:
        """Give a sign of life, if there is anything to keep; from any thread.

        Raises
        ------
        RunStoreError
            The store does not answer.
        """
        if not self._names or self._opened is None:
            return
        table, holder = self._opened
        began = self._clock()
        if table.renew(holder.token, lease_s=self._store.lease_s):
            self._deadline = max(self._deadline, began + self._store.lease_s)

    def has_lapsed(self) -> bool:
        """Whether what may be used was given for a time that is over, so that others may have it by now."""
        return bool(self._may_use) and self._clock() >= self._deadline

    def rest(self) -> None:
        """Keep the places of what the run waits for, while it has no process."""
        if not self._names or self._opened is None:
            return
        table, holder = self._opened
        try:
            self._ask(lambda: table.rest(holder))
        except (RunStoreError, TimeoutError) as error:
            _logger.warning("run %s comes last among those who wait for a limit: %s", holder.run_id, error)

    def close(self, spent: Collection[Spent] = ()) -> None:
        """Give everything back, but for what counts for some time yet."""
        if not self._names or self._opened is None:
            return
        table, holder = self._opened
        try:
            self._ask(lambda: table.drop(holder.token, spent))
        except (RunStoreError, TimeoutError) as error:  # what is left ends with its lease
            _logger.warning("permits of run %s are given back only when their lease ends: %s", holder.run_id, error)
        self._names, self._may_use = frozenset(), {}

    def _open(self) -> tuple[PermitTable, Holder]:
        if self._opened is None:
            # Only now: most runs have no named limits.
            from anabranch.runs.store.permit_table import Holder, PermitTable
            from anabranch.runs.store.relational import RelationalRunStore

            if not isinstance(self._store, RelationalRunStore):
                raise RunStoreError(f"{type(self._store).__name__} has no tables for the permits of named limits")
            owned = self._ownership
            holder = Holder(owned.token, owned.run_id, self._flow_name, owned.owner)
            self._opened = PermitTable(self._store.database), holder
        return self._opened

    def _notes(self, claim: Claim, found: Settled, before: frozenset[str]) -> list[str]:
        notes = [
            f"permits of limit {name_of(name)!r} are not this run's any more: it gave no sign of life in time, or "
            "somebody took them away; what runs goes on, and what follows waits for new ones"
            for name in sorted(found.verdict.lost & before)
        ]
        for name, size in found.verdict.sizes.items():
            said = claim.sizes.get(name, size)
            if size == said or (name, size) in self._told:
                continue
            self._told.add((name, size))
            if name in found.fixed:
                notes.append(
                    f"limit {name_of(name)!r}: this run says {said}; {size} holds, which was set by anabranch limits"
                )
            else:
                other = next(each for each in found.others if each.name == name and each.most == size)
                notes.append(
                    f"limit {name_of(name)!r}: this run says {said}, and run {other.run_id} of flow "
                    f"{other.flow_name!r} says {size}; {size} holds for both while both use it. Give them the same "
                    f"size, or set one for all: anabranch limits {option_of(name)}"
                )
        return notes


def _apart(act: Callable[[], Any]) -> Future[Any]:
    """Do something in a thread of its own, which takes as long as it takes."""
    answer: Future[Any] = Future()

    def do() -> None:
        try:
            answer.set_result(act())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=do, name="anabranch-permits", daemon=True).start()
    return answer


def _waits_for(found: Settled) -> str:
    """What is missing, and who has it."""
    texts = []
    for name in found.verdict.short:
        holders = sorted((each for each in found.others if each.name == name and each.held), key=lambda one: one.ticket)
        held = sum(each.held for each in holders) + found.verdict.held.get(name, 0)
        live = [each for each in holders if not each.is_spent]
        runs = dict.fromkeys(f"{each.run_id} ({each.flow_name}, {each.owner})" for each in live)
        shown = list(runs)[:_MAX_SHOWN]
        more = f" and {len(runs) - len(shown)} more" if len(runs) > len(shown) else ""
        by = f", held by {', '.join(shown)}{more}" if shown else ""
        texts.append(f"{name_of(name)} ({held} of {found.verdict.sizes[name]}{by})")
    return "; ".join(texts)
