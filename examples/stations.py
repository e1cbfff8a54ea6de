"""Ask a web service for a thousand values, many requests at a time, as fast as it lets itself be asked.

    python examples/stations.py
    python examples/stations.py --stations 5000

`measure` is async: each worker slot awaits a hundred of its elements side by side. The service, which the example
starts itself, takes its time, says that it is busy now and then and for how long, and lacks one station.
"""

import argparse
import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from anabranch import Flow, Parameter, signals, task, unmapped
from anabranch.executors import DaskExecutor
from anabranch.triggers import all_finished

MISSING = 13


@task
def numbers(count: int) -> list[int]:
    """Numbers of the stations."""
    return list(range(count))


@task(max_retries=3, retry_delay=0.2, retry_on=OSError, timeout=30)
async def measure(station: int, port: int) -> float:
    """Degrees at a station; when the service is busy, again when it says."""
    status, headers, body = await get(port, f"/stations/{station}")
    if status == 429:
        wait = timedelta(seconds=float(headers["retry-after"]))
        raise signals.RETRY("the service is busy", start_time=datetime.now(UTC) + wait)
    if status != 200:
        raise LookupError(f"station {station}: the service answers {status}")
    return json.loads(body)["degrees"]


@task(trigger=all_finished)
def warmest(degrees: list) -> tuple[int, float]:
    """The station with the highest value, of those that have one."""
    known = {station: value for station, value in enumerate(degrees) if not isinstance(value, Exception)}
    return max(known.items(), key=lambda item: item[1])


async def get(port: int, path: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer. (A real flow would have a client for this, such as httpx.)"""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    first, *lines = head.decode().splitlines()
    return int(first.split()[1]), dict(line.lower().split(": ") for line in lines), body


with Flow("stations") as flow:
    count = Parameter("count", default=1_000, type=int)
    port = Parameter("port", type=int)
    degrees = measure.map(numbers(count), unmapped(port))
    found = warmest(degrees)
    flow.set_reference_tasks([found])


@contextmanager
def service() -> Iterator[int]:
    """Port of a service on this machine, until the block ends."""
    asked = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        station = int((await reader.readuntil(b"\r\n\r\n")).split()[1].rpartition(b"/")[2])
        is_new = station not in asked
        asked.add(station)
        if station % 50 == 7 and is_new:
            writer.write(b"HTTP/1.0 429 Too Many Requests\r\nRetry-After: 0.3\r\n\r\n")
        elif station == MISSING:
            writer.write(b"HTTP/1.0 404 Not Found\r\n\r\n")
        else:
            await asyncio.sleep(0.05)
            body = json.dumps({"degrees": round(station * 7919 % 1_000 / 20 - 15, 2)})
            writer.write(f"HTTP/1.0 200 OK\r\n\r\n{body}".encode())
        writer.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", 0, backlog=1_000))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Run the flow, and print what came of the requests. Returns the problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stations", type=int, default=1_000, help="how many there are (%(default)s)")
    parser.add_argument("--address", help="of a Dask scheduler on this machine; default: a cluster of its cores")
    given = parser.parse_args(arguments)

    with service() as listening:
        state = flow.run(executor=DaskExecutor(given.address), count=given.stations, port=listening)
    if not state.is_successful():
        return state.message
    station, value = state.result[found].result
    counts = state.result[degrees].counts
    print(f"{counts.successful:,} of {given.stations:,} stations answered. The warmest: {station}, {value} degrees.")
    for name, each in state.failures():
        print(f"  {name}: {each.message}")
    return None


if __name__ == "__main__":  # worker processes import this file; they must not run it
    raise SystemExit(main())  # a text is printed to standard error, and the exit code is 1
