"""Metrics and traces: what is counted is what happened, labels are bounded, and handing over never hurts a run."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families
from tests.needs import program

from anabranch import SKIP, Flow, Parameter, task
from anabranch.base.events import (
    ElementBegan,
    Event,
    MapAdvanced,
    Noticed,
    RunFinished,
    RunStarted,
    TaskChanged,
    UnitEnded,
    UnitLost,
)
from anabranch.base.version import VERSION
from anabranch.errors import ExtraMissing, MetricsError
from anabranch.executors import LocalDaskExecutor
from anabranch.monitoring.metrics import Metrics, MetricsServer, push, write_textfile
from anabranch.monitoring.tracing import Tracing
from anabranch.states import Failed, Retrying, Running, Submitted, Success

FAILING = [True]


@task
def numbers(n: int) -> list[int]:
    return list(range(n))


@task(max_retries=1, retry_delay=0.0)
def parse(x: int) -> int:
    if x % 10 == 3 and FAILING:
        raise ValueError("hunter2")
    if x % 10 == 4:
        raise SKIP("no")
    return x


@task
def total(xs: list[int]) -> int:
    return sum(x for x in xs if x is not None)


def flow_of_maps(name: str = "counted") -> Flow:
    with Flow(name) as flow:
        total(parse.map(numbers(Parameter("n", default=50))))
    return flow


@pytest.fixture(autouse=True)
def _failing() -> None:
    FAILING[:] = [True]


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Values by name and labels, as Prometheus's own parser reads them."""
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value
        for family in text_string_to_metric_families(metrics.text())
        for each in family.samples
    }


