"""What goes on in a cluster, in words: where tasks are that have not reported, and what keeps workers from them."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from anabranch.executors.base import Key

SILENT_S = 15.0  # a healthy but busy worker has been seen to be quiet for so long
_SHOWN = 3  # workers by name; more are counted


def situation(
    workers: Mapping[str, Mapping[str, Any]],
    states: Mapping[Key, str | None],
    processing: Mapping[str, Collection[Key]],
    resources: Mapping[Key, Mapping[str, float]],
    now: float | None = None,
) -> list[str]:
    """What to tell somebody who wonders why nothing happens.

    Parameters
    ----------
    workers
        What the scheduler says of each worker, by address.
    states
        Where it says that the tasks are which have not reported: ``processing``, ``queued``, ``no-worker``, ….
    processing
        Tasks that each worker has.
    resources
        What those tasks ask for that ask for something.
    now
        Seconds since the epoch, by the scheduler's clock.
    """
    if not states:
        return []
    said = [*_running(states, processing), *_waiting(states, resources, workers)]
    return said + _workers(workers, time.time() if now is None else now)


def _running(states: Mapping[Key, str | None], processing: Mapping[str, Collection[Key]]) -> list[str]:
    ours = {worker: [key for key in keys if key in states] for worker, keys in processing.items()}
    busy = {worker: keys for worker, keys in ours.items() if keys}
    count = sum(map(len, busy.values()))
    if not count:
        return []
    names = sorted({_task(key) for keys in busy.values() for key in keys})
    return [f"{_tasks(count)} of {_listed(names)} with {_listed(sorted(busy))}"]


def _waiting(
    states: Mapping[Key, str | None],
    resources: Mapping[Key, Mapping[str, float]],
    workers: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    waiting = {key: state for key, state in states.items() if state not in ("processing", "memory", "erred")}
    starved = {key for key in waiting if not any(_offers(each, resources.get(key, {})) for each in workers.values())}
    said = []
    if not workers:
        return [f"{_tasks(len(waiting))} waiting: there are no workers"] if waiting else []
    for wanted in sorted({amounts_of(resources[key]) for key in starved if resources.get(key)}):
        count = sum(1 for key in starved if resources.get(key) and amounts_of(resources[key]) == wanted)
        said.append(f"{_tasks(count)} waiting: no worker offers {wanted} (start one with `dask worker --resources`)")
    queued = [key for key, state in waiting.items() if key not in starved and state in ("queued", "no-worker")]
    if queued:
        said.append(f"{_tasks(len(queued))} waiting for a free slot")
    inputs = [key for key, state in waiting.items() if state == "waiting"]
    if inputs:
        said.append(f"{_tasks(len(inputs))} waiting for the values of others")
    lost = [key for key, state in waiting.items() if state in (None, "forgotten", "released")]
    if lost:
        said.append(f"{_tasks(len(lost))} not known to the scheduler any more")
    return said


def _workers(workers: Mapping[str, Mapping[str, Any]], now: float) -> list[str]:
    said = []
    for address, worker in sorted(workers.items()):
        metrics, limit = worker.get("metrics", {}), worker.get("memory_limit")
        if worker.get("status") == "paused":
            share = f" at {metrics.get('memory', 0) / limit:.0%} of its memory" if limit else ""
            said.append(f"worker {address} is paused{share}: it starts nothing until it has let go of some")
        silence = now - worker.get("last_seen", now)
        if silence > SILENT_S:
            said.append(f"worker {address} has not been heard of for {silence:.0f} s")
    return said[:_SHOWN] + ([f"{len(said) - _SHOWN} more like these"] if len(said) > _SHOWN else [])


def _offers(worker: Mapping[str, Any], wanted: Mapping[str, float]) -> bool:
    offered = worker.get("resources") or {}
    return all(offered.get(name, 0) >= amount for name, amount in wanted.items())


def amounts_of(resources: Mapping[str, float]) -> str:
    """Amounts of resources in words."""
    return ", ".join(f"{name} = {amount:g}" for name, amount in sorted(resources.items()))


def _tasks(count: int) -> str:
    return f"{count} task" if count == 1 else f"{count:,} tasks"


def _task(key: Key) -> str:
    """What a key is called on Dask's pages: ``flow.task``."""
    return str(key[0]).rpartition("-")[0] or str(key[0])


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
