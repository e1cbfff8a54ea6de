"""The same work on bare Dask, the way its documentation would do it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from dask import delayed
from dask._task_spec import Task, TaskRef
from distributed import Client

from benchmarks.flows import layered_edges


def _same(x: Any) -> Any:
    return x


def _grow(*xs: int) -> int:
    return sum(xs) + 1


def _pause(x: Any, seconds: float) -> Any:
    time.sleep(seconds)
    return x


def _skewed(x: int) -> int:
    time.sleep(0.5 if x >= 9_990 else 0.0)
    return x


def fan_out_s(client: Client, width: int) -> float:
    """Seconds of ``client.map`` of a no-op and a sum."""
    began = time.perf_counter()
    futures = client.map(_same, range(width), pure=False)
    assert client.submit(sum, futures, pure=False).result() == width * (width - 1) // 2
    return time.perf_counter() - began


def pauses_s(client: Client, width: int, seconds: float) -> float:
    """Seconds of ``client.map`` of sleeps."""
    began = time.perf_counter()
    client.gather(client.map(_pause, range(width), seconds=seconds, pure=False))
    return time.perf_counter() - began


async def _request(x: Any, seconds: float) -> Any:
    await asyncio.sleep(seconds)
    return x


def requests_s(client: Client, width: int, seconds: float) -> float:
    """Seconds of ``client.map`` of a coroutine function that sleeps: a worker runs one per thread."""
    began = time.perf_counter()
    client.gather(client.map(_request, range(width), seconds=seconds, pure=False))
    return time.perf_counter() - began


def script_s(width: int, seconds: float, lanes: int) -> float:
    """Seconds of a bare asyncio script with so many sleeps at a time."""

    async def main() -> None:
        numbers = iter(range(width))

        async def lane() -> None:
            for number in numbers:
                await _request(number, seconds)

        await asyncio.gather(*(lane() for _ in range(lanes)))

    began = time.perf_counter()
    asyncio.run(main())
    return time.perf_counter() - began


def skewed_s(client: Client, width: int) -> float:
    """Seconds of ``client.map`` of the skewed case."""
    began = time.perf_counter()
    client.gather(client.map(_skewed, range(width), pure=False))
    return time.perf_counter() - began


def chain_s(client: Client, length: int) -> float:
    """Seconds of a chain of ``delayed`` calls."""
    began = time.perf_counter()
    value = delayed(_grow, pure=False)()
    for _ in range(length - 1):
        value = delayed(_grow, pure=False)(value)
    assert client.compute(value).result() == length
    return time.perf_counter() - began


def layered_s(client: Client, size: int, parents: int) -> float:
    """Seconds of the random DAG, as one dict."""
    began = time.perf_counter()
    token = f"layered-{began}"
    graph: dict[Any, Task] = {}
    for i, upstream in enumerate(layered_edges(size, parents)):
        graph[token, i] = Task((token, i), _grow, *(TaskRef((token, up)) for up in upstream))
    last = (token, size)
    graph[last] = Task(last, _grow, *(TaskRef((token, i)) for i in range(size - 20, size)))
    client.get(graph, last)
    return time.perf_counter() - began
