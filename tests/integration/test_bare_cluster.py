"""Runs on a cluster that has nothing but Dask: neither this library nor the user's modules can be imported there."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from distributed import Client
from tests.bare_cluster import BareCluster, bare_cluster, make_environment
from tests.cells import run_cell

from anabranch import Flow, Parameter, task, triggers, unmapped
from anabranch.base.events import Event, Noticed, Observer
from anabranch.engine.driver import driver
from anabranch.engine.units import shipment
from anabranch.errors import CodeNotLoadable, VersionMismatch
from anabranch.executors import DaskExecutor
from anabranch.flows import handle
from anabranch.states import Failed

pytestmark = [
    pytest.mark.cluster,
    # The workers have fewer packages than we: that is the point.
    pytest.mark.filterwarnings("ignore::distributed.versions.VersionMismatchWarning"),
]

HELPERS = """
    import threading
    from dataclasses import dataclass

    LOCK = threading.Lock()

    class Odd(ValueError):
        pass

    @dataclass
    class Row:
        number: int

        def twice(self):
            return Row(2 * self.number)

    def parse(number):
        if number % 100 == 7:
            raise Odd(f"{number} is odd")
        return Row(number)

    def with_lock(number):
        with LOCK:
            return number + 1
"""
INIT = """
    from {name}.helpers import Odd, Row, parse, with_lock

    def late(number):
        from {name}.hidden import triple
        return triple(number)

    def where(number):
        raise LookupError("here")  # this line
"""
HIDDEN = """
    def triple(number):
        return {factor} * number
"""


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has Dask, and what that needs, and no more."""
    return make_environment(tmp_path_factory.mktemp("bare") / "environment")


@pytest.fixture(scope="module")
def cluster(bare_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareCluster]:
    """Two workers of one thread with their nannies; all of them live on through every test."""
    with bare_cluster(bare_python, tmp_path_factory.mktemp("cluster")) as made:
        with warnings.catch_warnings(action="ignore"):
            before = pids(made)
        yield made
        with warnings.catch_warnings(action="ignore"):
            assert pids(made) == before


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Writes a package of the user's and imports it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def make(name: str, factor: int = 3) -> ModuleType:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        texts = {"__init__.py": INIT, "helpers.py": HELPERS, "hidden.py": HIDDEN}
        for file, text in texts.items():
            text = text.replace("{name}", name).replace("{factor}", str(factor))
            (folder / file).write_text(textwrap.dedent(text), encoding="utf-8")
        for each in [each for each in sys.modules if each.partition(".")[0] == name]:
            del sys.modules[each]
        importlib.invalidate_caches()
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode  # written twice within a second
        made.append(name)
        try:
            return importlib.import_module(name)
        finally:
            sys.dont_write_bytecode = before

    yield make
    for name in made:
        for each in [each for each in sys.modules if each.partition(".")[0] == name]:
            del sys.modules[each]


def on_workers(cluster: BareCluster, expression: str) -> dict[str, Any]:
    """What an expression gives on each worker; Dask can load `eval` anywhere."""
    with Client(cluster.address, set_as_default=False) as client:
        return dict(client.run(eval, expression))


def pids(cluster: BareCluster) -> dict[str, Any]:
    return on_workers(cluster, "__import__('os').getpid()")


def add(number: int, other: int = 1) -> int:
    return number + other


# ----------------------------------------------------------------------------------------------------------------------


def test_the_workers_can_import_nothing_of_ours(cluster: BareCluster):
    find = "__import__('importlib.util').util.find_spec"
    names = "('pydantic', 'networkx', 'rich', 'bokeh', 'tests')"
    found = on_workers(cluster, f"[name for name in {names} if {find}(name) is not None]")
    assert list(found.values()) == [[], []]
    command = [str(cluster.python), "-I", "-c", "import anabranch"]
    outcome = subprocess.run(command, cwd=cluster.folder, capture_output=True)
    assert b"No module named 'anabranch'" in outcome.stderr


