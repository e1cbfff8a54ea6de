"""A run that is killed in the middle and then resumed: nothing that had finished is run again.

    python examples/crash.py                 # kills itself after 40 % of its files, then resumes
    python examples/crash.py --limit 1000
    anabranch run examples/crash.py          # then Ctrl-C or kill -9 it, and: anabranch resume RUN

How well does the standard library compress? The flow runs in a process of its own, which ends itself by SIGKILL: no
handler, no clean-up, as if the machine had lost its power. Its workers die with it. The run store has what was
reported, and `flow.run(resume=…)` in another process runs the rest. Each attempt writes a line in a ledger, which shows
what ran twice: at most what was on its way to the driver.
"""

import argparse
import lzma
import os
import secrets
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from anabranch import Flow, Parameter, task, unmapped
from anabranch.base.events import Event, MapAdvanced
from anabranch.executors import DaskExecutor


@task
def list_files(limit: int) -> list[str]:
    """Files of the standard library, evenly spaced over the list."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found = sorted(str(path) for pattern in ("*.py", "*/*.py") for path in library.glob(pattern))
    return found[:: max(1, len(found) // limit)][:limit]


@task
def compress(path: str, ledger: str) -> tuple[int, int]:
    """Bytes of a file, and of the file compressed."""
    data = Path(path).read_bytes()
    if ledger:
        with Path(ledger).open("a") as file:  # one short write: lines of several processes do not mix
            file.write(f"{path}\n")
    return len(data), len(lzma.compress(data))


@task
def add_up(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """Bytes of all files, and of all compressed ones."""
    return sum(size for size, _ in sizes), sum(size for _, size in sizes)


with Flow("crash") as flow:
    limit = Parameter("limit", default=200, type=int)
    ledger = Parameter("ledger", default="", type=str)
    sizes = compress.map(list_files(limit), unmapped(ledger))
    total = add_up(sizes)


def die(event: Event) -> None:
    """Kill this process when 40 % of the files are done. It is an observer, which the run calls with every event."""
    if isinstance(event, MapAdvanced) and event.done >= 0.4 * event.width:
        os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Run until the process is killed, resume the run, and count. Returns the problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=200, help="number of files (default: %(default)s)")
    parser.add_argument("--address", help="of a Dask scheduler; default: a cluster of this machine's cores")
    parser.add_argument("--die", nargs=2, metavar=("RUN", "LEDGER"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)

    if given.die:  # the process that is killed
        run_id, ledger = given.die
        executor = DaskExecutor(given.address)
        flow.run(executor=executor, observers=[die], run_id=run_id, limit=given.limit, ledger=ledger)
        return "the run ended before it was killed; give it more files with --limit"

    run_id = f"crash-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "ledger"
        address = ["--address", given.address] if given.address else []
        command = [sys.executable, __file__, "--die", run_id, str(ledger), "--limit", str(given.limit), *address]
        # Python's tracker of semaphores outlives the process, and would complain about leaked ones.
        environment = {**os.environ, "PYTHONWARNINGS": "ignore:resource_tracker"}
        ended = subprocess.run(command, check=False, env=environment).returncode
        if ended != -signal.SIGKILL:
            return f"the process should have been killed, and ended with exit code {ended}"
        before = ledger.read_text().splitlines()
        print(f"The process of run {run_id} was killed. {len(before)} files had been compressed by then.")

        state = flow.run(executor=DaskExecutor(given.address), resume=run_id)
        if not state.is_successful():
            return state.message
        attempts = Counter(ledger.read_text().splitlines())

    plain, packed = state.result[total].result
    again = sum(attempts.values()) - len(attempts)
    print(f"It was resumed: {len(attempts)} files in all, {again} of them compressed twice.")
    print(f"{plain:,} bytes of source become {packed:,}: {packed / plain:.0%}.")
    return None


if __name__ == "__main__":  # worker processes import this file; they must not run it
    raise SystemExit(main())  # a text is printed to standard error, and the exit code is 1
