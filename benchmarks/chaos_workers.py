"""Cases in which workers die, stop, or leave."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

from tests.ledger import WatchedExecutor

from benchmarks import chaos_flows as flows
from benchmarks.chaos_stage import Killer, Row, Run, Stage, fault_free_s, started, verdict


def killed_every_2_s(stage: Stage) -> Iterator[Row]:
    """C1."""
    width = 2_000 if stage.quick else 10_000
    with stage.cluster(workers=2, threads=2) as cluster:
        calm_s = fault_free_s(cluster, flows.mapped(stage.new_ledger(), width, 0.005, 0.010))
        run = started(stage, lambda ledger: flows.mapped(ledger, width, 0.005, 0.010), WatchedExecutor(cluster.address))
        with Killer(cluster, run, stage.chance("C1"), every_s=2.0):
            run.wait(540)
    yield _of_map("C1", f"{width:,} × 5–10 ms, SIGKILL of a worker every 2 s", run, width, calm_s, times=5)


def kills_in_a_row(stage: Stage) -> Iterator[Row]:
    """Two hundred kills, each as soon as the last one's successor works."""
    wanted, width = (10, 1_000) if stage.quick else (200, 4_000)
    problems, kills, executions, elements, began = [], 0, 0, 0, time.monotonic()
    with stage.cluster(workers=2, threads=1) as cluster:
        while kills < wanted and not problems:
            run = started(
                stage, lambda ledger: flows.mapped(ledger, width, 0.005, 0.010), WatchedExecutor(cluster.address)
            )
            chance = stage.chance(f"row {kills}")
            with Killer(cluster, run, chance, every_s=0.5, most=wanted - kills):
                run.wait(900)
            problems = map_problems(run, width)
            kills, executions, elements = kills + len(run.deaths), executions + run.executions(), elements + width
    found, holds = verdict(problems, "all values right, all executions accounted for")
    yield Row(
        f"{wanted} kills",
        "SIGKILL of a worker as soon as it works",
        "Success, nothing lost",
        found,
        holds,
        kills,
        executions,
        elements,
        time.monotonic() - began,
    )


def long_tasks(stage: Stage) -> Iterator[Row]:
    """C2."""
    width = 10 if stage.quick else 100
    with stage.cluster(workers=2, threads=2) as cluster:
        run = started(stage, lambda ledger: flows.mapped(ledger, width, 1.5, 1.5), WatchedExecutor(cluster.address))
        with Killer(cluster, run, stage.chance("C2"), every_s=2.0):
            run.wait(560)
    row = _of_map("C2", f"{width} × 1.5 s, SIGKILL of a worker every 2 s", run, width, width * 1.5 / 4)
    most = 2 * len(run.deaths)
    if run.repeated() > most:
        row = Row(**{**vars(row), "holds": False, "found": f"{row.found}; {run.repeated()} repeated > {most}"})
    yield row


def all_at_once(stage: Stage) -> Iterator[Row]:
    """C3."""
    width = 1_500 if stage.quick else 3_000
    with stage.cluster(workers=2, threads=2) as cluster:
        calm_s = fault_free_s(cluster, flows.mapped(stage.new_ledger(), width, 0.005, 0.010))
        run = started(stage, lambda ledger: flows.mapped(ledger, width, 0.005, 0.010), WatchedExecutor(cluster.address))
        with Killer(cluster, run, stage.chance("C3"), every_s=1.5, most=2, at_once=2):
            run.wait(120)
    row = _of_map("C3", "all workers killed at once, twice", run, width, calm_s, kills=4)
    if run.seconds > calm_s + 20:
        row = Row(**{**vars(row), "holds": False, "found": f"{row.found}; a pause of more than 10 s each"})
    yield row


def stopped(stage: Stage) -> Iterator[Row]:
    """C4: SIGSTOP and SIGCONT, with a long and a short patience of the scheduler."""
    width = 1_000
    for ttl, stop_s in (("300s", 3.0 if stage.quick else 20.0), ("10s", 25.0)):
        if stage.quick and ttl == "10s":
            continue
        with stage.cluster(workers=2, threads=1, config={"distributed.scheduler.worker-ttl": ttl}) as cluster:
            run = started(
                stage, lambda ledger: flows.mapped(ledger, width, 0.005, 0.010), WatchedExecutor(cluster.address)
            )
            run.wait_for_executions(100)
            victim = stage.chance("C4").choice(cluster.worker_pids())
            os.kill(victim, signal.SIGSTOP)
            stopped_at = time.time()
            time.sleep(stop_s)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGCONT)
            run.wait(120)
            if ttl == "10s":
                run.deaths.append((stopped_at, victim))  # given up by the scheduler: what it does later is late
        calm_s = width * 0.0075 / 2
        kills = None if ttl == "10s" else 0
        yield _of_map(f"C4 ttl {ttl}", f"SIGSTOP {stop_s:g} s, then SIGCONT", run, width, calm_s, kills=kills)


