"""Runs whose driver is killed, again and again, and that are resumed until they end: what ran twice, and what came out.

``python -m tests.kill_matrix SHAPE WHERE RUN_ID FOLDER AFTER …`` is one driver. It begins the run, or goes on with it,
and kills itself AFTER so many reports have been recorded, or so many seconds (``0.8s``); 0: not at all.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anabranch import Flow, Parameter, case, context, flatten, merge, task, unmapped
from anabranch.base.events import Event, RunStarted
from anabranch.executors import DaskExecutor, LocalDaskExecutor, LocalExecutor
from anabranch.results import LocalResult
from anabranch.signals import LOOP

SOON_S = 1.0
"""An end must be on record so soon."""
LIMIT_S = 90.0
"""Longest that one driver may take; what hangs takes for ever."""
LARGE = 20_000
"""More bytes than the record keeps of a value."""


class Work:
    """What tasks of a shape do: note that they begin, take their time, note that they end."""

    def __init__(self, log: str, *, seconds: float, nbytes: int) -> None:
        self.log = log
        self.seconds = seconds
        self.nbytes = nbytes

    def note(self, word: str, seconds: float | None = None) -> None:
        """Do a piece of work that has a name of its own."""
        with open(self.log, "a") as file:
            file.write(f"begin {word} {time.time()}\n")
        time.sleep(self.seconds if seconds is None else seconds)
        with open(self.log, "a") as file:
            file.write(f"end {word} {time.time()}\n")

    def value(self, number: int) -> Any:
        """A value of the size that the shape is about."""
        return (number, b"x" * self.nbytes) if self.nbytes else number


def number_of(value: Any) -> int:
    """The number in what `Work.value` has made."""
    return value[0] if isinstance(value, tuple) else value


def _tasks(work: Work) -> dict[str, Any]:
    def step(x: Any, name: str = "step") -> Any:
        number = number_of(x)
        work.note(f"{name}[{number}]", 5 * work.seconds if number == 3 else None)
        return work.value(number)

    def late(x: Any) -> Any:
        number = number_of(x)
        work.note(f"late[{number}]/{context.task_run_count}")
        if number == 1 and context.task_run_count < 3:
            raise ValueError("not yet")
        return work.value(number)

    def rounds(x: Any) -> Any:
        done = context.task_loop_result or 0
        work.note(f"rounds[{number_of(x)}]/{done}")
        if done < 3:
            raise LOOP(result=done + 1)
        return work.value(number_of(x))

    leaf = task(lambda x: step(x, "leaf"), name="leaf")
    below = task(lambda x: leaf(x), name="below")
    return {
        "step": lambda **options: task(step, name="step", **options),
        "late": lambda **options: task(late, name="late", max_retries=3, **options),
        "rounds": task(rounds, name="rounds"),
        "leaf": leaf,
        "one": task(lambda x: leaf(number_of(x)), name="one"),
        "several": task(lambda x: [leaf(10 * number_of(x) + i) for i in range(3)], name="several"),
        "mapped": task(lambda x: leaf.map([10 * number_of(x) + i for i in range(3)]), name="mapped"),
        "above": task(lambda x: [below(10 * number_of(x) + i) for i in range(2)], name="above"),
        "pairs": task(lambda n: [2 * n, 2 * n + 1], name="pairs"),
        "numbers": task(lambda n: list(range(n)), name="numbers"),
        "total": task(lambda xs: sum(map(number_of, _flat(xs))), name="total"),
    }


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [each for part in value for each in _flat(part)]
    return [] if value is None else [value]


def _chain(t: dict[str, Any]) -> None:
    a = task(lambda: t["step"]().run(1, "a"), name="a")()
    b = task(lambda x: t["step"]().run(x, "b"), name="b")(a)
    t["total"]([task(lambda x: t["step"]().run(x, "c"), name="c")(b)])


def _diamond(t: dict[str, Any]) -> None:
    a = t["step"]()(1)
    t["total"]([t["step"]()(a, name="left"), t["step"]()(a, name="right")])


def _branches(t: dict[str, Any]) -> None:
    way = t["numbers"](1)
    with case(t["total"](way), 0):
        yes = t["step"]()(2, name="yes")
    with case(t["total"](way), 1):
        no = t["step"]()(2, name="no")
    t["total"]([merge(yes, no)])


def _inside(t: dict[str, Any], result: LocalResult | None) -> Flow:
    """A flow of its own, for one that runs it as a task."""
    with Flow("inside", result=result) as inside:
        x = Parameter("x", default=1)
        t["total"]([t["step"]()(t["step"]()(x, name="first"), name="second")])
    return inside


SHAPES: dict[str, Callable[[dict[str, Any]], None]] = {
    "chain": _chain,
    "diamond": _diamond,
    "branches": _branches,
    "map": lambda t: t["total"](t["step"]().map(t["numbers"](8))),
    "fixed chunks": lambda t: t["total"](t["step"](chunksize=5).map(list(range(8)))),
    "chain of maps": lambda t: t["total"](
        t["step"](chunksize=5).map(t["step"](chunksize=5).map([0, 1, 2, 3], unmapped("first")))
    ),
    "maps that fan out": lambda t: t["total"](t["step"]().map(flatten(t["pairs"].map([1, 2])))),
    "retries in place": lambda t: t["total"](t["late"](retry_delay=0.1, chunksize=3).map([0, 1, 2])),
    "retries later": lambda t: t["total"](t["late"](retry_delay=0.7).map([0, 1, 2])),
    "loop": lambda t: t["total"]([t["rounds"](1)]),
    "loops of a map": lambda t: t["total"](t["rounds"].map([1, 2])),
    "calls": lambda t: t["total"]([t["one"](1), t["several"](2)]),
    "calls of a map": lambda t: t["total"](t["several"].map([0, 1])),
    "maps that are called": lambda t: t["total"](t["mapped"].map([0, 1])),
    "calls of calls": lambda t: t["total"]([t["above"](1)]),
    "subflow": lambda t: t["total"]([t["inside"].as_task()(x=1)]),
}
"""Named shapes; each is run with small values and with `LARGE` ones."""
CALLS = ("calls", "calls of a map", "maps that are called", "calls of calls")
"""Shapes with deferred calls, whose values the result of a flow does not store: large ones are made again."""


def flow_of(shape: str, log: str, *, seconds: float, nbytes: int, results: str | None = None) -> Flow:
    """A flow of a shape, which notes in a log what it does."""
    result = LocalResult(results) if results else None
    tasks = _tasks(Work(log, seconds=seconds, nbytes=nbytes))
    tasks["inside"] = _inside(tasks, result)
    with Flow("matrix", result=result) as flow:
        SHAPES[shape](tasks)
    return flow


@dataclass
class Trial:
    """A run that is killed so often, and what came of it."""

    shape: str
    where: str
    """``local``, ``threads`` or the address of a scheduler."""
    folder: Path
    nbytes: int = 0
    seconds: float = 0.3
    stores: bool = False
    """Whether values are stored, which the record does not keep if they are `LARGE`."""
    lives: list[tuple[float, float]] = field(default_factory=list)
    """From when to when each driver lived that was killed."""

    def drive(self, after: str) -> str:
        """Have one driver begin or go on; what it says of the end, or ``killed``, or ``hangs``."""
        words = [self.shape, self.where, f"run-{self.folder.name}", str(self.folder), after, str(self.nbytes)]
        command = [
            sys.executable,
            "-m",
            "tests.kill_matrix",
            *words,
            str(self.seconds),
            "stores" if self.stores else "",
        ]
        environment = {**os.environ, "ANABRANCH_HOME": str(self.folder / "home"), "ANABRANCH__RUNS__LEASE_S": "3"}
        with open(self.folder / "stderr", "ab") as said:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=said, text=True)
            try:
                out, _ = process.communicate(timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                return "hangs"
        if process.returncode == -signal.SIGKILL:
            self.lives.append((self._began(), time.time()))
            return "killed"
        return out.strip() or f"exit code {process.returncode}"

    def _began(self) -> float:
        """When the last driver began its run."""
        file = self.folder / "began"
        return float(file.read_text()) if file.exists() else time.time()

    def run(self, kills: Sequence[str]) -> list[str]:
        """Kill after each of these, and let it end; what is wrong."""
        said = "killed"
        for after in (*kills, "0"):
            if said == "killed":
                said = self.drive(after)
        right = self.undisturbed()
        wrong = [] if said == right else [f"came to {said}, undisturbed to {right}"]
        is_kept = not self.nbytes or (self.stores and self.shape not in CALLS)
        return wrong + [f"{each} ran again" for each in (self.repeated() if is_kept else ())]

    def undisturbed(self) -> str:
        """What the run comes to if nobody kills it."""
        other = Trial(self.shape, "local", self.folder / "calm", self.nbytes, 0.0)
        other.folder.mkdir()
        return other.drive("0")

    def repeated(self) -> list[str]:
        """What began again although a driver had lived that saw it begin and end `SOON_S` before it died."""
        found: list[str] = []
        begun: dict[str, float] = {}
        recorded: set[str] = set()
        log = self.folder / "log"
        for line in log.read_text().splitlines() if log.exists() else ():
            word, name, text = line.split(" ")
            moment = float(text)
            if word == "begin":
                found += [name] if name in recorded else []
                begun[name] = moment
            elif any(low <= begun[name] and moment <= high - SOON_S for low, high in self.lives):
                recorded.add(name)
        return found


def main(shape: str, where: str, run_id: str, folder: str, after: str, nbytes: str, seconds: str, stores: str) -> None:
    """Be a driver."""
    from anabranch.errors import RunNotFound
    from anabranch.runs.record.recorder import Recorder
    from anabranch.runs.store.opening import current_store

    count, write = 0, Recorder.write
    if after.endswith("s"):
        threading.Timer(float(after[:-1]), os.kill, (os.getpid(), signal.SIGKILL)).start()
    elif after != "0":

        def counted(self: Recorder, report: Any) -> None:
            nonlocal count
            count += 1
            write(self, report)
            if count >= int(after):
                os.kill(os.getpid(), signal.SIGKILL)

        Recorder.write = counted  # type: ignore[method-assign]

    def began(event: Event) -> None:
        if isinstance(event, RunStarted):
            (Path(folder) / "began").write_text(str(time.time()))

    results = str(Path(folder) / "results") if stores else None
    flow = flow_of(shape, str(Path(folder) / "log"), seconds=float(seconds), nbytes=int(nbytes), results=results)
    executors = {"local": LocalExecutor, "threads": lambda: LocalDaskExecutor(num_workers=2)}
    executor: Any = executors[where]() if where in executors else DaskExecutor(where)
    try:
        store = current_store()
        assert store is not None
        store.get_run(run_id)
        state = flow.run(resume=run_id, executor=executor, observers=[began])
    except RunNotFound:
        state = flow.run(run_id=run_id, executor=executor, observers=[began])
    values = {slug: state[slug].result for slug in sorted(node.slug for node in flow.reference_tasks())}
    print(state.name, pickle.dumps(values).hex()[:80], values)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
