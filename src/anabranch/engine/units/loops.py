"""Where async functions are awaited: on a loop of their own, whatever the thread is in otherwise."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine
from typing import Any, TypeVar

from anabranch.base.errors import TaskTimeout
from anabranch.engine.units.values import collected

T = TypeVar("T")

LOOK_S = 0.25  # how often coroutines look whether their run is over
GRACE_S = 5.0  # for code that is cancelled to put its things away; what does not end then is left behind


def run_in_loop(steps: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, awaited on a loop of its own; in another thread, if one runs in this thread already.

    What it leaves running is cancelled. Threads that it has started are not waited for.
    """
    if asyncio._get_running_loop() is None:
        return _Loop().run(steps)
    box: dict[str, Any] = {}
    loop = _Loop()

    def run() -> None:
        try:
            box["value"] = loop.run(steps)
        except BaseException as error:  # carried to the thread that waits
            box["error"] = error

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="anabranch-loop", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:  # the user's Ctrl-C
        loop.interrupt()
        thread.join()
        raise
    if "error" in box:
        raise box["error"]
    value: T = box["value"]
    return value


class _Loop:
    """A loop, and what runs on it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._main: asyncio.Task[Any] | None = None

    def run(self, steps: Coroutine[Any, Any, T]) -> T:
        loop = self._loop
        try:
            main = loop.create_task(steps)
            self._main = main
            return loop.run_until_complete(main)
        finally:
            try:
                left = asyncio.all_tasks(loop)
                if left:
                    loop.run_until_complete(cancel(left))
                loop.run_until_complete(loop.shutdown_asyncgens())
            finally:
                loop.close()

    def interrupt(self) -> None:
        """Cancel what runs; from another thread."""
        if self._main is not None:
            self._loop.call_soon_threadsafe(self._main.cancel, _OVER)


def run_call(returned: Any, max_width: int) -> Any:
    """What a call of an async function has come to, given what it returned."""
    return run_in_loop(value_of(returned, None, max_width))


async def value_of(returned: Any, timeout_s: float | None, max_width: int) -> Any:
    """What an async function has come to, given what calling it returned; of an async generator, a list.

    A deadline in seconds cancels it and ends it with `TaskTimeout`. A coroutine that goes on all the same is left
    behind, until its loop ends.
    """
    awaitable: Awaitable[Any] = collected(returned, max_width) if isinstance(returned, AsyncGenerator) else returned
    if timeout_s is None:
        return await awaitable
    attempt = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait({attempt}, timeout=timeout_s)
        if attempt.done():
            return attempt.result()
    finally:
        has_ended = attempt.done()
        if not has_ended:
            attempt.cancel()
            await asyncio.wait({attempt}, timeout=GRACE_S)
            if attempt.done() and not attempt.cancelled():
                attempt.exception()  # looked at, so that asyncio does not log that nobody did
    how = "was cancelled" if attempt.done() else "does not end when it is cancelled and goes on in the background"
    raise TaskTimeout(f"ran longer than its timeout of {timeout_s:g} s and {how}")


async def unless(is_over: Callable[[], bool], steps: Coroutine[Any, Any, T]) -> T | None:
    """The result of a coroutine; None if it was cancelled, because nobody waits for it any more."""
    task = asyncio.ensure_future(steps)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=LOOK_S)
            if not task.done() and is_over():
                return None
        return task.result()
    finally:
        if not task.done():
            await cancel({task})


async def cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel what nobody waits for any more, and give it a moment to put its things away."""
    for each in tasks:
        each.cancel(_OVER)
    done, _ = await asyncio.wait(tuple(tasks), timeout=GRACE_S)
    for each in done:
        if not each.cancelled():
            each.exception()  # looked at, so that asyncio does not log that nobody did


def is_ours(error: BaseException) -> bool:
    """Whether it is what `cancel` raises in a coroutine, or what raises when its loop is gone."""
    return isinstance(error, GeneratorExit) or (isinstance(error, asyncio.CancelledError) and _OVER in error.args)


_OVER = "nobody waits for it any more"
