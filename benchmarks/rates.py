"""A server that is slow, fails and turns away at times, and counts; and a flow that asks it as often as a rate allows.

``python -m benchmarks.rates`` serves, and prints its port.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from anabranch import Flow, Parameter, task, unmapped
from anabranch.signals import RETRY

WINDOW_S = 1.0
RETRY_AFTER_S = 1


@dataclass
class Counts:
    """What the server has seen."""

    arrivals: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    tries: Counter[int] = field(default_factory=Counter)
    not_before: dict[int, float] = field(default_factory=dict)
    early: int = 0
    """Requests that came before the time that `Retry-After` gave them."""

    def answer(self, number: int) -> str:
        """Status of the answer to a request; nothing: the connection breaks."""
        now = time.monotonic()
        self.arrivals.append(now)
        self.tries[number] += 1
        self.early += now < self.not_before.pop(number, now)
        lot = hash((number, self.tries[number])) % 100
        status = "200" if lot >= 6 else "429" if lot < 3 else "500" if lot < 5 else ""
        if status == "429":
            self.not_before[number] = now + RETRY_AFTER_S
        self.answers[status] += 1
        return status

    def summary(self, window_s: float) -> dict[str, Any]:
        """Counts, and the most requests in any window of that length."""
        times, most, first = self.arrivals, 0, 0
        for last, time_ in enumerate(times):
            while time_ - times[first] >= window_s:
                first += 1
            most = max(most, last + 1 - first)
        seconds = times[-1] - times[0] if times else 0.0
        return {"most": most, "seconds": seconds, "early": self.early, "requests": len(times), **self.answers}


async def serve() -> None:
    """Answer requests until the process is ended."""
    counts = Counts()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        if path.startswith("/summary/"):
            status, body = "200", json.dumps(counts.summary(float(path.rpartition("/")[2]))).encode()
        else:
            number = int(path[1:])
            status, body = counts.answer(number), str(2 * number).encode()
            await asyncio.sleep(0.02 + 0.06 * (hash((number, -1)) % 100) / 100)
        if status:
            retry = f"Retry-After: {RETRY_AFTER_S}\r\n" if status == "429" else ""
            writer.write(f"HTTP/1.0 {status} X\r\n{retry}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def served() -> Iterator[int]:
    """A server in a process of its own; its port."""
    command = [sys.executable, "-m", "benchmarks.rates"]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def summary_of(port: int, window_s: float = WINDOW_S) -> dict[str, Any]:
    """What the server has seen, and the most requests in any window of that length."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/summary/{window_s}") as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def flow_of(width: int, per_window: int) -> tuple[Flow, Any]:
    """A flow with the parameter `port` that asks so often; and the node whose value is the sum of the answers."""

    @task(rate={"server": (per_window, WINDOW_S)}, max_retries=6, retry_delay=0.1, retry_on=(OSError, EOFError))
    async def ask(number: int, port: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(f"GET /{number} HTTP/1.0\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            body = await reader.read()
        finally:
            writer.close()
        status = head.split()[1]
        if status == "429":
            wait_s = int(head.partition("Retry-After: ")[2].split()[0])
            raise RETRY("too many requests", start_time=datetime.now(UTC) + timedelta(seconds=wait_s))
        if status != "200":
            raise OSError(f"status {status}")
        return int(body)

    @task
    def add(values: list[int]) -> int:
        return sum(values)

    with Flow("asks") as flow:
        port = Parameter("port")
        total = add(ask.map(range(width), unmapped(port)))
    return flow, total


if __name__ == "__main__":
    asyncio.run(serve())
