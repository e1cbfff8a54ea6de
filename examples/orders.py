"""Extract, transform and load 300 files into one dataset with partitions, and ask it questions in SQL.

    pip install "anabranch[arrow]" duckdb
    python examples/orders.py
    python examples/orders.py --days 1000 --out shop     # the second time, only days that are new
    anabranch run examples/orders.py

A shop exports the orders of each day as a file of JSON lines. Each becomes a Parquet file, such as
`month=2026-01/2026-01-31.parquet`, which is the task's target: a day that is there is not loaded again. One file is
damaged: its day fails, the others go on, and `min_success` accepts it. DuckDB, or whatever else reads Parquet, takes
the directory as one table.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import pyarrow

from anabranch import Flow, Parameter, task, unmapped
from anabranch.executors import DaskExecutor
from anabranch.results import LocalResult

FIRST = date(2026, 1, 1)
DAMAGED = 99  # the day whose file is
PRODUCTS = {"oolong": 9.5, "sencha": 7.0, "rooibos": 4.25, "mate": 5.0}


def export(file: Path, day: date) -> None:
    """What the shop does each night, the same whenever it is asked."""
    chance = random.Random(day.toordinal())
    lines = []
    for number in range(200):
        product, grams = chance.choice(list(PRODUCTS)), chance.randrange(50, 1000, 50)
        lines.append(json.dumps({"order": number, "product": product, "grams": grams, "price": PRODUCTS[product]}))
    if day == FIRST + timedelta(days=DAMAGED):
        lines[120] = lines[120][:25]
    file.write_text("\n".join(lines), encoding="utf-8")


@task
def list_files(folder: str, days: int) -> list[date]:
    """The days of which there are files."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    found = [FIRST + timedelta(days=n) for n in range(days)]
    for day in found:
        export(Path(folder, f"{day}.jsonl"), day)
    return found


@task(target="month={day:%Y-%m}/{day}.parquet", min_success=0.98, max_retries=1)
def load(day: date, folder: str) -> pyarrow.Table:
    """The orders of a day, with what each is worth."""
    lines = Path(folder, f"{day}.jsonl").read_text(encoding="utf-8").splitlines()
    orders = [json.loads(line) for line in lines]
    worth = [round(order["grams"] * order["price"] / 100, 2) for order in orders]
    return pyarrow.Table.from_pylist(orders).append_column("worth", pyarrow.array(worth))


@task
def ask(out: str) -> list[tuple[str, str, int, float]]:
    """For each month the product that sold best: its name, the number of orders, and their worth."""
    import duckdb

    return duckdb.sql(f"""
        SELECT month, product, count(*), round(sum(worth), 2) AS total
        FROM read_parquet('{out}/*/*.parquet', hive_partitioning = true, hive_types = {{'month': VARCHAR}})
        GROUP BY month, product
        QUALIFY row_number() OVER (PARTITION BY month ORDER BY total DESC) = 1
        ORDER BY month
    """).fetchall()


def build(out: str) -> Flow:
    """The flow, with the dataset in a directory."""
    dataset = LocalResult(out, serializer="parquet")
    with Flow("orders") as flow:
        folder = Parameter("folder", default="orders-export", type=str)
        days = Parameter("days", default=300, type=int)
        loaded = load.map(list_files(folder, days), unmapped(folder), task_args={"result": dataset})
        ask(out, upstream_tasks=[loaded])
    return flow


flow = build("orders")


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Run the flow twice. Returns the problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="directory of the dataset; default: one that is removed at the end")
    parser.add_argument("--days", type=int, default=300, help="number of files (default: %(default)s)")
    parser.add_argument("--address", help="of a Dask scheduler; default: a cluster of this machine's cores")
    given = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as temporary:
        flow = build(given.out or str(Path(temporary, "orders")))
        for title in ("The first run", "The second run"):
            state = flow.run(
                executor=DaskExecutor(given.address), folder=str(Path(temporary, "export")), days=given.days
            )
            if not state.is_successful():
                return state.message
            elements = state["load"].map_states
            found = sum(each.is_cached() for each in elements)
            failed = [each for each in elements if each.is_failed()]
            print(f"{title:14} {len(elements) - found - len(failed):4} days loaded, {found:4} were there")
            for each in failed:
                print(f"  day {each.map_index}: {each.message}")
        print()
        for month, product, orders, total in state["ask"].result:
            print(f"{month}  {product:8} {orders:6,} orders {total:12,.2f}")
    return None


if __name__ == "__main__":  # worker processes import this file; they must not run it
    raise SystemExit(main())  # a text is printed to standard error, and the exit code is 1
