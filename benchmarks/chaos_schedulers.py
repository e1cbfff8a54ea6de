"""Cases in which the scheduler, the way to it, or all workers are gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from tests.killable_cluster import Proxy, kill
from tests.ledger import WatchedExecutor

from anabranch import config
from benchmarks import chaos_flows as flows
from benchmarks.chaos_stage import Row, Run, Stage, fault_free_s, started, verdict
from benchmarks.chaos_workers import map_problems


def remote_scheduler(stage: Stage) -> Iterator[Row]:
    """C7: the scheduler is killed and started again on its port; its workers' nannies bring workers back."""
    width = 600 if stage.quick else 2_000
    for part in (50,) if stage.quick else (10, 50, 90):
        with stage.cluster(workers=2, threads=1) as cluster:
            calm_s = fault_free_s(cluster, flows.mapped(stage.new_ledger(), width, 0.005, 0.010))
            run = started(
                stage, lambda ledger: flows.mapped(ledger, width, 0.005, 0.010), WatchedExecutor(cluster.address)
            )
            run.wait_for_executions(width * part // 100)
            before = cluster.worker_pids()
            cluster.kill_scheduler()
            killed = time.time()
            cluster.start_scheduler()
            while not run.wait(0.5):
                cluster.replace_lost_nannies()
                if time.time() > killed + 120:
                    break
        run.deaths += [(killed, pid) for pid in before]
        yield _of_run(f"C7 at {part} %", "scheduler killed, another one on its port", run, width, calm_s, slots=2)


def scheduler_for_good(stage: Stage) -> Iterator[Row]:
    """C7: there is no other scheduler: a bounded end that says so."""
    limit_s = 5.0
    with stage.cluster(workers=2, threads=1) as cluster, config.set(engine__reconnect_timeout_s=limit_s):
        run = started(stage, lambda ledger: flows.mapped(ledger, 2_000, 0.005, 0.010), WatchedExecutor(cluster.address))
        run.wait_for_executions(200)
        cluster.kill_scheduler()
        began = time.monotonic()
        run.wait(120)
        took = time.monotonic() - began
    problems, message = [] if run.view is not None else [run.state], ""
    if run.view is not None:
        state = run.view.result["work"].state
        if state.name != "Crashed":
            problems.append(f"{state.name}: {state.message}")
        if not any("waiting up to 5 s" in each for each in run.notices):
            problems.append(f"said {run.notices}")
        if took > limit_s + 15:
            problems.append(f"took {took:.0f} s")
        message = state.message
    found, holds = verdict(problems, message[:120])
    yield Row(
        "C7 for good",
        f"scheduler killed, none comes within {limit_s:g} s",
        "Crashed, within bounds that were printed",
        found,
        holds,
        1,
        run.executions(),
        2_000,
        took,
        limit_s,
    )


class WatchedLocal(WatchedExecutor):
    """Lets its cluster be reached."""

    @property
    def cluster(self) -> Any:
        """The one that there is now."""
        assert self._latest is not None
        assert self._latest._made is not None
        return self._latest._made.cluster


def local_scheduler(stage: Stage) -> Iterator[Row]:
    """C8: the scheduler of a cluster that the run made is closed under it."""
    width = 600 if stage.quick else 2_000
    for part in (50,) if stage.quick else (10, 50, 90):
        kwargs = {"n_workers": 2, "threads_per_worker": 1}
        executor = WatchedLocal(cluster_kwargs=kwargs)
        calm = started(
            stage, lambda ledger: flows.mapped(ledger, width, 0.005, 0.010), WatchedExecutor(cluster_kwargs=kwargs)
        )
        calm.wait(120)
        run = started(stage, lambda ledger: flows.mapped(ledger, width, 0.005, 0.010), executor)
        run.wait_for_executions(width * part // 100)
        cluster = executor.cluster
        before = [worker.pid for worker in cluster.workers.values()]
        killed = time.time()
        cluster.loop.add_callback(cluster.scheduler.close, reason="chaos")
        run.wait(120)
        run.deaths += [(killed, pid) for pid in before]
        yield _of_run(f"C8 at {part} %", "scheduler of the LocalCluster closed", run, width, calm.seconds, slots=2)


def network_cut(stage: Stage) -> Iterator[Row]:
    """C31: the driver cannot reach its scheduler for 40 s; then the bytes pass, or the connection breaks."""
    width, cut_s = 3_000, 5.0 if stage.quick else 40.0
    for breaks in (False, True):
        with stage.cluster(workers=2, threads=1) as cluster:
            proxy = Proxy(cluster.port)
            try:
                run = started(
                    stage,
                    lambda ledger: flows.mapped(ledger, width, 0.005, 0.010),
                    WatchedExecutor(f"tcp://127.0.0.1:{proxy.port}"),
                )
                run.wait_for_executions(500)
                proxy.cut()
                time.sleep(cut_s)
                if breaks:
                    proxy.reset()
                proxy.mend()
                run.wait(180)
            finally:
                proxy.close()
        did = f"no bytes for {cut_s:g} s" + (", then the connection breaks" if breaks else "")
        name = "C31 broken" if breaks else "C31"
        # Chunks that were on their way were done at the far end; after a break their reports are gone with the topic.
        allowed = 2 * 3 * 120 if breaks else 0
        yield _of_run(name, did, run, width, width * 0.0075 / 2 + cut_s, slots=2, kills=0, allowed=allowed)


def missing_module(stage: Stage) -> Iterator[Row]:
    """C16: code that imports what the workers lack."""
    from anabranch import Flow, task

    def imports() -> None:
        import a_module_that_nobody_has  # noqa: F401

    with stage.cluster(workers=2, threads=1) as cluster:
        pids = cluster.worker_pids()
        with Flow("imports") as flow:
            task(imports)()
            flows.total([1, 2])
        began = time.monotonic()
        view = flow.run(executor=WatchedExecutor(cluster.address))
        took = time.monotonic() - began
        problems = [] if cluster.worker_pids() == pids else ["a worker died"]
    state = view.result["imports"].state
    if state.name != "Failed" or "a_module_that_nobody_has" not in state.message:
        problems.append(str(state))
    if view.result["total"].result != 3:
        problems.append("the other task is harmed")
    found, holds = verdict(problems, state.message[:100])
    yield Row("C16", "a task imports what workers lack", "that task Failed, workers alive", found, holds, seconds=took)


def no_workers(stage: Stage) -> Iterator[Row]:
    """C18: none from the start, and none any more."""
    from anabranch.engine.driver import waiting

    limit_s, waiting.FIRST_WORD_S = 4.0, 1.0
    with stage.cluster(workers=0) as cluster, config.set(engine__no_workers_timeout_s=limit_s):
        began = time.monotonic()
        run = started(stage, lambda ledger: flows.mapped(ledger, 10, 0.0, 0.0), WatchedExecutor(cluster.address))
        run.wait(60)
        took = time.monotonic() - began
    fine = run.error is not None and type(run.error).__name__ == "NoWorkersError" and took < limit_s + 10
    yield Row("C18 none ever", f"no worker within {limit_s:g} s", "NoWorkersError", run.state[:120], fine, seconds=took)
    with stage.cluster(workers=2) as cluster, config.set(engine__no_workers_timeout_s=limit_s):
        run = started(stage, lambda ledger: flows.mapped(ledger, 5_000, 0.005, 0.010), WatchedExecutor(cluster.address))
        run.wait_for_executions(200)
        for nanny in cluster.nannies:
            kill(nanny.pid)
        began = time.monotonic()
        run.wait(60)
        took = time.monotonic() - began
    state = run.view.result["work"].state if run.view is not None else None
    problems = []
    if state is None or state.name != "Crashed" or "no workers for 4 s" not in state.message:
        problems.append(str(state or run.state))
    if not any("no workers for" in each for each in run.notices):
        problems.append(f"said {run.notices}")
    if took > limit_s + 10:
        problems.append(f"took {took:.0f} s")
    found, holds = verdict(problems, state.message[:120] if state is not None else "")
    yield Row("C18 no more", "all workers leave for good", "a warning, then Crashed", found, holds, 2, seconds=took)


def _of_run(
    name: str, did: str, run: Run, width: int, calm_s: float, *, slots: int, kills: int = 1, allowed: int = 0
) -> Row:
    problems = map_problems(run, width, allowed=allowed)
    found, holds = verdict(problems, f"{run.repeated()} repeated, {run.bound()} in flight")
    expected = "Success, repeated ≤ in flight"
    return Row(name, did, expected, found, holds, kills, run.executions(), width, run.seconds, calm_s)


CASES = {
    "C7": remote_scheduler,
    "C7-for-good": scheduler_for_good,
    "C8": local_scheduler,
    "C16": missing_module,
    "C18": no_workers,
    "C31": network_cut,
}
