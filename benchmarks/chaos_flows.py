"""The flows that bad things happen to. Every body notes its execution first."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from tests.ledger import Ledger

from anabranch import Flow, context, task, unmapped
from anabranch.triggers import all_finished

HANGS_S = 3_600.0


@task
def work(x, ledger, low_s, high_s):
    ledger.note()
    time.sleep(
        low_s + (high_s - low_s) * (x * 7919 % 101) / 100
    )  # differs from element to element, not from run to run
    return x * x


@task
def total(xs):
    return sum(xs)


@task(trigger=all_finished)
def outcome(xs):
    """Number of values, and of failures."""
    failed = sum(isinstance(x, BaseException) for x in xs)
    return len(xs) - failed, failed


@task
def dies(x, ledger, guilty, how):
    ledger.note()
    if x in guilty:
        HOW[how]()
    time.sleep(0.005)
    return x


def segfault():
    ctypes.string_at(0)


def hog():
    held = []
    while True:
        held.append(bytearray(os.urandom(1) * (16 << 20)))
        time.sleep(0.02)


HOW = {
    "os._exit": lambda: os._exit(3),
    "SIGSEGV": segfault,
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "memory": hog,
}


def sleep_in_c():
    ctypes.CDLL(None).sleep(int(HANGS_S))


def loop():
    while True:
        pass


def lock_for_ever():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def children():
    subprocess.Popen(["sleep", str(HANGS_S)], start_new_session=True)
    subprocess.run(["sleep", str(HANGS_S)], check=False)


HANGS = {"sleep in C": sleep_in_c, "endless loop": loop, "lock": lock_for_ever, "children": children}


def hangs(x, ledger, kind):
    ledger.note()
    HANGS[kind]()
    return x


@task(max_retries=1, retry_delay=5.0)
def second_time(x, ledger):
    ledger.note()
    if context.task_run_count == 1:
        raise ConnectionError("not yet")
    return x, context.task_run_count, threading.active_count()


@task
def chatter(x, lines, width):
    for number in range(lines):
        sys.stdout.write(f"{x} {number} ".ljust(width, ".") + "\n")
    return x


@task(isolation="process", memory_limit="200 MB")
def grows(x):
    if x == 3:
        hog()
    return x


@task
def large(nbytes):
    return b"x" * nbytes


@task
def nested(x):
    with Flow("inner") as flow:
        total([x, x])
    return flow.run().state.name


def mapped(ledger: Ledger, width: int, low_s: float, high_s: float) -> Flow:
    """A map over a range and its sum."""
    with Flow("chaos") as flow:
        total(work.map(range(width), ledger=unmapped(ledger), low_s=unmapped(low_s), high_s=unmapped(high_s)))
    return flow


def answer(width: int) -> int:
    """What `mapped` must come to."""
    return sum(x * x for x in range(width))


def poisoned(ledger: Ledger, width: int, guilty: frozenset[int], how: str) -> Flow:
    """A map some of whose elements kill their process; something that needs all of it, and something unrelated."""
    with Flow("poison") as flow:
        elements = dies.map(range(width), ledger=unmapped(ledger), guilty=unmapped(guilty), how=unmapped(how))
        outcome(elements)
        total(elements)
        large(1_000)
    return flow


def hanging(ledger: Ledger, kind: str, **options: Any) -> Flow:
    """A task that hangs, beside a map that does not."""
    with Flow("hangs") as flow:
        task(hangs, **options)(1, ledger, kind)
        work.map(range(20), ledger=unmapped(ledger), low_s=unmapped(0.001), high_s=unmapped(0.001))
    return flow
