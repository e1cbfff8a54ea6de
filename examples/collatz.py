"""Steps of numbers to 1, if even numbers are halved, and odd ones tripled and increased by one: loops in a map.

    python examples/collatz.py
    python examples/collatz.py --limit 5000
    anabranch run examples/collatz.py --limit 1000

Each number loops on its own, with `LOOP`: the task runs again with the value of the round before. The number of rounds
is not known, and other numbers never wait.
"""

import argparse
from collections.abc import Sequence

from anabranch import Flow, Parameter, context, task
from anabranch.executors import DaskExecutor
from anabranch.signals import LOOP


@task
def numbers(limit: int) -> list[int]:
    """From 1 to `limit`."""
    return list(range(1, limit + 1))


@task
def steps(start: int) -> int:
    """Steps from `start` to 1, one in each round of the loop."""
    number = start if context.task_loop_result is None else context.task_loop_result
    if number == 1:
        return context.task_loop_count - 1
    raise LOOP(result=number // 2 if number % 2 == 0 else 3 * number + 1)


@task
def longest(counts: list[int]) -> tuple[int, int]:
    """The number that takes longest, and its steps."""
    most = max(counts)
    return counts.index(most) + 1, most


with Flow("collatz") as flow:
    limit = Parameter("limit", default=100, type=int)
    found = longest(steps.map(numbers(limit)))


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Run the flow, and print which number took longest. Returns the problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=1000, help="the last number (default: %(default)s)")
    parser.add_argument("--address", help="of a Dask scheduler; default: a cluster of this machine's cores")
    given = parser.parse_args(arguments)

    state = flow.run(executor=DaskExecutor(given.address), limit=given.limit)
    if not state.is_successful():
        return state.message
    number, most = state.result[found].result
    print(f"Of the numbers up to {given.limit:,}, {number:,} takes longest: {most} steps.")
    return None


if __name__ == "__main__":  # worker processes import this file; they must not run it
    raise SystemExit(main())  # a text is printed to standard error, and the exit code is 1
