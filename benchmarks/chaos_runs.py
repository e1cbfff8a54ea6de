"""Cases in which the driver, the client or the tasks themselves misbehave, and many runs one after the other."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
from distributed import Client
from tests.killable_cluster import kill, left_behind
from tests.killed_driver import KilledDriver
from tests.ledger import Execution, Ledger, WatchedExecutor, complaints, repeated

from anabranch import Flow, task, unmapped
from anabranch.flows.handle import attach
from anabranch.runs.view import FlowRunView
from benchmarks import chaos_flows as flows
from benchmarks.chaos_stage import Row, Stage, started, verdict

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
MOST_GROWTH_MIB = 8.0  # bare Dask's scheduler grows by 3.5 in as many clients with as many tasks
MARK = "ANABRANCH_CHAOS_MARK"
SUBMITS = """
import sys, time
from anabranch.executors import DaskExecutor
from benchmarks import chaos_flows as flows
from tests.ledger import Ledger
flow = flows.mapped(Ledger(sys.argv[1]), int(sys.argv[3]), 0.005, 0.010)
print(flow.submit(executor=DaskExecutor(sys.argv[2])).run_id, flush=True)
time.sleep(600)
"""
RUNS = """
from anabranch import Flow, task, unmapped
from benchmarks import chaos_flows as flows
from tests.ledger import Ledger
with Flow("slow") as flow:
    task(flows.hangs, isolation="process")(1, Ledger({path!r}), "children")
    flows.work.map(range(100_000), ledger=unmapped(Ledger({path!r})), low_s=unmapped(0.01), high_s=unmapped(0.01))
