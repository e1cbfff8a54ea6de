"""A flow whose tasks all change what they are given, and what comes of it where each has inputs of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from anabranch import Flow, Parameter, context, flatten, signals, task, unmapped


def put(box: list[Any], x: Any) -> list[Any]:
    box.append(x)
    return list(box)


def put_and_give(box: list[Any], x: Any) -> list[Any]:
    box.append(x)
    return box


def put_deep(box: dict[str, Any], x: Any) -> Any:
    box["in"]["side"].append(x)
    return box["in"]["side"]


def put_at_second_go(box: list[Any], x: Any, retries: int) -> list[Any]:
    box.append(x)
    if context.task_run_count <= retries:
        raise ValueError("not yet")
    return box


def put_into_first(one: list[Any], other: list[Any]) -> list[Any]:
    one.append("changed")
    return other


def put_into_first_of_all(*boxes: list[Any]) -> list[Any]:
    boxes[0].append("changed")
    return boxes[1]


def put_into_parts(parts: dict[str, Any], x: Any) -> list[Any]:
    parts["box"].append(x)
    parts["more"][0].append(x)
    return [parts["box"], parts["more"][0]]


def boxes(n: int) -> list[list[int]]:
    return [[i] for i in range(n)]


def named_boxes() -> dict[str, list[int]]:
    return {"one": [1], "two": [2]}


def frame() -> pd.DataFrame:
    return pd.DataFrame({"a": [1, 2, 3]})


def scaled_total(table: pd.DataFrame, by: int) -> int:
    table["a"] *= by
    return int(table["a"].sum())


def count(letters: Counter[str], more: str) -> dict[str, int]:
    letters.update(more)
    return dict(letters)


def merged(records: list[dict[int, int]]) -> dict[int, int]:
    first, *rest = records
    for each in rest:
        first.update(each)
    return first


def record(i: int) -> dict[int, int]:
    return {i: i}


def in_rounds() -> list[int]:
    found = context.task_loop_result or []
    found.append(context.task_loop_count)
    if context.task_loop_count == 3:
        return found
    raise signals.LOOP(result=found)


def halt(killed: str) -> str:
    """Kill the driver that runs this, once."""
    if killed and not Path(killed).exists():
        Path(killed).write_text(context.run_id)
        os.kill(os.getpid(), signal.SIGKILL)
    return "went on"


def changing_flow(*, killed: str = "", **options: Any) -> tuple[Flow, dict[str, Any]]:
    """The flow, and its values by slug as they should be.

    Parameters
    ----------
    killed
        A file that is there once the driver was killed; empty: it is not.
    options
        Of all tasks.
    """
    retries = options.get("max_retries", 0)
    expected: dict[str, Any] = {}

    def made(function: Any, name: str, *, right: Any = ..., **more: Any) -> Any:
        expected[name] = right
        return task(function, name=name, **options, **more)

    same = [0]
    with Flow("changing") as flow:
        made(put, "a whole constant of a map", right=[["a"], ["b"], ["c"]]).map(unmapped([]), list("abc"))
        first = made(put, "a constant", right=[0, 1])(same, 1)
        made(put, "that constant again", right=[0, 2])(same, 2).depends_on(first)
        given = Parameter("box", default=[])
        first = made(put, "a parameter", right=[1])(given, 1)
        made(put, "that parameter again", right=[2])(given, 2).depends_on(first)
        made(put, "one object twice in a map", right=[[0, 1], [0, 2]]).map([same, same], [1, 2])
        made(put_deep, "a nested constant of a map", right=[[1], [2]]).map(unmapped({"in": {"side": []}}), [1, 2])
        made(count, "counters", right=[{"a": 2}, {"a": 1, "b": 1}]).map(unmapped(Counter("a")), ["a", "b"])

        source = made(boxes, "boxes", right=[[0], [1]])(2)
        first = made(put, "a value", right=[[0], [1], "x"])(source, "x")
        made(put, "that value again", right=[[0], [1], "y"])(source, "y").depends_on(first)
        first = made(put, "elements of a list", right=[[0, "x"], [1, "x"]]).map(source, unmapped("x"))
        made(put, "those elements again", right=[[0, "y"], [1, "y"]]).map(source, unmapped("y")).depends_on(first)
        made(put_into_first, "two arguments of one value", right=[[0], [1]])(source, source)
        made(put_into_first_of_all, "two of any number", right=[[0], [1]])(source, source)
        made(put_into_first_of_all, "two constants of any number", right=[0])(same, same)
        for x in ("x", "y"):
            made(put_into_parts, f"parts {x}", right=[[[0], [1], x], [0, x]])({"box": source, "more": [same]}, x)
            made(put_into_parts, f"parts of elements {x}", right=[[[[0], [1], x], [0, x]]] * 2).map(
                unmapped({"box": source, "more": [same]}), [x, x]
            )
        outputs = made(named_boxes, "outputs", right={"one": [1], "two": [2]})()
        first = made(put, "an output", right=[1, "x"])(outputs["one"], "x")
        made(put, "that output again", right=[1, "y"])(outputs["one"], "y").depends_on(first)
        table = made(frame, "frame")()
        del expected["frame"]
        first = made(scaled_total, "a frame", right=60)(table, 10)
        made(scaled_total, "that frame again", right=12)(table, 2).depends_on(first)
        made(scaled_total, "a frame in a map", right=[12, 18]).map(unmapped(table), [2, 3])

        each = made(put_and_give, "a map", right=[[0], [1]]).map([[], []], [0, 1])
        below = made(put_and_give, "a map below", right=[[0, "x"], [1, "x"]]).map(each, unmapped("x"))
        made(put_and_give, "another one below", right=[[0, "y"], [1, "y"]]).map(each, unmapped("y"))
        made(put_and_give, "below both", right=[[0, "x", "z"], [1, "x", "z"]]).map(below, unmapped("z"))
        made(put, "a join", right=[[0], [1], "x"])(each, "x")
        made(put, "a flat map", right=[[0, "x"], [1, "x"]]).map(flatten([source]), unmapped("x"))
        records = made(record, "records", right=[{0: 0}, {1: 1}, {2: 2}]).map([0, 1, 2])
        made(merged, "a reduction", right={0: 0, 1: 1, 2: 2}, reduce=True)(records)

        made(in_rounds, "rounds", right=[1, 2, 3])()
        second_go = {"retries": unmapped(retries)}
        made(put_at_second_go, "attempts", right=[0, 1])(same, 1, retries)
        made(put_at_second_go, "attempts in a map", right=[[0, 1], [0, 1]]).map([same, same], unmapped(1), **second_go)
        made(put_at_second_go, "attempts with a whole", right=[[0, 1], [0, 2]]).map(unmapped(same), [1, 2], **second_go)
        child = task(put, name="child", **options)
        made(lambda box: [child(box, 1), child(box, 2), box], "calls", right=[[0, 1], [0, 2], [0]])(same)
        late = made(halt, "late", right="went on")(killed)
        late.depends_on(*[node for node in flow.get_tasks() if node not in (late, source, outputs, table)])
        made(put, "a value after it", right=[[0], [1], "z"])(source, "z").depends_on(late)
        made(put, "a constant after it", right=[0, 3])(same, 3).depends_on(late)
    return flow, expected


if __name__ == "__main__":
    changing_flow(killed=sys.argv[1])[0].run()