def labelled(**labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def test_what_is_counted_is_what_happened():
    # given
    metrics = Metrics()
    # when
    flow_of_maps().run(observers=[metrics], executor=LocalDaskExecutor(num_workers=2))
    # then
    found = samples(metrics)
    runs = {
        key: value for key, value in found.items() if key[0] == "anabranch_task_runs_total"
    }  # the parser keeps the suffix
    assert {(dict(labels)["task"], dict(labels)["state"]): n for (_, labels), n in runs.items()} == {
        ("numbers", "Success"): 1,
        ("parse", "Success"): 40,
        ("parse", "Skipped"): 5,
        ("parse", "Failed"): 5,
        ("total", "TriggerFailed"): 1,
    }
    assert found["anabranch_flow_runs_total", labelled(flow="counted", state="Failed")] == 1
    assert found["anabranch_flow_runs_active", labelled(flow="counted")] == 0
    assert found["anabranch_task_retries_total", labelled(flow="counted", task="parse")] == 5
    assert found["anabranch_task_run_duration_seconds_count", labelled(flow="counted", task="parse")] == 50
    assert found["anabranch_task_runs_in_state", labelled(flow="counted", state="Pending")] == 0
    assert ("anabranch_flow_run_last_success_timestamp_seconds", labelled(flow="counted")) not in found


def test_what_has_not_ended_is_measured_by_its_state():
    # given a map of ten, a task that was handed over, one that runs, and one of which nothing is known
    metrics = Metrics()
    events: list[Event] = [
        RunStarted(
            1.0, "going", "r", {**dict.fromkeys(("parse", "sent", "running", "later"), "task"), "p": "parameter"}
        ),
        MapAdvanced(2.0, "parse", 10, 0, 0, 0),
        *(ElementBegan(2.0, "parse", Running(map_index=index)) for index in range(6)),
        UnitEnded(3.0, "w", 1.0, 0.0, indices=range(3), codes={"parse": bytes([10, 10, Retrying.code])}),
        MapAdvanced(3.0, "parse", 10, 3, 0, 1),  # one of them was ended by the engine
        TaskChanged(3.0, "sent", Submitted()),
        TaskChanged(3.0, "running", Running()),
    ]
    # when
    for event in events:
        metrics(event)
    # then
    found = samples(metrics)
    states = ("Pending", "Submitted", "Running", "Retrying")
    assert [found["anabranch_task_runs_in_state", labelled(flow="going", state=state)] for state in states] == [
        1 + 10 - 3 - 3 - 1,
        1,
        1 + 3,
        1,
    ]
    # and once the run is over
    metrics(RunFinished(4.0, Success()))
    found = samples(metrics)
    assert not any(found["anabranch_task_runs_in_state", labelled(flow="going", state=state)] for state in states)


def test_a_resumed_run_counts_only_what_it_does_itself():
    # given
    metrics, flow = Metrics(), flow_of_maps("again")
    first = flow.run()
    FAILING.clear()
    # when
    state = flow.run(resume=first.run_id, observers=[metrics])
    # then
    assert state.is_successful()
    found = samples(metrics)
    assert found["anabranch_task_runs_total", labelled(flow="again", task="parse", state="Success")] == 5
    assert ("anabranch_task_runs_total", labelled(flow="again", task="numbers", state="Success")) not in found


def told_twice() -> list[Event]:
    """A chunk that tells of three elements while it goes on, and of all at its end; and a line of two tasks."""
    ended = {2: Failed(attempt=3, map_index=2)}
    codes = bytes([Success.code, Success.code, Failed.code, Success.code])
    single = replace(Success(attempt=2), start_time=datetime.now(UTC), end_time=datetime.now(UTC))
    return [
        UnitEnded(2.0, "w", 1.0, 0.0, indices=range(3), codes={"parse": codes[:3]}, records={"parse": ended}),
        UnitEnded(3.0, "w", 1.0, 2.0, indices=range(4), codes={"parse": codes}, records={"parse": ended}),
        UnitEnded(2.0, "w", 1.0, 0.0, singles={"first": single}),
        UnitEnded(3.0, "w", 1.0, 2.0, singles={"first": single, "second": replace(single, attempt=1)}),
    ]


def test_what_is_told_while_a_unit_goes_on_counts_once():
    # given
    metrics = Metrics()
    metrics(RunStarted(1.0, "counted", "r", dict.fromkeys(("parse", "first", "second"), "task")))
    # when
    for event in told_twice():
        metrics(event)
    # then
    found = samples(metrics)
    runs = {
        (dict(labels)["task"], dict(labels)["state"]): n
        for (name, labels), n in found.items()
        if name == "anabranch_task_runs_total"
    }
    assert runs == {
        ("parse", "Success"): 3,
        ("parse", "Failed"): 1,
        ("first", "Success"): 1,
        ("second", "Success"): 1,
    }
    for task_name, retries, timed in (("parse", 2, 4), ("first", 1, 1)):
        assert found["anabranch_task_retries_total", labelled(flow="counted", task=task_name)] == retries
        labels = labelled(flow="counted", task=task_name)
        assert found["anabranch_task_run_duration_seconds_count", labels] == timed


def test_labels_are_bounded_whatever_the_names_are():
    # given
    metrics = Metrics(max_tasks=3, max_flows=2)
    # when
    for number in range(5):
        metrics(RunStarted(1.0, f"flow {number}", "r", {}))
        for slug in ("a", "b"):
            metrics(UnitEnded(1.0, "w", 1.0, 0.1, indices=range(10), codes={slug: b"\x0a" * 10}))
        metrics(RunFinished(2.0, Success()))
    # then
    found = samples(metrics)
    flows = {dict(labels)["flow"] for (name, labels) in found if name == "anabranch_flow_runs_total"}
    tasks = {dict(labels)["task"] for (name, labels) in found if name == "anabranch_task_runs_total"}
    assert flows == {"flow 0", "flow 1", "other"}
    assert tasks == {"a", "b", "other"}
    assert sum(n for (name, _), n in found.items() if name == "anabranch_task_runs_total") == 100


def test_ten_thousand_names_of_flows_and_tasks_make_few_series():
    # given
    metrics, elements = Metrics(), b"\x0a" * 10
    # when
    for number in range(10_000):
        metrics(RunStarted(1.0, f"flow {number}", "r", {f"task {number}": "task"}))
        metrics.note_lateness(f"flow {number}", 1.0)
        metrics(UnitEnded(1.0, "w", 1.0, 0.1, indices=range(10), codes={f"task {number}": elements}))
        metrics(UnitLost(1.0, [f"task {number}"], 10, "worker w was lost"))
        metrics(Noticed(1.0, "no report for 30 s", {f"task {number}": 10}))
        metrics(RunFinished(2.0, Success()))
    metrics(RunStarted(1.0, "flow 7", "r", {}))
    for number in range(10_000):
        metrics(UnitEnded(1.0, "w", 1.0, 0.1, indices=range(10), codes={f"another task {number}": elements}))
    # then
    found = samples(metrics)
    assert len({dict(labels)["flow"] for (_, labels) in found if "flow" in dict(labels)}) == 101
    assert len({dict(labels)["task"] for (_, labels) in found if "task" in dict(labels)}) == 201
    assert len(found) < 10_000
    assert sum(n for (name, _), n in found.items() if name == "anabranch_task_runs_total") == 200_000


def test_losses_and_what_is_stuck_are_told_apart_by_task():
    # given
    metrics, other = Metrics(), Metrics()
    metrics(RunStarted(1.0, "etl", "r", {"parse": "task", "load": "task"}))
    # when
    metrics(UnitLost(2.0, ["parse", "load"], 64, "worker tcp://10.0.0.7:1 was lost"))
    metrics(Noticed(40.0, "no report for 30 s: …", {"parse": 64, "load": 1}))
    # then
    found = samples(metrics)
    assert found["anabranch_task_losses_total", labelled(flow="etl", task="parse")] == 64
    assert found["anabranch_task_runs_stuck", labelled(flow="etl", task="parse")] == 64
    assert found["anabranch_task_runs_stuck", labelled(flow="etl", task="load")] == 1
    # when
    metrics(Noticed(41.0, "the scheduler is back"))  # says nothing of silence
    other.absorb(metrics.snapshot())
    metrics(UnitEnded(41.0, "w", 40.0, 1.0, singles={"load": Success()}))
    # then
    assert samples(other)["anabranch_task_runs_stuck", labelled(flow="etl", task="parse")] == 64
    assert samples(metrics)["anabranch_task_runs_stuck", labelled(flow="etl", task="parse")] == 0


def test_metrics_of_processes_add_up_and_those_that_are_over_leave_what_lasts():
    # given
    one, two, both = Metrics(), Metrics(), Metrics(max_flows=1)
    for metrics, name in ((one, "etl"), (two, "report")):
        metrics(RunStarted(1.0, name, "r", {"parse": "task"}))
        metrics(UnitEnded(2.0, "w", 1.0, 2.0, indices=range(10), codes={"parse": b"\x0a" * 10}))
    one(RunFinished(3.0, Success()))
    one.note_lateness("etl", 7.0)
    # when
    both.absorb(json.loads(json.dumps(one.snapshot())))
    both.absorb(json.loads(json.dumps(one.snapshot())))
    both.absorb(two.snapshot(), is_over=True)  # it was killed
    # then
    found = samples(both)
    assert found["anabranch_flow_runs_total", labelled(flow="etl", state="Success")] == 2
    assert found["anabranch_flow_run_lateness_seconds_sum", labelled(flow="etl")] == 14
    assert found["anabranch_task_run_duration_seconds_count", labelled(flow="etl", task="parse")] == 20
    assert found["anabranch_flow_run_last_success_timestamp_seconds", labelled(flow="etl")] == 3
    assert found["anabranch_task_runs_total", labelled(flow="other", task="other", state="Success")] == 10
    assert found["anabranch_flow_runs_active", labelled(flow="other")] == 0
    assert found["anabranch_info", labelled(version=VERSION, python=platform.python_version())] == 1


def test_a_runs_process_and_its_memory_are_there_while_it_goes_on():
    metrics = Metrics()
    metrics(RunStarted(1.0, "etl", "r", {}))
    assert samples(metrics)["anabranch_driver_resident_memory_bytes", labelled(flow="etl")] > 1 << 20
    assert samples(metrics)["anabranch_flow_runs_total", labelled(flow="etl", state="Failed")] == 0
    metrics(RunFinished(2.0, Success()))
    assert not [name for name, _ in samples(metrics) if name == "anabranch_driver_resident_memory_bytes"]


def test_a_run_that_ended_without_a_word_does_not_stay_active():
    metrics = Metrics()
    metrics(RunStarted(1.0, "etl", "r", {}))
    metrics(RunStarted(2.0, "etl", "s", {}))  # told by the same thread, so the first one is over
    assert samples(metrics)["anabranch_flow_runs_active", labelled(flow="etl")] == 1


@pytest.mark.parametrize("name", ['"quoted" \\ back', "new\nline", "{flow=}", "é 漢字", "\udcff"])
def test_names_do_not_leave_their_labels(name: str):
    metrics = Metrics()
    metrics(RunStarted(1.0, name, "r", {}))
    metrics(RunFinished(2.0, Success()))
    names = {dict(labels)["flow"] for (each, labels) in samples(metrics) if each == "anabranch_flow_runs_total"}
    assert names == {name.encode("utf-8", "replace").decode()}


def test_promtool_has_nothing_to_say():
    metrics = Metrics()
    flow_of_maps().run(observers=[metrics])
    outcome = subprocess.run(
        [program("promtool"), "check", "metrics"], input=metrics.text(), text=True, capture_output=True
    )
    assert (outcome.returncode, outcome.stdout + outcome.stderr) == (0, "")


def test_without_prometheus_client_counting_goes_on_and_a_text_is_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
):
    # given
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    metrics = Metrics()
    # when
    assert flow_of_maps().run(observers=[metrics]).is_failed()
    # then
    assert metrics.snapshot()["anabranch_flow_runs_total"]
    with pytest.raises(ExtraMissing, match=r'pip install "anabranch\[metrics\]"'):
        metrics.text()


