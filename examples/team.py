"""Two people at one cluster at the same time: each gets a half of it, and together they keep to a limit.

    python examples/team.py
    python examples/team.py --address tcp://host:8786      # of your own cluster
    python examples/team.py --address tcp://host:8786 --me # to be one more person there

Each person is a program of their own, with a run of the same flow. What connects them is the scheduler, and the store
in which runs are recorded: it has the permits of the limit `archive`, which serves one request at a time. Afterwards,
the two runs are read from there.
"""

import argparse
import contextlib
import itertools
import subprocess
import sys
import time
from collections.abc import Sequence

from distributed import Client, LocalCluster

from anabranch import Flow, Parameter, runs, task
from anabranch.executors import DaskExecutor

Span = tuple[float, float]
"""When something began and ended, in seconds since 1970."""


@task
def numbers(letters: int) -> list[int]:
    """Numbers of the letters."""
    return list(range(letters))


@task(concurrency={"archive": 1})
def fetch(letter: int) -> Span:
    """A letter, from an archive that is slow, and takes one request at a time."""
    began = time.time()
    time.sleep(0.01)
    return began, time.time()


@task
def read(fetched: Span) -> Span:
    """Read a letter: nothing but work."""
    began = time.time()
    end = time.process_time() + 0.1
    while time.process_time() < end:
        sum(range(10_000))
    return began, time.time()


with Flow("letters") as flow:
    letters = Parameter("letters", default=60, type=int)
    fetched = fetch.map(numbers(letters))
    been_read = read.map(fetched)


def work(address: str, letters: int) -> str | None:
    """What one person does. Prints the run's id."""
    with contextlib.redirect_stdout(sys.stderr):
        state = flow.run(executor=DaskExecutor(address), letters=letters)
    print(state.run_id)
    return None if state.is_successful() else state.message


def at_most(spans: Sequence[Span]) -> int:
    """How many of them there were at one time."""
    changes = sorted([(began, 1) for began, _ in spans] + [(end, -1) for _, end in spans])
    return max(itertools.accumulate(change for _, change in changes))


def seconds_within(spans: Sequence[Span], window: Span) -> float:
    """How much of them is in a window."""
    return sum(max(0.0, min(end, window[1]) - max(began, window[0])) for began, end in spans)


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Let two people run the flow. Returns the problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of a Dask scheduler; default: one that is started here, with two workers")
    parser.add_argument("--me", action="store_true", help="be one of the people, at that scheduler")
    parser.add_argument("--letters", type=int, default=60, help="of each person (default: %(default)s)")
    given = parser.parse_args(arguments)
    if given.me:
        return work(given.address, given.letters)

    with contextlib.ExitStack() as stack:
        address = given.address
        if address is None:
            cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
            address = stack.enter_context(cluster).scheduler_address
        with Client(address, set_as_default=False) as client:
            slots = sum(client.nthreads().values())
        me = [sys.executable, __file__, "--me", "--address", address, "--letters", str(given.letters)]
        people = [subprocess.Popen(me, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        ids = [person.communicate()[0].strip() for person in people]
    if any(person.returncode for person in people):
        return f"a run did not succeed: {', '.join(ids)}"

    states = [runs.load(run_id) for run_id in ids]
    reading = [state.result[been_read.slug].result for state in states]
    together = max(min(spans)[0] for spans in reading), min(max(spans)[1] for spans in reading)
    for run_id, spans in zip(ids, reading, strict=True):
        share = seconds_within(spans, together) / (together[1] - together[0]) / slots
        print(f"Run {run_id} read {len(spans)} letters; while both were reading, it had {share:.0%} of the cluster.")
    requests = [span for state in states for span in state.result[fetched.slug].result]
    print(f"The archive had {len(requests)} requests, at most {at_most(requests)} at a time.")
    return None


if __name__ == "__main__":  # worker processes import this file; they must not run it
    raise SystemExit(main())  # a text is printed to standard error, and the exit code is 1
