"""Runs one flow in this process and prints its memory as JSON.

``python -m benchmarks.driver_memory ADDRESS FLOW WIDTH``
"""

from __future__ import annotations

import json
import sys
import threading
import time

import psutil

from anabranch import Flow
from anabranch.executors import DaskExecutor
from benchmarks import flows


def main(address: str, which: str, width: int) -> None:
    make = {"fan_out": lambda n: flows.fan_out(n), "mebibytes": _mebibytes}[which]
    make(10).run(executor=DaskExecutor(address))
    process = psutil.Process()
    before = peak = process.memory_info().rss
    is_done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_done.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    state = make(width).run(executor=DaskExecutor(address))
    assert state.is_successful(), state
    time.sleep(0.1)
    is_done.set()
    watcher.join()
    print(json.dumps({"peak_mib": peak / 2**20, "growth_mib": (peak - before) / 2**20}))


def _mebibytes(width: int) -> Flow:
    return flows.fan_out(width, mapped=flows.mebibyte, join=flows.total_length)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