"""


def signalled(stage: Stage) -> Iterator[Row]:
    """C10."""
    for name, numbers, code in (
        ("SIGINT", [signal.SIGINT], 130),
        ("SIGTERM", [signal.SIGTERM], 143),
        ("SIGINT twice", [signal.SIGINT, signal.SIGINT], 130),
    ):
        folder, mark = stage.new_folder(), uuid.uuid4().hex
        ledger = Ledger(folder / "ledger")
        (folder / "slow.py").write_text(RUNS.format(path=ledger.path), encoding="utf-8")
        with _driver(["-m", "anabranch", "run", "slow.py", "--executor", "dask"], folder, mark) as process:
            _wait_for(ledger, 200)
            began = time.monotonic()
            for number in numbers:
                process.send_signal(number)
                time.sleep(0.05)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            took = time.monotonic() - began
            left = _left(mark, 10.0)
        problems = [] if process.returncode == code else [f"exit code {process.returncode}"]
        problems += [f"{len(left)} processes left: {left[0]}"] if left else []
        problems += [f"took {took:.1f} s"] if took > 10 else []
        found, holds = verdict(problems, f"exit code {code}, nothing left")
        did = f"{name} of a driver with a cluster and process isolation"
        yield Row(f"C10 {name}", did, f"exit code {code}, children gone ≤ 10 s", found, holds, seconds=took)


def hangs(stage: Stage) -> Iterator[Row]:
    """C19."""
    kinds = ("endless loop", "children") if stage.quick else tuple(flows.HANGS)
    with stage.cluster(workers=2, threads=1) as cluster:
        for isolation in ("process", "thread"):
            for kind in kinds if isolation == "process" else kinds[:1]:
                before = _processes()
                executor = WatchedExecutor(cluster.address)
                run = started(
                    stage,
                    lambda ledger, kind=kind, isolation=isolation: flows.hanging(
                        ledger, kind, timeout=1.0, isolation=isolation
                    ),
                    executor,
                )
                run.wait(60)
                problems = [] if run.view is not None else [run.state]
                if run.view is not None:
                    state = run.view.result["hangs"].state
                    problems += [] if state.name == "TimedOut" else [str(state)]
                    problems += [] if run.view.result["work"].is_successful() else ["the others are harmed"]
                if isolation == "process":
                    left = _stray(before)
                    problems += [f"left: {left}"] if left else []
                problems += [f"took {run.seconds:.1f} s"] if run.seconds > 20 else []
                found, holds = verdict(problems, "TimedOut, the others done")
                did = f"{kind}, timeout 1 s, isolation {isolation}"
                yield Row(
                    f"C19 {isolation}",
                    did,
                    "TimedOut, nothing left",
                    found,
                    holds,
                    seconds=run.seconds,
                    fault_free_s=1.0,
                )


def cancelled(stage: Stage) -> Iterator[Row]:
    """C20: a hang without a timeout, in a detached run that is cancelled."""
    for isolation in ("process", "thread"):
        ledger = stage.new_ledger()
        with stage.cluster(workers=2, threads=1) as cluster:
            before = _processes()
            flow = flows.hanging(ledger, "children", isolation=isolation)
            with flow.submit(executor=WatchedExecutor(cluster.address)) as handle:
                _wait_for(ledger, 2)  # the others may wait behind the one that hangs
                began = time.monotonic()
                handle.cancel("chaos")
                status = handle.wait(60)
                took = time.monotonic() - began
                left = _keys(cluster.address, handle.run_id)
                handle.forget()
            problems = [] if status.state == "Cancelled" else [str(status)]
            problems += [f"keys left: {left}"] if left else []
            if isolation == "process":
                stay = _stray(before)
                problems += [f"processes left: {stay}"] if stay else []
            problems += [f"took {took:.1f} s"] if took > 15 else []
        found, holds = verdict(problems, "Cancelled, no keys left")
        did = f"a hang without timeout, isolation {isolation}, cancelled"
        yield Row(f"C20 {isolation}", did, "Cancelled ≤ grace, nothing left", found, holds, seconds=took)


def many_retries(stage: Stage) -> Iterator[Row]:
    """C21."""
    width = 200 if stage.quick else 2_000
    with stage.cluster(workers=2, threads=1) as cluster:
        ledger = stage.new_ledger()
        with Flow("retries") as flow:
            waiting = flows.second_time.map(range(width), ledger=unmapped(ledger))
            beside = flows.work.map(range(200), ledger=unmapped(ledger), low_s=unmapped(0.001), high_s=unmapped(0.001))
            flows.total(beside)
        began = time.monotonic()
        executor = WatchedExecutor(cluster.address)
        view = flow.run(executor=executor)
        took = time.monotonic() - began
    values = view.result[waiting].result
    threads = max(each[2] for each in values)
    problems = [] if view.is_successful() else [str(view.state)]
    attempts = [each for each in ledger.executions() if each.task == "second_time"]
    problems += [] if len(attempts) == 2 * width else [f"{len(attempts)} executions"]
    problems += [] if all(each[1] == 2 for each in values) else ["an attempt is miscounted"]
    least = _gaps(attempts)
    problems += [] if least >= 5.0 else [f"retried after {least:.2f} s"]
    others = [each.time for each in ledger.executions() if each.task == "work"]
    second = min(each.time for each in attempts if each.attempt == 2)
    problems += [] if max(others) < second else ["others waited for slots that nobody used"]
    problems += [f"took {took:.1f} s"] if took > 20 else []
    found, holds = verdict(problems, f"{threads} threads in a worker at most")
    expected = "two executions each, ≤ 20 s, no slot held"
    yield Row(
        "C21", f"{width:,} elements fail, retry after 5 s", expected, found, holds, 0, len(attempts), width, took, 5.0
    )


def dies_while_retry_waits(stage: Stage) -> Iterator[Row]:
    """C22."""
    width = 100
    with stage.cluster(workers=2, threads=1) as cluster:
        ledger = stage.new_ledger()
        with Flow("retries") as flow:
            flows.second_time.map(range(width), ledger=unmapped(ledger))
        run = started(stage, lambda _: flow, WatchedExecutor(cluster.address))
        _wait_for(ledger, width)
        time.sleep(1.5)  # the reports of the first attempts arrive
        victims = cluster.worker_pids()
        for pid in victims:
            kill(pid)
        while not run.wait(0.5):
            cluster.replace_lost_nannies()
    attempts = ledger.executions()
    problems = [] if run.view is not None and run.view.is_successful() else [run.state]
    if run.view is not None and [each[1] for each in run.view.result["second_time"].result] != [2] * width:
        problems.append("an attempt is miscounted")
    problems += [] if len(attempts) == 2 * width else [f"{len(attempts)} executions"]
    problems += [] if _gaps(attempts) >= 5.0 else ["a retry came early"]
    found, holds = verdict(problems, "retried on time, attempt 2")
    yield Row(
        "C22",
        "workers killed while retries wait",
        "retried on time",
        found,
        holds,
        2,
        len(attempts),
        width,
        run.seconds,
        5.0,
    )


def much_output(stage: Stage) -> Iterator[Row]:
    """C33: what tasks print, in lines without number and without end."""
    for name, lines, width in (("10,000 lines a second", 1_000, 80), ("a line of 1 MB", 1, 1_000_000)):
        with stage.cluster(workers=2, threads=1) as cluster:
            with Flow("chatter") as flow:
                flows.chatter.map(range(40), lines=unmapped(lines), width=unmapped(width))
            written = _Counter()
            began = time.monotonic()
            with contextlib.redirect_stdout(written):
                view = flow.run(executor=WatchedExecutor(cluster.address))
            took = time.monotonic() - began
        problems = (
            [] if view.is_successful() and view.result["chatter"].result == list(range(40)) else [str(view.state)]
        )
        problems += [f"took {took:.1f} s"] if took > 30 else []
        found, holds = verdict(problems, f"{written.lines:,} lines, {written.nbytes:,} characters arrived")
        yield Row("C33", f"tasks print {name}", "run unaffected", found, holds, seconds=took)


class _Counter:
    """A stream that only counts."""

    lines = 0
    nbytes = 0

    def write(self, text: str) -> int:
        self.lines += text.count("\n")
        self.nbytes += len(text)
        return len(text)

    def flush(self) -> None:
        """There is nothing to."""


def memory(stage: Stage) -> Iterator[Row]:
    """C34."""
    with stage.cluster(workers=2, threads=1, options=("--memory-limit", "1GiB")) as cluster:
        with Flow("grows") as flow:
            flows.grows.map(range(6))
        began = time.monotonic()
        view = flow.run(executor=WatchedExecutor(cluster.address))
        took = time.monotonic() - began
        states = view.result["grows"].map_states
        names = [each.state.name for each in states]
        problems = [] if names == ["Success"] * 3 + ["Crashed"] + ["Success"] * 2 else [str(names)]
        message = states[3].state.message
        problems += [] if "memory" in message else [message]
        found, holds = verdict(problems, message[:100])
        did = "a task in a process of its own grows past memory_limit=200 MB"
        yield Row("C34 grows", did, "Crashed: out of memory", found, holds, seconds=took)
        if stage.quick:
            return
        with Flow("returns") as flow:
            made = flows.large(600 << 20)
            task(len, name="size")(made)
        began = time.monotonic()
        view = flow.run(executor=WatchedExecutor(cluster.address))
        took = time.monotonic() - began
        is_right = view.is_successful() and view.result["size"].result == 600 << 20
        found, holds = verdict([] if is_right else [view.result["large"].message], "600 MiB arrived")
        yield Row(
            "C34 returns", "a value of 600 MiB, limit 1 GiB", "stored on disk, Success", found, holds, seconds=took
        )


def nested(stage: Stage) -> Iterator[Row]:
    """C35: tasks that run flows of their own, in their own process."""
    with stage.cluster(workers=2, threads=1) as cluster:
        with Flow("outer") as flow:
            flows.nested.map(range(50))
        began = time.monotonic()
        view = flow.run(executor=WatchedExecutor(cluster.address))
        took = time.monotonic() - began
    values = view.result["nested"].result if view.is_successful() else []
    found, holds = verdict(
        [] if values == ["Success"] * 50 else [str(view.state), str(view.failures())[:200]], "50 inner runs"
    )
    yield Row("C35", "50 tasks that run a flow each", "Success or refused; no hang", found, holds, seconds=took)


def client_killed(stage: Stage) -> Iterator[Row]:
    """A detached run goes on without its client."""
    width, ledger = 1_000 if stage.quick else 4_000, stage.new_ledger()
    with stage.cluster(workers=2, threads=1) as cluster:
        with _driver(
            ["-c", SUBMITS, ledger.path, cluster.address, str(width)], stage.new_folder(), "-", stdout=subprocess.PIPE
        ) as client:
            assert client.stdout is not None
            run_id = client.stdout.readline().decode().strip()
            client.kill()
            client.wait()
        with attach(cluster.address, run_id) as handle:
            began = time.monotonic()
            handle.wait(200)
            view = handle.result()
            took = time.monotonic() - began
            handle.forget()
            left = _keys(cluster.address, run_id)
        found, holds = verdict(_detached_problems(view, ledger, width, []) + left[:1], "the answer is right")
    yield Row(
        "client",
        "client of a detached run killed",
        "Success, each once",
        found,
        holds,
        1,
        len(ledger.executions()),
        width,
        took,
        width * 0.0075 / 2,
    )


def driver_killed(stage: Stage) -> Iterator[Row]:
    """The worker with the driver of a detached run is killed; again and again."""
    width, wanted = (1_000, 1) if stage.quick else (4_000, 3)
    ledger = stage.new_ledger()
    dead: list[int] = []
    with stage.cluster(workers=2, threads=1) as cluster:
        began = time.monotonic()
        with (
            flows.mapped(ledger, width, 0.005, 0.010).submit(executor=WatchedExecutor(cluster.address)) as handle,
            Client(cluster.address, set_as_default=False) as client,
        ):
            for number in range(1, wanted + 1):
                _wait_for(ledger, number * width // (wanted + 2))
                while (status := handle.status()).drivers < number and not status.is_finished:
                    time.sleep(0.1)
                pids = client.run(os.getpid)
                if status.driver in pids:
                    dead.append(pids[status.driver])
                    kill(dead[-1])
                cluster.replace_lost_nannies()
            status = handle.wait(200)
            view = handle.result()
            took = time.monotonic() - began
            handle.forget()
    problems = _detached_problems(view, ledger, width, dead)
    problems += (
        [] if status.drivers == wanted + 1 and len(dead) == wanted else [f"{status.drivers} drivers, {len(dead)} kills"]
    )
    executions = ledger.executions()
    found, holds = verdict(problems, f"{status.drivers} drivers, {repeated(executions)} repeated")
    yield Row(
        "driver",
        "worker with the driver killed",
        "Success, another driver goes on",
        found,
        holds,
        len(dead),
        len(executions),
        width,
        took,
        width * 0.0075 / 2,
    )


def _detached_problems(view: FlowRunView, ledger: Ledger, width: int, dead: list[int]) -> list[str]:
    problems = [] if view.is_successful() else [str(view.state)]
    if not problems and view.result["total"].result != flows.answer(width):
        problems.append("the answer is wrong")
    executions = ledger.executions()
    # The chunks of the other worker whose reports no driver took: three for a slot, of 0.15 s each.
    problems += complaints(executions, dead=dead, reported={}, allowed=len(dead) * 3 * 120)
    problems += [] if len({each.index for each in executions}) == width else ["an element never ran"]
    return problems


def driver_killed_and_resumed(stage: Stage) -> Iterator[Row]:
    """C9: the driver of three maps is killed again and again, and each time another process resumes the run."""
    width, times = (200, 5) if stage.quick else (5_000, 50)
    for executor in ("local", "dask"):
        driver = KilledDriver(stage.new_folder(), executor=executor, width=width)
        began = time.monotonic()
        seen = driver.be_killed(times, seed=stage.seed)
        executions = len(driver.ledger())
        wanted = len(driver.elements) + 3
        ends_well = seen.output == f"Success {driver.total}" and driver.elements <= set(driver.ledger())
        yield Row(
            f"C9 {executor}",
            f"3 maps × {width:,}, SIGKILL of the driver at {times} random moments, each time resumed",
            "Success; nothing that was recorded ran again; the store is whole each time",
            f"{'Success' if ends_well else seen.output}, {sum(seen.again.values())} recorded ones ran again, "
            f"{len(seen.complaints)} complaints of the store",
            ends_well and not seen.again and not seen.complaints and seen.kills > times // 2,
            kills=seen.kills,
            executions=executions,
            elements=wanted,
            seconds=time.monotonic() - began,
        )


def soak(stage: Stage) -> Iterator[Row]:
    """Many flows on one cluster: memory must be flat once Dask's own logs, which are bounded, are full."""
    full, number = (5, 20) if stage.quick else (200, 300)
    seen: dict[int, dict[str, float]] = {}
    with stage.cluster(workers=2, threads=1) as cluster:
        executor = WatchedExecutor(cluster.address)
        began = time.monotonic()
        for each in range(1, number + 1):
            view = flows.mapped(stage.new_ledger(), 500, 0.0, 0.0).run(executor=executor)
            assert view.result["total"].result == flows.answer(500)
            if each in (1, full, number):
                gc.collect()
                processes = {"scheduler": cluster.scheduler.pid, "driver": os.getpid()}
                processes |= {f"worker {i}": pid for i, pid in enumerate(cluster.worker_pids())}
                seen[each] = {name: psutil.Process(pid).memory_info().rss / 2**20 for name, pid in processes.items()}
        took = time.monotonic() - began
        left = left_behind(cluster.address)
    growth = {name: seen[number][name] - seen[full][name] for name in seen[full]}
    problems = [f"{name} grew by {mib:.1f} MiB at the end" for name, mib in growth.items() if mib > MOST_GROWTH_MIB]
    problems += [f"left: {left[:3]}"] if left else []
    path = ", ".join(f"{name} " + " → ".join(f"{each[name]:.0f}" for each in seen.values()) for name in growth)
    found, holds = verdict([*problems, path] if problems else [], f"MiB: {path}")
    yield Row(
        "soak",
        f"{number} flows on one cluster",
        f"≤ {MOST_GROWTH_MIB:g} MiB more after the last {number - full} flows, nothing left",
        found,
        holds,
        0,
        number * 500,
        number * 500,
        took,
    )


