"""Reports without secrets: texts, values, inputs that are made of secret parameters, and their digests."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from anabranch import Flow, Parameter, task
from anabranch.base import known_secrets
from anabranch.base.context import RunInfo
from anabranch.base.states import Failed, Failure
from anabranch.engine.units.units import ColumnReport, Program, Report, SingleReport
from anabranch.engine.worker.masked import masked_report

SECRET = "hunter2-hunter2"
FAILED = Failed(
    message=f"{SECRET} is wrong",
    failure=Failure(
        "ValueError", f"{SECRET} is wrong", traceback=f"raise ValueError({SECRET!r})",
        inputs={"pin": "7", "host": "db", "text": repr(SECRET)}, exception=pickle.dumps(ValueError(SECRET)),
    ),
)  # fmt: skip
NOTE = "miss", {"input pin": "1", "input host": "2", "parameter pin": "3", "code": "4"}


@task
def connect(pin: int, host: str) -> None: ...


@pytest.fixture
def program() -> Iterator[Program]:
    with Flow("secretive") as flow:
        connect(Parameter("pin"), Parameter("host"))
    frozen = flow.graph.freeze(())
    known_secrets.learn("run", [SECRET])
    yield Program(RunInfo("secretive", "run", {}), dict(frozen.nodes), {}, {"secret_parameters": ("pin",)})
    known_secrets.forget("run")


@pytest.mark.parametrize("is_map", [False, True])
def test_a_report_has_no_secrets_and_says_the_rest(program: Program, is_map: bool) -> None:
    # given a failure with a secret that is known, and with one that is too short to be found in texts
    value = pickle.dumps([SECRET])
    single = SingleReport("connect", FAILED, value, unmappable=f"found {SECRET}", note=NOTE)
    column = ColumnReport("connect", bytes([FAILED.code]), {0: FAILED}, value, notes={0: NOTE})
    report = Report(("unit", 1), singles=() if is_map else (single,), columns=(column,) if is_map else ())
    # when
    found = masked_report(report, program)
    # then
    assert SECRET not in repr(found)
    state = found.columns[0].records[0] if is_map else found.singles[0].state
    assert state.message == "*** is wrong"
    assert state.failure is not None
    assert state.failure.inputs == {"pin": "***", "host": "db", "text": "'***'"}
    assert state.failure.exception is None
    note = found.columns[0].notes[0] if is_map else found.singles[0].note
    assert note == ("miss", {"input host": "2", "code": "4"})


def test_a_driver_masks_what_it_knows_beyond_that(program: Program) -> None:
    report = Report(("unit", 1), singles=(SingleReport("connect", FAILED, None),))
    assert SECRET not in repr(masked_report(report))
    known_secrets.forget("run")
    assert masked_report(report) is report
