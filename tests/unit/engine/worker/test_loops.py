"""Tasks may run loops of their own, although one runs in their thread already."""

from __future__ import annotations

import asyncio

from anabranch.engine.worker.arrival import no_loop_runs


def run_another() -> int:
    with no_loop_runs():
        return asyncio.run(asyncio.sleep(0, 7))


def test_a_loop_runs_beside_one_that_has_a_task():
    async def main() -> tuple[int, bool]:
        before = asyncio.current_task()
        return run_another(), asyncio.current_task() is before

    assert asyncio.run(main()) == (7, True)


def test_a_loop_runs_beside_one_that_has_no_task_as_in_a_callback():
    async def main() -> int:
        done = asyncio.Event()
        found: list[int] = []

        def call() -> None:
            try:
                found.append(run_another())
            finally:
                done.set()

        asyncio.get_running_loop().call_soon(call)
        await done.wait()
        return found[0]

    assert asyncio.run(main()) == 7