# ----------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _driver(arguments: list[str], folder: Path, mark: str, **streams: int) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that can import what this one can; killed at the end of the block, and all that is its own."""
    root = str(Path(__file__).parents[1])
    env = {
        **os.environ,
        MARK: mark,
        "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    kwargs = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **streams}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=env,
        start_new_session=True,
        preexec_fn=_begin,
        **kwargs,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        if mark != "-":
            for each in _marked(mark):
                kill(each.pid)


def _begin() -> None:
    """In a new process: hear Ctrl-C, which shells have background jobs ignore, and end with who started it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if each.environ().get(MARK) == mark and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
    return found


def _left(mark: str, limit_s: float) -> list[str]:
    """Processes with a mark that do not end in time."""
    end = time.monotonic() + limit_s
    while True:
        left = []
        for each in _marked(mark):
            with contextlib.suppress(psutil.Error):
                left.append(" ".join(each.cmdline())[:80])
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.1)


def _processes() -> set[str]:
    """Commands and pids of what runs on this machine."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.add(f"{' '.join(process.cmdline())[:60]} ({process.pid})")
    return found


def _stray(before: set[str]) -> list[str]:
    """What tasks have started since, and is still there ten seconds on."""
    end = time.monotonic() + 10
    while True:
        found = [each for each in _processes() - before if each.startswith(f"sleep {flows.HANGS_S}")]
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.1)