def test_singles_maps_and_joins_run(cluster: BareCluster):
    with Flow("sums") as flow:
        first = task(add, name="first")(1)
        numbers = task(lambda n: list(range(n)), name="numbers")(1_000)
        more = task(add, name="more").map(numbers, other=unmapped(first))
        total = task(sum, name="total")(more)
    state = flow.run(executor=DaskExecutor(cluster.address))
    assert state.is_successful(), state
    assert state[total].result == sum(number + 2 for number in range(1_000))


def test_elements_fail_and_are_retried_as_elsewhere(cluster: BareCluster, tmp_path: Path):
    def flaky(number: int, folder: str) -> int:
        if number % 250 == 3:
            mark = Path(folder, str(number))
            if not mark.exists():
                mark.touch()
                raise OSError("not yet")
        if number == 500:
            raise KeyError("never")
        return number

    with Flow("flaky") as flow:
        numbers = task(flaky, max_retries=1, retry_delay=0.01).map(list(range(1_000)), folder=unmapped(str(tmp_path)))
    state = flow.run(executor=DaskExecutor(cluster.address))
    counts = state[numbers].counts
    assert (counts.successful, counts.failed) == (999, 1)
    assert len(list(tmp_path.iterdir())) == 4
    assert "KeyError" in state.message


def test_modules_of_the_user_travel_and_their_classes_come_back(
    cluster: BareCluster, package: Callable[..., ModuleType]
):
    # Given a package of two modules that no worker has
    pack = package("ours_travelling")
    with Flow("rows") as flow:
        rows = task(pack.parse, name="parse").map(list(range(1_000)))
        twice = task(lambda row: row.twice(), name="twice").map(task(pack.Row, name="row").map([1, 2, 3]))
        sent = task(lambda row: row.number, name="sent").map([pack.Row(5), pack.Row(6)])
    # When its functions run
    state = flow.run(executor=DaskExecutor(cluster.address))
    # Then values and exceptions are of the classes that are here.
    assert all(type(row) is pack.Row for row in state[twice].result)
    assert [row.number for row in state[twice].result] == [2, 4, 6]
    assert state[sent].result == [5, 6]
    assert type(state[rows].result[107]) is pack.Odd
    assert state[rows].counts.failed == 10
    assert pack.Row(2).twice() == pack.Row(4)


def test_what_cannot_travel_by_value_or_is_imported_late_comes_as_source(
    cluster: BareCluster, package: Callable[..., ModuleType]
):
    pack = package("ours_by_source")
    with Flow("source") as flow:
        locked = task(pack.with_lock, name="locked").map([1, 2, 3])
        late = task(pack.late, name="late")(5)
        where = task(pack.where, name="where")(5)
    state = flow.run(executor=DaskExecutor(cluster.address))
    assert state[locked].result == [2, 3, 4]
    assert state[late].result == 15
    assert 'raise LookupError("here")  # this line' in state[where].failure.traceback


def test_the_next_run_sees_code_that_has_changed_and_leaves_nothing_behind(
    cluster: BareCluster, package: Callable[..., ModuleType]
):
    seen = []
    sizes = []
    for factor in range(20):
        pack = package("ours_changing", factor)
        with Flow("changing") as flow:
            late = task(pack.late, name="late").map([1, 2, 3, 4])
        state = flow.run(executor=DaskExecutor(cluster.address))
        seen.append(state[late].result[3])
        sizes.append(on_workers(cluster, "len(__import__('sys').modules)"))
    assert seen == [4 * factor for factor in range(20)]
    assert sizes[-1] == sizes[5]


def test_only_the_task_fails_whose_code_is_not_there(cluster: BareCluster):
    import networkx

    with Flow("missing") as flow:
        bad = task(networkx.path_graph, name="bad")(3)
        good = task(add, name="good").map([1, 2, 3])
    state = flow.run(executor=DaskExecutor(cluster.address))
    assert isinstance(state[bad].state, Failed)
    assert state[bad].failure.type_name == "CodeNotLoadable"
    assert "No module named 'networkx'" in state[bad].failure.message
    assert state[good].result == [2, 3, 4]


