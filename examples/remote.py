"""Run a flow on an existing cluster, and leave it running there: a scheduler, two workers, and a client.

    python examples/remote.py
    python examples/remote.py --address tcp://host:8786    # on your own cluster
    anabranch run examples/remote.py --executor tcp://host:8786

Without an address, it starts a scheduler and two workers, each in its own process, as `dask scheduler` and
`dask worker` would on their machines. They have nothing of ours: this file travels with the run. The program waits
for the first run. The second one is submitted: its driver is on the cluster, and does not need this process.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from distributed import Client

from anabranch import Flow, Parameter, task
from anabranch.executors import DaskExecutor


@task
def ranges(limit: int, parts: int) -> list[tuple[int, int]]:
    """The numbers from 2 to `limit`, in parts: first, and one past the last."""
    edges = [2 + (limit - 1) * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


@task
def count_primes(part: tuple[int, int]) -> tuple[int, str]:
    """Number of primes in a part, and the process that counted them."""
    first, end = part
    is_prime = bytearray([1]) * (end - first)
    for factor in range(2, math.isqrt(max(end - 1, 0)) + 1):
        begin = max(factor * factor, -(-first // factor) * factor)
        is_prime[begin - first :: factor] = bytes(len(range(begin, end, factor)))
    return sum(is_prime), f"process {os.getpid()}"


@task
def add_up(counts: list[tuple[int, str]]) -> tuple[int, dict[str, int]]:
    """Number of all primes, and of the parts that each process counted."""
    return sum(number for number, _ in counts), dict(Counter(where for _, where in counts))


with Flow("primes") as flow:
    limit = Parameter("limit", default=1_000_000, type=int)
    parts = Parameter("parts", default=100, type=int)
    total = add_up(count_primes.map(ranges(limit, parts)))


@contextlib.contextmanager
def cluster(workers: int = 2) -> Iterator[str]:
    """Start a scheduler and workers of one thread each, on loopback. They end with the block. Yields the address."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as started:
        file = Path(folder) / "scheduler.json"

        def start(kind: str, *options: str) -> None:
            command = [sys.executable, "-m", "distributed.cli.dask_" + kind, "--host", "127.0.0.1", "--no-dashboard"]
            process = subprocess.Popen([*command, *options], cwd=folder, stderr=subprocess.DEVNULL)
            started.callback(process.wait)
            started.callback(process.terminate)

        start("scheduler", "--port", "0", "--scheduler-file", str(file))
        while not file.exists():  # it is put there whole once the scheduler listens
            time.sleep(0.05)
        for _ in range(workers):
            start("worker", "--scheduler-file", str(file), "--nthreads", "1")
        address = json.loads(file.read_text(encoding="utf-8"))["address"]
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(workers)
        yield address


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Run the flow twice on a cluster. Returns the problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of a Dask scheduler; default: one that is started here, with two workers")
    parser.add_argument("--limit", type=int, default=3_000_000, help="the last number (default: %(default)s)")
    given = parser.parse_args(arguments)

    with contextlib.nullcontext(given.address) if given.address else cluster() as address:
        print(f"A scheduler at {address}.")
        executor = DaskExecutor(address)
        state = flow.run(executor=executor, limit=given.limit)
        if not state.is_successful():
            return state.message
        primes, places = state.result[total].result
        print(f"{primes:,} primes up to {given.limit:,}, counted by {len(places)} processes: {places}")

        with flow.submit(executor=executor, limit=given.limit // 2) as handle:
            print(f"Run {handle.run_id} was submitted; it is {handle.status().state}.")
            status = handle.wait(timeout=300)
            if status.state != "Success":
                return status.message
            primes, _ = handle.result().result[total].result
            print(f"It has ended: {primes:,} primes up to {given.limit // 2:,}.")
            handle.forget()
    return None


if __name__ == "__main__":
    raise SystemExit(main())  # a text is printed to standard error, and the exit code is 1
