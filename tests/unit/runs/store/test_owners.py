"""Processes that own runs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from anabranch.base.errors import RunHeld
from anabranch.runs import RunRecord
from anabranch.runs.read.lookup import as_it_stands
from anabranch.runs.store.owners import birth_of, is_dead, name_process
from anabranch.runs.store.sqlite import SQLiteRunStore

HOST = socket.gethostname()
MINE = birth_of(os.getpid())
linux = pytest.mark.skipif(sys.platform != "linux", reason="what /proc tells")


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()
    process.stdin.close()


def test_a_process_has_one_birth_and_others_have_theirs(sleeper):
    assert birth_of(sleeper.pid) == birth_of(sleeper.pid) != MINE != ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_fork_is_not_taken_for_the_process_that_it_was_made_of():
    script = (
        "import os, sys; from anabranch.runs.store import owners; owners.birth_of(os.getpid())\n"
        "child = os.fork()\n"
        "known = owners._own_birth.cache_info().currsize  # nothing, in a child: its number may be given again\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) + (known != 1) if child else known)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@linux
def test_births_of_one_boot_and_container_have_their_place_in_common(sleeper):
    place, _, ticks = MINE.rpartition(" ")
    other, _, later = birth_of(sleeper.pid).rpartition(" ")
    assert place == other
    assert int(ticks) <= int(later)


def test_who_lives_is_not_dead(sleeper):
    assert not is_dead(name_process(), MINE)
    assert not is_dead(f"{HOST}:{sleeper.pid}", birth_of(sleeper.pid))
    assert not is_dead(name_process(), "")  # recorded by a version that noted no births


def test_who_has_ended_is_dead_also_before_anybody_has_waited_for_it(sleeper):
    name, born = f"{HOST}:{sleeper.pid}", birth_of(sleeper.pid)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(name, born)
    sleeper.wait()
    assert is_dead(name, born)
    assert is_dead(name, "")
    with pytest.raises(ProcessLookupError):
        birth_of(sleeper.pid)


def test_another_process_with_the_number_of_a_dead_one_is_not_it():
    place, _, ticks = MINE.rpartition(" ")
    assert is_dead(name_process(), f"{place} {ticks}1")


@pytest.mark.parametrize("place", ["another-boot/pid:[1]", "", "darwin"])
def test_of_other_boots_and_containers_nothing_is_known(place):
    assert not is_dead(f"{HOST}:{os.getpid()}", f"{place} 17")
    assert not is_dead(f"{HOST}:999999999", f"{place} 17")


@pytest.mark.parametrize("owner", ["", "elsewhere:1", HOST, f"{HOST}:", f"{HOST}:-1", f"{HOST}:x", f"{HOST}:²"])
def test_of_what_is_no_process_here_nothing_is_known(owner):
    assert not is_dead(owner, MINE)


def test_a_number_that_no_process_can_have_is_of_none():
    assert is_dead(f"{HOST}:{10**30}", MINE)


@pytest.mark.parametrize("jump", [timedelta(days=-400), timedelta(hours=3)])
def test_a_clock_that_jumps_ends_no_run_of_a_process_that_lives(tmp_path, jump):
    # Given a run that this process holds, begun when its clock was wrong
    with SQLiteRunStore(tmp_path / "runs.db") as store:
        store.create_run(RunRecord("run", "etl", datetime.now(UTC) + jump))
        store.database.write(
            lambda transaction: transaction.execute(
                "UPDATE anabranch_runs SET held_since = held_since + ?", (int(jump / timedelta(microseconds=1)),)
            )
        )
        # Then it goes on, and nobody else gets it
        record = store.get_run("run")
        assert as_it_stands(record).state == "Running"
        assert not is_dead(record.owner, record.born)
        with pytest.raises(RunHeld):
            store.take_over("run")


def test_whoever_takes_a_run_over_is_known_by_its_own_birth(tmp_path):
    with SQLiteRunStore(tmp_path / "runs.db") as store:
        store.create_run(RunRecord("run", "etl", datetime.now(UTC)), owner="elsewhere:7")
        before = store.get_run("run")
        store.take_over("run", now=before.lease_until)
        assert (before.born, store.get_run("run").born) == ("", MINE)
