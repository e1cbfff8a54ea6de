"""What the live page costs: CPU of its server, bytes to a browser, and the time that it adds to a run.

    python -m benchmarks.live_page [--elements 200000] [--rounds 3]

A map of short sleeps on two one-thread workers runs without a page, with one that nobody looks at, and with one in a
real browser (Debian's Chromium and the package playwright), in turn. The browser has the same cores as the run.

What is added is told as the median over the rounds, each of which compares its own runs; and as CPU time of the driver,
which the load of the machine changes less. In the rows of a browser that has what drives the browser, too.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from anabranch import Flow, Parameter, task, unmapped
from anabranch.executors import DaskExecutor
from anabranch.monitoring.pages import live_page


@task
def numbers(n: int) -> list[int]:
    return list(range(n))


@task
def parse(x: int, pause: float) -> int:
    time.sleep(pause)
    if x % 9_973 == 7:
        raise ValueError(f"bad record {x}")
    return x


def flow_of(pause: float) -> Flow:
    with Flow("benchmark") as flow:
        parse.map(numbers(Parameter("n")), unmapped(pause))
    return flow


@dataclass
class Seen:
    """Figures of one run."""

    run_s: float
    driver_s: float = 0.0
    """CPU of the driver's process, its workers not among it."""
    cpu_s: float = 0.0
    """Of the thread that serves the page."""
    nbytes: int = 0
    """To the browser, by websocket."""


def cpu_of_pages() -> float:
    names = {thread.native_id for thread in threading.enumerate() if thread.name == "anabranch-pages"}
    return sum(each.user_time + each.system_time for each in psutil.Process().threads() if each.id in names)


def cpu_of_driver() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)


def measured(flow: Flow, elements: int, *, page: bool, browser: Browser | None = None) -> Seen:
    executor = DaskExecutor(cluster_kwargs={"n_workers": 2, "threads_per_worker": 1})
    before, driver_before = cpu_of_pages(), cpu_of_driver()
    show = (browser.open if browser is not None else lambda address: None) if page else False
    view = flow.run(n=elements, executor=executor, dashboard=show)
    cpu_s, driver_s = cpu_of_pages() - before, cpu_of_driver() - driver_before
    took = view.state.duration_s or 0.0
    return Seen(took, driver_s, cpu_s, browser.leave() if browser is not None else 0)


class Browser:
    """A browser in a thread of its own, as its library wants to be spoken to by one thread only."""

    def __init__(self) -> None:
        self._address = ""
        self._wanted, self._left = threading.Event(), threading.Event()
        self._nbytes = 0
        self._is_over = False
        self._ready, self._done = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self._ready.wait(60)

    def open(self, address: str) -> None:
        self._address = address
        self._left.clear()
        self._done.clear()
        self._wanted.set()

    def leave(self) -> int:
        self._left.set()
        self._done.wait(60)
        return self._nbytes

    def close(self) -> None:
        self._is_over = True
        self._wanted.set()
        self._thread.join(60)

    def _serve(self) -> None:
        from tests.browser import Watched, chromium

        with chromium() as found:
            self._ready.set()
            while self._wanted.wait() and not self._is_over:
                self._wanted.clear()
                self._nbytes = 0
                watched = Watched(found)
                watched.page.on("websocket", lambda socket: socket.on("framereceived", self._count))
                watched.page.goto(self._address)
                while not self._left.is_set():
                    watched.page.wait_for_timeout(200)
                watched.page.close()
                self._done.set()

    def _count(self, payload: str | bytes) -> None:
        self._nbytes += len(payload)


@contextmanager
def browsing() -> Iterator[Browser | None]:
    import shutil
    from importlib.util import find_spec

    if shutil.which("chromium") is None or find_spec("playwright") is None:
        print("without Chromium and playwright there is no row for a browser")
        yield None
        return
    browser = Browser()
    try:
        yield browser
    finally:
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=200_000)
    parser.add_argument("--pause", type=float, default=0.0001, help="seconds of sleep an element")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    flow = flow_of(options.pause)
    seen: dict[str, list[Seen]] = {"no page": [], "page, nobody looks": [], "page in a browser": []}
    with browsing() as browser:
        measured(flow, 1_000, page=True)  # imports, and the server's start
        for _ in range(options.rounds):
            seen["no page"].append(measured(flow, options.elements, page=False))
            seen["page, nobody looks"].append(measured(flow, options.elements, page=True))
            if browser is not None:
                seen["page in a browser"].append(measured(flow, options.elements, page=True, browser=browser))
    live_page.stop_serving()
    print(f"{options.elements:,} elements, {options.rounds} rounds, medians")
    print(f"{'':20}{'run':>10}{'added':>9}{'driver CPU':>13}{'added':>8}{'page CPU':>11}{'to the browser':>17}")
    plain = seen["no page"]
    for name, runs in seen.items():
        if not runs:
            continue
        added = statistics.median(each.run_s / other.run_s - 1 for each, other in zip(runs, plain, strict=True))
        more = statistics.median((each.driver_s - o.driver_s) / each.run_s for each, o in zip(runs, plain, strict=True))
        took = statistics.median(each.run_s for each in runs)
        driver = statistics.median(each.driver_s / each.run_s for each in runs)
        cpu = statistics.median(each.cpu_s / each.run_s for each in runs)
        rate = statistics.median(each.nbytes / each.run_s for each in runs)
        print(f"{name:20}{took:8.2f} s{added:9.1%}{driver:11.1%}/s{more:8.1%}{cpu:9.1%}/s{rate / 1e3:12.1f} kB/s")


if __name__ == "__main__":
    main()
