"""Whatever a cluster does to a run, in whatever order, the machine brings it to the end that the flow means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.descriptions import Seen, Statement, approved, build, seen_in, seen_streamed, to_be_streamed
from tests.fake_cluster import FakeCluster
from tests.properties.strategies import engine_settings, flows
from tests.properties.test_same_everywhere import seen_from
from tests.reference import interpret

from anabranch.engine.driver.plan import FinishedRun, RunPlan
from anabranch.engine.units.units import Unit
from anabranch.runs.view import FlowRunView
from anabranch.states import Crashed

choices = st.integers(0, 1000)


class AnyCluster(RuleBasedStateMachine):
    """A run whose units are run, reported, lost and reported again as Hypothesis likes."""

    cluster: FakeCluster
    statements: list[Statement]
    alone: Counter[tuple[str, int | None]]
    """How often a single node, or a single element, was lost alone."""
    is_replaced: bool = False
    """Whether values that had been there are made again: from then on no unit is lost, because one that succeeded
    first and crashed then has two states, of which the reference knows one."""

    @initialize(
        statements=flows(max_size=6, delays=(0.0, 1.0, 100.0)),
        engine=engine_settings,
        slots=st.integers(1, 4),
        max_losses=st.integers(0, 3),
        call_s=st.sampled_from([0.0, 0.0001, 0.1]),
        keeps_all=st.booleans(),
        streams=st.integers(0, 63),
    )
    def start(
        self,
        statements: list[Statement],
        engine: dict[str, Any],
        slots: int,
        max_losses: int,
        call_s: float,
        keeps_all: bool,
        streams: int,
    ) -> None:
        flow = build(statements)
        self.flow, self.statements, self.alone = flow, statements, Counter()
        self.cluster = FakeCluster(
            flow,
            engine={**engine, "max_losses": max_losses},
            slots=slots,
            call_s=call_s,
            approve=[node.slug for node in approved(flow)],
            keep=flow.graph.freeze().nodes if keeps_all else (),  # else what nobody needs any more is released
            streamed=[slug for number, slug in enumerate(flow.graph.freeze().nodes) if streams >> number % 6 & 1],
        )
        self.cluster.start()

    @precondition(lambda self: self.cluster.runnable())
    @rule(choice=choices)
    def run_a_unit(self, choice: int) -> None:
        runnable = self.cluster.runnable()
        self.cluster.run(runnable[choice % len(runnable)])

    @precondition(lambda self: self.cluster.runnable())
    @rule(choice=choices, count=st.integers(1, 8))
    def let_a_unit_that_goes_on_tell_what_has_ended(self, choice: int, count: int) -> None:
        runnable = self.cluster.runnable()
        told = self.cluster.tell_part(runnable[choice % len(runnable)], count)
        has_values = all(column.values is not None for report in told for column in report.columns)
        has_values &= all(single.value is not None for report in told for single in report.singles)
        self.is_replaced |= not has_values

    @precondition(lambda self: self.cluster.late is None)
    @rule(streams=st.integers(0, 63))
    def let_a_stream_come_late(self, streams: int) -> None:
        nodes = self.cluster.graph.nodes
        self.cluster.read_late(slug for number, slug in enumerate(nodes) if streams >> number % 6 & 1)

    @precondition(lambda self: self.cluster.reports)
    @rule(choice=choices)
    def let_a_report_arrive(self, choice: int) -> None:
        reports = self.cluster.reports
        self.cluster.deliver(reports[choice % len(reports)])

    @precondition(lambda self: self.cluster.delivered)
    @rule(choice=choices)
    def let_a_report_arrive_again(self, choice: int) -> None:
        delivered = self.cluster.delivered
        self.cluster.reports.append(delivered[choice % len(delivered)])

    @precondition(lambda self: self.cluster.submitted and not self.is_replaced)
    @rule(choice=choices)
    def lose_a_unit(self, choice: int) -> None:
        units = list(self.cluster.submitted.values())
        self._lose(units[choice % len(units)])

    @precondition(lambda self: self._unreported() and not self.is_replaced)
    @rule(choice=choices)
    def lose_a_unit_that_has_run(self, choice: int) -> None:
        units = self._unreported()
        self._lose(units[choice % len(units)])

    def _may_lose(self, unit: Unit) -> bool:
        """Deferred calls are not lost so often that they crash: the reference does not know them by number."""
        if unit.nodes[0] in self.cluster.graph.nodes or unit.indices is None or len(unit.indices) > 1:
            return True
        return self.alone[unit.nodes[0], unit.indices[0]] < self.cluster.settings["max_losses"]

    def _unreported(self) -> list[Unit]:
        """Units that have run, of which nobody knows or has seen anything."""
        known = {report.key for report in self.cluster.delivered} | set(self.cluster.lost)
        on_their_way = {report.key for report in self.cluster.reports if report.key in self.cluster.outcomes}
        return [unit for unit in self.cluster.units if unit.key in on_their_way - known - self.cluster.used]

    def _lose(self, unit: Unit) -> None:
        if not self._may_lose(unit):
            return
        self.cluster.lose(unit)
        indices = unit.indices if unit.indices is not None else [None]
        if len(indices) == 1:
            self.alone[unit.nodes[0], indices[0]] += 1

    @precondition(lambda self: self.cluster.lost)
    @rule(choice=choices)
    def let_a_loss_be_known(self, choice: int) -> None:
        lost = self.cluster.lost
        self.cluster.deliver_loss(lost[choice % len(lost)])

    @precondition(lambda self: not self.cluster.is_finished)
    @rule()
    def lose_everything(self) -> None:
        self.is_replaced = True
        self.cluster.uproot()

    @precondition(lambda self: not self.cluster.is_finished)
    @rule()
    def replace_the_driver(self) -> None:
        self.is_replaced = True
        self.cluster.replace_driver()

    @precondition(lambda self: not self.cluster.is_finished and self.cluster.outcomes)
    @rule(choice=choices)
    def lose_a_value_that_cannot_be_made_again(self, choice: int) -> None:
        self.is_replaced = True
        outcomes = list(self.cluster.outcomes)
        self.cluster.lose_value(outcomes[choice % len(outcomes)])

    @precondition(lambda self: not self.cluster.is_finished and self.cluster.may_be_made_again())
    @rule(choice=choices, how=st.sampled_from(["as before", "anew", "in part", "refused"]))
    def make_a_value_again(self, choice: int, how: str) -> None:
        self.is_replaced = True
        keys = self.cluster.may_be_made_again()
        self.cluster.make_again(keys[choice % len(keys)], how=how)

    @rule(slots=st.integers(1, 4))
    def change_the_slots(self, slots: int) -> None:
        self.cluster.change_slots(slots)

    @precondition(lambda self: self.cluster.wake_at is not None)
    @rule()
    def let_time_pass(self) -> None:
        self.cluster.wake()

    def teardown(self) -> None:
        """The end is that of the reference, but for what was lost too often."""
        if not hasattr(self, "cluster"):
            return
        cluster = self.cluster
        cluster.finish()
        crashed = self._crashed()
        budget = cluster.settings["max_losses"]
        assert all(self.alone[run] > budget for run in crashed), f"not lost often enough: {crashed} {self.alone}"
        runs = interpret(
            cluster.graph,
            cluster.environment.program.values,
            approved=frozenset(node.slug for node in approved(self.flow)),
            crashed=frozenset(crashed),
        )
        expected = {slug: seen_from(run, is_map=cluster.graph.nodes[slug].is_map) for slug, run in runs.items()}
        found = self._found()
        streamed = seen_streamed(cluster.streamed())
        due = {slug: to_be_streamed(expected[slug]) for slug in cluster.inflow.slugs}
        assert streamed == {slug: runs for slug, runs in due.items() if runs}
        self._check_late(expected)
        compared = expected.keys() & cluster.machine.keep - cluster.machine._known.fleeting
        differing = {slug: (expected[slug], found[slug]) for slug in compared if found[slug] != expected[slug]}
        differing |= {
            slug: (expected[slug].state, found[slug].state)
            for slug in expected
            if found[slug].state != expected[slug].state
        }
        assert not differing, "\n".join(f"{slug}: expected {e}, found {f}" for slug, (e, f) in differing.items())
        kept = {key for slug in cluster.machine.keep for key in self._keys_of(slug)}
        assert cluster.held <= kept, f"held for nobody: {cluster.held - kept}"

    def _check_late(self, expected: Mapping[str, Seen]) -> None:
        """A stream that came late is given the same, but for values that were not to be kept and are gone."""
        cluster = self.cluster
        if cluster.late is None:
            return
        given = seen_streamed(cluster.streamed_late())
        due = {slug: runs for slug in cluster.late.slugs if (runs := to_be_streamed(expected[slug]))}
        assert given.keys() == due.keys()
        kept = cluster.machine.keep - cluster.machine._known.fleeting
        for slug, runs in due.items():
            released = {index for index, seen in given[slug].items() if "ResultReleased" in repr(seen.value)}
            assert not released or slug not in kept
            assert given[slug] == {i: given[slug][i] if i in released else seen for i, seen in runs.items()}
            assert all(given[slug][index].state == runs[index].state for index in released)

    def _crashed(self) -> list[tuple[str, int | None]]:
        crashed: list[tuple[str, int | None]] = []
        for slug, run in self.cluster.machine.runs.items():
            if slug not in self.cluster.graph.nodes:
                continue
            if run.elements is not None:
                crashed += [(slug, index) for index, s in run.elements.records.items() if isinstance(s, Crashed)]
            elif isinstance(run.state, Crashed):
                # a `flatten` carries the state of what it flattens, too
                if run.node.kind != "flatten" or self.alone[slug, None] > self.cluster.settings["max_losses"]:
                    crashed.append((slug, None))
        return crashed

    def _keys_of(self, slug: str) -> list[Any]:
        run = self.cluster.machine.runs[slug]
        return list(run.elements.keys) if run.elements is not None else [run.key]

    def _found(self) -> dict[str, Seen]:
        cluster = self.cluster
        plan = RunPlan(
            graph=cluster.graph,
            name="drawn",
            run_id="run",
            parameters=cluster.environment.program.values,
            settings=cluster.settings,
        )
        now = cluster.environment.now()
        whole = FinishedRun(
            plan=plan,
            state=cluster.machine.flow_state(),
            runs=cluster.machine.runs,
            outcomes={key: cluster.outcomes[key] for key in cluster.held},
            started=now,
            ended=now,
        )
        return seen_in(FlowRunView(whole, self.flow.graph))


TestAnyCluster = AnyCluster.TestCase
TestAnyCluster.pytestmark = [pytest.mark.timeout(400)]  # when it fails, Hypothesis takes its time to find out why
TestAnyCluster.settings = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=300,
    stateful_step_count=40,
    suppress_health_check=list(HealthCheck),
)
