"""Suspects run alone in their process."""

from __future__ import annotations

import threading

from anabranch.engine.worker.seclusion import Seclusion


def test_many_share() -> None:
    seclusion, together = Seclusion(), threading.Barrier(3, timeout=5)

    def enter() -> None:
        with seclusion.entered(alone=False):
            together.wait()

    threads = [threading.Thread(target=enter) for _ in range(2)]
    for thread in threads:
        thread.start()
    with seclusion.entered(alone=False):
        together.wait()

    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_who_wants_to_be_alone_waits_for_the_others_and_keeps_them_out() -> None:
    seclusion, order = Seclusion(), []
    is_inside, may_leave = threading.Event(), threading.Event()
    wants_in = threading.Event()

    def share(name: str, *, waits: bool) -> None:
        with seclusion.entered(alone=False):
            order.append(name)
            if waits:
                is_inside.set()
                may_leave.wait(5)
                order.append(f"{name} leaves")

    def seclude() -> None:
        wants_in.set()
        with seclusion.entered(alone=True):
            order.append("alone")

    first = threading.Thread(target=share, args=("first",), kwargs={"waits": True})
    first.start()
    is_inside.wait(5)
    alone = threading.Thread(target=seclude)
    alone.start()
    wants_in.wait(5)
    while not seclusion._waiting_alone:  # it waits in the lock: there is no event for that
        threading.Event().wait(0.001)
    later = threading.Thread(target=share, args=("later",), kwargs={"waits": False})
    later.start()
    may_leave.set()
    for thread in (first, alone, later):
        thread.join(5)

    assert order == ["first", "first leaves", "alone", "later"]


def test_an_error_inside_leaves_the_door_open() -> None:
    seclusion = Seclusion()

    for alone in (True, False):
        try:
            with seclusion.entered(alone=alone):
                raise KeyError
        except KeyError:
            pass

    with seclusion.entered(alone=True):
        assert seclusion._is_alone
