"""What becomes of a run of a service, whatever ends it: the table in docs/service.md, row by row."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.postgres_server import PostgresServer, postgres  # noqa: F401
from tests.service_process import ServiceProcess, serving

PAGE = Path(__file__).parents[2] / "docs" / "service.md"
FLOWS = """
import os, signal, threading, time
from pathlib import Path
from anabranch import Flow, Parameter, task
from anabranch.notifiers import Notifier

HOME = Path(__file__).parent

class Told(Notifier):
    def send(self, text):
        with (HOME / "told").open("a") as file:
            file.write(text.splitlines()[0] + "\\n")

@task
def die(times):
    if len(list(HOME.glob("death-*"))) < times:
        (HOME / f"death-{time.monotonic_ns()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)

@task
def lock():
    held = threading.Lock()
    held.acquire()
    held.acquire()

@task
def insist(catches):
    (HOME / f"begun-{os.getpid()}").touch()
    while not (HOME / "go").exists():
        try:
            time.sleep(0.05)
        except BaseException:
            if not catches:
                raise

with Flow("dies", state_handlers=[Told()]) as dies:
    die(Parameter("times"))
with Flow("locks", timeout=2, state_handlers=[Told()]) as locks:
    lock()
with Flow("insists", state_handlers=[Told()]) as insists:
    insist(Parameter("catches", default=False))
"""


def rows() -> dict[str, tuple[str, str, str]]:
    """State, reason and who is told, by what happens."""
    text = PAGE.read_text(encoding="utf-8").partition("| what happens |")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    return {what: (state, reason, told) for what, state, reason, told in cells}


class Place:
    """A directory with the flows, and a database; services that are started there."""

    def __init__(self, home: Path, server: PostgresServer) -> None:
        (home / "flows.py").write_text(FLOWS)
        self.home = home
        self.server = server
        self.settings = {"ANABRANCH__BACKEND": server.fresh_url(), "ANABRANCH__SERVICE__CANCEL_GRACE_S": "1"}

    def serving(self) -> Iterator[ServiceProcess]:
        return serving(self.home, "flows.py", "--drain", "0.1", **self.settings)  # type: ignore[return-value]

    def await_begin(self) -> int:
        """The process of the run, once its task is at work."""
        deadline = time.monotonic() + 60
        while not (begun := list(self.home.glob("begun-*"))):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return int(begun[0].name.partition("-")[2])

    def told(self) -> list[str]:
        file = self.home / "told"
        return file.read_text().splitlines() if file.exists() else []


def ended(service: ServiceProcess, run_id: str) -> dict[str, object]:
    """The run, once it has ended, and all have been told of it: a service that ends waits for that."""
    found = service.wait_for(run_id, "Success", "Failed", "Crashed", "TimedOut", "Cancelled")
    service.end()
    return found


def one_death(place: Place) -> dict[str, object]:
    with place.serving() as service:
        return ended(service, service.start("dies", times=1))


def every_death(place: Place) -> dict[str, object]:
    with place.serving() as service:
        return ended(service, service.start("dies", times=99))


def deadlock(place: Place) -> dict[str, object]:
    with place.serving() as service:
        return ended(service, service.start("locks"))


def cancel(place: Place) -> dict[str, object]:
    return _cancel(place, catches=False)


def cancel_of_what_catches_all(place: Place) -> dict[str, object]:
    return _cancel(place, catches=True)


def _cancel(place: Place, *, catches: bool) -> dict[str, object]:
    with place.serving() as service:
        run_id = service.start("insists", catches=catches)
        place.await_begin()
        service.call("POST", f"/api/runs/{run_id}/cancel")
        return ended(service, run_id)


def end_of_the_service(place: Place) -> dict[str, object]:
    with place.serving() as service:
        run_id = service.start("insists")
        place.await_begin()
        service.end()
    return _go_on(place, run_id)


def kill_of_the_service(place: Place) -> dict[str, object]:
    with place.serving() as service:
        run_id = service.start("insists")
        place.await_begin()
        service.process.kill()
    return _go_on(place, run_id)


def kill_of_both(place: Place) -> dict[str, object]:
    with place.serving() as service:
        run_id = service.start("insists")
        process = place.await_begin()
        service.process.kill()
        os.kill(process, signal.SIGKILL)
    return _go_on(place, run_id)


def _go_on(place: Place, run_id: str) -> dict[str, object]:
    (place.home / "go").touch()
    with place.serving() as service:
        return ended(service, run_id)


def database_away(place: Place) -> dict[str, object]:
    with place.serving() as service:
        run_id = service.start("insists")
        place.await_begin()
        place.server.stop("immediate")
        (place.home / "go").touch()
        time.sleep(1)
        place.server.start()
        return ended(service, run_id)


WHAT: dict[str, Callable[[Place], dict[str, object]]] = {
    "its process is killed": one_death,
    "each process that has it is killed": every_death,
    "its code waits for itself, and the flow has a `timeout`": deadlock,
    "it is cancelled": cancel,
    "it is cancelled, and its code catches everything": cancel_of_what_catches_all,
    "its service ends, and another one begins": end_of_the_service,
    "its service is killed, and another one begins": kill_of_the_service,
    "its service and its process are killed, and another service begins": kill_of_both,
    "the database goes away, and comes back": database_away,
}


def test_the_table_has_what_is_tried() -> None:
    assert list(rows()) == list(WHAT)


@pytest.mark.parametrize("what", WHAT)
def test_a_run_ends_as_the_documentation_says(what: str, tmp_path: Path, postgres: PostgresServer) -> None:  # noqa: F811
    place = Place(tmp_path, postgres)
    state, reason, told = rows()[what]

    found = WHAT[what](place)

    assert (found["state"], found["slot"]["state"]) == (state, state)  # type: ignore[index]
    if reason:
        said = f"{found['message']}\n{found['slot']['message']}"  # type: ignore[index]
        assert re.search(re.escape(reason).replace("…", ".*"), said), said
    assert len(place.told()) == {"nobody": 0, "notifiers, once": 1}[told], place.told()
    assert all(f": {state}" in line for line in place.told())
