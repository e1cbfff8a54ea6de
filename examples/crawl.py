"""Walk a directory tree with a task that calls itself, and add up the sizes.

    python examples/crawl.py                   # this interpreter's standard library
    python examples/crawl.py --root ~/project
    anabranch run examples/crawl.py --root ~/project

`crawl` returns calls: of itself for each directory, of `measure` for each file. They run in parallel, the calls of one
task in chunks. The value of `crawl` is what it returned, with results in place of the calls.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from anabranch import Flow, Parameter, task
from anabranch.executors import DaskExecutor


@task(max_retries=2, retry_delay=0.1, retry_on=OSError)
def measure(path: str) -> int:
    """Bytes of a file."""
    return Path(path).lstat().st_size


@task
def crawl(directory: str) -> dict:
    """The tree below a directory: entries by name, directories as dicts and files as their sizes."""
    below = {}
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            below[entry.name] = crawl(entry.path)
        else:
            below[entry.name] = measure(entry.path)
    return below


@task
def add_up(tree: dict) -> dict:
    """Number of directories and files below a tree, and their bytes."""
    found = {"directories": 0, "files": 0, "bytes": 0}
    left = [tree]
    while left:
        for value in left.pop().values():
            if isinstance(value, dict):
                found["directories"] += 1
                left.append(value)
            else:
                found["files"] += 1
                found["bytes"] += value
    return found


with Flow("crawl") as flow:
    root = Parameter("root", default=os.path.dirname(os.__file__), type=str)
    totals = add_up(crawl(root))


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Run the flow, and print what is below the directory. Returns the problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.path.dirname(os.__file__), help="where to begin (default: %(default)s)")
    parser.add_argument("--address", help="of a Dask scheduler; default: a cluster of this machine's cores")
    given = parser.parse_args(arguments)

    state = flow.run(executor=DaskExecutor(given.address), root=given.root)
    if not state.is_successful():
        return state.message
    found = state.result[totals].result
    print("{files:,} files in {directories:,} directories, {bytes:,} bytes".format(**found))
    return None


if __name__ == "__main__":  # worker processes import this file; they must not run it
    raise SystemExit(main())  # a text is printed to standard error, and the exit code is 1