def test_what_tasks_log_reaches_the_driver(cluster: BareCluster, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")

    def speak(x: int, token: str) -> None:
        from anabranch import context

        context.logger.info("element %d of %s", x, token)
        logging.getLogger("library").warning("from a library")
        print("printed", x)

    with Flow("speaking") as flow:
        token = Parameter("token")
        task(speak, name="speak", log_stdout=True).map([0, 1, 2], token=unmapped(token))
        task(speak, name="alone", log_stdout=True, isolation="process")(7, token)

    view = flow.run(token="sw0rdfish", executor=DaskExecutor(cluster.address))

    assert view.is_successful()
    shown = [(record.task_run, record.getMessage()) for record in caplog.records if hasattr(record, "task_run")]
    for name, x in (("speak[0]", 0), ("speak[1]", 1), ("speak[2]", 2), ("alone", 7)):
        own = [text for task_run, text in shown if task_run == name]
        assert own == [f"element {x} of ***", "from a library", f"printed {x}"]
    assert "sw0rdfish" not in caplog.text


def test_values_that_do_not_load_fail_their_task_only(cluster: BareCluster):
    import networkx

    with Flow("missing values") as flow:
        bad = task(lambda graph: 1, name="bad").map([networkx.path_graph(2), networkx.path_graph(3)])
        good = task(add, name="good")(1)
    state = flow.run(executor=DaskExecutor(cluster.address))
    assert [type(each) for each in state[bad].result] == [CodeNotLoadable] * 2
    assert "No module named 'networkx'" in str(state[bad].result[0])
    assert state[good].result == 2


def test_a_worker_with_another_python_refuses_and_lives(cluster: BareCluster, monkeypatch: pytest.MonkeyPatch):
    # Given a run that seems to come from another Python, whose bytecode would end the workers
    here = shipment.origin()
    monkeypatch.setattr(shipment, "origin", lambda: ((3, 8), *here[1:]))
    with Flow("other") as flow:
        single = task(add, name="single")(1)
        mapped = task(add, name="mapped").map([1, 2, 3])
        after = task(len, name="after", trigger=triggers.all_finished, skip_on_upstream_skip=False)(mapped)
    # When it is sent
    state = flow.run(executor=DaskExecutor(cluster.address))
    # Then every task run says so.
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for node in (single, after):
        assert state[node].failure.type_name == "VersionMismatch"
        assert state[node].failure.message == f"the worker has Python {version}, the flow was sent by Python 3.8"
    assert state[mapped].counts.failed == 3


def test_another_version_of_the_library_takes_the_place_of_one_that_no_run_needs(
    cluster: BareCluster, monkeypatch: pytest.MonkeyPatch
):
    # Given workers that were sent one version
    with Flow("versions") as flow:
        result = task(add)(1)
    flow.run(executor=DaskExecutor(cluster.address))
    before = on_workers(cluster, "__import__('sys').modules['anabranch'].__digest__")
    # When all its runs have ended, and another comes
    on_workers(cluster, "__import__('sys').modules['_anabranch_shelf'].runs.clear()")
    here = shipment.origin()
    monkeypatch.setattr(shipment, "origin", lambda: (here[0], "9.9", "f" * 64, here[3]))
    state = flow.run(executor=DaskExecutor(cluster.address))
    # Then that is used.
    assert state[result].result == 2
    after = on_workers(cluster, "getattr(__import__('sys').modules['anabranch'], '__digest__', None)")
    assert set(before.values()) == {here[2]}
    assert "f" * 64 in after.values()


def test_another_version_is_refused_while_a_run_needs_the_one_that_is_there(
    cluster: BareCluster, monkeypatch: pytest.MonkeyPatch
):
    with Flow("versions") as flow:
        result = task(add).map([1, 2, 3, 4])
    assert flow.run(executor=DaskExecutor(cluster.address)).is_successful()
    # Given a run that has not ended, as far as the workers know
    loaded = on_workers(cluster, "getattr(__import__('sys').modules['anabranch'], '__digest__', None)")
    run = "{'digest': __import__('sys').modules['anabranch'].__digest__, 'tasks': {1}, 'last': 0.0}"
    on_workers(cluster, f"__import__('sys').modules['_anabranch_shelf'].runs.update(other={run})")
    here = shipment.origin()
    other = "e" * 64
    monkeypatch.setattr(shipment, "origin", lambda: (here[0], "9.9", other, here[3]))
    try:
        # When another version comes
        state = flow.run(executor=DaskExecutor(cluster.address))
    finally:
        on_workers(cluster, "__import__('sys').modules['_anabranch_shelf'].runs.pop('other')")
    # Then both are named.
    assert len(set(loaded.values())) <= 2
    assert state[result].counts.failed == 4
    error = state[result].result[0]
    assert type(error) is VersionMismatch
    assert "the flow was sent by anabranch 9.9" in str(error)
    assert str(error).startswith("the worker has loaded anabranch ")


def test_the_driver_of_a_detached_run_sends_on_what_it_was_sent(cluster: BareCluster):
    def odd(number: int) -> int:
        if number == 7:
            raise ValueError("no sevens")
        return number

    with Flow("detached") as flow:
        odds = task(odd).map(range(50))

    with flow.submit(executor=DaskExecutor(cluster.address)) as handle:
        view = handle.result(60)
        handle.forget()

    states = view.result[odds].map_states
    assert [state.is_successful() for state in states] == [number != 7 for number in range(50)]
    assert "no sevens" in states[7].message


@pytest.mark.parametrize("detached", [False, True], ids=["driven here", "detached"])
def test_failures_show_lines_that_no_worker_has(
    cluster: BareCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detached: bool
):
    # Given a module in a file that is gone when workers begin, and a cell of a notebook
    folder = tmp_path / "away"
    folder.mkdir()

    def hiding(send: Callable[..., Any]) -> Callable[..., Any]:
        def send_and_hide(*args: Any, **kwargs: Any) -> Any:
            sent = send(*args, **kwargs)
            folder.rename(tmp_path / "elsewhere")
            return sent

        return send_and_hide

    monkeypatch.setattr(driver, "pack", hiding(shipment.pack))
    monkeypatch.setattr(handle, "driver_call", hiding(shipment.driver_call))
    name = f"ours_away_{detached}".lower()
    (folder / f"{name}.py").write_text("def ratio(x):\n    return 1 / (x - 1)  # of the module\n", encoding="utf-8")
    cell = run_cell(
        """
        def in_cell(x):
            return ratio(x)  # of the cell
        """
    )
    sys.path.insert(0, str(folder))
    try:
        cell["ratio"] = importlib.import_module(name).ratio
    finally:
        sys.path.remove(str(folder))
    with Flow("away") as flow:
        failed = task(cell["in_cell"], name="failed")(1)
        lam = task(lambda x: 1 / (x - 1), name="lam")(1)  # of this file
    # When it fails there
    executor = DaskExecutor(cluster.address)
    if detached:
        with flow.submit(executor=executor) as submitted:
            view = submitted.result(timeout=60)
            submitted.forget()
    else:
        view = flow.run(executor=executor)
    # Then each frame has its file, its line, and the line's text.
    text = view[failed].failure.traceback
    assert f'File "{cell["__file__"]}", line 2, in in_cell\n    return ratio(x)  # of the cell\n' in text
    assert f'File "{folder / name}.py", line 2, in ratio\n    return 1 / (x - 1)  # of the module\n' in text
    assert f'File "{__file__}", line ' in view[lam].failure.traceback
    assert "# of this file\n" in view[lam].failure.traceback
    with pytest.raises(ZeroDivisionError):
        view.raise_failure()


def test_a_flow_in_a_file_runs_from_the_command_line(cluster: BareCluster, tmp_path: Path):
    (tmp_path / "near.py").write_text("def double(x):\n    return 2 * x\n", encoding="utf-8")
    (tmp_path / "etl.py").write_text(
        "from anabranch import Flow, task\nimport near\n\n@task\ndef show(xs):\n    print(sum(xs))\n\n"
        "with Flow('etl') as flow:\n    show(task(near.double).map([1, 2, 3]))\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-W", "ignore", "-m", "anabranch", "run", "etl.py", "--executor", cluster.address]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=dict(os.environ))
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "12" in outcome.stdout


