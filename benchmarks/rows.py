"""The rows of the table: what is measured, beside what, with which goal."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from distributed import Client

from anabranch import Flow, config
from anabranch.executors import DaskExecutor
from benchmarks import bare, flows, rates
from benchmarks.cluster import Cluster, simulated, started


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    figure: str
    """What was seen, in words."""
    goal: str
    is_met: bool | None
    """None where there is no goal, or the run was too quick to tell."""
    seconds: float | None = None
    bare_seconds: float | None = None
    width: int | None = None


@dataclass
class Bench:
    """What rows are measured with."""

    cluster: Cluster
    client: Client
    quick: bool = False
    saturated: Client | None = None
    """A client of a cluster with ``worker-saturation: inf``, for bare Dask."""
    bare_element_s: float = 0.0
    """Seconds an element costs with bare ``client.map``, as measured in this run."""

    def seconds(self, flow: Flow, *, repeat: int = 1, **kwargs: Any) -> float:
        """Wall time of a successful run; the best of several, because the machine does other things too."""
        best = float("inf")
        for _ in range(1 if self.quick else repeat):
            began = time.perf_counter()
            state = flow.run(executor=DaskExecutor(self.cluster.address), **kwargs)
            best = min(best, time.perf_counter() - began)
            assert state.is_successful(), state
        return best


Measure = Callable[[Bench], Iterator[Row]]


def fan_out(bench: Bench) -> Iterator[Row]:
    """A map of a no-op and a sum, at widths from a thousand on, per element beside ``client.map``."""
    bench.seconds(flows.fan_out(100))  # the first run on a cluster loads the library there
    part = 10 if bench.quick else 1
    costs = {width: bare.fan_out_s(bench.client, width // part) for width in (1_000, 10_000)}
    per_element = {width: cost / (width // part) for width, cost in costs.items()}
    bench.bare_element_s = per_element[10_000]
    saturated = ""
    if bench.saturated is not None:
        width = 1_000 if bench.quick else 10_000
        saturated = f"; {bare.fan_out_s(bench.saturated, width) / width * 1e6:,.0f} µs with worker-saturation inf"
    yield Row(
        "client.map of a no-op, per element",
        f"{bench.bare_element_s * 1e6:,.0f} µs{saturated}",
        "",
        None,
        bare_seconds=costs[10_000],
        width=10_000,
    )
    goals = {1_000: 8, 10_000: 100, 100_000: 800, 1_000_000: 4_000, 10_000_000: 4_000}
    times = {}
    for width, goal in list(goals.items())[: 2 if bench.quick else None]:
        seconds = times[width] = bench.seconds(flows.fan_out(width), repeat=3)
        compared = per_element.get(width, bench.bare_element_s) * width
        ratio = compared / seconds
        note = "" if width in per_element else " (bare Dask extrapolated from 10,000)"
        yield Row(
            f"map of a no-op + sum, {width:,}",
            f"{seconds:.3f} s, {seconds / width * 1e6:.2f} µs/element, {ratio:,.0f}× client.map{note}",
            f"≥ {goal:,}×",
            None if bench.quick else ratio >= goal,
            seconds=seconds,
            bare_seconds=compared,
            width=width,
        )
    if not bench.quick:
        yield from _per_element(times)


def _per_element(times: dict[int, float]) -> Iterator[Row]:
    loop = _plain_loop_s(1_000_000)
    extra = (times[1_000_000] - loop / 2) / 1_000_000
    figure = f"{extra * 1e6:.2f} µs/element"
    yield Row("over a plain Python loop on both workers, 10^6", figure, "≤ 2 µs", extra <= 2e-6)
    marginal = (times[10_000_000] - times[1_000_000]) / 9e6
    earlier = (times[1_000_000] - times[100_000]) / 9e5
    yield Row(
        "time per further element, 10^7 beside 10^6",
        f"{marginal * 1e6:.2f} µs and {earlier * 1e6:.2f} µs",
        "flat (≤ 1.3×)",
        marginal <= 1.3 * earlier,
    )


def _plain_loop_s(width: int) -> float:
    function = flows.noop.run
    began = time.perf_counter()
    sum(function(x) for x in range(width))
    return time.perf_counter() - began


def stages(bench: Bench) -> Iterator[Row]:
    """A chain of three maps beside one."""
    width = 10_000 if bench.quick else 100_000
    one = bench.seconds(flows.fan_out(width), repeat=5)
    three = bench.seconds(flows.fan_out(width, stages=3), repeat=5)
    ratio = three / one
    met = None if bench.quick else ratio <= 3.3
    yield Row(f"three-stage map chain, {width:,}", f"{ratio:.2f}× one stage ({three:.3f} s)", "≤ 3.3×", met, three)


def deferral(bench: Bench) -> Iterator[Row]:
    """A crawl that finds its nodes as it goes, beside a plain map over the same nodes."""
    levels = 4 if bench.quick else 6
    width = sum(10**level for level in range(levels))
    plain = bench.seconds(flows.visited(levels), repeat=3)
    seconds = bench.seconds(flows.breadth_first(levels), repeat=3)
    ratio = seconds / plain
    yield Row(
        f"breadth-first crawl, {width:,} generated nodes",
        f"{ratio:.2f}× the same visits as a plain map ({seconds:.3f} s, {plain:.3f} s)",
        "≤ 5×",
        None if bench.quick else ratio <= 5,
        seconds=seconds,
        width=width,
    )


def efficiency(bench: Bench) -> Iterator[Row]:
    """Sleeping elements beside the ideal, and beside ``client.map``."""
    cases: list[tuple[str, Flow, float, Callable[[], float], float]] = [
        (
            "1,000 × 10 ms",
            flows.fan_out(1_000, mapped=flows.pause, seconds=_whole(0.01)),
            5.0,
            lambda: bare.pauses_s(bench.client, 1_000, 0.01),
            0.95,
        ),
        (
            "100 × 100 ms",
            flows.fan_out(100, mapped=flows.pause, seconds=_whole(0.1)),
            5.0,
            lambda: bare.pauses_s(bench.client, 100, 0.1),
            0.97,
        ),
        (
            "9,990 instant + 10 × 0.5 s",
            flows.fan_out(10_000, mapped=flows.skewed),
            2.5,
            lambda: bare.skewed_s(bench.client, 10_000),
            0.75,
        ),
    ]
    for name, flow, ideal, on_bare_dask, goal in cases[: 1 if bench.quick else None]:
        seconds = bench.seconds(flow, repeat=2)
        compared = on_bare_dask()
        found = ideal / seconds
        yield Row(
            name,
            f"efficiency {found:.3f} ({seconds:.2f} s); client.map {ideal / compared:.3f}",
            f"≥ {goal}, not below client.map",
            None if bench.quick else found >= goal and seconds <= compared,
            seconds=seconds,
            bare_seconds=compared,
        )


def requests(bench: Bench) -> Iterator[Row]:
    """Awaits of 50 ms, a hundred at a time in each slot, beside ``client.map`` and a bare asyncio script."""
    lanes, pause_s = config.engine.concurrency_per_slot, 0.05
    bench.seconds(flows.fan_out(100, mapped=flows.request, seconds=_whole(pause_s)))
    few = 400
    compared = bare.requests_s(bench.client, few, pause_s) / few
    for width in (10_000,) if bench.quick else (10_000, 100_000):
        ideal = width * pause_s / (2 * lanes)
        seconds = bench.seconds(flows.fan_out(width, mapped=flows.request, seconds=_whole(pause_s)))
        script = bare.script_s(width, pause_s, 2 * lanes)
        yield Row(
            f"{width:,} awaits of 50 ms",
            f"efficiency {ideal / seconds:.3f} ({seconds:.2f} s); a bare script {ideal / script:.3f}; "
            f"{compared * width / seconds:,.0f}× client.map (extrapolated from {few})",
            "≥ 0.8",
            None if bench.quick else ideal / seconds >= 0.8,
            seconds=seconds,
            bare_seconds=compared * width,
            width=width,
        )


def _whole(value: Any) -> Any:
    from anabranch import unmapped

    return unmapped(value)


def rate(bench: Bench) -> Iterator[Row]:
    """Requests to a server that is slow, fails and turns away at times, as often as a rate allows."""
    width, per_window = (200, 100) if bench.quick else (5_000, 400)
    flow, total = rates.flow_of(width, per_window)
    with rates.served() as port:
        state = flow.run(port=port, executor=DaskExecutor(bench.cluster.address))
        seen = rates.summary_of(port)
    ideal_s = (seen["requests"] - per_window) / per_window * rates.WINDOW_S
    is_right = state.result[total].result == width * (width - 1) and seen["200"] == width and not seen["early"]
    figure = (
        f"at most {seen['most']} in any second of {per_window}, {seen['seconds']:.1f} s of at least {ideal_s:.1f} s"
    )
    figure += "" if is_right else "; wrong answers"
    yield Row(
        f"{width:,} requests, {seen['requests'] - width:,} of them again, at {per_window}/s",
        figure,
        "never above the rate",
        is_right and seen["most"] <= per_window,
        seen["seconds"],
        width=width,
    )


def singles(bench: Bench) -> Iterator[Row]:
    """Single tasks: a long chain, and a random DAG."""
    length = 50 if bench.quick else 500
    seconds, compared = bench.seconds(flows.chain(length), repeat=3), bare.chain_s(bench.client, length)
    yield Row(
        f"chain of {length} single tasks",
        f"{seconds:.3f} s, {compared / seconds:.1f}× chained delayed ({compared:.2f} s)",
        "≥ 20×",
        None if bench.quick else compared / seconds >= 20,
        seconds=seconds,
        bare_seconds=compared,
    )
    size = 200 if bench.quick else 2_000
    ratios = []
    for _ in range(1 if bench.quick else 3):
        compared = bare.layered_s(bench.client, size, 3)
        seconds = bench.seconds(flows.layered(size, 3))
        ratios.append(seconds / compared)
    ratio = sorted(ratios)[len(ratios) // 2]
    met = None if bench.quick else ratio <= 1.1
    yield Row(
        f"layered random DAG, {size:,} × 3 parents",
        f"{ratio:.2f}× bare dict graph (median of {len(ratios)})",
        "≤ 1.1×",
        met,
        seconds,
        compared,
    )


def failures(bench: Bench) -> Iterator[Row]:
    """A million elements of which one per cent fail and one per mille are retried, beside the same without."""
    width = 10_000 if bench.quick else 1_000_000
    clean = bench.seconds(flows.fan_out(width, mapped=flows.steady, join=flows.count_values), repeat=2)
    flow = flows.fan_out(width, mapped=flows.troubled, join=flows.count_values)
    began = time.perf_counter()
    state = flow.run(executor=DaskExecutor(bench.cluster.address))
    seconds = time.perf_counter() - began
    counts = state.result["troubled"].counts
    in_full = sum(1 for _, each in state.failures() if each.failure is not None and each.failure.traceback)
    right = (
        counts is not None
        and counts.failed == width // 100
        and state.result["count_values"].result == width - width // 100
        and [name for name, _ in state.failures()] == [f"troubled[{i}]" for i in range(0, width, 100)]
        and in_full <= 20
    )
    assert right, counts
    ratio = seconds / clean
    yield Row(
        f"{width:,} elements, 1 % fail, 0.1 % retried",
        f"{ratio:.2f}× the clean run ({seconds:.2f} s); {in_full} tracebacks in full",
        "≤ 2×, ≤ 20 tracebacks",
        None if bench.quick else ratio <= 2,
        seconds,
    )


def history(bench: Bench) -> Iterator[Row]:
    """What it costs to record a run: a map of a no-op, with and without a run store, in turns."""
    width = 1_000 if bench.quick else 100_000
    times: dict[str, list[float]] = {"none": [], "local": []}
    for _ in range(1 if bench.quick else 15):
        for backend, taken in times.items():
            with config.set(backend=backend):
                taken.append(bench.seconds(flows.fan_out(width)))
    plain, recorded = (statistics.median(taken) for taken in times.values())
    share = recorded / plain - 1
    yield Row(
        f"recording the states of {width:,} no-ops",
        f"{share:+.1%} of {plain:.3f} s (medians of {len(times['none'])} runs in turns)",
        "≤ 5 %",
        None if bench.quick else share <= 0.05,
        recorded,
        plain,
    )


def resume(bench: Bench) -> Iterator[Row]:
    """Going on with a map of which ten elements had failed."""
    width, failures = (10_000 if bench.quick else 1_000_000), 10
    with tempfile.TemporaryDirectory() as folder:
        flow = flows.resumable(width, folder, failures)
        failed = flow.run(executor=DaskExecutor(bench.cluster.address))
        assert failed.result["mended"].counts.failed == failures
        ledger = Path(folder, "ledger")
        ledger.unlink()
        Path(folder, "mended").touch()
        began = time.perf_counter()
        state = flow.run(executor=DaskExecutor(bench.cluster.address), resume=failed.run_id)
        seconds = time.perf_counter() - began
        again = sorted(map(int, ledger.read_text().split()))
    assert state.result["total"].result == sum(range(width))
    step = width // failures
    is_exact = again == list(range(step // 2, width, step))
    yield Row(
        f"resume of {width:,} elements, {failures} had failed",
        f"{seconds:.2f} s; {len(again)} ran again",
        "≤ 3 s, exactly 10",
        None if bench.quick else is_exact and seconds <= 3,
        seconds,
    )


def memory(bench: Bench) -> Iterator[Row]:
    """What a driver and the scheduler hold, in a process of its own per flow."""
    for name, which, width, limit in (
        ("driver at 10^6", "fan_out", 1_000_000, 300),
        ("driver at 10^7", "fan_out", 10_000_000, 3_000),
        ("driver growth, 500 × 1 MiB reduced", "mebibytes", 500, 50),
    ):
        if bench.quick and width > 1_000:
            continue
        before = bench.cluster.scheduler_nbytes()
        found = _driver_memory(bench.cluster.address, which, width)
        growth = (bench.cluster.scheduler_nbytes() - before) / 2**20
        seen = found["growth_mib"] if which == "mebibytes" else found["peak_mib"]
        yield Row(f"RSS of the {name}", f"{seen:,.0f} MiB", f"≤ {limit} MiB", seen <= limit)
        yield Row(f"RSS growth of the scheduler, {which} {width:,}", f"{growth:,.0f} MiB", "≤ 50 MiB", growth <= 50)


def _driver_memory(address: str, which: str, width: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.driver_memory", address, which, str(width)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(result.stdout)
    return found


def slots(bench: Bench) -> Iterator[Row]:
    """Elements of half a second on many simulated slots, and the CPU that driver and scheduler take meanwhile."""
    pause_s, each = 0.5, 4 if bench.quick else 60
    for number in (64,) if bench.quick else (64, 256, 1_000):
        with started(workers=0) as cluster, simulated(cluster.address, number, threads=8) as busy_s:
            executor = DaskExecutor(cluster.address)
            _paused(number, pause_s).run(executor=executor)  # the first run on a cluster loads the library there
            processes = psutil.Process(), psutil.Process(cluster.scheduler_pid)
            flow, before, began = _paused(number * each, pause_s), _cpu_s(processes), time.perf_counter()
            assert flow.run(executor=executor).is_successful()
            seconds = time.perf_counter() - began
            driver, scheduler = ((now - then) / seconds for now, then in zip(_cpu_s(processes), before, strict=True))
        found = each * pause_s / seconds
        yield Row(
            f"{number * each:,} × 0.5 s on {number:,} simulated slots",
            f"efficiency {found:.3f} ({seconds:.1f} s); cores: driver {driver:.2f}, scheduler {scheduler:.2f}; "
            f"least busy worker {min(busy_s) / max(busy_s):.2f} of the busiest",
            "≥ 0.95, ≤ 1 core",
            None if bench.quick else found >= 0.95 and driver + scheduler <= 1,
            seconds=seconds,
            width=number * each,
        )


def _paused(width: int, seconds: float) -> Flow:
    with Flow("paused") as flow:
        flows.pause.map(range(width), _whole(seconds))
    return flow


def _cpu_s(processes: Iterable[psutil.Process]) -> list[float]:
    return [sum(process.cpu_times()[:2]) for process in processes]


def starting(bench: Bench) -> Iterator[Row]:
    """Whole processes: the import, and a script of three tasks."""
    script = (
        "from anabranch import Flow, task\n"
        "a = task(lambda: [1, 2]); b = task(lambda x: x, name='b'); c = task(sum, name='c')\n"
        "with Flow('etl') as flow:\n    c(b(a()))\n"
        "assert flow.run().is_successful()"
    )
    commands = {
        "dask": "import dask",
        "ours": "import anabranch",
        "both": "import networkx, dask",
        "script": script,
    }
    # As for a user: compiled modules are kept, and the first run, which compiles them, does not count.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for code in commands.values():
        subprocess.run([sys.executable, "-c", code], check=True, env=env)
    best = {name: float("inf") for name in commands}
    for _ in range(2 if bench.quick else 7):
        for name, code in commands.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, env=env)
            best[name] = min(best[name], time.perf_counter() - began)
    extra = best["ours"] - best["dask"]
    yield Row("import anabranch, over import dask", f"{extra * 1e3:.0f} ms", "≤ 60 ms", extra <= 0.06)
    ratio = best["script"] / best["both"]
    yield Row(
        "script of three tasks, whole process",
        f"{ratio:.2f}× import networkx, dask ({best['script']:.2f} s)",
        "≤ 1.3×",
        ratio <= 1.3,
        best["script"],
    )


MEASURES: dict[str, Measure] = {
    "fan_out": fan_out,
    "stages": stages,
    "deferral": deferral,
    "efficiency": efficiency,
    "requests": requests,
    "rate": rate,
    "singles": singles,
    "failures": failures,
    "history": history,
    "resume": resume,
    "memory": memory,
    "slots": slots,
    "starting": starting,
}
