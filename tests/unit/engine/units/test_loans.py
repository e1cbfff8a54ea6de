"""What records of deferred calls name, and what is loaded of that."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from anabranch.definition.expressions import Const
from anabranch.engine.units.calls import Need, Record
from anabranch.engine.units.loans import NODE, PARCEL, Lender, Lent, Loan, loads

SMALL = 1_000
NEED = Need("a", 0, 0, 0, 1, None, is_map=False)


def lent_and_loaded(records: list[Record], lender: Lender, there: dict[Loan, Any]) -> tuple[Lent, list[Record]]:
    lent = lender.dumps(records)
    values = {**there, **{each: loads(lender.parcels[each[1]], there.get) for each in lent.loans if each[0] == PARCEL}}
    return lent, [Record(*each) for each in loads(lent.data, values.__getitem__)]


def kinds(lent: Lent) -> list[str]:
    return sorted(loan[0] for loan in lent.loans)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x, 1], lambda x: {"a": (x,)}], ids=["plain", "list", "dict"])
@pytest.mark.parametrize("is_copy", [False, True])
def test_what_the_caller_was_given_is_named_wherever_it_is_in_an_argument(wrap: Any, is_copy: bool) -> None:
    data = list(range(5_000))
    there: dict[Loan, Any] = {(NODE, "load"): data}
    given = [wrap(data[:] if is_copy else data) for _ in range(3)]

    records = [Record("c", i, (each,)) for i, each in enumerate(given)]
    lent, loaded = lent_and_loaded(records, Lender(there, SMALL), there)

    assert kinds(lent) == [NODE]
    assert len(lent.data) < SMALL
    assert [record.values[0] for record in loaded] == given


def test_what_a_caller_has_changed_is_not_what_it_was_given() -> None:
    data = list(range(5_000))
    changed = [*data, 5_000]

    lent, loaded = lent_and_loaded([Record("c", 0, (changed,))], Lender({(NODE, "load"): data}, SMALL), {})

    assert kinds(lent) == [PARCEL]
    assert loaded[0].values == (changed,)


def test_what_calls_share_is_one_parcel_also_as_copies_and_in_other_records() -> None:
    lender = Lender({}, SMALL)
    for start in range(0, 40, 20):
        records = [Record("c", start + i, (np.ones(10_000), i)) for i in range(20)]
        lent = lender.dumps(records)
        assert len(lent.data) < 2_000

    assert len(lender.parcels) == 1


def test_what_the_caller_was_given_and_a_copy_of_it_stay_two_things() -> None:
    data = list(range(5_000))
    there: dict[Loan, Any] = {(NODE, "load"): data}
    copy = data[:]

    records = [Record("c", 0, (copy,)), Record("c", 1, (data, copy)), Record("c", 2, (copy, data))]
    _, loaded = lent_and_loaded(records, Lender(there, SMALL), there)

    for record in loaded[1:]:
        first, second = record.values
        assert first == second == data
        assert first is not second


def test_two_things_that_are_equal_stay_two_and_one_thing_given_twice_stays_one() -> None:
    one, other = list(range(5_000)), list(range(5_000))
    lender = Lender({}, SMALL)

    records = [Record("c", 0, (one,)), Record("c", 1, (other,)), Record("c", 2, (one, other, one))]
    _, loaded = lent_and_loaded(records, lender, {})

    first, second, third = loaded[2].values
    assert first == second == one
    assert first is not second
    assert first is third
    assert len(lender.parcels) == 1


def test_a_copy_of_what_was_given_beside_it_is_a_thing_of_its_own() -> None:
    data = list(range(5_000))
    there: dict[Loan, Any] = {(NODE, "load"): data}

    lent, loaded = lent_and_loaded([Record("c", 0, (data, data[:]))], Lender(there, SMALL), there)

    assert kinds(lent) == [NODE, PARCEL]
    assert loaded[0].values[0] is data
    assert loaded[0].values[1] == data
    assert loaded[0].values[1] is not data


def test_small_values_and_atoms_travel_as_they_are() -> None:
    there: dict[Loan, Any] = {(NODE, "one"): 1, (NODE, "none"): None, (NODE, "text"): "text"}

    lent = Lender(there, SMALL).dumps([Record("c", i, (1, None, "text", [1, "text"])) for i in range(200)])

    assert not lent.loans


def test_what_only_cloudpickle_can_take_along_travels_with_names_too() -> None:
    data = list(range(5_000))
    there: dict[Loan, Any] = {(NODE, "load"): data}

    lent, loaded = lent_and_loaded([Record("c", 0, (lambda x: x + 1, data))], Lender(there, SMALL), there)

    assert kinds(lent) == [NODE]
    assert loaded[0].values[0](1) == 2
    assert loaded[0].values[1] is data


def test_what_hangs_on_other_calls_is_looked_at_as_well() -> None:
    data = bytes(50_000)

    lent, loaded = lent_and_loaded([Record("c", 0, (None,), {"x": Const([data])}, (NEED,))], Lender({}, SMALL), {})

    assert kinds(lent) == [PARCEL]
    assert loaded[0].late == {"x": Const([data])}


def test_what_holds_itself_and_what_does_not_pickle_end_as_ever() -> None:
    ring: list[Any] = [bytes(50_000)]
    ring.append(ring)
    _, loaded = lent_and_loaded([Record("c", 0, (ring,))], Lender({}, SMALL), {})
    assert loaded[0].values[0][1] is loaded[0].values[0]

    with pytest.raises(TypeError, match="pickle"):
        Lender({(NODE, "a"): [1]}, SMALL).dumps([Record("c", 0, (threading.Lock(), bytes(50_000)))])
