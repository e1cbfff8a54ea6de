"""Units that go on tell what has ended, and what they are at; nothing more of them begins once nobody waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anabranch import Flow, config, context, task
from anabranch.base.context import RunInfo, over
from anabranch.base.states import FIRST_FINAL_CODE, Retrying
from anabranch.engine.units.units import Before, Key, Program, Report, Unit
from anabranch.engine.worker import interim
from anabranch.engine.worker.stage import LOOK_S
from anabranch.engine.worker.task_runner import Environment
from anabranch.engine.worker.unit_runner import run_unit
from anabranch.results import LocalResult
from anabranch.runs.stored_values import with_storing
from anabranch.signals import LOOP, RETRY

KEY: Key = ("unit", 1)


class Driver:
    """Whoever is told: keeps the reports, and says whether it still waits."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.waits = True
        self.has_heard = threading.Event()

    def send(self, report: Report) -> None:
        self.reports.append(report)
        self.has_heard.set()

    def is_wanted(self, key: Key) -> bool:
        return self.waits

    def ended(self, slug: str) -> list[int]:
        """Elements that it was told of, in order."""
        return [
            index
            for report in self.reports
            for column in report.columns
            if column.slug == slug
            for index, code in zip(report.indices or (), column.codes, strict=True)
            if code >= FIRST_FINAL_CODE
        ]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """A driver that is told soon."""
    monkeypatch.setattr(interim, "FIRST_S", 0.005)
    monkeypatch.setattr(interim, "EVERY_S", 0.005)
    yield Driver()
    interim.close_channel("told")


def run(driver: Driver, flow: Flow, unit: Unit, **options: Any) -> tuple[Any, Report]:
    """Run a unit that tells this driver."""
    graph = flow.graph.freeze()
    if flow.result is not None:
        graph = with_storing(graph, flow.result, checkpointing=False)
    settings = {**config.snapshot()["engine"], "secret_parameters": ()}
    program = Program(RunInfo("told", "told"), dict(graph.nodes), {}, settings)
    return run_unit(unit, Environment(program, channel=driver, **options), {})


