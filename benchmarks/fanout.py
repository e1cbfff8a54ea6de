"""Map fan-out on a cluster of yours.

``python -m benchmarks.fanout --address tcp://… --elements 100000 --work 0.01``
"""

from __future__ import annotations

import time

import click
from distributed import Client, LocalCluster

from anabranch import unmapped
from anabranch.executors import DaskExecutor
from benchmarks import bare, flows


@click.command()
@click.option("--address", help="Of a scheduler; default: a LocalCluster of two one-thread workers.")
@click.option("--elements", default=100_000, show_default=True, type=click.IntRange(min=1), help="Width of the map.")
@click.option("--work", default=0.0, show_default=True, type=click.FloatRange(min=0), help="Seconds an element sleeps.")
@click.option("--bare", "bare_elements", default=1_000, show_default=True, help="Elements for client.map.")
def main(address: str | None, elements: int, work: float, bare_elements: int) -> None:
    """Map over ELEMENTS and sum, and compare with client.map per element."""
    if address is None:
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
            measure(cluster.scheduler_address, elements, work, bare_elements)
    else:
        measure(address, elements, work, bare_elements)


def measure(address: str, elements: int, work: float, bare_elements: int) -> None:
    """Print what a map of that many elements took."""
    executor = DaskExecutor(address)
    flows.fan_out(10).run(executor=executor)
    mapped = {"mapped": flows.pause, "seconds": unmapped(work)} if work else {}
    flow = flows.fan_out(elements, **mapped)
    began = time.perf_counter()
    state = flow.run(executor=executor)
    seconds = time.perf_counter() - began
    per_element = seconds / elements * 1e6
    print(f"anabranch   {elements:>10,} elements {seconds:10.3f} s {per_element:10.2f} µs/element  {state.name}")
    with Client(address, set_as_default=False) as client:
        slots = sum(worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values())
        if work:
            print(f"ideal       {elements:>10,} elements {elements * work / slots:10.3f} s on {slots} threads")
        if bare_elements:
            width = min(bare_elements, elements)
            compared = bare.pauses_s(client, width, work) if work else bare.fan_out_s(client, width)
            print(f"client.map  {width:>10,} elements {compared:10.3f} s {compared / width * 1e6:10.2f} µs/element")
            print(f"ratio per element: {compared / width / (seconds / elements):,.1f}×")


if __name__ == "__main__":
    main()
