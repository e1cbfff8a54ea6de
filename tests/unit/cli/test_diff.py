"""``anabranch diff``: two runs beside each other, what explains the difference first."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

from click.testing import CliRunner, Result

from anabranch import Flow, Parameter, task
from anabranch.cli import anabranch
from anabranch.runs.read.compare import Difference, compare
from anabranch.runs.read.run import RecordedRun, read_run
from anabranch.runs.store.opening import current_store


def call(*words: str) -> Result:
    return CliRunner().invoke(anabranch, words)


def flow_of(factor: int) -> Flow:
    """A flow whose code depends on a number."""
    if factor == 1:

        @task
        def scale(x: int) -> int:
            return x
    else:

        @task
        def scale(x: int) -> int:
            if x > 3:
                raise ValueError(x)
            return 2 * x

    with Flow("scaled") as flow:
        scale.map(Parameter("xs", default=[1, 2, 3]))
    return flow


def test_what_explains_that_runs_differ_comes_first():
    # given two runs with other code, other parameters, and another end
    first, second = flow_of(1).run().run_id, flow_of(2).run(xs=[1, 2, 3, 4]).run_id
    # when
    outcome = call("diff", first, second)
    # then
    assert outcome.exit_code == 0
    kinds = [line.removesuffix(":") for line in outcome.output.splitlines() if line.endswith(":")]
    assert kinds[:3] == ["code", "parameters", "states"]
    assert "[1, 2, 3, 4]" in outcome.output
    assert "  Success → Failed" in outcome.output
    # and as data
    data = json.loads(call("diff", first, second, "--json").output)
    assert {"kind": "states", "name": "", "before": "Success", "after": "Failed"} in data


def test_a_run_does_not_differ_from_itself():
    run = flow_of(1).run().run_id
    assert call("diff", run, run).output.endswith("nothing that is recorded differs\n")


def test_seconds_are_told_where_they_matter_the_whole_run_first():
    # given
    run, store = flow_of(1).run().run_id, current_store()
    assert store is not None
    found = read_run(store, run)

    def took(whole: float, **tasks: float) -> RecordedRun:
        record = replace(found.record, end=found.record.start + timedelta(seconds=whole))
        return replace(
            found, record=record, tasks=[replace(found.tasks[0], slug=s, seconds=n) for s, n in tasks.items()]
        )

    # when / then
    differences = compare(took(11, a=1.0, b=10.0, c=0.01, d=1.0), took(22, a=2.0, b=10.5, c=0.04, e=1.0))
    assert [each for each in differences if each.kind == "seconds"] == [
        Difference("seconds", "", "11.0 s", "22.0 s"),
        Difference("seconds", "a", "1.0 s", "2.0 s"),
    ]


def test_runs_that_are_not_there_are_refused():
    assert call("diff", flow_of(1).run().run_id, "nosuch").exit_code == 2
    assert call("diff", "nosuch").exit_code == 2
