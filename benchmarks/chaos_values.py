"""Cases in which the holders of values die before these are taken, and the values are made again differently."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

from tests.bare_cluster import bare_cluster, make_environment
from tests.killable_cluster import kill_and_wait

from anabranch import Flow, Node, config, task, unmapped
from anabranch.events import Event, TaskChanged
from anabranch.executors import DaskExecutor
from anabranch.results import LocalResult
from benchmarks.chaos_stage import Case, Row, Stage

WIDTH = 60
NBYTES = 30_000  # more than travels with a report
SECONDS = ("slower", "retried", "failing", "different", "the same")
"""How a value is made the second time."""
SHAPES = ("join", "reduce", "next map", "list", "single", "calls")
FORGET = "import anabranch.engine.worker\nanabranch.engine.worker.MAX_BEFORE_NBYTES = 0\n"
"""Run by workers that let nobody know what they have reported."""
SLOW_S = 0.15  # so that a chunk that is made again would give up

Places: TypeAlias = dict[str, list[int]]


def times(folder: str, name: object) -> int:
    """How often this was asked for that name, here and in all other processes; who asks is noted."""
    path = os.path.join(folder, str(name))
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{os.getpid():>9}\n".encode())
        return os.fstat(file).st_size // 10
    finally:
        os.close(file)


def made(index: int, folder: str, second: str) -> tuple[int, bytes]:
    """A large value with its index; the second time as the case has it."""
    number = times(folder, index)
    if number > 1 and second == "slower":
        time.sleep(SLOW_S)
    if number == 2 and second == "retried" and index % 10 == 0:
        raise ConnectionError("busy")
    if number > 1 and second == "failing" and index % 10 == 0:
        raise ConnectionError("gone meanwhile")
    time.sleep(0.005)
    return index, (b"x" if number == 1 or second != "different" else b"y") * NBYTES


def made_list(folder: str, second: str) -> list[tuple[int, bytes]]:
    """Such values at once; the second time, perhaps fewer."""
    number = times(folder, "list")
    if number > 1 and second == "failing":
        raise ConnectionError("gone meanwhile")
    width = WIDTH - 7 if number > 1 and second == "different" else WIDTH
    return [(index, b"x" * NBYTES) for index in range(width)]


def indices_of(values: list[tuple[int, bytes]]) -> list[int]:
    """What was taken."""
    return sorted(index for index, data in values if len(data) == NBYTES)


def flow_of(shape: str, second: str, folder: str, kept: Path | None) -> tuple[Flow, Node, str]:
    """A flow, the node whose value tells what was taken, and the one whose holders are to die."""
    options: dict[str, Any] = {"max_retries": 2, "retry_delay": 0.5} if second == "retried" else {}
    if kept is not None:
        options["result"] = LocalResult(kept)
    make, make_list = task(made, name="make", **options), task(made_list, name="make", **options)
    take = task(indices_of, name="take")
    with Flow("values") as flow:
        if shape in ("list", "single"):
            source = make_list(folder, second)
            node = take(source) if shape == "single" else take(task(lambda pair: pair, name="pass").map(source))
            return flow, node, "make"
        if shape == "calls":
            call = task(lambda index: make(index, folder, second), name="call")
            return flow, take(call.map(list(range(WIDTH)))), "call"
        values = make.map(range(WIDTH), unmapped(folder), unmapped(second))
        if shape == "reduce":
            merge = task(lambda parts: [pair for part in parts for pair in _flat(part)], name="merge", reduce=True)
            return flow, take(merge(values)), "make"
        if shape == "next map":
            beside = task(lambda pair, all_of: (pair[0] if len(all_of) == WIDTH else -1, pair[1]), name="beside")
            values = beside.map(values, unmapped(values))
        return flow, take(values), "make"


def _flat(part: Any) -> list[tuple[int, bytes]]:
    return part if isinstance(part, list) else [part]


def holders_die(stage: Stage) -> Iterator[Row]:
    """Whoever holds values dies between a map and what takes it."""
    wanted = 10 if stage.quick else 200
    chance = stage.chance("values")
    with ExitStack() as stack:
        own = stack.enter_context(stage.cluster(workers=2, threads=1))
        several = stack.enter_context(stage.cluster(workers=1, threads=2))
        (preload := stage.new_folder() / "forget.py").write_text(FORGET, encoding="ascii")
        blind = stack.enter_context(stage.cluster(workers=2, threads=1, options=("--preload", str(preload))))
        python = make_environment(stage.new_folder() / "environment")
        bare = stack.enter_context(bare_cluster(python, stage.new_folder(), workers=2))
        places = {"2 workers": own, "2 threads": several, "nothing known of before": blind, "without anabranch": bare}
        for name, cluster in places.items():
            began, kills, wrong, seen = time.monotonic(), 0, [], Counter[str]()
            while kills < wanted // len(places):
                if cluster is not bare:
                    cluster.heal(1 if cluster is several else 2)  # type: ignore[attr-defined]
                outcome, died = _trial(stage, chance, cluster.address)
                kills += died
                seen[outcome] += 1
                wrong += [outcome] if outcome.startswith("wrong") else []
            found = ", ".join(f"{number} {what}" for what, number in seen.most_common())
            yield Row(
                "values",
                f"SIGKILL of the holders before values are taken, {name}",
                "all values, or a failure that says so",
                found,
                not wrong,
                kills,
                seconds=time.monotonic() - began,
            )


def _trial(stage: Stage, chance: random.Random, address: str) -> tuple[str, int]:
    """What came of one run, and how many processes were killed in it."""
    shape, second = chance.choice(SHAPES), chance.choice(SECONDS)
    marks, is_stored = stage.new_folder(), chance.random() < 0.25
    flow, node, held = flow_of(shape, second, str(marks), stage.new_folder() if is_stored else None)
    dead: list[int] = []

    def strike(event: Event) -> None:
        if not dead and isinstance(event, TaskChanged) and event.slug == held and event.state.is_successful():
            pids = {int(line) for path in marks.iterdir() for line in path.read_text().split()}
            for pid in sorted(pids):
                kill_and_wait(pid)
                dead.append(pid)

    with config.set(engine__rescued_nbytes=0):
        view = flow.run(executor=DaskExecutor(address), observers=[strike])
    case = f"{shape}, {second}{', stored' if is_stored else ''}"
    found = view.result[node]
    if view.is_successful():
        return ("right" if found.result == list(range(WIDTH)) else f"wrong ({case}): {found.result}"), len(dead)
    cannot = "cannot be made again" in found.message or "gone meanwhile" in found.message or "before" in found.message
    if second in ("failing", "different") and cannot:
        return "failed in words", len(dead)
    return f"wrong ({case}): {view.state.message}", len(dead)


CASES: dict[str, Case] = {"values": holders_die}
