"""Flows drawn by chance, as descriptions: smaller ones than those of the property tests, and more of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests import descriptions as d
from tests.simulation.chance import Chance
from tests.simulation.mending import ACT as UNTIL_MENDED
from tests.simulation.subflows import ACT

PLAIN = ("number", "list", "small", "none", "long list")
SIGNALS = (
    "second attempt",
    "LOOP",
    "LOOP, each round twice",
    "RETRY",
    "SKIP",
    "fail",
    "FAIL",
    "trouble",
    "third attempt",
    UNTIL_MENDED,
    UNTIL_MENDED,
)
TRIGGERS = ("all_successful", "all_finished", "any_failed", "not_all_skipped", "some_failed(1, 2)", "manual_only")
CHUNKS: tuple[tuple[int | str, str], ...] = (
    ("auto", ""),
    (2, ""),
    (1, ""),
    (7, ""),
    ("auto", "first 2"),
    (1, "first third"),
    (2, "half"),
)
"""Sizes of chunks, and how the map may end early."""
CACHES = tuple(each for each in d.STORED if each.startswith("in a cache"))
TARGETS = tuple(each for each in d.STORED if each.startswith("at "))
DELAYS_S = (0.0, 0.3, 5.0, 100.0)
BENT = (*("",) * 8, "calls", "nothing first", "few", "alike", "joined", "mended")
"""What a flow may be made to be, because it is rarely so by chance."""


def drawn_flow(chance: Chance) -> list[d.Statement]:
    """A description of a flow."""
    return [_statement(chance) for _ in range(1 + chance.below(4))]


def bent(statements: list[d.Statement], how: str) -> list[d.Statement]:
    """The same flow, made to be of a kind that chance seldom makes.

    ``calls``: its tasks call others. ``nothing first``: its maps come after one without elements. ``few``: they end
    early. ``alike``: they have the same first arguments, and a cache. ``joined``: tasks take what others give before.
    ``mended``: they come after a task that fails until it is mended, one that bears that, and one that sees nothing.
    """
    if how == "nothing first":
        empty = d.Map(d.TaskSpec(d.Behaviour(("number",))), ())
        return [empty, *(replace(each, after=(0,)) if isinstance(each, d.Map) else each for each in statements)]
    if how == "mended":
        fails = d.TaskSpec(d.Behaviour((UNTIL_MENDED,)))
        bears = d.TaskSpec(d.Behaviour(("number",)), trigger="all_finished")
        sees_nothing = d.TaskSpec(d.Behaviour(("number",), 1))
        return [d.Call(fails), d.Call(bears, (d.Ref(0),)), d.Call(sees_nothing, (d.Ref(1),)), *statements]
    return [_bent(each, number, how) for number, each in enumerate(statements)]


def may_change(statements: list[d.Statement]) -> bool:
    """Whether what its tasks see may be other in another attempt at a run: elements of maps that end early, or what is
    mended by then."""
    tasks = [task for each in statements for task in _tasks(each)]
    return any(task.ends or UNTIL_MENDED in task.behaviour.acts for task in tasks)


def lasting(statements: list[d.Statement]) -> list[d.Statement]:
    """The same flow, without targets if it may change: what is there is of the first attempt, and tells nothing of
    that."""
    return list(map(_without_targets, statements)) if may_change(statements) else statements


def _tasks(statement: Any) -> list[d.TaskSpec]:
    match statement:
        case d.Call(task) | d.Map(task):
            return [task]
        case d.Case(_, _, body):
            return [task for each in body for task in _tasks(each)]
        case d.IfElse(_, if_true, if_false):
            return [if_true.task, if_false.task]
    return []


def _without_targets(statement: Any) -> Any:
    match statement:
        case d.Call(task) | d.Map(task) if task.stored in TARGETS:
            return replace(statement, task=replace(task, stored=""))
        case d.Case(_, _, body):
            return replace(statement, body=tuple(map(_without_targets, body)))
        case d.IfElse(_, if_true, if_false):
            return replace(statement, if_true=_without_targets(if_true), if_false=_without_targets(if_false))
    return statement


def _bent(statement: d.Statement, number: int, how: str) -> d.Statement:
    if not isinstance(statement, d.Call | d.Map):
        return statement
    task, behaviour = statement.task, statement.task.behaviour
    if how == "calls":
        acts = ("defer a list", "defer", *behaviour.acts)
        task = replace(task, behaviour=replace(behaviour, acts=acts), ends="")
    elif how == "joined" and isinstance(statement, d.Call):
        return replace(statement, arguments=(d.Ref(max(0, number - 2)), d.Ref(max(0, number - 1))))
    elif how == "few" and isinstance(statement, d.Map) and not set(behaviour.acts) & {*d.DEFERRING}:
        task = replace(task, chunksize=1, ends="first 2")
    elif how == "alike" and isinstance(statement, d.Map):
        task = replace(task, behaviour=replace(behaviour, is_pure=True), stored="in a cache")
        return d.Map(task, (0, 0, 1, 1, 2, 2), ((0, 1, 2, 3, 4, 5),))
    return replace(statement, task=task)


def _behaviour(chance: Chance, retries: int) -> d.Behaviour:
    acts = []
    for _ in range(1 + chance.below(3)):
        kind = chance.below(8)
        if kind < 4:
            acts.append(chance.pick(PLAIN))
        elif kind < 7:
            act = chance.pick(SIGNALS)
            acts.append(act if retries or act not in d.NEEDS_RETRIES else "number")
        else:
            acts.append(chance.pick((*d.DEFERRING, *(ACT,) * 6)))
    return d.Behaviour(tuple(acts), chance.below(20))


def _task(chance: Chance, *, is_map: bool = False) -> d.TaskSpec:
    retries, most = chance.pick(((0, 0), (0, 0), (2, 0), (1, 0), (0, 1), (1, 2)))
    drawn = d.TaskSpec(
        _behaviour(chance, retries),
        trigger=chance.pick(TRIGGERS) if chance.happens(3) else "all_successful",
        skip_on_upstream_skip=not chance.happens(6),
        retries=retries,
        delay_s=chance.pick(DELAYS_S) if retries else 0.0,
    )
    chunksize, ends = chance.pick(CHUNKS if is_map else CHUNKS[:4])
    if any(act in d.DEFERRING for act in drawn.behaviour.acts):
        ends = ""
    stored = chance.pick((*("",) * 14, "at targets" if is_map else "at a target", *CACHES))
    if stored in CACHES:
        drawn = replace(drawn, behaviour=replace(drawn.behaviour, is_pure=True))
    return replace(drawn, chunksize=chunksize, ends=ends, most=most, stored=stored)


def _source(chance: Chance) -> Any:
    kind = chance.below(6)
    if kind < 3:
        return d.Ref(chance.below(6))
    if kind == 3:
        return chance.below(40)
    if kind == 4:
        return d.Flat(chance.below(6))
    return d.Listed(tuple(d.Ref(chance.below(6)) for _ in range(1 + chance.below(2))))


def _elements(chance: Chance) -> Any:
    kind = chance.below(5)
    if kind < 2:
        return d.Ref(chance.below(6))
    if kind == 2:
        return d.Flat(chance.below(6))
    return tuple(range(chance.below(9)))


def _call(chance: Chance) -> d.Call:
    arguments = tuple(_source(chance) for _ in range(chance.below(3)))
    after = (chance.below(6),) if chance.happens(5) else ()
    return d.Call(_task(chance), arguments, after)


def _map(chance: Chance) -> d.Map:
    rest: list[Any] = []
    if chance.happens(4):
        rest.append(d.Whole(_source_of_whole(chance)) if chance.happens(2) else _elements(chance))
    return d.Map(_task(chance, is_map=True), _elements(chance), tuple(rest))


def _source_of_whole(chance: Chance) -> Any:
    return d.Ref(chance.below(6)) if chance.happens(2) else chance.below(40)


def _statement(chance: Chance) -> d.Statement:
    kind = chance.below(13)
    if kind < 4:
        return _call(chance)
    if kind < 8:
        return _map(chance)
    if kind == 8:
        return d.Given(chance.pick((3, [1, 2, 3], "text")))
    if kind == 9:
        return d.Merge((chance.below(6), chance.below(6)))
    if kind == 10:
        return d.Case(chance.below(6), chance.pick((0, 1, 2)), (_call(chance),))
    if kind == 12:
        return d.Reduced(chance.below(6), chance.pick(("all_successful", "all_finished")))
    return d.IfElse(chance.below(6), _call(chance), _call(chance))
