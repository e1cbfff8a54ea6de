"""Services under fire: flows due every second, services killed and started again, and what became of each due run.

    python -m benchmarks.service --flows 200 --seconds 60 --services 3 --kill-every 5

Starts a PostgreSQL server and services of its own on loopback. Each run inserts its id into a table without a key, so
that a run which took place twice shows as two rows. Also measures 10,000 registered flows: start-up, and idling.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from tests.postgres_server import running_postgres
from tests.service_process import ServiceProcess, environment, serving

FLOWS = """
import os
from datetime import UTC, datetime, timedelta
from anabranch import Flow, context, task
from anabranch.schedules import IntervalSchedule

@task
def mark():
    import psycopg
    if not hasattr(psycopg, "marks"):  # one for all runs of the process, as a library's pool would keep it
        psycopg.marks = psycopg.connect(os.environ["MARKS"], autocommit=True)
    psycopg.marks.execute("INSERT INTO marks VALUES (%s, clock_timestamp())", (context.run_id,))

start = datetime.fromisoformat(os.environ["START"])
end = datetime.fromisoformat(os.environ["END"])
for number in range(int(os.environ["FLOWS"])):
    schedule = IntervalSchedule(1, start, end, catch_up="all")
    with Flow(f"flow-{number}", schedule=schedule) as flow:
        mark()
    flow.register(storage="database")
