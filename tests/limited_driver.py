"""A run in a process of its own, whose tasks have a limit that it shares with others and note when they hold it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = '''
import os, sys
from anabranch import Flow, config, task
from anabranch.executors import LocalDaskExecutor


def note(text):
    """One write is one line, whoever else writes."""
    ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, f"{text} {os.getpid()}\\n".encode())
    os.close(ledger)


@task(concurrency={"db": int(os.environ["SIZE"])}, chunksize=1)
def query(x):
    note("begin")
    if os.environ["HOLDS"]:
        sys.stdin.read()  # until it is closed
    note("end")

with Flow("limited") as flow:
    query.map(list(range(int(os.environ["WIDTH"]))))

if __name__ == "__main__":
    with config.set(progress="never"):
        state = flow.run(executor=LocalDaskExecutor(num_workers=4))
    print(state.state.name)
'''


class LimitedDrivers:
    """Drivers that share a run store and a ledger, in an empty folder.

    Parameters
    ----------
    folder
        Where the ledger is.
    backend
        URL of the run store.
    size
        Of the limit.
    """

    def __init__(self, folder: Path, backend: str, *, size: int) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "ANABRANCH__BACKEND": backend,
            "LEDGER": str(folder / "ledger"),
            "SIZE": str(size),
        }
        (folder / "limited.py").write_text(PROGRAM, encoding="ascii")

    def start(self, *, width: int, holds: bool = False, lease_s: float = 30.0) -> subprocess.Popen[str]:
        """A driver; with `holds`, its tasks go on until its standard input is closed."""
        env = {
            **self.environment,
            "WIDTH": str(width),
            "HOLDS": "1" if holds else "",
            "ANABRANCH__RUNS__LEASE_S": str(lease_s),
        }
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen([sys.executable, "limited.py"], cwd=self.folder, env=env, text=True, **pipes)

    def ledger(self) -> list[tuple[str, int]]:
        """What was noted, in order: ``begin`` or ``end``, and the process."""
        path = self.folder / "ledger"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(word, int(pid)) for word, pid in map(str.split, lines)]

    def most_at_once(self) -> int:
        """How many tasks held the limit at the same time, at the most."""
        held = most = 0
        for word, _ in self.ledger():
            held += 1 if word == "begin" else -1
            most = max(most, held)
        return most


def ended(process: subprocess.Popen[str]) -> str:
    """The state that a driver's run ended in."""
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output.strip()
