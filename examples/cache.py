"""Stored values: the second run computes nothing, and after a change only what has changed.

    python examples/cache.py
    python examples/cache.py --store words      # the second time, everything is found
    anabranch run examples/cache.py

Which names do the modules of the standard library use most? With a result on the flow, all values are stored in files.
With `cache_for` and `cache_key`, every run with the same store finds a value again: here by the content of the file,
wherever it is, and by the task's code. So only the element of an edited file runs again.
`anabranch explain RUN 'count_names[3]'` says why an element ran or did not.
"""

import argparse
import hashlib
import io
import keyword
import shutil
import sysconfig
import tempfile
import tokenize
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from anabranch import Flow, Parameter, task
from anabranch.definition.caching import code
from anabranch.executors import DaskExecutor
from anabranch.results import LocalResult

LIBRARY = sysconfig.get_paths()["stdlib"]


@task(checkpoint=False)  # the list is looked up in each run
def list_files(folder: str, limit: int) -> list[tuple[str, str]]:
    """The Python files of a directory, each with a digest of its content."""
    found = sorted(Path(folder).glob("*.py"))[:limit]
    return [(str(path), hashlib.sha256(path.read_bytes()).hexdigest()) for path in found]


@task(cache_for=timedelta(days=7), cache_key=code + (lambda inputs: inputs["file"][1]))
def count_names(file: tuple[str, str]) -> Counter:
    """Number of uses of each name in a file."""
    text = Path(file[0]).read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return Counter(each.string for each in tokens if each.type == tokenize.NAME and not keyword.iskeyword(each.string))


@task(cache_for=timedelta(days=7))
def most_used(counts: list[Counter]) -> list[tuple[str, int]]:
    """The ten names that are used most."""
    return sum(counts, Counter()).most_common(10)


def build(store: str) -> Flow:
    """The flow, with its values in files below a directory."""
    with Flow("cache", result=LocalResult(store)) as flow:
        folder = Parameter("folder", default=LIBRARY, type=str)
        limit = Parameter("files", default=100, type=int)
        most_used(count_names.map(list_files(folder, limit)))
    return flow


flow = build("cache-store")


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Run the flow three times, over a copy of some modules. Returns the problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="directory of values that stay; default: one that is removed at the end")
    parser.add_argument("--files", type=int, default=100, help="number of modules (default: %(default)s)")
    parser.add_argument("--address", help="of a Dask scheduler; default: clusters of this machine's cores")
    given = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as temporary:
        modules, store = Path(temporary, "modules"), given.store or str(Path(temporary, "store"))
        modules.mkdir()
        for path in sorted(Path(LIBRARY).glob("*.py"))[: given.files]:
            shutil.copy(path, modules)
        flow = build(store)
        for title in ("The first run", "The second run", "After a change"):
            if title == "After a change":
                edited = max(modules.iterdir())
                edited.write_text(edited.read_text(encoding="utf-8") + "\nanabranch = anabranch\n", encoding="utf-8")
            state = flow.run(executor=DaskExecutor(given.address), folder=str(modules), files=given.files)
            if not state.is_successful():
                return state.message
            elements = state["count_names"].map_states
            cached = sum(each.is_cached() for each in elements)
            print(f"{title:15} {len(elements) - cached:4} files counted, {cached:4} found in the store")
        print("\nUsed most:", ", ".join(f"{name} ({number:,})" for name, number in state["most_used"].result))
    return None


if __name__ == "__main__":  # worker processes import this file; they must not run it
    raise SystemExit(main())  # a text is printed to standard error, and the exit code is 1