"""


def fire(flows: int, seconds: int, services: int, kill_every: float, capacity: int, runs_each: int) -> None:
    import psycopg

    _adopt_orphans()
    with running_postgres(max_connections=200) as server, ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        url = server.fresh_url()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE marks (run_id text, at timestamptz)")
        begin = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=25 + flows // 50)
        end = begin + timedelta(seconds=seconds - 1)
        names = {
            "ANABRANCH__BACKEND": url,
            "ANABRANCH__RUNS__LEASE_S": "10",
            "MARKS": url,
            "START": begin.isoformat(),
            "END": end.isoformat(),
            "FLOWS": str(flows),
        }
        script = home / "flows.py"
        script.write_text(FLOWS)
        subprocess.run([sys.executable, str(script)], env=environment(home, **names), cwd=home, check=True)
        options = ["--max-runs", str(capacity), "--runs-per-process", str(runs_each)]

        def start() -> ServiceProcess:
            return stack.enter_context(serving(home, *options, **names))

        there = [start() for _ in range(services)]
        kills = 0
        time.sleep(max(0.0, (begin - datetime.now(UTC)).total_seconds()))
        cpu_before, pg_before, began = _cpu_of_all(), _cpu_of_postgres(), time.monotonic()
        answers = []
        while datetime.now(UTC) < end + timedelta(seconds=1):
            time.sleep(kill_every)
            if kill_every < seconds:
                victim = random.randrange(services)
                there[victim].process.kill()
                there[victim].process.wait()
                there[victim] = start()
                kills += 1
            asked = time.monotonic()
            assert there[0].call("GET", "/healthz")[0] == 200
            answers.append(time.monotonic() - asked)
        expected = flows * seconds
        with psycopg.connect(url, autocommit=True) as connection:

            def ask(query: str) -> list[tuple[object, ...]]:
                return connection.execute(query).fetchall()

            deadline = time.monotonic() + 900
            open_slots = "SELECT count(*) FROM anabranch_slots WHERE state IN ('Waiting', 'Running')"
            while ask(open_slots)[0][0] and time.monotonic() < deadline:
                time.sleep(0.5)
            took, pg = time.monotonic() - began, _cpu_of_postgres() - pg_before
            cpu = _cpu_of_all() - cpu_before
            states = dict(ask("SELECT state, count(*) FROM anabranch_slots GROUP BY state"))
            run_states = dict(ask("SELECT state, count(*) FROM anabranch_runs GROUP BY state"))
            ran = dict(ask("SELECT run_id, count(*) FROM marks GROUP BY run_id"))
            slots = {row[0] for row in ask("SELECT run_id FROM anabranch_slots")}
            late = sorted(
                float(row[0])
                for row in ask(
                    "SELECT extract(epoch FROM min(m.at)) - s.due / 1e6 FROM marks m JOIN anabranch_slots s "
                    "ON s.run_id = m.run_id GROUP BY s.run_id, s.due"
                )
            )
            tries = dict(ask("SELECT tries, count(*) FROM anabranch_slots GROUP BY tries ORDER BY tries"))
        for service in there:
            service.end()
        print(f"{services} services on PostgreSQL, {flows} flows due every second for {seconds} s, {kills} SIGKILLs")
        print(f"  due             {expected:>8,}")
        print(f"  slots           {len(slots):>8,}   states {states}, by tries {tries}")
        print(f"  runs            {sum(run_states.values()):>8,}   states {run_states}")
        print(f"  ran once        {sum(number == 1 for number in ran.values()):>8,}")
        print(f"  ran twice       {sum(number > 1 for number in ran.values()):>8,}")
        print(f"  lost            {expected - len(set(ran) & slots):>8,}")
        print(f"  worked off in   {took:>8.1f} s, {expected / took:.0f} runs a second")
        if late:
            p99 = late[int(0.99 * (len(late) - 1))]
            print(f"  lateness (s)    median {statistics.median(late):.2f}, p99 {p99:.2f}, most {late[-1]:.2f}")
        share = 1e3 / expected
        print(
            f"  CPU for a run   {cpu * share:.1f} ms, of which PostgreSQL {pg * share:.1f}; starts of services included"
        )
        print(f"  /healthz        answered in {max(answers):.2f} s at most")


def _adopt_orphans() -> None:
    """Let processes whose services were killed be children of this one, so that their CPU time is counted."""
    import ctypes

    pr_set_child_subreaper = 36  # of linux/prctl.h
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def _cpu_of_all() -> float:
    """CPU seconds of all processes below this one, those that have ended included."""
    me = psutil.Process()
    total = sum(me.cpu_times()[2:4])
    for each in me.children(recursive=True):
        try:
            total += sum(each.cpu_times()[:4])
        except psutil.Error:
            continue
    return total


def _cpu_of_postgres() -> float:
    """CPU seconds of the server and its processes."""
    servers = [each for each in psutil.Process().children() if each.name() == "postgres"]
    total = 0.0
    for each in servers:
        total += sum(sum(process.cpu_times()[:2]) for process in [each, *each.children()])
        total += sum(each.cpu_times()[2:4])
    return total


def many(count: int) -> None:
    """Start-up and idling of a service with many registered flows."""
    import pickle

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["ANABRANCH_HOME"] = folder
        from anabranch.runs.registry.registration import registry
        from anabranch.runs.store.flows import FlowRecord
        from anabranch.schedules import CronSchedule

        _, flows, _ = registry()
        schedules = [pickle.dumps(CronSchedule(f"{minute} 3 1 1 *", timezone="Europe/Berlin")) for minute in range(60)]
        now = datetime.now(UTC)
        for number in range(count):
            flows.put(FlowRecord(f"f{number}", "c", schedule=schedules[number % 60], schedule_text="x"), now=now)
        with serving(home) as service:  # an empty start first: what Python and its imports take
            service.end()
        began = time.monotonic()
        with serving(home) as service:
            listens = time.monotonic() - began
            process = psutil.Process(service.process.pid)
            time.sleep(5)
            before, since = sum(process.cpu_times()[:2]), time.monotonic()
            time.sleep(20)
            idle = (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - since)
            service.end()
        from anabranch.service.work.timetable import Timetable

        began = time.process_time()
        Timetable(flows).refresh(now)
        took = time.process_time() - began
        print(f"{count:,} registered flows: listens after {listens:.2f} s; all times after {took:.2f} s of CPU")
        print(f"  idle: {100 * idle:.1f} % of a core")


def year() -> None:
    """A year of minutes."""
    from anabranch.schedules import CronClock

    began, count = time.perf_counter(), 0
    for moment in CronClock("* * * * *", timezone="Europe/Berlin").times(datetime(2026, 1, 1, tzinfo=UTC)):
        if moment.year > 2026:
            break
        count += 1
    print(f"a year of minutes: {count:,} times in {time.perf_counter() - began:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--services", type=int, default=3)
    parser.add_argument("--kill-every", type=float, default=5.0)
    parser.add_argument("--capacity", type=int, default=2)
    parser.add_argument("--runs-per-process", type=int, default=100)
    parser.add_argument("--many", type=int, default=10_000, help="registered flows for the second part; 0 for none")
    options = parser.parse_args()
    year()
    if options.many:
        many(options.many)
    if options.flows:
        fire(
            options.flows,
            options.seconds,
            options.services,
            options.kill_every,
            options.capacity,
            options.runs_per_process,
        )


if __name__ == "__main__":
    main()
