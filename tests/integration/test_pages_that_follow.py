"""Pages of a run that goes on: they are as young as they say, agree with the driver, and leave a reader alone."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.browser import Watched, chromium

from anabranch import Flow, task
from anabranch.base.events import Event
from anabranch.base.states import BY_CODE
from anabranch.definition.shape import shape_of
from anabranch.executors import LocalDaskExecutor
from anabranch.monitoring.pages import live_page
from anabranch.monitoring.pages.library import Library
from anabranch.monitoring.pages.page_model import PageModel, PageNode
from anabranch.monitoring.pages.server import Pages
from anabranch.runs import RunStore
from anabranch.runs.read.run import read_run
from anabranch.runs.store.opening import current_store, store_to_show
from anabranch.runs.view import FlowRunView
from anabranch.triggers import all_finished

BEHIND_S = 2.0  # that a page may be, on a machine that has time for it


@task
def numbers(n: int) -> list[int]:
    return list(range(n))


@task(chunksize=2)
def parse(x: int) -> int:
    time.sleep(0.2)
    if x % 5 == 3:
        raise ValueError(f"bad record {x}")
    return x


@task(max_retries=2, retry_delay=1.5)
def flaky(path: str) -> int:
    tries = Path(path)
    with tries.open("a", encoding="utf-8") as file:
        file.write("x")
    if len(tries.read_text(encoding="utf-8")) < 3:
        raise ConnectionError("no answer")
    return 1


@task(isolation="process")
def apart(x: int) -> int:
    time.sleep(1.0)
    return x


@task
def step(x: int) -> int:
    time.sleep(0.6)
    return x


@task
def call(n: int) -> list[int]:
    return [step(i) for i in range(n)]


@task(trigger=all_finished)
def hold(gate: str, *values: object) -> int:
    while not Path(gate).exists():
        time.sleep(0.02)
    return len(values)


def flow_of_all_kinds(directory: Path) -> Flow:
    with Flow("kinds") as flow:
        parsed = parse.map(numbers(20))
        chain = step(step(step(1)))
        hold(str(directory / "go"), parsed, chain, flaky(str(directory / "tries")), apart(2), call(3))
    return flow


class Known:
    """An observer that keeps how each node stood, and until when, and how long this process had no time at all."""

    def __init__(self, flow: Flow) -> None:
        self.model = PageModel(shape_of(flow.graph))
        self.model.parameters = {}
        self.stood: dict[str, list[tuple[float, str]]] = {}
        """Since when, and how, by slug."""
        self.longest_s = 0.0
        self._is_over = threading.Event()
        threading.Thread(target=self._measure, daemon=True).start()

    def __call__(self, event: Event) -> None:
        self.model.take(event)
        for node in self.model.nodes.values():
            kept = self.stood.setdefault(node.slug, [])
            if not kept or kept[-1][1] != describe(node):
                kept.append((time.time(), describe(node)))

    def _measure(self) -> None:
        last = time.monotonic()
        while not self._is_over.wait(0.05):
            now = time.monotonic()
            self.longest_s, last = max(self.longest_s, now - last), now

    def end(self) -> None:
        self._is_over.set()

    def assert_stood(self, slug: str, shown: str, at: float, behind_s: float) -> None:
        """It stood like that at some time that is not longer ago."""
        kept = self.stood[slug]
        ended = [*(since for since, _ in kept[1:]), time.time() + 1]
        ages = [at - until for (_, how), until in zip(kept, ended, strict=True) if how == shown]
        assert ages, f"{slug} never was {shown}, but {kept}"
        assert min(ages) <= behind_s, f"{slug} was {shown} {min(ages):.1f} s ago: {kept}"


def describe(node: PageNode) -> str:
    """What has ended of a map, or how a task stands."""
    ended = {BY_CODE[code].__name__: n for code, n in sorted(node.counts().items()) if code >= 10}
    return str(ended) if node.width else node.name


def describe_row(cells: list[str]) -> str:
    parts = [re.fullmatch(r"([\d,]+) (\w+)", part) for part in cells[2].split(", ")] if cells[2] else []
    known = {cls.__name__: code for code, cls in BY_CODE.items()}
    ended = {found[2]: int(found[1]) for found in parts if found is not None and known[found[2]] >= 10}
    return str(ended) if parts else re.sub(r"^\W+", "", cells[1])


ROWS = """() => {
    const all = (root) =>
        [...root.querySelectorAll('*')].flatMap((e) => e.shadowRoot ? [e, ...all(e.shadowRoot)] : [e]);
    const table = all(document).find((e) => e.tagName === 'TABLE' && e.textContent.includes('retries'));
    return table ? [...table.querySelectorAll('tbody tr')].map((r) => [...r.cells].map((c) => c.textContent)) : [];
}"""


class Run:
    """A run in a thread, with its live page, and one that is made of its record alone."""

    def __init__(self, flow: Flow, known: Known) -> None:
        self.address, self.view = "", None
        self._is_told = threading.Event()

        def run() -> None:
            executor = LocalDaskExecutor(num_workers=3)
            self.view: FlowRunView | None = flow.run(dashboard=tell, observers=[known], executor=executor)

        def tell(address: str) -> None:
            self.address = address
            self._is_told.set()

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        assert self._is_told.wait(60)

    @property
    def run_id(self) -> str:
        found = re.search("id=([^&]+)", self.address)
        assert found is not None
        return found[1]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunStore]:
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path))
    found = current_store()
    assert found is not None
    yield found
    (tmp_path / "go").touch()  # for what is left of a test that failed
    live_page.stop_serving()


def test_pages_and_records_say_what_the_driver_says_and_are_never_old(store: RunStore, tmp_path: Path):
    from playwright.sync_api import expect

    flow = flow_of_all_kinds(tmp_path)
    known = Known(flow)
    with chromium() as browser, Pages(Library(store_to_show)) as recorded:
        # given a run of chains, maps, retries, processes and deferred calls, and three pages of it
        run = Run(flow, known)
        live, elsewhere, reader = Watched(browser), Watched(browser), Watched(browser, height=500)
        for watched in (live, elsewhere, reader):
            watched.page.goto(run.address if watched is live else recorded.address(run.run_id))
            watched.page.locator(".badge").wait_for()
        for watched in (live, elsewhere):
            watched.page.get_by_role("button", name="Tasks").click()
            watched.page.locator("th", has_text="retries").wait_for()
        live.page.wait_for_timeout(1_000)  # what was behind a tab is brought up to date when that is opened
        # when one of them is read: a failure is opened, and scrolled to
        opened = reader.page.locator("details").first
        opened.locator("summary").click()
        reader.page.evaluate("() => window.scrollTo(0, 300)")
        place = opened.bounding_box()
        # then each of them tells, whenever it is asked, how things stood a moment ago
        for looks in range(60):
            began = time.time()
            for watched in (live, elsewhere):
                rows: list[list[str]] = watched.page.evaluate(ROWS)
                behind_s = BEHIND_S + time.time() - began + known.longest_s
                for cells in rows:
                    known.assert_stood(cells[0], describe_row(cells), time.time(), behind_s)
            told = read_run(store, run.run_id)
            behind_s = BEHIND_S + time.time() - began + known.longest_s
            for each in told.tasks:
                if each.counts is None:
                    known.assert_stood(each.slug, each.state, time.time(), behind_s)
            if known.stood["flaky"][-1][1] == "Success" and looks > 8:
                break
            time.sleep(max(0.0, began + 1.0 - time.time()))
        # and the clock goes on though nothing happens
        for watched in (live, elsewhere):
            clock = watched.page.locator(".elapsed")
            expect(clock).not_to_have_text(clock.inner_text())
        # and when it ends, all say so, and the reader has been left alone
        (tmp_path / "go").touch()
        run.thread.join(60)
        for watched in (live, elsewhere, reader):
            watched.page.locator(".badge", has_text="Success").wait_for()
            watched.page.locator(".command", has_text="anabranch show").wait_for()
        assert opened.get_attribute("open") is not None
        moved = opened.bounding_box()
        assert place is not None
        assert moved is not None
        assert abs(moved["y"] - place["y"]) < 40  # what is above it has other lines
        ends: list[Any] = [watched.page.evaluate(ROWS) for watched in (live, elsewhere)]
        assert [row[:3] for row in ends[0]] == [row[:3] for row in ends[1]]
        assert "call/step" in {row[0] for row in ends[0]}
        assert live.complaints == elsewhere.complaints == reader.complaints == []
        # and the page of a process that ends says so, with all that was there
        live_page.stop_serving()
        live.page.get_by_text("Nothing new comes here").wait_for()
        assert live.page.evaluate(ROWS) == ends[0]
    known.end()