def waits_for(said: Callable[[], bool], *, seconds: float = 10.0) -> bool:
    """Whether something becomes true within a time that no working machine needs."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.005)):
        if said():
            return True
        pause.wait(0.005)
    return False


def chunk(slug: str, width: int, argument: str = "x") -> Unit:
    """Some elements of a map over a constant."""
    return Unit(key=KEY, nodes=(slug,), indices=range(width), slices={(slug, argument): list(range(width))})


def test_elements_that_have_ended_are_told_while_another_runs(driver: Driver) -> None:
    with Flow("told") as flow:

        @task
        def each(x: int) -> int:
            if x == 3:
                assert waits_for(lambda: driver.ended("each") == [0, 1, 2])
                assert waits_for(lambda: any(report.at for report in driver.reports))
            return x * x

        each.map([0, 1, 2, 3, 4])

    _, report = run(driver, flow, chunk("each", 5))

    assert report.part == 0
    assert report.columns[0].codes == bytes([10] * 5)
    assert [each.part for each in driver.reports] == list(range(1, len(driver.reports) + 1))
    (at,) = {each.at[:2] for each in driver.reports if each.at is not None and each.at[1] == 3}
    assert at == ("each", 3)


def test_nothing_more_begins_when_nobody_waits(driver: Driver) -> None:
    begun, pause = [], threading.Event()
    with Flow("told") as flow:

        @task
        def each(x: int) -> int:
            begun.append(x)
            if x == 1:
                driver.waits = False
                assert waits_for(over())
                pause.wait(LOOK_S)
            return x

        each.map(list(range(1_000)))

    run(driver, flow, chunk("each", 1_000))

    assert len(begun) < 1_000


def test_no_map_below_begins_when_nobody_waits(driver: Driver) -> None:
    begun = []
    with Flow("told") as flow:

        @task
        def first(x: int) -> int:
            driver.waits = False
            assert waits_for(over())
            return x

        @task
        def second(x: int) -> None:
            begun.append(x)

        second.map(first.map([0, 1]))

    slices = {("first", "x"): [0, 1]}
    run(driver, flow, Unit(key=KEY, nodes=("first", "second"), indices=range(2), slices=slices))

    assert not begun


def test_a_loop_tells_of_its_rounds_and_ends_between_them(driver: Driver) -> None:
    rounds = []
    with Flow("told") as flow:

        @task
        def poll() -> int:
            rounds.append(context.task_loop_count)
            if len(rounds) == 3:
                assert waits_for(lambda: any(report.singles for report in driver.reports))
                driver.waits = False
                assert waits_for(over())
            raise LOOP(result=len(rounds))

        poll()

    _, report = run(driver, flow, Unit(key=KEY, nodes=("poll",)))

    told = [single.state for each in driver.reports for single in each.singles]
    assert all(isinstance(state, Retrying) for state in told)
    assert told[-1].result == (3, 2, 0)
    assert rounds == [1, 2, 3]
    assert report.singles[0].state.result == (4, 3, 0)


def test_what_an_interrupted_unit_has_not_told_is_there_to_be_asked_for(driver: Driver) -> None:
    with Flow("told") as flow:

        @task
        def each(x: int) -> int:
            if x == 2:
                raise KeyboardInterrupt
            return x

        each.map([0, 1, 2])

    interim.open_channel("told", driver)
    with pytest.raises(KeyboardInterrupt):
        run(driver, flow, chunk("each", 3), is_main=True)
    for report in interim.news_of("told"):
        driver.send(report)

    assert driver.ended("each") == [0, 1]


def test_values_are_stored_before_it_is_told_that_they_are_there(driver: Driver, tmp_path: Any) -> None:
    with Flow("told", result=LocalResult(tmp_path)) as flow:

        @task
        def each(x: int) -> bytes:
            if x == 3:
                assert waits_for(lambda: driver.ended("each") == [0, 1, 2])
            return bytes([x]) * 20_000

        each.map([0, 1, 2, 3])

    _, report = run(driver, flow, chunk("each", 4))

    (told,) = [each for each in driver.reports if each.columns]
    assert told.columns[0].values is None
    ((held, ref),) = told.columns[0].refs
    assert list(held) == [0, 1, 2]
    assert LocalResult(tmp_path).read_elements(ref)[1] == b"\1" * 20_000
    assert [list(held) for held, _ in report.columns[0].refs] == [[0, 1, 2], [3]]


def _ends_soon(driver: Driver) -> None:
    driver.waits = False
    assert waits_for(over())


def _rounds(driver: Driver, attempts: list[int]) -> Flow:
    with Flow("told") as flow:

        @task
        def each(x: int) -> int:
            attempts.append(x)
            _ends_soon(driver)
            raise LOOP(result=x)

        each.map([0, 1])
    return flow


def _at_once(driver: Driver, attempts: list[int]) -> Flow:
    with Flow("told") as flow:

        @task(max_retries=3)
        def each(x: int) -> int:
            attempts.append(x)
            _ends_soon(driver)
            raise ValueError(x)

        each.map([0, 1])
    return flow


def _asked_for(driver: Driver, attempts: list[int]) -> Flow:
    with Flow("told") as flow:

        @task
        def each(x: int) -> int:
            attempts.append(x)
            _ends_soon(driver)
            raise RETRY

        each.map([0, 1])
    return flow


@pytest.mark.parametrize("made", [_rounds, _at_once, _asked_for])
def test_neither_attempts_nor_rounds_nor_elements_begin_when_nobody_waits(
    driver: Driver, made: Callable[[Driver, list[int]], Flow]
) -> None:
    attempts: list[int] = []

    run(driver, made(driver, attempts), chunk("each", 2))

    assert attempts == [0]


def test_what_is_made_again_tells_nothing_and_ends_when_nobody_waits(driver: Driver) -> None:
    begun = []
    with Flow("told") as flow:

        @task
        def each(x: int) -> int:
            begun.append(x)
            if x == 1:
                _ends_soon(driver)
                threading.Event().wait(LOOK_S)
            return x

        each.map(list(range(100)))
    first = chunk("each", 100)

    run(driver, flow, first.again(Before(100, {}, {})))

    assert not driver.reports
    assert len(begun) < 100
