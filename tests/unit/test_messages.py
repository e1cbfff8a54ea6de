"""Every message that the library raises is produced by a test: by a case of this table, or where another quotes it.

`tests.messages` reads the source. A new `raise` needs a case here, or a test anywhere that quotes words that only this
message has; what neither can have is listed below with its reason.
"""

from __future__ import annotations

import ast
import asyncio
import pickle
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from tests.messages import messages, raised_by

from anabranch import Dependency, Flow, Parameter, Secret, Switch, config, task, unmapped
from anabranch.cli import anabranch as command
from anabranch.definition.caching import Facts, partial_inputs_only
from anabranch.definition.resources import resource_manager
from anabranch.executors import DaskExecutor, LocalDaskExecutor, LocalExecutor
from anabranch.executors.clusters import make_cluster
from anabranch.executors.connection import as_security, connect, host_and_port
from anabranch.flows.registered import load_registered, register_target
from anabranch.flows.replay import replay
from anabranch.flows.saving import load
from anabranch.monitoring.metrics import Metrics, push
from anabranch.monitoring.pages.library import ChildActions, Library
from anabranch.monitoring.pages.server import Pages
from anabranch.monitoring.tracing import Tracing
from anabranch.notifiers import WebhookNotifier
from anabranch.results import FileResult, InMemoryResult, LocalResult, S3Result, SQLResult
from anabranch.results.envelope import read_header
from anabranch.results.locations import check_location
from anabranch.results.serializers import need
from anabranch.results.templates import Template
from anabranch.runs import RunRecord, open_store
from anabranch.runs.read.explain import explain
from anabranch.runs.registry.backfill import times_between
from anabranch.runs.registry.flow_storage import FlowStorage, S3Storage, read_stored
from anabranch.runs.registry.registration import registry
from anabranch.runs.registry.seal import check_seal, schedule_of
from anabranch.runs.store.codec import decode_indices, from_json
from anabranch.runs.store.flows import FlowRecord
from anabranch.runs.store.permit_table import PermitTable
from anabranch.runs.view import FlowResults
from anabranch.schedules import CronSchedule, IntervalSchedule, Schedule
from anabranch.schedules.as_json import FORMAT, from_form, function_of, to_form
from anabranch.schedules.clocks import IntervalClock
from anabranch.schedules.filters import is_day_of_week
from anabranch.service.serving import Options, Service
from anabranch.service.work.processes import Processes
from anabranch.testing import FakeClock, FlowTester, assert_states, assert_success, isolated_home
from anabranch.triggers import manual_only
from anabranch.web.listening import check_bind

ROOT = Path(__file__).parents[2]
GRAM = 16  # characters in a row that a quotation shares with the message that it quotes


@task
def one(x: Any = 1) -> Any:
    return x


@task
def listed(x: Any = 1) -> list[int]:
    return [x, x]


def written(write: Callable[[Flow], Any]) -> Any:
    """Write a flow."""
    with Flow("f") as flow:
        write(flow)
    return flow


def running(act: Callable[[], Any], **options: Any) -> Any:
    """Do something in a running task, and raise what came of it."""
    with Flow("f") as flow:
        node = task(act, name="act", **options)()
    view = flow.run()
    view.raise_failure()
    return view[node].result


def cli(*arguments: str) -> Any:
    """The command line, with its errors as they are raised."""
    return command.main([*arguments], prog_name="anabranch", standalone_mode=False)


class Case(NamedTuple):
    words: str
    """That the message has to have."""
    act: Callable[[Any], Any]
    """Given a home with a recorded run, and files."""


