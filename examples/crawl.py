"""Walk a directory tree with a task that calls itself, and add up what is there.

    python examples/crawl.py                   # this interpreter's standard library
    python examples/crawl.py --root ~/project
    anabranch run examples/crawl.py --root ~/project

`crawl` returns calls: of itself for each directory, of `measure` for each file. They are run in parallel, the calls of
one task in chunks; the value of `crawl` is what it returned, with results in the calls' places.
"""

import argparse
import os
from pathlib import Path

from anabranch import Flow, Parameter, task
from anabranch.executors import DaskExecutor


@task(max_retries=2, retry_delay=0.1, retry_on=OSError)
def measure(path: str) -> int:
    """Bytes of a file."""
    return Path(path).lstat().st_size


@task
def crawl(directory: str) -> dict:
    """The tree below a directory: what is in it by name, directories as dicts and files as their sizes."""
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


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--root", default=os.path.dirname(os.__file__))
    state = flow.run(executor=DaskExecutor(), root=arguments.parse_args().root, raise_on_failure=True)
    print(state.result[totals].result)
