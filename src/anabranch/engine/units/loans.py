"""What deferred calls are given that is large: their records name it, so that it does not travel once for each of them.

A *loan* names a value that is there already (an upstream node's, a parameter, a constant), or a parcel, which travels
once for all calls that were given it.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from anabranch.base import origins
from anabranch.definition.expressions import Build, Const
from anabranch.engine.units.calls import Record
from anabranch.engine.units.values import ATOMS, dumps

Loan: TypeAlias = tuple[str, ...]
"""What it is of, and which: slug, slug, slug and argument, or digest and number."""

NODE, PARAMETER, CONSTANT, PARCEL = "node", "parameter", "constant", "parcel"

MANY = 100  # of the parts of a longer collection, none is looked at by itself
DEPTH = 4  # of collections within collections
IN_LIMITS = 4  # pickles of so many times what is small may hold something large

_FORMS = frozenset({Const, Build})


class Lent(NamedTuple):
    """A pickle, and what it names."""

    data: bytes
    loans: frozenset[Loan]


class Lender:
    """Pickles records of deferred calls without what is large in them.

    Parameters
    ----------
    there
        What the task that made the calls was given and need not travel with them.
    small_nbytes
        Bytes up to which a value is small.
    """

    def __init__(self, there: Mapping[Loan, Any], small_nbytes: int) -> None:
        self._small_nbytes = small_nbytes
        self._there = {loan: value for loan, value in there.items() if self._may_be_large(value)}
        self._by_id = {id(value): loan for loan, value in self._there.items()}
        self._alive: list[Any] = []
        self._digests: dict[str, Loan] | None = None
        self._used: set[Loan] = set()
        self.parcels: dict[str, bytes] = {}
        """By digest: pickles of what is large and nowhere else."""

    def dumps(self, records: Sequence[Record]) -> Lent:
        """Pickle records."""
        plain = [tuple(record) for record in records]
        lent = self._dumps(plain)
        if len(lent.data) > IN_LIMITS * self._small_nbytes:
            known = len(self._by_id)
            for record in records:
                taken: dict[Loan, int] = {}
                for part in (*record.values, *(record.late or {}).values()):
                    self._part(part, taken)
            if len(self._by_id) > known:
                lent = self._dumps(plain)
        return lent

    def _dumps(self, value: Any) -> Lent:
        if not self._by_id:
            return Lent(dumps(value), frozenset())
        self._used.clear()
        try:
            data = _pickled(value, self._name_of)
        except Exception:
            data = b""
        if not data or b"__main__" in data:  # as `dumps` has it
            self._used.clear()
            data = origins.pickled_with_names(value, self._name_of)
        return Lent(data, frozenset(self._used))

    def _name_of(self, value: Any) -> Loan | None:
        loan = self._by_id.get(id(value))
        if loan is not None:
            self._used.add(loan)
        return loan

    def _may_be_large(self, value: Any) -> bool:
        if type(value) in ATOMS:
            return isinstance(value, (str, bytes)) and len(value) > self._small_nbytes
        return True

    def _part(self, value: Any, taken: dict[Loan, int], depth: int = DEPTH) -> bool:
        """Name what is large in a part of a record; whether there is any. What was two things there stays two."""
        found = [self._part(each, taken, depth - 1) for each in _parts(value)] if depth else []
        if any(found) or type(value) in _FORMS or not self._may_be_large(value):
            return any(found)
        loan = self._by_id.get(id(value))
        is_other = loan is not None and taken.get(loan, id(value)) != id(value)
        if loan is not None and loan[0] == PARCEL and is_other:
            loan = _another(loan[1], taken)
        elif loan is None or is_other:
            try:
                data = dumps(value)
            except BaseException:  # pickling runs the user's code; who pickles the record says what is wrong
                return False
            if len(data) <= self._small_nbytes:
                return False
            loan = self._loan_of(data, taken)
        self._by_id[id(value)] = loan
        self._alive.append(value)
        taken[loan] = id(value)
        return True

    def _loan_of(self, data: bytes, taken: Mapping[Loan, int]) -> Loan:
        if self._digests is None:
            self._digests = dict(self._digests_of_what_is_there())
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        loan = self._digests.get(digest)
        if loan is not None and loan not in taken:
            return loan
        self.parcels.setdefault(digest, data)
        return _another(digest, taken)

    def _digests_of_what_is_there(self) -> Iterator[tuple[str, Loan]]:
        for loan, value in self._there.items():
            try:
                data = dumps(value)
            except BaseException:  # pickling runs the user's code
                continue
            if len(data) > self._small_nbytes:
                yield hashlib.blake2b(data, digest_size=16).hexdigest(), loan


def loads(data: bytes, value_of: Callable[[Loan], Any]) -> Any:
    """What was pickled, with the values that it names."""
    return _Unpickler(data, value_of).load()


def _another(digest: str, taken: Iterable[Loan]) -> Loan:
    return PARCEL, digest, str(sum(each[:2] == (PARCEL, digest) for each in taken))


def _parts(value: Any) -> Iterable[Any]:
    """What a value is put together of, if that is quickly told."""
    if type(value) is Const:
        return (value.value,)
    parts: Any = value.parts if type(value) is Build else value.values() if isinstance(value, Mapping) else value
    return parts if type(value) in _FORMS | {tuple, list, dict} and len(parts) <= MANY else ()


def _pickled(value: Any, name_of: Callable[[Any], Any]) -> bytes:
    file = io.BytesIO()
    _Pickler(file, name_of).dump(value)
    return file.getvalue()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, name_of: Callable[[Any], Any]) -> None:
        super().__init__(file, protocol=5)
        self._name_of = name_of

    def persistent_id(self, value: Any) -> Any:
        return self._name_of(value)


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, value_of: Callable[[Loan], Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._value_of = value_of

    def persistent_load(self, loan: Any) -> Any:
        return self._value_of(loan)