TASKS = [
    Case("register() inside a `with Flow` block", lambda home: written(lambda flow: flow.register())),
    Case("serve() inside a `with Flow` block", lambda home: written(lambda flow: flow.serve())),
    Case("flow name: expected a name of 1 to 200 characters, found 0", lambda home: Flow("")),
    Case("memory_limit: expected bytes, or a text", lambda home: task(memory_limit="much")(len)),
    Case("memory_limit: expected bytes, or a text", lambda home: task(memory_limit=True)(len)),
    Case("memory_limit: expected at least 64,000,000 bytes", lambda home: task(memory_limit=1)(len)),
    Case("min_success: expected a share", lambda home: task(min_success=2)(len)),
    Case("first_n: expected a whole number", lambda home: task(first_n=0)(len)),
    Case("stop_when: expected a function", lambda home: task(stop_when=3)(len)),
    Case("reduce: expected True or False", lambda home: task(reduce="yes")(len)),
    Case("retry_delay is given twice", lambda home: task(retry_delay=1, retry_kwargs={"delay": 2})(len)),
    Case("timeout: expected", lambda home: task(timeout=-1)(len)),
    Case("task 'one' cannot depend on itself", lambda home: one.depends_on(one)),
    Case("Dependency(arg='x') without a key", lambda home: Dependency(one, arg="x")),
    Case("Switch(one) has no case", lambda home: written(lambda flow: empty_switch(one()))),
    Case("say which output of the value it takes", lambda home: Dependency(one, arg="x")),
    Case("@resource_manager needs a class", lambda home: resource_manager(5)),
    Case("expected a provider's name or function", lambda home: Secret("TOKEN", provider=5)),
    Case("failed with ZeroDivisionError", lambda home: Secret("TOKEN", provider=lambda name: 1 // 0).get()),
    Case("has no output 'b'; it has: 'a'", lambda home: FLOWS["output"].run(raise_on_failure=True)),
    Case("all are unmapped", lambda home: written(lambda flow: one.map(unmapped(1)))),
    Case("cannot map 'x' over", lambda home: written(lambda flow: one.map("abc"))),
    Case("mapped arguments have different widths", lambda home: written(lambda flow: two.map([1], [1, 2]))),
    Case("expected a node or a task, found 5", lambda home: written(lambda flow: one(upstream_tasks=[5]))),
    Case("cannot depend on itself (node of", lambda home: written(lambda flow: loop_on(flow, one()))),
    Case("pass fewer levels", lambda home: written(lambda flow: one(nested(one())))),
    Case("stands for 2 nodes in flow 'f'", lambda home: written(lambda flow: (one(), one(), one(x=one)))),
    Case("flow 'f' does not have 'tow'", lambda home: FLOWS["one"].set_reference_tasks(["tow"])),
    Case("stands for 2 nodes in flow 'f'", lambda home: FLOWS["twice"].upstream_tasks("one")),
]


@task
def two(x: Any, y: Any) -> Any:
    return x


@task
def pair() -> dict[str, int]:
    return {"a": 1}


@task(depends_on=[Dependency(pair, key="b", arg="x")])
def takes(x: Any) -> Any:
    return x


@task
def star(*args: Any) -> Any:
    return args


def loop_on(flow: Flow, node: Any) -> None:
    flow.add_edge(node, node)


def empty_switch(node: Any) -> None:
    with Switch(node):
        pass


def nested(value: Any) -> Any:
    for _ in range(250):
        value = [value]
    return value


INNER = written(lambda flow: task(len, name="len", trigger=manual_only)([]))
FLOWS = {
    "one": written(lambda flow: one()),
    "twice": written(lambda flow: [one(task_args={"slug": slug}) for slug in "ab"]),
    "output": written(lambda flow: takes()),
    "paused": written(lambda flow: INNER.as_task(name="inner")()),
    "widths": written(lambda flow: two.map(Parameter("a"), Parameter("b"))),
    "secret": written(lambda flow: one(Parameter("token", secret=True))),
    "limit": written(lambda flow: one(Parameter("limit", type=int))),
}

DEFERRED = [
    Case("(engine.max_width)", lambda home: many_calls()),
    Case("all are unmapped", lambda home: running(lambda: one.map(unmapped(1)))),
    Case("mark arguments by name", lambda home: running(lambda: star(1, unmapped(2), mapped=True))),
    Case("*args cannot be mapped over calls", lambda home: running(lambda: star.map(listed()))),
    Case("takes calls that were made there", lambda home: running(lambda: one(upstream_tasks=[5]))),
    Case("is not its value", lambda home: running(lambda: bool(one()))),
    Case("mapped arguments have different widths", lambda home: running(lambda: two.map([1], [1, 2]))),
]


def many_calls() -> Any:
    """Elements that are each within the limit for calls, and together past it."""
    with Flow("f") as flow:
        task(lambda x: one.map([x, x, x]), name="caller").map(list(range(64)))
    with config.set(engine__max_width=100):
        flow.run(raise_on_failure=True)


RUNS = [
    Case("resume_element: expected one element", lambda home: home.flow.run(resume=home.run, resume_element=7)),
    Case("the parameters do not fit flow 'f'", lambda home: home.flow.run([1])),
    Case("the parameters do not fit flow 'f'", lambda home: home.flow.run({"limit": 1}, limit=2)),
    Case("the parameters do not fit flow 'f'; it has", lambda home: FLOWS["limit"].run(limit="many")),
    Case("is one of flow 'f', found flow 'g'", lambda home: home.other.run(resume=home.run)),
    Case("so no runs are recorded", lambda home: without_history(lambda: home.flow.run(resume=home.run))),
    Case("there is a run", lambda home: home.flow.run(run_id=home.run)),
    Case("'one' stands for 2 nodes", lambda home: FLOWS["twice"].run().result["one"]),
    Case("backend: expected 'local'", lambda home: open_store("mongodb://here")),
    Case("is a directory", lambda home: at_directory(home)),
]


def without_history(act: Callable[[], Any]) -> Any:
    with config.set(backend="none"):
        return act()


def at_directory(home: Any) -> Any:
    with open_store(f"sqlite:///{home.path}") as store:
        return store.list_runs()


PLACES = [
    Case("give an address, or cluster_class", lambda home: DaskExecutor("tcp://a:1", cluster_class="b.C")),
    Case("security=True is for a new cluster", lambda home: DaskExecutor("tcp://a:1", security=True)),
    Case("which cannot be replaced", lambda home: LocalExecutor().recover(print)),
    Case("which cannot be replaced", lambda home: LocalDaskExecutor().recover(print)),
    Case("security has no argument 'tls_ca'", lambda home: as_security({"tls_ca": "x"})),
    Case(
        "is for programs that await",
        lambda home: connect("tcp://a:1", None, timeout_s=1, client_kwargs=AWAITING),
    ),
    Case("has no protocol", lambda home: host_and_port("here:8786")),
    Case("cannot be imported", lambda home: make_cluster("broken_cluster.Cluster")),
    Case("is asynchronous", lambda home: make_cluster(SimpleNamespace(**CLUSTER, asynchronous=True))),
    Case(
        "closed and cannot run",
        lambda home: make_cluster(SimpleNamespace(**CLUSTER, status=SimpleNamespace(name="closed"))),
    ),
    Case("expected host:port", lambda home: push(Metrics(), "::", "f")),
]
AWAITING = {"asynchronous": True}
CLUSTER = {"scheduler_address": "tcp://127.0.0.1:1", "close": lambda timeout=0: None}

RESULTS = [
    Case("expected the name of a bucket", lambda home: S3Result("a/b")),
    Case("expected a URL such as", lambda home: FileResult("")),
    Case("fsspec knows no 'nope'", lambda home: FileResult("nope://x")),
    Case("workers cannot share a database in memory", lambda home: SQLResult("sqlite://")),
    Case("a location as a string", lambda home: check_location(5)),
    Case("expected names joined by '/'", lambda home: check_location("../x")),
    Case("there is no result 'x'", lambda home: LocalResult(home.path / "r").read("x")),
    Case("use read_elements()", lambda home: elements(home).read("many")),
    Case("use read_elements()", lambda home: elements(home).read_dated("many")),
    Case("it was moved, copied", lambda home: one_value(home).read("one", {"flow": "other"})),
    Case("no field 'nope'", lambda home: located(home, "{nope}").run(raise_on_failure=True)),
    Case("the function broken failed with", lambda home: located(home, broken).run(raise_on_failure=True)),
    Case("it ends after 9 bytes", lambda home: header_of_cut(home, 9)),
    Case("it ends within its header", lambda home: header_of_cut(home, 100)),
    Case("not signed", lambda home: read_header((home.path / "r" / "one").read_bytes(), "one", key="k" * 32)),
    Case("there is no input 'nope'", lambda home: partial_inputs_only(["nope"]).digests(Facts({"x": 1}, {}, None))),
    Case("expected a URL or directory", lambda home: FlowStorage("")),
    Case("expected the name of a bucket", lambda home: S3Storage("a/b")),
    Case("the stored flow cannot be read", lambda home: read_stored("{}")),
    Case("holds a int, not a flow", lambda home: load(home.pickle, Flow)),
    Case(
        "its pickle holds a int",
        lambda home: load_registered(FlowRecord("f", "", code=pickle.dumps(5))),
    ),
    Case("its pickle does not load here", lambda home: load_registered(FlowRecord("f", "", code=b"x"))),
    Case("registered from nowhere.py", lambda home: load_registered(FlowRecord("f", "", source="nowhere.py:f"))),
    Case("a text that is not JSON:", lambda home: from_json("{")),
    Case("not a JSON object", lambda home: from_json("[]")),
    Case("indices that cannot be read", lambda home: decode_indices(b"?")),
]


def broken(**fields: Any) -> str:
    raise ValueError("so it is")


def located(home: Any, location: Any) -> Flow:
    stored = task(location=location, result=LocalResult(home.path / "r"))(one.run)
    return written(lambda flow: stored())


def elements(home: Any) -> LocalResult:
    store = LocalResult(home.path / "r")
    store.write_elements("many", [0, 1], ["a", "b"], overwrite=True)
    return store


def one_value(home: Any) -> LocalResult:
    store = LocalResult(home.path / "r")
    store.write("one", 1, {"flow": "f"}, overwrite=True)
    return store


def header_of_cut(home: Any, nbytes: int) -> Any:
    one_value(home)
    return read_header((home.path / "r" / "one").read_bytes()[:nbytes], "one", key="")


SCHEDULES = [
    Case("the stored schedule is incomplete: KeyError", lambda home: from_form({"format": FORMAT})),
    Case("a clock of an unknown kind", lambda home: from_form(form_of({"kind": "moon"}))),
    Case("the schedule's function 'math:pi' is a float", lambda home: function_of("math:pi")),
    Case("the stored schedule is incomplete: ", lambda home: schedule_of(FlowRecord("f", "", schedule=b"{"))),
    Case("has no seal", lambda home: with_key(lambda: check_seal(FlowRecord("f", "")))),
    Case("is sealed, and this process has no service.key", lambda home: check_seal(FlowRecord("f", "", seal="0"))),
    Case("the token has", lambda home: check_bind("127.0.0.1", "short")),
    Case("is not after the start", lambda home: times_between(DAY, DAY, HOUR)),
    Case("every: expected one second or more", lambda home: times_between(DAY, DAY + HOUR, HOUR / 1e6)),
    Case("expected 0 (Monday) to 6", lambda home: is_day_of_week(7)),
    Case("interval: expected one second or more", lambda home: IntervalSchedule(interval=0.5)),
    Case("catch_up: expected one of", lambda home: CronSchedule("0 6 * * *", catch_up="never")),
    Case(
        "the filters let none of",
        lambda home: Schedule([IntervalClock(HOUR, start_date=DAY)], filters=[is_never]).next(1),
    ),
    Case("expected most=1 or more", lambda home: WebhookNotifier("https://a.example", most=0)),
]
DAY, HOUR = datetime(2026, 1, 1, tzinfo=UTC), timedelta(hours=1)


def form_of(changes: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a schedule, with other things in its clock."""
    form = dict(to_form(IntervalSchedule(interval=60)))
    form["clocks"] = [{**form["clocks"][0], **changes}]
    return form


def with_key(act: Callable[[], Any]) -> Any:
    with config.set(service__key="k" * 32):
        return act()


def is_never(moment: datetime) -> bool:
    return False


TESTING = [
    Case("replace(): takes a function", lambda home: FlowTester().replace(one)),
    Case("take an index that it has", lambda home: FlowTester().fail(one, index=7).run(home.flow)),
    Case("needs a run that was recorded", lambda home: FlowTester().run(home.flow, resume=home.run)),
    Case("give the run", lambda home: assert_success(home.state.state, one)),
    Case("expected the name of a state", lambda home: assert_states(home.state, {one: "Sucess"})),
    Case("clock= takes a FakeClock", lambda home: FlowTester(clock=5)),
    Case("tasks run in this process", lambda home: FlowTester().run(home.flow, executor=LocalExecutor())),
    Case("no such task was in the run", lambda home: FlowTester().fail("tow").run(home.flow)),
    Case("ran longer than its timeout of 5 s", lambda home: with_deadline(FakeClock())),
]


def with_deadline(clock: FakeClock) -> None:
    with clock.deadline(5):
        clock.sleep(6)


REPLAYS = [
    Case("is one of flow 'f', found flow 'g'", lambda home: replay(home.run, "one", flow=home.other)),
    Case("one has no input 'y'", lambda home: replay(home.run, "one", flow=home.flow, inputs={"y": 1})),
    Case("Name it once", lambda home: replay(home.run, "many[1]", 2, flow=home.flow)),
    Case("flow 'f' has no task 'tow'", lambda home: replay(home.run, "tow", flow=home.flow)),
    Case("none of which failed", lambda home: replay(home.run, "many", flow=home.flow)),
    Case("flow 'f' has no parameter 'n'", lambda home: replay(home.run, "one", flow=home.flow, parameters={"n": 1})),
    Case("has no task 'tow'", lambda home: with_store(lambda store: explain(store, home.run, "tow"))),
    Case("has 2 elements, found many[7]", lambda home: with_store(lambda store: explain(store, home.run, "many[7]"))),
    Case("opened for reading only", lambda home: with_store(lambda store: store.prune(keep_last=0))),
]


def with_store(act: Callable[[Any], Any]) -> Any:
    with open_store(read_only=True) as store:
        return act(store)


COMMANDS = [
    Case("--set, --unset and --release exclude", lambda home: cli("limits", "db", "--set", "2", "--unset")),
    Case("there is no run 'x': no runs are recorded", lambda home: empty(home, "explain", "x", "one")),
    Case("there is no run 'x': no runs are recorded", lambda home: empty(home, "show", "x")),
    Case("there is no run 'x': no runs are recorded", lambda home: empty(home, "resume", "x")),
    Case("there is no run 'x': no runs are recorded", lambda home: empty(home, "logs", "x")),
    Case("there is no run 'x': no runs are recorded", lambda home: empty(home, "report", "x", "-o", "a.html")),
    Case(
        "--element many[1] cannot be combined with",
        lambda home: cli("resume", home.run, "--element", "many[1]", "--only-failed"),
    ),
    Case("give --older-than AGE", lambda home: cli("prune")),
    Case("has no task 'tow'", lambda home: cli("logs", home.run, "tow")),
    Case("expected NAME=VALUE, found 'a'", lambda home: cli("run", home.file, "-p", "a")),
    Case("is given 2 times", lambda home: cli("run", home.file, "-p", "limit=1", "-p", "limit=2")),
    Case("missing.yaml cannot be read", lambda home: cli("run", home.file, "--params", "missing.yaml")),
    Case("-p: expected NAME=VALUE", lambda home: cli("backfill", "f", *SPAN, "-p", "a")),
    Case("-p a: given twice", lambda home: cli("backfill", "f", *SPAN, "-p", "a=1", "-p", "a=2")),
    Case("-i: expected NAME=JSON", lambda home: cli("replay", home.run, "one", home.file, "-i", "a")),
    Case("--token-file: cannot read missing", lambda home: cli("serve", "--token-file", "missing")),
    Case("is empty", lambda home: cli("serve", "--token-file", home.empty)),
    Case("cannot be written", lambda home: cli("init", f"{home.empty}/below")),
    Case("cannot be loaded: SyntaxError", lambda home: cli("validate", home.written("a.py", "with Flow("))),
    Case("cannot be loaded: ZeroDivisionError", lambda home: cli("validate", home.written("b.py", "1 / 0"))),
    Case("no flow among its variables", lambda home: cli("validate", home.written("c.py", ""))),
    Case("no flow among its variables", lambda home: register_target(home.written("c.py", ""))),
    Case("is an int, not a flow", lambda home: cli("validate", f"{home.file}:number")),
    Case("has no flow 'tow'", lambda home: cli("validate", f"{home.file}:tow")),
    Case("is a name for svg, found format 'png'", lambda home: home.flow.visualize(format="png", filename="a.svg")),
    Case("no format 'gif'", lambda home: home.flow.visualize(format="gif")),
]
SPAN = ("--from", "2026-01-01", "--to", "2026-01-02", "--every", "1d")


def empty(home: Any, *arguments: str) -> Any:
    with isolated_home():
        return cli(*arguments)


MORE = [
    Case("live pages on port 99999", lambda home: Pages(Library(lambda: None), port=99_999)),
    Case("limit '': expected a name", lambda home: PermitTable(registry()[0].database).fix("", 1)),
    Case("parameter 'n': its default: expected int", lambda home: Parameter("n", default="five", type=int)),
    Case("takes 1 arguments by position", lambda home: written(lambda flow: one(1, 2))),
    Case("stands for 2 nodes in flow 'f'", lambda home: FLOWS["twice"].set_dependencies(one, upstream_tasks=[])),
    Case("mapped arguments have different widths", lambda home: FLOWS["widths"].to_delayed(a=[1], b=[1, 2])),
    Case("ran longer than its timeout", lambda home: running(lambda: time.sleep(5), timeout=0.01)),
    Case("ran longer than its timeout", lambda home: in_a_thread(lambda: running(NAP, timeout=0.01))),
    Case(", did not end: ", lambda home: FLOWS["paused"].run(raise_on_failure=True)),
    Case(
        "was 1 and cannot be changed",
        lambda home: go_on(FLOWS["limit"], {"limit": 1}, limit=2),
    ),
    Case("stands for 2 nodes", lambda home: again(FLOWS["twice"])),
    Case(
        "without all of its inputs",
        lambda home: again(FLOWS["secret"], token="a"),
    ),
    Case("storage: expected 'source'", lambda home: home.flow.register(storage=5)),
    Case("this process does not have the flow", lambda home: FlowResults(home.state._whole, None)[one]),
    Case("is not after the start", lambda home: cli("backfill", "timed", "--from", "2026-01-02", "--to", "2026-01-01")),
    Case("ask for fewer", lambda home: cli("backfill", "timed", "--from", "2000-01-01", "--to", "2026-01-01")),
    Case("{nope} stands for nothing", lambda home: cli("backfill", "f", *SPAN, "-p", "limit={nope}")),
    Case("not all flows could be registered", lambda home: cli("serve", home.written("c.py", ""))),
    Case("means 2 tasks", lambda home: cli("logs", FLOWS["twice"].run().run_id, "one")),
    Case("cannot adapt", lambda home: make_cluster(SimpleNamespace(**CLUSTER), adapt_kwargs={"maximum": 2})),
    Case("needs the package cryptography", lambda home: without("cryptography", lambda: as_security(True))),
    Case("needs the package keyring", lambda home: without("keyring", Secret("A", provider="keyring").get)),
    Case("traces need OpenTelemetry", lambda home: without("opentelemetry", Tracing)),
    Case("needs the package nope", lambda home: need("nope", "arrow", "a serializer")),
    Case("remove it, choose another location", lambda home: foreign(home)),
    Case("cannot be written in", lambda home: LocalResult(f"{home.empty}/r").write("x", 1)),
    Case("cannot be written in", lambda home: with_store_that(FileNotFoundError("gone")).write("x", 1)),
    Case("this process lacks a package", lambda home: with_store_that(ImportError("s3fs")).write("x", 1)),
    Case("no field 'nope'", lambda home: Template("{nope}").check(())),
    Case("no field 'nope'", lambda home: Template("{nope}").render({})),
    Case("written by a newer anabranch", lambda home: run_in(versioned(home, "newer.db", 999))),
    Case("the next run upgrades it", lambda home: read_in(versioned(home, "older.db", 0))),
    Case("a service needs a system with fork()", lambda home: on_windows(lambda: Processes(print))),
    Case("pages resume no run on Windows", lambda home: on_windows(lambda: ChildActions(Library(print)).resume("a"))),
    Case("cannot listen on", lambda home: asyncio.run(Service(registry()[0], UNHEARD)._serve(print))),
]


NAP = partial(time.sleep, 0.05)
UNHEARD = Options(address="no address", token="t" * 16)


def go_on(flow: Flow, before: dict[str, Any], **parameters: Any) -> Any:
    return flow.run(resume=flow.run(before).run_id, **parameters)


def again(flow: Flow, **parameters: Any) -> Any:
    return replay(flow.run(parameters).run_id, "one", flow=flow)


def in_a_thread(act: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(act).result()


def without(module: str, act: Callable[[], Any]) -> Any:
    """Where a package is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module, None)
        return act()


def on_windows(act: Callable[[], Any]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        return act()


def foreign(home: Any) -> Any:
    store = LocalResult(home.path / "r")
    (home.path / "r").mkdir(exist_ok=True)
    (home.path / "r" / "notes").write_text("mine")
    return store.write("notes", 1)


def with_store_that(error: Exception) -> Any:
    def fails(*args: Any, **kwargs: Any) -> Any:
        raise error

    result = InMemoryResult()
    result.store = SimpleNamespace(put=fails)
    return result


def versioned(home: Any, name: str, version: int) -> str:
    with open_store(f"sqlite:///{home.path / name}") as store:
        store.list_runs()
        store.create_run(RunRecord("a", "f", DAY))
    with closing(sqlite3.connect(home.path / name)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    return str(home.path / name)


def run_in(path: str) -> Any:
    with config.set(backend=f"sqlite:///{path}"):
        return FLOWS["one"].run()


def read_in(path: str) -> Any:
    with open_store(f"sqlite:///{path}", read_only=True) as store:
        return store.list_runs()


CASES = [*MORE, *TASKS, *DEFERRED, *RUNS, *PLACES, *RESULTS, *SCHEDULES, *TESTING, *REPLAYS, *COMMANDS]

FLOW = """
from anabranch import Flow, Parameter, task
@task
def one(x): return x
with Flow("f") as flow:
    one(Parameter("limit", default=1, type=int))
number = 5
"""
TIMED = """
from anabranch import Flow, task
from anabranch.schedules import IntervalSchedule
with Flow("timed", schedule=IntervalSchedule(interval=60)) as flow:
    task(len, name="one")([])
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A home with a recorded run, and files."""
    path = tmp_path_factory.mktemp("messages")

    def written_to(name: str, text: str) -> str:
        (path / name).write_text(text)
        return str(path / name)

    with Flow("f") as flow:
        one()
        task(lambda x: x, name="many").map([1, 2])
    with Flow("g") as other:
        one()
    (path / "five.pickle").write_bytes(pickle.dumps(5))
    with isolated_home(path / "home"), pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.syspath_prepend(path)
        (path / "broken_cluster.py").write_text("1 / 0")
        state = flow.run()
        cli("register", written_to("etl.py", FLOW), written_to("timed.py", TIMED))
        yield SimpleNamespace(
            path=path,
            flow=flow,
            other=other,
            state=state,
            run=state.run_id,
            file=written_to("etl.py", FLOW),
            empty=written_to("empty", ""),
            pickle=path / "five.pickle",
            written=written_to,
        )


@pytest.fixture(scope="module")
def raised(home: SimpleNamespace) -> list[BaseException | None]:
    """What each case raised."""
    found: list[BaseException | None] = []
    for case in CASES:
        try:
            case.act(home)
        except (Exception, SystemExit) as error:  # `register` tells what is wrong with each file, and then exits
            found.append(error)
        else:
            found.append(None)
    return found


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.words for case in CASES])
def test_the_message_is_raised(raised: list[BaseException | None], number: int) -> None:
    error = raised[number]

    assert error is not None, "nothing was raised"
    told = [each.format_message() if hasattr(each, "format_message") else str(each) for each in chain_of(error)]
    assert any(CASES[number].words in text for text in told), told


def test_every_message_is_produced_by_a_test(raised: list[BaseException | None]) -> None:
    places = {place for error in raised if error is not None for place in raised_by(error)}
    quoted = quotations()
    known = messages()
    shared = Counter(gram for text in {message.text for message in known} for gram in grams_of(text))

    said = {(type(each).__name__, str(each)) for error in raised for each in chain_of(error)}

    missing = [
        message
        for message in known
        if not message.is_passed_on
        and message.name not in UNPRODUCED
        and not any((message.file, line) in places for line in message.lines)
        and not any(shared[gram] == 1 and gram in quoted for gram in grams_of(message.text))
        and not any(message.kind == kind and message.is_said_by(text) for kind, text in said)
    ]

    assert not missing, "give these a case above, or quote them in a test that produces them:\n" + "\n".join(
        f"{message.file}:{message.lines.start} {message.kind}: {message.text}" for message in missing
    )


def test_nothing_is_excused_that_is_not_there_any_more() -> None:
    assert set(UNPRODUCED) <= {message.name for message in messages()}


def test_a_new_message_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text(
        'def f(x):\n    text = f"never {x} said before"\n    if x:\n        raise OptionError(text)\n'
        '    raise errors.CallError("this " f"is {x!r} new" + "!")\n    raise OtherError("not ours")\n'
    )

    found = messages(tmp_path)

    assert [(each.kind, each.text, each.lines.start) for each in found] == [
        ("OptionError", "never {} said before", 4),
        ("CallError", "this is {} new!", 5),
    ]
    assert not any(gram in quotations() for gram in grams_of("xylophone {} quixotry {}"))


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def grams_of(text: str) -> set[str]:
    """Every row of characters in what does not vary of a message; the whole of what is shorter than one."""
    return {
        piece[at : at + GRAM]
        for piece in text.split("{}")
        for at in range(max(1, len(piece) - GRAM + 1))
        if len(piece) >= GRAM
    }


@cache
def quotations() -> frozenset[str]:
    """Every row of characters in the texts of other tests."""
    texts = {
        node.value
        for file in (ROOT / "tests").rglob("test_*.py")
        if file.name != Path(__file__).name
        for node in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return frozenset(text[at : at + GRAM] for text in texts for at in range(len(text) - GRAM + 1))


_RACE = "pages offer only what can be done, so that this takes a run that ends between offer and request"
_DAMAGE = "a whole row with wrong contents, which only another program writes"
_WORKER = "tests of clusters have it, and quote it in words that other messages share"
_DYING = "takes a worker that dies at one moment; what leads there is tested in tests/integration/test_detached.py"
_POSTGRESQL = "needs a server of that kind; the same message of SQLite is produced above"
UNPRODUCED = {
    "runs/store/run_permits.py: {} has no tables for the permits of named "
    "limits": "all run stores that there are have them",
    "cli/session.py: the run was ended by an exception outside of any task\n{}": "a defect of the library",
    "monitoring/pages/library.py: there is no run {} here, and no runs are recorded": _RACE,
    "monitoring/pages/library.py: run {} does not go on in this process: cancel it where it was started": _RACE,
    "monitoring/pages/library.py: run {} cannot be resumed from here: it goes on, succeeded, or its file has "
    "moved": _RACE,
    "monitoring/pages/server.py: the live pages could not be started: {}": "the port is bound before: a defect",
    "engine/worker/calls_out.py: an argument of the deferred call {}[{}] cannot leave the process it was "
    "made in: {}": _WORKER,
    "engine/isolation/calling.py: the result cannot be loaded outside of the task's process: {}": _WORKER,
    "engine/units/shipment.py: this run cannot be sent to a cluster:": "a heading: tests quote what is below",
    "engine/units/shipment.py: this flow cannot be sent to workers:": "a heading: tests quote what is below",
    "engine/worker/arrival.py: the worker cannot import what this task needs: {}": _WORKER,
    "executors/preflight.py: the scheduler does not answer any more: {}": _WORKER,
    "executors/preflight.py: the scheduler at {} does not answer any more: {}": _WORKER,
    "flows/handle.py: the scheduler at {} knows no run {}{}; a restarted scheduler has no runs from before": _WORKER,
    "flows/handle.py: the scheduler at {} knows {} {}{}": _WORKER,
    "flows/handle.py: the driver of run {} is lost: {}; its stored values are safe; submit it again": _DYING,
    "flows/handle.py: the driver of run {} cannot run at {}: {}": _DYING,
    "flows/handle.py: no worker at {} has begun the driver of run {} within {} s": _DYING,
    "flows/replay.py: the debugger was quit, so the attempt did not end; replay it again to see its "
    "end": "takes somebody at the debugger's prompt",
    "runs/record/reports.py: the run store has a failure that cannot be read: {}; see: anabranch doctor": _DAMAGE,
    "runs/record/reports.py: the run store has a failure that is a {}, not a dict; see: anabranch doctor": _DAMAGE,
    "runs/record/reports.py: a recorded state has a result that does not load here: {}": _DAMAGE,
    "results/envelope.py: result {} is damaged: its header cannot be read: {}": _DAMAGE,
    "results/envelope.py: result {} is damaged: its header has a {} of the wrong type": _DAMAGE,
    "runs/store/postgresql.py: the run store {} was written by a newer anabranch (schema {}, this one knows {}); "
    "upgrade anabranch, or set backend to another database": _POSTGRESQL,
    "runs/store/sqlite.py: cannot make the run store {}: {}": "takes a directory that root cannot write to",
}
"""Messages that no test quotes in words that only they have, with the reason."""
