"""The page in Dask's own dashboard, on a scheduler that has nothing of ours: what it shows, and that it goes again."""

from __future__ import annotations

import logging
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from distributed import Client, LocalCluster
from tests.bare_cluster import BareCluster, bare_cluster, make_environment
from tests.browser import Watched, chromium
from tests.hostile_names import CORPUS
from tests.killable_cluster import left_behind

from anabranch import Flow, task, unmapped
from anabranch.base.settings import config
from anabranch.executors import DaskExecutor
from anabranch.executors.scheduler_page import DETACHED, OWN

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore:Mismatched versions found"),  # it has only what it needs
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareCluster]:
    folder = tmp_path_factory.mktemp("page")
    with bare_cluster(make_environment(folder / "env", "bokeh"), folder, workers=0, dashboard=True) as found:
        for name in ("one", "two"):
            found.add_worker(name, Path(sys.executable))  # drivers on the cluster need our package where they run
        yield found


@task(chunksize=1)  # each element is told of when it has ended, whatever the next one does
def hold(x: int, gate: str) -> int:
    import time
    from pathlib import Path

    if x == 3:
        raise ValueError("hunter2")
    while x == 7 and not Path(gate).exists():  # the test looks at the page meanwhile
        time.sleep(0.02)
    return x


def held(name: str, gate: Path) -> Flow:
    with Flow(name) as flow:
        hold.map(list(range(8)), unmapped(str(gate)))
    return flow


class Background:
    """A run in a thread."""

    started: ClassVar[list[Background]] = []

    def __init__(self, flow: Flow, address: str) -> None:
        self._found: list[Any] = []
        executor = DaskExecutor(address)
        self._thread = threading.Thread(target=lambda: self._found.append(flow.run(executor=executor)))
        self._thread.start()
        self.started.append(self)

    def join(self) -> None:
        self._thread.join(60)

    def end(self, gate: Path) -> Any:
        gate.touch()
        self.join()
        return self._found[0]


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[list[Path]]:
    """What runs wait for. At the end, however that comes, there are the gates, and no run goes on."""
    found = [tmp_path / "one", tmp_path / "two"]
    yield found
    for each in found:
        each.touch()
    while Background.started:
        Background.started.pop().join()


@pytest.fixture
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def until(claim: Any) -> None:
    deadline = time.monotonic() + 30
    while not claim():
        assert time.monotonic() < deadline, "it does not become true"
        time.sleep(0.05)


def is_clean(cluster: BareCluster) -> bool:
    """Whether nothing is left of any page, nor of a run."""
    return status_of(f"{cluster.dashboard}/flows") == 404 and left_behind(cluster.address) == []


def test_a_run_is_seen_in_dasks_dashboard_while_it_goes_on(browser: Any, cluster: BareCluster, gates: list[Path]):
    # given
    gate = gates[0]
    with Flow(CORPUS[0]) as flow:
        mapped = hold.map(list(range(8)), unmapped(str(gate)))
        for name in CORPUS[1:]:
            task(lambda x: x, name=name)(1, upstream_tasks=[mapped])
    run = Background(flow, cluster.address)
    watched = Watched(browser)
    page = watched.page
    until(lambda: status_of(f"{cluster.dashboard}/flows") == 200)
    # when
    page.goto(f"{cluster.dashboard}/status")
    page.locator("#myTopnav a[href='flows']").click()
    # then
    page.get_by_text(CORPUS[0], exact=True).wait_for()
    for name in CORPUS[1:]:
        assert page.get_by_role("cell", name=name, exact=True).count() == 1, name
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name="hold", exact=True))
    row.get_by_text("Running").wait_for()
    row.get_by_role("cell", name="7", exact=True).wait_for()  # done: 0 to 6, of which one failed
    assert row.get_by_role("cell").all_inner_texts()[2:5] == ["7", "8", "1"]
    assert "hunter2" not in page.content()
    # when
    run.end(gate)
    # then
    page.get_by_text("no run of anabranch goes on here").wait_for()
    assert not watched.is_hacked()
    assert watched.complaints == []
    page.close()
    until(lambda: is_clean(cluster))


def test_the_page_stays_until_the_last_of_several_runs_has_ended_detached_ones_too(
    cluster: BareCluster, gates: list[Path]
):
    # given
    run = Background(held("driven from here", gates[0]), cluster.address)
    until(lambda: status_of(f"{cluster.dashboard}/flows") == 200)
    with held("driven there", gates[1]).submit(executor=DaskExecutor(cluster.address)) as handle:
        # when
        until(lambda: "driven there" in shown(cluster) and "driven from here" in shown(cluster))
        until(lambda: len(plugins(cluster)) == 2)
        run.end(gates[0])
        until(lambda: len(plugins(cluster)) == 1)
        # then
        assert status_of(f"{cluster.dashboard}/flows") == 200
        until(lambda: "driven from here" not in shown(cluster))
        assert "driven there" in shown(cluster)
        # when
        gates[1].touch()
        assert handle.wait(60).state == "Failed"
        until(lambda: not plugins(cluster))
        handle.forget()
    until(lambda: is_clean(cluster))


def plugins(cluster: BareCluster) -> list[str]:
    with Client(cluster.address, set_as_default=False) as client:
        found: list[str] = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.plugins))
    return [name for name in found if name.startswith("anabranch-page-")]


def shown(cluster: BareCluster) -> str:
    """The page's text, as the scheduler has it."""
    with Client(cluster.address, set_as_default=False) as client:
        found: str = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler._anabranch_page.text())
    return found


def test_who_does_not_want_the_page_has_none(cluster: BareCluster, gates: list[Path]):
    gate = gates[0]
    with config.set(scheduler_page=False):
        run = Background(held("unseen", gate), cluster.address)
        with held("unseen there", gate).submit(executor=DaskExecutor(cluster.address)) as handle:
            until(lambda: "hold" in handle.status().tasks)  # by then it would be there
            assert plugins(cluster) == []
            assert status_of(f"{cluster.dashboard}/flows") == 404
            run.end(gate)
            handle.wait(60)
            handle.forget()


def test_a_scheduler_without_a_dashboard_runs_everything_and_nothing_is_said_of_it(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="anabranch")
    with Flow("plain") as flow:
        task(lambda: 1, name="one")()
    # Without a dashboard there is a web server all the same, which would listen on port 8787.
    free = {"dashboard_address": "127.0.0.1:0"}
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, scheduler_kwargs=free
    ) as made:
        assert flow.run(executor=DaskExecutor(cluster_class=made)).is_successful()
        assert made.scheduler.task_metadata.get(OWN) is None
        assert made.scheduler.task_metadata.get(DETACHED) is None
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("anabranch")]
    assert not [text for text in ours if "dashboard" in text]
