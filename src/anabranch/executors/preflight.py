"""Looking at a cluster before anything is sent to it: versions, resources, room on disk, and whether the code loads.

What Dask does where these do not fit is to hang, or to lose its workers: code pickled by one minor version of Python
ends every worker of another, and their nannies with them. So nothing that carries code is sent to a worker before its
versions are known to fit. All that is wrong is reported at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import cloudpickle

from anabranch.base.errors import NoWorkersError, SchedulerUnreachable
from anabranch.executors.base import ANSWER_S
from anabranch.executors.fitness import Facts, Needs, PreflightReport, Versions, WorkerFacts, judge, version_of

if TYPE_CHECKING:
    from distributed import Client

PROBE_S = 30.0  # the same where they load the run's code: imports from a busy network disk take that long
EACH_S = 1.0  # for each by itself, after that
PATIENCE_S = 10.0  # before somebody who waits for workers is told so
ROOM_NBYTES = 100 << 20  # a worker that spills needs room for some chunks, which may have 64 MiB
POLL_S = 0.1  # between looks for workers; the scheduler announces none
MAX_KNOWN = 10_000  # workers that this process remembers; some hundred bytes each


# ---------------------------------------------------------------------------------------------------------------------
# Asking


@dataclass(frozen=True, slots=True)
class _Known:
    """What is remembered of a worker. It cannot change while the worker lives."""

    versions: Versions
    is_sound: bool = False
    """Whether its local directory has been found in order."""
    seen: frozenset[str] = frozenset()
    """Directories of this machine that it has."""


_KnownKey: TypeAlias = tuple[str, str, str]  # scheduler id, address, local directory: a new one for each process

_workers: dict[_KnownKey, _Known] = {}
_schedulers: dict[str, Versions] = {}
_lock = threading.Lock()


def check(client: Client, needs: Needs | None = None) -> PreflightReport:
    """Look at a cluster; whoever calls this raises the problems and logs the warnings.

    Takes two broadcasts where nothing is known of the workers, none where all is known and there is no probe. What is
    remembered of a worker is kept for the life of this process.

    Raises
    ------
    SchedulerUnreachable
        The scheduler is there no more.
    """
    needs = needs or Needs()
    with _markers(needs.directories) as (markers, unwritable):
        try:
            facts: Facts = client.sync(_ask, client, needs, markers)
        except OSError as error:  # Dask's CommClosedError is one, and TimeoutError too
            raise SchedulerUnreachable(f"the scheduler does not answer any more: {error}") from error
    return judge(replace(facts, unwritable=unwritable), needs)


def forget() -> None:
    """Forget every worker that was looked at."""
    with _lock:
        _workers.clear()
        _schedulers.clear()


async def _ask(client: Client, needs: Needs, markers: Mapping[str, str]) -> Facts:
    from distributed.versions import get_versions

    scheduler: Any = client.scheduler
    here = get_versions()["packages"]
    identity = await asyncio.wait_for(scheduler.identity(n_workers=-1), ANSWER_S)
    keys = {address: _key(identity["id"], address, each) for address, each in identity["workers"].items()}
    new = [address for address, key in keys.items() if key not in _workers]
    scheduler_versions, versions = await asyncio.gather(
        _scheduler_versions(scheduler, identity["id"]),
        _broadcast(lambda workers: _ask_versions(scheduler, workers), new, ANSWER_S),
    )
    with _lock:
        _workers.update({keys[address]: _Known(each) for address, each in versions.items()})
    # Code goes to the workers that can load it, and to no other.
    fit = [a for a, key in keys.items() if key in _workers and _fits(_workers[key].versions, here)]
    asked = [a for a in fit if needs.probe or not _workers[keys[a]].is_sound or markers.keys() - _workers[keys[a]].seen]
    looks = await _look_at(client, asked, needs, markers)
    facts = [
        _facts(address, each, _workers.get(keys[address]), looks.get(address))
        for address, each in identity["workers"].items()
    ]
    with _lock:
        for address, look in looks.items():
            known = _workers[keys[address]]
            seen = known.seen.union(markers) - frozenset(look["unseen"])
            _workers[keys[address]] = replace(known, is_sound=look["trouble"] is None, seen=seen)
        while len(_workers) > MAX_KNOWN:
            del _workers[next(iter(_workers))]
        while len(_schedulers) > MAX_KNOWN:
            del _schedulers[next(iter(_schedulers))]
    return Facts(here, scheduler_versions, facts)


def _key(scheduler_id: str, address: str, identity: Mapping[str, Any]) -> _KnownKey:
    return scheduler_id, address, str(identity.get("local_directory"))


def _fits(versions: Versions, here: Versions) -> bool:
    return all(version_of(versions, each) == version_of(here, each) for each in ("python", "dask", "distributed"))


def _facts(
    address: str, identity: Mapping[str, Any], known: _Known | None, look: Mapping[str, Any] | None
) -> WorkerFacts:
    return WorkerFacts(
        address,
        is_paused=identity.get("status") == "paused",
        resources=identity.get("resources") or {},
        versions=known.versions if known is not None else None,
        trouble=look["trouble"] if look is not None else None,
        unseen=frozenset(look["unseen"]) if look is not None else frozenset(),
        probe=look["probe"] if look is not None else None,
    )


async def _scheduler_versions(scheduler: Any, scheduler_id: str) -> Versions:
    if scheduler_id not in _schedulers:
        answer = await asyncio.wait_for(scheduler.versions(), ANSWER_S)
        _schedulers[scheduler_id] = answer["packages"]
    return _schedulers[scheduler_id]


async def _ask_versions(scheduler: Any, workers: list[str]) -> dict[str, Versions]:
    answers = await scheduler.broadcast(msg={"op": "versions"}, workers=workers, on_error="ignore")
    return {address: answer["packages"] for address, answer in answers.items()}


async def _look_at(
    client: Client, workers: list[str], needs: Needs, markers: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    probe = cloudpickle.dumps(needs.probe) if needs.probe is not None else None
    room = ROOM_NBYTES

    async def ask(workers: list[str]) -> dict[str, Any]:
        # On the client's own loop its methods give what can be awaited.
        asked: Any = client.run(_look, dict(markers), probe, needs.probe_data, room, workers=workers, on_error="return")
        answers: dict[str, Any] = await asked
        return {
            address: {"trouble": f"it could not be looked at: {answer}", "unseen": [], "probe": None}
            if isinstance(answer, BaseException)
            else answer
            for address, answer in answers.items()
        }

    return await _broadcast(ask, workers, PROBE_S if probe is not None else ANSWER_S)


async def _broadcast(ask: Callable[[list[str]], Any], workers: list[str], limit_s: float) -> dict[str, Any]:
    """Ask workers, all at once; one by one if that takes too long, as one that hangs holds up the answers of all."""
    if not workers:
        return {}
    with contextlib.suppress(TimeoutError):
        answers: dict[str, Any] = await asyncio.wait_for(ask(workers), limit_s)
        return answers
    each = await asyncio.gather(
        *(asyncio.wait_for(ask([worker]), EACH_S) for worker in workers), return_exceptions=True
    )
    return {address: answer for found in each if isinstance(found, dict) for address, answer in found.items()}


async def _look(
    markers: dict[str, str], probe: bytes | None, probe_data: bytes, room_nbytes: int, dask_worker: Any = None
) -> dict[str, Any]:
    """What a worker says of itself. It runs there, where anabranch need not be."""
    import asyncio

    def look() -> dict[str, Any]:  # in a thread: disks and imports may take their time, and the worker's loop may not
        import os
        import pickle
        import shutil
        import tempfile

        trouble = None
        directory = dask_worker.local_directory
        try:
            with tempfile.TemporaryFile(dir=directory):
                free = shutil.disk_usage(directory).free
                if free < room_nbytes:
                    trouble = f"only {free >> 20} MiB are free in its local directory {directory}"
        except OSError as error:
            trouble = f"its local directory {directory} cannot be written in: {error.strerror}"
        complaint = None
        if probe is not None:
            try:
                complaint = pickle.loads(probe)(probe_data)
            except BaseException as error:  # loading runs the user's modules
                complaint = f"{type(error).__name__}: {error}"
        unseen = [each for each, marker in markers.items() if not os.path.exists(marker)]
        return {"trouble": trouble, "unseen": unseen, "probe": None if complaint is None else str(complaint)}

    return await asyncio.get_running_loop().run_in_executor(None, look)


_look.__module__ = "__main__"  # cloudpickle takes functions of __main__ by value, so that workers need no anabranch


@contextlib.contextmanager
def _markers(directories: Iterable[str]) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """A file in each directory for as long as workers look for it; and the directories that take none, with reasons."""
    markers: dict[str, str] = {}
    unwritable: dict[str, str] = {}
    try:
        for directory in directories:
            try:
                os.makedirs(directory, exist_ok=True)
                handle, markers[directory] = tempfile.mkstemp(
                    prefix=".anabranch-marker-", dir=os.path.abspath(directory)
                )
                os.close(handle)
            except OSError as error:
                unwritable[directory] = error.strerror or str(error)
        yield markers, unwritable
    finally:
        for marker in markers.values():
            with contextlib.suppress(OSError):
                os.unlink(marker)


# ---------------------------------------------------------------------------------------------------------------------
# Waiting


def wait_for_workers(
    client: Client,
    timeout_s: float,
    say: Callable[[str], None],
    *,
    address: str | None = None,
    how: str | None = None,
    patience_s: float = PATIENCE_S,
) -> None:
    """Wait for a worker that is not paused.

    Parameters
    ----------
    client
        The cluster's.
    timeout_s
        Seconds to wait.
    say
        Given a message after `patience_s` seconds.
    address
        What to call the cluster; default: its scheduler's address.
    how
        How to get a worker; default: the command that starts one.
    patience_s
        Seconds that are nothing to speak of.

    Raises
    ------
    NoWorkersError
        None came.
    SchedulerUnreachable
        The scheduler is there no more.
    """
    scheduler: Any = client.scheduler
    address = address or str(scheduler.address)
    how = how or f"start one with `dask worker {address}`"
    begun = time.monotonic()
    told = False
    while True:
        waited = time.monotonic() - begun
        limit = timeout_s if told or patience_s >= timeout_s else patience_s
        try:
            statuses = client.sync(_until_running, scheduler, max(0.0, limit - waited))
        except OSError as error:
            raise SchedulerUnreachable(f"the scheduler at {address} does not answer any more: {error}") from error
        if "running" in statuses:
            return
        found = f"all workers at {address} ({len(statuses)}) are paused for want of memory" if statuses else ""
        if limit >= timeout_s:
            found = found or f"no workers at {address}"
            raise NoWorkersError(
                f"{found}, and none came within {timeout_s:g} s; {how}, or wait longer with the setting "
                "engine.no_workers_timeout_s"
            )
        told = True
        say(f"{found or f'no workers yet at {address}'}, waiting up to {timeout_s:g} s; {how}")


async def _until_running(scheduler: Any, limit_s: float) -> list[str]:
    """Statuses of all workers, once one of them runs or the time is over."""
    end = time.monotonic() + limit_s
    while True:
        identity = await asyncio.wait_for(scheduler.identity(n_workers=-1), ANSWER_S)
        statuses = [worker["status"] for worker in identity["workers"].values()]
        left = end - time.monotonic()
        if "running" in statuses or left <= 0:
            return statuses
        await asyncio.sleep(min(POLL_S, left))
