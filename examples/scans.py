"""Read scanned pages with native code that may crash: each page in a process of its own, so that nothing else is lost.

    python examples/scans.py
    python examples/scans.py --pages 1000
    anabranch run examples/scans.py --pages 20

Decoders in C are not safe from every file. Here one page of 50 ends its process by a signal, one takes memory without
end, and one never comes back. With `isolation="process"`, such a page fails, and its state says how; the worker and the
other pages do not notice. `measure` has a process for each slot, which the next page uses again.
"""

import argparse
import ctypes
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anabranch import Flow, Parameter, task
from anabranch.executors import DaskExecutor
from anabranch.triggers import all_finished

SIZE = 400  # pixels a side
EVIL = {7: b"crash", 23: b"memory", 31: b"loop"}  # pages of each 50, and what they do to whom reads them


@task
def scan(folder: str, pages: int) -> list[str]:
    """Pages as files: lines of grey on white."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(pages):
        page = np.full((SIZE, SIZE), 255, dtype=np.uint8)
        page[:: 5 + number % 7] = 60
        data = page.tobytes()
        if kind := EVIL.get(number % 50):
            data = kind
        file = Path(folder, f"{number:04d}.grey")
        file.write_bytes(data)
        files.append(str(file))
    return files


@task(isolation="process", memory_limit="400 MB", timeout=3)
def measure(file: str) -> float:
    """Share of the page that is ink."""
    data = Path(file).read_bytes()
    if data == b"crash":
        ctypes.string_at(0)  # as a decoder does that trusts a length in the file
    held = []
    while data == b"memory":
        held.append(bytearray(10_000_000))
    while data == b"loop":
        pass
    page = np.frombuffer(data, dtype=np.uint8).reshape(SIZE, SIZE)
    return float((page < 128).mean())


@task(trigger=all_finished)
def summarise(shares: list[object]) -> tuple[int, float]:
    """Number of pages that could be read, and the mean of their shares; what failed is there as its exception."""
    read = [share for share in shares if isinstance(share, float)]
    return len(read), sum(read) / len(read)


with Flow("scans") as flow:
    shares = measure.map(
        scan(Parameter("folder", default="scans", type=str), Parameter("pages", default=200, type=int))
    )
    summary = summarise(shares)


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Run the flow. Returns the problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--address", help="of a Dask scheduler; default: a cluster of this machine's cores")
    given = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as folder:
        state = flow.run(executor=DaskExecutor(given.address), folder=folder, pages=given.pages)
    if not state.result[summary].is_successful():
        return state.message
    number, share = state.result[summary].result
    print(f"{number} of {given.pages} pages could be read; {share:.1%} of them is ink")
    for each in state.result[shares].map_states:
        if each.is_failed():
            print(f"  page {each.map_index}: {each.state.name}: {each.message}")
    return None


if __name__ == "__main__":  # worker processes import this file; they must not run it
    raise SystemExit(main())  # a text is printed to standard error, and the exit code is 1
