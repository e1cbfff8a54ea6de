"""Storing the values of task runs where these run: what is there already, who may compute it, and writing it.

A `Storage` is a node's; an `Errand` is one task run's, from looking for a value that will do to writing a new one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias

from anabranch.base.context import RunInfo
from anabranch.base.errors import ResultConflict, ResultDamaged, ResultMissing, UnstorableValueError
from anabranch.base.states import Cached
from anabranch.definition.caching import Digests, Facts, key_of
from anabranch.definition.frozen import FrozenNode
from anabranch.definition.storing import Storing, goes_by_element, is_never
from anabranch.engine.units.blame import asking
from anabranch.engine.units.units import Note, Outcome
from anabranch.results.claims import Claim, value_or_claim
from anabranch.results.locations import check_location, slug
from anabranch.results.reference import ResultRef
from anabranch.results.result import Result
from anabranch.results.templates import prefects_fields

Prefetched: TypeAlias = Mapping[str, bytes | None]
"""Objects by location that were looked for already; None where there was none."""

_log = logging.getLogger("anabranch.results")


class Storage:
    """Where the values of a node go.

    Parameters
    ----------
    node
        One whose policies have a `Storing` with a result.
    run
        The flow run.
    values
        Of the flow's parameters, by slug.
    """

    def __init__(self, node: FrozenNode, run: RunInfo, values: Mapping[str, Any]) -> None:
        storing = node.policies.storing
        assert isinstance(storing, Storing)
        assert storing.result is not None
        self.node = node
        self.run = run
        self.values = values
        self.storing = storing
        self.result: Result = storing.result
        self.is_shared = storing.is_cached or storing.target is not None
        self.goes_by_element = not node.is_map or self.is_shared or goes_by_element(storing, node.mapped)
        template = storing.template
        self.has_prefects_fields = template.function is not None or bool(template.fields - _OF_EVERY_RUN)
        # A call has the target that it has in the flow's block, whoever calls.
        self.name = node.name if node.depth and storing.target is not None else node.slug

    def fields(self, inputs: Mapping[str, Any], index: int | None) -> dict[str, Any]:
        """What templates can name; inputs win."""
        base: dict[str, Any] = {"flow_name": self.run.flow_name, "run_id": self.run.run_id, "task_name": self.name}
        base |= {"map_index": index, "date": self.run.date}
        if self.has_prefects_fields:
            named = self.run.parameters if self.storing.template.function is None else {}
            base |= prefects_fields(base, self.run.date, named)
        return {**base, **self.run.parameters, **inputs}

    def ids(self, index: int | None = None) -> dict[str, Any]:
        """Whose the values of this run are."""
        ids = {"flow": self.run.flow_name, "run": self.run.run_id, "task": self.node.slug}
        return ids if index is None else {**ids, "element": index}

    def errand(self, inputs: Mapping[str, Any], index: int | None) -> Errand:
        """What is to be done for one task run.

        Raises
        ------
        ResultError, OptionError, UnstorableValueError
            Its location, or its key, cannot be made.
        """
        storing = self.storing
        if storing.target is not None:
            location = storing.target.render(self.fields(inputs, index))
            return Errand(self, location, {"target of": self.name}, is_shared=True)
        if storing.cache_key is None:
            template = storing.location or self.result.template
            return Errand(self, template.render(self.fields(inputs, index)), self.ids(index), is_shared=False)
        scope = storing.scope or self.node.name
        try:
            with asking("cache_key"):
                digests = storing.cache_key.digests(Facts(inputs, self.run.parameters, storing.code, storing.code_gap))
        except UnstorableValueError as error:
            self._warn(f"no cached value is used for {self.node.slug}: {error}")
            ids = self.ids(index)
            return Errand(self, _place(scope, key_of(scope, _as_texts(ids))), ids, is_shared=False, verdict="no key")
        key = key_of(scope, digests)
        return Errand(self, _place(scope, key), {"cache": scope, "key": key}, is_shared=True, digests=digests)

    def _warn(self, text: str) -> None:
        """Warn of something that is the same for many task runs: once a run."""
        if (self.run.run_id, self.node.slug) not in _SAID:
            _SAID[self.run.run_id, self.node.slug] = None
            _log.warning(text)
        while len(_SAID) > MAX_SAID:
            _SAID.pop(next(iter(_SAID)), None)

    def commit_chunk(
        self, indices: Sequence[int], values: Sequence[Any], serial: int, whole: Callable[[], Mapping[str, Any]]
    ) -> tuple[ResultRef, list[Any] | None]:
        """Store elements as one object; its reference, and the values if there were others under its name.

        Parameters
        ----------
        serial
            Of the unit: a chunk that is run again has an object of its own.
        whole
            Gives the inputs that are the same for all elements.
        """
        template = self.storing.location or self.result.template
        inputs = whole() if template.fields - _OF_EVERY_RUN or template.function is not None else {}
        fields = self.fields(inputs, None)
        del fields["map_index"]
        location = self.result.locate_chunk(fields, indices, template=template, serial=serial)
        ids = {**self.ids(), "chunk": serial}

        def commit(overwrite: bool) -> tuple[ResultRef, bool]:
            return self.result.commit_elements(
                location, indices, values, ids, overwrite=overwrite, created=self.run.now()
            )

        ref, is_ours = self._committed(commit, overwrite=False)
        if is_ours:
            return ref, None
        found = self.result.read_elements(ref)
        return ref, [found[index] for index in indices]

    def unstorable(self, value: Any) -> UnstorableValueError | None:
        """Why a value cannot be stored; None if it can."""
        try:
            self.result.serializer.dumps(value)
        except UnstorableValueError as error:
            return error
        return None

    def _committed(
        self, commit: Callable[[bool], tuple[ResultRef, bool]], *, overwrite: bool
    ) -> tuple[ResultRef, bool]:
        """Commit; where the location names no run, what another run of the same task has left there makes way."""
        try:
            return commit(overwrite)
        except ResultConflict as error:
            there, mine = json.loads(error.owner or "{}"), self.ids()
            is_same_task = all(there.get(name) == mine[name] for name in ("flow", "task"))
            if not is_same_task or there.get("run") in (None, mine["run"]):
                raise
            return commit(True)


_SAID: dict[tuple[str, str], None] = {}
"""Runs and tasks of which it was said that they have no key."""
MAX_SAID = 1000


def _place(scope: str, key: str) -> str:
    return check_location(f"cache/{slug(scope)}/{key[:2]}/{key}")


def _as_texts(ids: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in ids.items()}


_OF_EVERY_RUN = frozenset({"flow_name", "run_id", "task_name", "date"})


@dataclass(slots=True)
class Errand:
    """One task run's value: looked for, and stored."""

    storage: Storage
    location: str
    ids: Mapping[str, Any]
    is_shared: bool
    """Whether other runs may have written what will do, or may want what is written here."""
    digests: Digests | None = None
    """Of the parts of the key, if there is one."""
    verdict: str = ""
    """What looking came to, if a key or a target was looked for."""
    claim: Claim | None = None
    _is_stale: bool = False
    """Whether what is there makes way for what is written."""

    @property
    def note(self) -> Note | None:
        """What is recorded of the key, for explanations."""
        return (self.verdict, dict(self.digests or {})) if self.verdict else None

    async def look(
        self,
        inputs: Mapping[str, Any],
        pause: Callable[[float], Awaitable[None]],
        prefetched: Prefetched | None = None,
    ) -> Outcome | None:
        """A value that will do; or None, and nobody else computes it until `close`. `pause` lets some seconds pass.

        Raises
        ------
        ResultError
            The store cannot be read, or has something else there.
        """
        if is_never(self.storage.storing):
            self.verdict, self._is_stale = "never", True
            return None
        is_known = prefetched is not None and self.location in prefetched
        if is_known and prefetched is not None:
            found = self._judged(prefetched[self.location], inputs)
            if found is not None:
                return found
        answer = await value_or_claim(
            self.storage.result, self.location, lambda: self._look(inputs), pause, has_looked=is_known
        )
        if isinstance(answer, Claim):
            self.claim = answer
            return None
        return answer

    def look_for_own(self) -> Outcome | None:
        """The value that this task run has stored before its worker was lost, if it has.

        In a run that goes on it may be of an earlier driver's time, and made of what has become other since.
        """
        if self.storage.storing.is_resumed:
            return None
        try:
            value, ref, _ = self.storage.result.read_dated(self.location, self.ids)
        except (ResultMissing, ResultDamaged):
            return None
        return _cached(value, ref)

    def _look(self, inputs: Mapping[str, Any]) -> Outcome | None:
        return self._judged(self.storage.result.fetch([self.location]).get(self.location), inputs)

    def _judged(self, data: bytes | None, inputs: Mapping[str, Any]) -> Outcome | None:
        storing = self.storage.storing
        if data is None:
            self.verdict = "miss"
            return None
        self._is_stale = True
        if storing.target is not None:
            self.storage.result.check_owner(self.location, self.ids, data)
        try:
            value, ref, written = self.storage.result.read_dated(self.location, self.ids, data=data)
        except ResultDamaged as error:
            _log.warning("%s; it is computed again", error)
            self.verdict = "damaged"
            return None
        age = self.storage.run.now() - written
        if storing.cache_for_s is not None and age > timedelta(seconds=storing.cache_for_s):
            self.verdict = "expired"
            return None
        if storing.validator is not None and not _is_valid(storing.validator, value, inputs, self.storage.run):
            self.verdict = "refused"
            return None
        self.verdict, self._is_stale = "hit", False
        return _cached(value, ref)

    def commit(self, value: Any) -> tuple[Any, ResultRef]:
        """Store a value; it, or the one that had been stored there first, and the reference.

        Raises
        ------
        UnstorableValueError, ResultError
            It cannot be stored, or not there.
        """
        result = self.storage.result
        overwrite = self._is_stale or (self.storage.storing.is_resumed and not self.is_shared)

        def commit(overwrite: bool) -> tuple[ResultRef, bool]:
            created = self.storage.run.now()
            return result.commit(self.location, value, self.ids, overwrite=overwrite, created=created)

        ref, is_ours = self.storage._committed(commit, overwrite=overwrite)
        self._is_stale = True  # a state handler may put another value in the place of this one
        return (value if is_ours else result.read(ref)), ref

    def close(self) -> None:
        """Let others compute it, who will find it if it was stored."""
        if self.claim is not None:
            self.claim.release()
            self.claim = None


def _cached(value: Any, ref: ResultRef) -> Outcome:
    return Outcome(Cached(message=f"found at {ref.location}"), value, ref=ref)


def _is_valid(validator: Callable[..., Any], value: Any, inputs: Mapping[str, Any], run: RunInfo) -> bool:
    with asking("cache_validator"):
        return bool(validator(value, inputs, run.parameters))


def prefetch(errands: Collection[Errand], result: Result) -> Prefetched:
    """What is stored at the locations of several errands, in as few trips as the store can do with."""
    locations = list(dict.fromkeys(errand.location for errand in errands))
    return {**dict.fromkeys(locations), **result.fetch(locations)}
