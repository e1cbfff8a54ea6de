"""A run that goes on and dies, in which something was mended: what had seen it broken does not hold the third time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.dying import Dying, Killed

from anabranch import LOOP, Flow, config, context, task
from anabranch.base.states import FIRST_FAILED_CODE, FIRST_FINAL_CODE
from anabranch.executors import LocalExecutor
from anabranch.runs.record.reports import codes_of
from anabranch.runs.resume import takeover
from anabranch.runs.store.opening import current_store
from anabranch.triggers import all_finished


class World:
    """What tasks find: it changes between runs, and their code does not tell."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        """Task runs that fail."""
        self.version = 0
        self.calls: Counter[str] = Counter()

    def __dask_tokenize__(self) -> str:
        return "world"

    def look(self) -> int:
        """Count a task run, and fail if it is to."""
        index = context.map_index
        name = context.task_slug if index is None else f"{context.task_slug}[{index}]"
        self.calls[name] += 1
        if name in self.broken:
            raise ValueError(f"{name} is broken")
        return self.version


HERE = World()


@pytest.fixture(autouse=True)
def _a_world_of_its_own(tmp_path: Path) -> Iterator[None]:
    HERE.__init__()  # type: ignore[misc]
    with config.set(backend=f"sqlite:///{tmp_path / 'runs.db'}"):
        yield


@task
def source() -> int:
    return 10 + HERE.look()


@task(trigger=all_finished, chunksize=2)
def bear(x: Any) -> int:
    HERE.look()
    return 0 if isinstance(x, Exception) else x


@task
def add(x: int) -> int:
    HERE.look()
    return x + 1


@task
def spread(x: int) -> list[int]:
    """More of them if `x` is sound."""
    HERE.look()
    return list(range(x, x + 3 + x % 7))


@task(chunksize=2)
def double(x: int) -> int:
    HERE.look()
    return 2 * x


@task
def total(xs: list[int]) -> int:
    HERE.look()
    return sum(xs)


@task(chunksize=1)
def part(i: int) -> int:
    return 100 * i + HERE.look()


@task
def inner(x: int) -> int:
    HERE.look()
    return 3 * x


@task(chunksize=1)
def call(x: int) -> Any:
    """Makes calls, others, or none."""
    HERE.look()
    return x if x % 11 == 0 else [inner(x + i) for i in range(4 - x % 3)]


@task
def count_up(x: int) -> int:
    HERE.look()
    so_far = (context.task_loop_result or 0) + x
    if context.task_loop_count < 3:
        raise LOOP(result=so_far)
    return so_far


def tolerant() -> Flow:
    """A flow that goes on where something fails."""
    with Flow("tolerant") as flow:
        one = bear(source())
        add(add(one))
        total(double.map(spread(one)))
        call(add(one))
        call(one)
        count_up(one)
        parts = bear.map(part.map(range(4)))
        total(double.map(parts))
        call.map(parts)
    return flow


def values(**options: Any) -> dict[str, Any]:
    """What all nodes come to."""
    view = tolerant().run(keep="all", executor=LocalExecutor(), **options)
    return {slug: (view[slug].name, view[slug].result) for slug in view.states()}


def ended(run_id: str) -> set[str]:
    """Task runs that are on record as successful."""
    store = current_store()
    assert store is not None
    codes = {row.slug: row.code for row in store.task_runs(run_id) if row.width is None}
    for row in store.task_runs(run_id):
        codes |= {f"{row.slug}[{i}]": code for i, code in enumerate(codes_of(store.chunks(run_id, row.slug)))}
    return {name for name, code in codes.items() if FIRST_FINAL_CODE <= code < FIRST_FAILED_CODE}


BROKEN = ("source", "part[1]", "part[3]")
CHOICES: dict[str, dict[str, Any]] = {
    "what failed": {},
    "from a node": {"resume_from": "source"},
    "from a map": {"resume_from": "part"},
    "an element": {"resume_element": "part[2]"},
}


def run_before(choice: str) -> str:
    """A run, after which the world changes: its id."""
    HERE.broken, HERE.version = set(() if CHOICES[choice] else BROKEN), 0
    run_id = tolerant().run(executor=LocalExecutor()).run_id
    HERE.broken, HERE.version = set(), 1
    return run_id


@pytest.mark.parametrize(("choice", "is_after"), [("what failed", False), *((choice, True) for choice in CHOICES)])
def test_what_was_based_on_what_runs_again_does_not_hold(choice: str, is_after: bool, monkeypatch: pytest.MonkeyPatch):
    right = values(resume=run_before(choice), **CHOICES[choice])
    k, died = 0, True
    while died:
        # given another driver that dies when it has told of k units
        k += 1
        run_id = run_before(choice)
        with monkeypatch.context() as patch:
            patch.setattr(Dying, "left", k)
            patch.setattr(Dying, "is_after", is_after)
            patch.setattr(takeover, "Recorder", Dying)
            try:
                values(resume=run_id, **CHOICES[choice])
                died = False
            except Killed:
                pass
        finished, before = ended(run_id), HERE.calls.copy()

        # when
        found = values(resume=run_id)

        # then
        assert found == right, f"after unit {k}"
        assert not finished.intersection(HERE.calls - before), f"after unit {k}"
    assert k > 5
