"""What the records of deferred calls name and is not there any more."""

from __future__ import annotations

import pytest

from anabranch.base.context import RunInfo
from anabranch.base.states import Failed, Skipped, State
from anabranch.engine.units.loans import CONSTANT, NODE, PARAMETER, Loan
from anabranch.engine.units.units import Known, Program, Unit
from anabranch.engine.worker.calls_in import _value_of
from anabranch.errors import UnstorableValueError


@pytest.mark.parametrize(
    ("loan", "state", "told"),
    [
        ((NODE, "load"), Failed(message="no"), "the value of load, which was lost, and made again: Failed"),
        ((NODE, "load"), Skipped(), "the value of load, which was lost, and made again: Skipped"),
        ((CONSTANT, "caller", "x"), None, "caller has no constant argument 'x' any more, which this call was given"),
        ((PARAMETER, "date"), None, "the flow has no parameter 'date' any more, whose value this call was given"),
    ],
)
def test_what_is_gone_is_named(loan: Loan, state: State | None, told: str) -> None:
    program = Program(RunInfo("f", "run"), {}, {}, {})
    unit = Unit(key=("a", 1), nodes=("a",), inputs={} if state is None else {"load": Known(state)})

    with pytest.raises(UnstorableValueError, match=told):
        _value_of(loan, unit, program, {})