def retired(stage: Stage) -> Iterator[Row]:
    """C4: a worker that leaves in order."""
    from distributed import Client

    width = 1_000
    with stage.cluster(workers=3, threads=1) as cluster:
        run = started(stage, lambda ledger: flows.mapped(ledger, width, 0.005, 0.010), WatchedExecutor(cluster.address))
        run.wait_for_executions(100)
        with Client(cluster.address, set_as_default=False) as client:
            address, pid = min(client.run(os.getpid).items())
            run.deaths.append((time.time(), pid))
            client.retire_workers([address])
        run.wait(120)
    yield _of_map("C4 retired", "a worker of three retires", run, width, width * 0.0075 / 3)


def poison(stage: Stage) -> Iterator[Row]:
    """C5."""
    for how in ("os._exit",) if stage.quick else ("os._exit", "SIGSEGV", "SIGKILL", "memory"):
        yield from _poison(stage, f"C5 {how}", 200 if stage.quick else 1_000, 1, how)


def much_poison(stage: Stage) -> Iterator[Row]:
    """C6."""
    yield from _poison(stage, "C6", 40 if stage.quick else 200, 2 if stage.quick else 20, "SIGKILL", limit_s=580)


SAYS = {
    "os._exit": "exited with status 3",
    "SIGSEGV": "signal 11 (SIGSEGV)",
    "SIGKILL": "signal 9 (SIGKILL)",
    "memory": "killed for memory",
}


def _poison(stage: Stage, name: str, width: int, number: int, how: str, limit_s: float = 60.0) -> Iterator[Row]:
    guilty = frozenset(stage.chance(name).sample(range(width), number))
    options = ("--memory-limit", "400MiB") if how == "memory" else ()
    with stage.cluster(workers=2, threads=1, options=options) as cluster:
        run = started(
            stage, lambda ledger: flows.poisoned(ledger, width, guilty, how), WatchedExecutor(cluster.address)
        )
        while not run.wait(0.5):
            if run.seconds > limit_s + 60:
                break
            cluster.replace_lost_nannies()
    problems, deaths, message = [], 0, ""
    if run.view is None:
        problems.append(run.state)
    else:
        states = run.view.result["dies"].map_states
        counts = run.view.result["dies"].counts
        crashed = {index for index in range(width) if states[index].state.name == "Crashed"}
        deaths = sum(1 for each in run.ledger.executions() if each.index in guilty)
        if crashed != guilty:
            problems.append(f"Crashed are {sorted(crashed)}, guilty {sorted(guilty)}")
        if counts is None or counts.successful != width - number:
            problems.append(f"counts {counts}")
        if run.view.result["outcome"].result != (width - number, number):
            problems.append(f"the one that takes all saw {run.view.result['outcome'].result}")
        if run.view.result["total"].state.name != "TriggerFailed" or not run.view.result["large"].is_successful():
            problems.append("dependents and others are not as they should be")
        message = states[min(guilty)].state.message
        if SAYS[how] not in message or f"dies[{min(guilty)}]" not in message:
            problems.append(f"the message is {message!r}")
        if run.seconds > limit_s:
            problems.append(f"took more than {limit_s:g} s")
        if deaths > number * 12:  # a chunk of 64 is halved six times, and then it dies alone four times
            problems.append(f"{deaths} deaths")
    found, holds = verdict(problems, f"{deaths} deaths; {message[:90]}")
    yield Row(
        name,
        f"{number} of {width:,} elements: {how}",
        f"{width - number} Success, {number} Crashed, named, < {limit_s:g} s",
        found,
        holds,
        deaths,
        run.executions(),
        width,
        run.seconds,
        width * 0.005 / 2,
    )


def map_problems(run: Run, width: int, *, allowed: int = 0) -> list[str]:
    if run.view is None or not run.view.is_successful():
        failures = [] if run.view is None else [f"{name}: {state.message}" for name, state in run.view.failures()][:2]
        return [run.state, *failures]
    problems = run.problems(allowed=allowed)
    if run.view.result["total"].result != flows.answer(width):
        problems.append("the answer is wrong")
    if run.view.result["work"].result != [x * x for x in range(width)]:
        problems.append("a value is wrong")
    if run.repeated() > run.bound() + allowed:
        problems.append(f"{run.repeated()} repeated, {run.bound()} in flight at the kills")
    return problems


def _of_map(
    name: str,
    did: str,
    run: Run,
    width: int,
    calm_s: float,
    *,
    times: float | None = None,
    kills: int | None = None,
    allowed: int = 0,
) -> Row:
    problems = map_problems(run, width, allowed=allowed)
    if times is not None and run.seconds > times * calm_s:
        problems.append(f"took {run.seconds / calm_s:.1f}× as long")
    if kills is not None and len(run.deaths) != kills:
        problems.append(f"{len(run.deaths)} kills in place of {kills}")
    if kills is None and not run.deaths:
        problems.append("nothing was killed")
    found, holds = verdict(problems, f"{run.repeated()} repeated, {run.bound()} in flight at the kills")
    expected = "Success, repeated ≤ in flight at the kills" + (f", ≤ {times:g}× the time" if times else "")
    if kills == 0:
        expected = "Success, nothing repeated" if not allowed else "Success"
    return Row(name, did, expected, found, holds, len(run.deaths), run.executions(), width, run.seconds, calm_s)


CASES = {
    "C1": killed_every_2_s,
    "kills": kills_in_a_row,
    "C2": long_tasks,
    "C3": all_at_once,
    "C4": stopped,
    "C4-retired": retired,
    "C5": poison,
    "C6": much_poison,
}