def _keys(address: str, run_id: str) -> list[str]:
    """Keys of a run that the scheduler still has after a moment."""
    with Client(address, set_as_default=False) as client:
        end = time.monotonic() + 3
        while True:
            keys = client.run_on_scheduler(lambda dask_scheduler: [str(key) for key in dask_scheduler.tasks])
            keys = [key for key in keys if run_id in key and "-driver-" not in key]
            if not keys or time.monotonic() > end:
                return keys
            time.sleep(0.1)


def _wait_for(ledger: Ledger, number: int, limit_s: float = 15.0) -> None:
    end = time.monotonic() + limit_s
    while len(ledger.executions()) < number:
        if time.monotonic() > end:
            raise TimeoutError(f"{number} executions did not come within {limit_s:g} s")
        time.sleep(0.05)


def _gaps(executions: list[Execution]) -> float:
    """The shortest time between the first and the second attempt of an element."""
    first = {each.index: each.time for each in executions if each.attempt == 1}
    return min((each.time - first[each.index] for each in executions if each.attempt == 2), default=0.0)


CASES = {
    "C9": driver_killed_and_resumed,
    "C10": signalled,
    "C19": hangs,
    "C20": cancelled,
    "C21": many_retries,
    "C22": dies_while_retry_waits,
    "C33": much_output,
    "C34": memory,
    "C35": nested,
    "client": client_killed,
    "driver": driver_killed,
    "soak": soak,
}
