"""The flows that are measured."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Any

from anabranch import Flow, Parameter, context, task, unmapped
from anabranch.results import LocalResult
from anabranch.triggers import all_finished


@task
def noop(x):
    return x


@task
def total(xs):
    return sum(xs)


@task(trigger=all_finished)
def count_values(xs):
    return sum(1 for x in xs if not isinstance(x, Exception))


@task
def pause(x, seconds):
    time.sleep(seconds)
    return x


@task
async def request(x, seconds):
    await asyncio.sleep(seconds)
    return x


@task
def skewed(x):
    time.sleep(0.5 if x >= 9_990 else 0.0)
    return x


@task(max_retries=1)
def troubled(x):
    """One per cent raises, one per mille needs a second attempt."""
    if x % 100 == 0:
        raise ValueError(f"element {x}")
    if x % 1_000 == 1 and context.task_run_count == 1:
        raise RuntimeError("once")
    return x


@task
def steady(x):
    """The work of `troubled` without its troubles."""
    if x % 100 == -1:
        raise ValueError(f"element {x}")
    if x % 1_000 == -1 and context.task_run_count == 1:
        raise RuntimeError("once")
    return x


@task
def mended(x, folder, every):
    """One of so many raises until there is a file ``mended``; that it ran, and who runs again, is noted."""
    if x % every == every // 2:
        note(folder, x)
        if not os.path.exists(f"{folder}/mended"):
            raise ValueError(f"element {x}")
    elif x % 1_000 == 0 and os.path.exists(f"{folder}/mended"):
        note(folder, x)
    return x


def note(folder, x):
    """One line, whoever else writes."""
    with open(f"{folder}/ledger", "a", encoding="ascii") as file:
        file.write(f"{x}\n")


@task
def mebibyte(x):
    return bytes([x % 251]) * (1 << 20)


@task
def total_length(xs):
    return sum(map(len, xs))


@task
def grow(*xs):
    return sum(xs) + 1


def fan_out(width: int, *, mapped: Any = noop, join: Any = total, stages: int = 1, **constants: Any) -> Flow:
    """A map over a range, or a chain of maps, and a task that takes all of it."""
    with Flow("fan_out") as flow:
        elements: Any = range(width)
        for _ in range(stages):
            elements = mapped.map(elements, **constants)
        join(elements)
    return flow


def resumable(width: int, folder: str, failures: int) -> Flow:
    """A map of which some elements fail until they are mended, with its values stored, and the sum of it."""
    with Flow("resumable", result=LocalResult()) as flow:
        total(mended.map(range(width), unmapped(folder), unmapped(width // failures)))
    return flow


def chain(length: int) -> Flow:
    """Single tasks, each after the one before."""
    with Flow("chain") as flow:
        value = grow()
        for _ in range(length - 1):
            value = grow(value)
    return flow


def layered(size: int, parents: int) -> Flow:
    """A random DAG: each task takes the values of some of the hundred before it."""
    with Flow("layered") as flow:
        nodes: list[Any] = []
        for upstream in layered_edges(size, parents):
            nodes.append(grow(*(nodes[i] for i in upstream)))
        grow(*nodes[-20:])
    return flow


def layered_edges(size: int, parents: int) -> list[list[int]]:
    """For each task of `layered`, the numbers of those it needs."""
    chance = random.Random(7)
    return [[] if i < 20 else chance.sample(range(max(0, i - 100), i), parents) for i in range(size)]


@task
def expand(x):
    """The nodes below one of a tree, of which ten are below each."""
    return [10 * x + digit for digit in range(1, 11)]


@task
def join(lists):
    return [x for xs in lists for x in xs]


@task
def crawl(nodes, levels):
    """Visit a tree breadth first: each level is a deferred map over what the level above has found."""
    return join([nodes]) if not levels else crawl(join(expand.map(nodes)), levels - 1)


def breadth_first(levels: int) -> Flow:
    """A crawl that visits ten to the power of each level up to the last."""
    with Flow("crawl") as flow:
        crawl([0], levels)
    return flow


def visited(levels: int) -> Flow:
    """The visits of that crawl as one plain map, whose nodes are known beforehand."""
    with Flow("visited") as flow:
        nodes = Parameter("nodes", default=range(sum(10**level for level in range(levels))))
        join(expand.map(nodes))
    return flow
