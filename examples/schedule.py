"""A flow that runs by itself: its schedule, the registry, a backfill of past weeks, and a service.

    python examples/schedule.py
    python examples/schedule.py --from 2026-09-28 --to 2026-11-09
    anabranch schedule examples/schedule.py --next 5
    anabranch run examples/schedule.py

Each Monday at six: whose clocks will change this week? The answers are in the time-zone database. The flow depends only
on the time at which it was due, `context.date`, so it can also run for past weeks: `anabranch backfill` asks for one
run for each of them, and a service (`anabranch serve`) runs them, two at a time. The registry is in a directory that is
removed at the end; your own registry is not touched.
"""

import argparse
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from zoneinfo import ZoneInfo

from anabranch import Flow, Parameter, context, task, unmapped
from anabranch.schedules import CronSchedule


@task
def week() -> date:
    """The day on which the run was due."""
    return context.date.date()


@task
def zones() -> list[str]:
    """Names of the time zones where people live."""
    table = (files("tzdata") / "zoneinfo" / "zone.tab").read_text(encoding="utf-8")
    return [line.split("\t")[2].strip() for line in table.splitlines() if not line.startswith("#")]


@task
def change(zone: str, first: date) -> tuple[str, str, int] | None:
    """The first change of a zone's clocks in a week: zone, hour in UTC, and minutes forward."""
    begin = datetime(first.year, first.month, first.day, tzinfo=UTC)
    hours = [begin + timedelta(hours=hour) for hour in range(7 * 24 + 1)]
    offsets = [hour.astimezone(ZoneInfo(zone)).utcoffset() for hour in hours]
    for hour, before, after in zip(hours[1:], offsets[:-1], offsets[1:], strict=True):
        if before != after:
            return zone, f"{hour:%a %Y-%m-%d %H:%M} UTC", round((after - before).total_seconds() / 60)
    return None


@task
def write(changes: list[tuple[str, str, int] | None], first: date, folder: str) -> str:
    """Write a file with a line for each time at which clocks change in the week. Returns the path."""
    found = [each for each in changes if each is not None]
    lines = []
    for (when, minutes), number in sorted(Counter(each[1:] for each in found).items()):
        example = next(zone for zone, *rest in found if rest == [when, minutes])
        lines.append(f"{when}: {number:3} zones {minutes:+} min, such as {example}")
    path = Path(folder) / f"week-{first}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines or ["no clocks change"]) + "\n", encoding="utf-8")
    return str(path)


with Flow("clock-changes", schedule=CronSchedule("0 6 * * 1", timezone="Europe/Berlin"), max_runs=2) as flow:
    folder = Parameter("out", default="clock-changes", type=str)
    first = week()
    path = write(change.map(zones(), unmapped(first)), first, folder)


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Register the flow, ask for past weeks, serve until they have ended. Returns the problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="begin", default="2026-03-02", help="first day (default: %(default)s)")
    parser.add_argument("--to", dest="end", default="2026-04-13", help="the day after the last (default: %(default)s)")
    parser.add_argument("--out", default="clock-changes", help="directory of what is written (default: %(default)s)")
    given = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "ANABRANCH_HOME": home, "PYTHONUNBUFFERED": "1"}
        environment["ANABRANCH_SERVICE_TOKEN"] = secrets.token_urlsafe()  # without it the service makes one up
        try:
            show(environment, "register", os.path.relpath(__file__))
            show(environment, "schedule", os.path.relpath(__file__), "--next", "3")
            times = ["--from", given.begin, "--to", given.end, "--timezone", "Europe/Berlin"]
            show(environment, "backfill", flow.name, *times, "--max-parallel", "2", "-p", f"out={given.out}")
            serve(environment)
            show(environment, "ls")
        except subprocess.CalledProcessError as error:
            return f"anabranch {error.cmd[3]} ended with exit code {error.returncode}"
    for file in sorted(Path(given.out).iterdir()):
        print(f"\n{file}\n{file.read_text(encoding='utf-8')}", end="")
    return None


def show(environment: dict[str, str], *words: str) -> None:
    """Run a command of anabranch, and show it."""
    print("\n$ anabranch", shlex.join(words), flush=True)
    subprocess.run([sys.executable, "-m", "anabranch", *words], env=environment, check=True)


def serve(environment: dict[str, str]) -> None:
    """Run a service on a free port until no run waits or is active."""
    command = [sys.executable, "-m", "anabranch", "serve", "--port", "0"]
    print("\n$ anabranch serve", flush=True)
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            address = re.search(r"http://[\d.:]+", process.stderr.readline())
            while address is not None:
                request = urllib.request.Request(f"{address[0]}/api/waiting")
                request.add_header("Authorization", f"Bearer {environment['ANABRANCH_SERVICE_TOKEN']}")
                with urllib.request.urlopen(request, timeout=10) as answer:
                    counts = json.load(answer)["counts"]
                print(", ".join(f"{number} {state}" for state, number in sorted(counts.items())), flush=True)
                if not counts.get("Waiting") and not counts.get("Running"):
                    break
                time.sleep(1)
        finally:
            process.send_signal(signal.SIGTERM)  # it ends once its runs have
            process.communicate()
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)


if __name__ == "__main__":
    raise SystemExit(main())  # a text is printed to standard error, and the exit code is 1