# Handing over ---------------------------------------------------------------------------------------------------------


def test_a_text_file_is_there_as_a_whole_or_not_at_all(tmp_path: Path):
    write_textfile(Metrics(), tmp_path / "anabranch.prom")
    assert "anabranch_info" in (tmp_path / "anabranch.prom").read_text(encoding="utf-8")
    assert [each.name for each in tmp_path.iterdir()] == ["anabranch.prom"]
    with pytest.raises(MetricsError, match=r"cannot be written to .*nowhere"):
        write_textfile(Metrics(), tmp_path / "nowhere" / "anabranch.prom")


@pytest.mark.parametrize(
    ("name", "group"),
    [("a b%", "flow/a%20b%25"), ("a/b c", "flow@base64/YS9iIGM="), ("..", "flow@base64/Li4="), ("\udcff", "flow/%3F")],
)
def test_metrics_are_pushed_under_the_flows_name(name: str, group: str):
    # given
    seen: list[tuple[str, bytes]] = []

    class Gateway(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(202)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            # when
            push(Metrics(), f"127.0.0.1:{server.server_port}", name)
        finally:
            server.shutdown()
            thread.join()
    # then
    ((path, body),) = seen
    assert path == f"/metrics/job/anabranch/{group}"
    assert body.startswith(b"# HELP anabranch_info")


@pytest.mark.parametrize("gateway", ["127.0.0.1:1", "file:///etc/passwd", "ftp://x", "http://[", "127.0.0.1:99999999"])
def test_a_gateway_that_is_not_there_is_an_error_that_names_it(gateway: str):
    with pytest.raises(MetricsError, match="pushgateway"):
        push(Metrics(), gateway, "flow")


def test_a_run_serves_its_metrics_while_it_goes_on():
    # given
    metrics = Metrics()
    found: list[str] = []

    @task
    def look(address: str) -> None:
        with urllib.request.urlopen(address, timeout=20) as answer:
            found.append(answer.read().decode())

    # when
    with MetricsServer(metrics) as server:
        with Flow("served") as flow:
            look(server.address)
        assert flow.run(observers=[metrics]).is_successful()
        # then
        assert 'anabranch_flow_runs_active{flow="served"} 1.0\n' in found[0]
        request = urllib.request.Request(server.address, headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(request, timeout=20)
        refused.value.close()
        with pytest.raises(urllib.error.HTTPError, match="404") as unknown:
            urllib.request.urlopen(server.address.replace("metrics", "other"), timeout=20)
        unknown.value.close()
        with pytest.raises(MetricsError, match=f"port {server.port}: .*; name another port"):
            MetricsServer(metrics, port=server.port)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(server.address, timeout=20)


# Traces ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def test_a_run_is_a_trace_with_a_span_for_each_task_run_and_chunk(exporter: InMemorySpanExporter):
    # given
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # when
    view = flow_of_maps("traced").run(observers=[Tracing(provider.get_tracer("test"))])
    provider.shutdown()
    # then
    spans = exporter.get_finished_spans()
    (root,) = [span for span in spans if span.parent is None]
    assert root.name == "traced"
    assert root.attributes is not None
    assert root.attributes["anabranch.run_id"] == view.run_id
    assert root.status.status_code.name == "ERROR"
    children = [span for span in spans if span.parent is not None]
    assert all(span.parent.span_id == root.context.span_id for span in children if span.parent and root.context)
    chunks = [span.attributes for span in children if span.name == "parse[…]" and span.attributes is not None]
    assert sum(int(str(each["anabranch.elements"])) for each in chunks) == 50
    assert sum(int(str(each["anabranch.failed"])) for each in chunks) == 5
    assert "hunter2" not in repr([span.to_json() for span in spans])


def test_what_is_told_while_a_unit_goes_on_has_one_span(exporter: InMemorySpanExporter):
    # given
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(provider.get_tracer("test"))
    # when
    tracing(RunStarted(1.0, "lines", "r", {}))
    for event in told_twice():
        tracing(event)
    tracing(RunFinished(4.0, Success()))
    provider.shutdown()
    # then
    assert [span.name for span in exporter.get_finished_spans()] == ["parse[…]", "first", "second", "lines"]


def test_a_run_of_very_many_chunks_has_a_bounded_trace(exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch):
    # given
    monkeypatch.setattr("anabranch.monitoring.tracing.MAX_SPANS", 10)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(provider.get_tracer("test"))
    # when
    tracing(RunStarted(1.0, "wide", "r", {}))
    for n in range(25):
        tracing(UnitEnded(1.0, "w", 1.0, 0.1, indices=range(n, n + 1), codes={"a": b"\x0a"}))
    tracing(RunFinished(2.0, Success()))
    provider.shutdown()
    # then
    spans = exporter.get_finished_spans()
    assert len(spans) == 11
    assert spans[-1].attributes is not None
    assert spans[-1].attributes["anabranch.dropped_spans"] == 15
