"""Map a task over the blocks of a Dask array: each is an element, with a state, retries and a place in the record.

    python examples/climate.py
    python examples/climate.py --years 30
    anabranch run examples/climate.py

The array has a temperature for each day and each degree of latitude and longitude, in blocks of a year. It is lazy:
only the workers ever have a block. In one year, an instrument has failed. Its block fails with a reason, the other
years go on, and a resumed run would repeat that block alone. The array could as well be that of a zarr store.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import dask.array as da
import numpy as np

from anabranch import Flow, task
from anabranch.executors import DaskExecutor
from anabranch.triggers import all_finished

BROKEN = 3  # the year without an instrument


def temperatures(years: int) -> da.Array:
    """Days x latitudes x longitudes, in degrees Celsius."""
    chunks = ((365,) * years, (90,), (180,))
    return da.map_blocks(_one_year, chunks=chunks, dtype="float32", meta=np.empty((0, 0, 0), "float32"))


def _one_year(block_info=None) -> np.ndarray:
    year = block_info[None]["chunk-location"][0]
    days, latitudes = np.arange(365)[:, None, None], np.linspace(-89, 89, 90)[None, :, None]
    season = np.cos((days - 200) / 365 * 2 * np.pi) * np.sign(latitudes) * np.abs(latitudes) / 4
    noise = np.random.default_rng(year).normal(0.03 * year, 2.0, (365, 90, 180))
    block = (28 - np.abs(latitudes) * 0.55 + season + noise).astype("float32")
    if year == BROKEN:
        block[100:130, 40] = np.nan
    return block


@dataclass
class Year:
    """What remains of a block."""

    mean: float
    warmest: float
    coldest: float


@task(max_retries=1)
def measure(block: np.ndarray) -> Year:
    """Mean, weighted by the area of each latitude, and the extremes."""
    if missing := int(np.isnan(block).any(axis=2).sum()):
        raise ValueError(f"{missing} circles of latitude have no values")
    weights = np.cos(np.radians(np.linspace(-89, 89, 90)))
    mean = float(np.average(block.mean(axis=(0, 2)), weights=weights))
    return Year(mean, float(block.max()), float(block.min()))


@task(trigger=all_finished)
def trend(years: list[object]) -> float:
    """Degrees a century; a year that failed is there as its exception."""
    known = [(number, year.mean) for number, year in enumerate(years) if isinstance(year, Year)]
    return 100 * float(np.polyfit(*zip(*known, strict=True), 1)[0])


def build(years: int) -> Flow:
    """The flow for an array of so many years."""
    with Flow("climate") as flow:
        trend(measure.map(temperatures(years).blocks))
    return flow


flow = build(12)


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Run the flow. Returns the problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--years", type=int, default=12, help="number of blocks (default: %(default)s)")
    parser.add_argument("--address", help="of a Dask scheduler; default: a cluster of this machine's cores")
    given = parser.parse_args(arguments)

    state = build(given.years).run(executor=DaskExecutor(given.address))
    if not state["trend"].is_successful():
        return state.message
    for number, year in enumerate(state["measure"].map_states):
        if year.is_failed():
            print(f"year {number:2}: {year.message}")
        else:
            print(
                f"year {number:2}: {year.result.mean:6.2f} °C, {year.result.coldest:.0f} to {year.result.warmest:.0f}"
            )
    print(f"\n{state['trend'].result:+.1f} °C a century")
    return None


if __name__ == "__main__":  # worker processes import this file; they must not run it
    raise SystemExit(main())  # a text is printed to standard error, and the exit code is 1