def test_a_worker_that_joins_later_and_has_nothing_is_sent_the_code(bare_python: Path, tmp_path: Path):
    # Given a cluster whose only worker has this library
    with bare_cluster(bare_python, tmp_path, workers=0) as cluster:
        cluster.add_worker("full", Path(sys.executable))

        def meet(number: int, folder: str) -> str:
            import os
            import time

            Path(folder, f"{number}-{os.getpid()}").touch()
            end = time.monotonic() + 20
            while number < 2 and len({each.name.partition("-")[2] for each in Path(folder).iterdir()}) < 2:
                if time.monotonic() > end:
                    raise TimeoutError("the other worker has run nothing")
                time.sleep(0.01)
            return __import__("anabranch").__name__

        marks = tmp_path / "marks"
        marks.mkdir()
        with Flow("late") as flow:
            names = task(meet, chunksize=1).map(list(range(8)), folder=unmapped(str(marks)))
        # When another joins while it runs, that has nothing
        state = _run_and_join(flow, cluster, marks)
        # Then both have run elements of the map.
        assert state[names].result == ["anabranch"] * 8


def test_a_worker_that_joins_later_with_another_python_gets_nothing_more(bare_python: Path, tmp_path: Path):
    # Given a run at a cluster with one worker, which is busy until another one has refused something
    preload = tmp_path / "other_python.py"
    preload.write_text(
        "import collections, sys\n"
        "version = collections.namedtuple('version', 'major minor micro releaselevel serial')\n"
        "sys.version_info = version(3, 99, 0, 'final', 0)\n",
        encoding="ascii",
    )
    marks = tmp_path / "marks"
    marks.mkdir()
    refused = marks / "refused"

    def notice(event: Event) -> None:
        if isinstance(event, Noticed) and "gets nothing of this run" in event.text:
            refused.touch(exist_ok=False)

    def wait(number: int, folder: str) -> int:
        import time

        Path(folder, "begun").touch()
        end = time.monotonic() + 20
        while number == 0 and not Path(folder, "refused").exists():
            if time.monotonic() > end:
                raise TimeoutError("the other worker has refused nothing")
            time.sleep(0.01)
        return number

    with Flow("unfit") as flow:
        numbers = task(wait, chunksize=1).map(list(range(20)), folder=unmapped(str(marks)))
    with bare_cluster(bare_python, tmp_path, workers=1) as cluster:
        # When one joins that seems to have another Python
        state = _run_and_join(flow, cluster, marks, "--preload", str(preload), observers=[notice])
    # Then what it refused has run elsewhere.
    assert refused.exists()
    assert state[numbers].result == list(range(20))


def _run_and_join(
    flow: Flow, cluster: BareCluster, marks: Path, *options: str, observers: Sequence[Observer] = ()
) -> Any:
    import threading
    import time

    def join() -> None:
        while not any(marks.iterdir()):
            time.sleep(0.01)
        cluster.add_worker("bare", None, *options)

    thread = threading.Thread(target=join)
    thread.start()
    try:
        return flow.run(executor=DaskExecutor(cluster.address), observers=observers)
    finally:
        thread.join()
