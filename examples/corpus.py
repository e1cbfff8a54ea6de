"""Analyse every Python file below a directory, in parallel, and write down what is in them.

    python examples/corpus.py                              # this interpreter's standard library and site-packages
    python examples/corpus.py --root ~/project --limit 500
    anabranch run examples/corpus.py --root ~/project --no-report

Some files cannot be parsed. Each of them is one failed element: the others go on, and the summary lists it with the
reason. The tasks, and the plain functions that they call, are in ``anabranch.demo.corpus``.
"""

import argparse
import time

from anabranch import Flow, Parameter, case
from anabranch.demo.corpus import list_files, measure, read, summarise, summary_lines, write_json
from anabranch.executors import DaskExecutor

with Flow("corpus") as flow:
    # Inputs of a run. They are typed, so "500" on the command line becomes 500, and "many" is refused before it starts.
    root = Parameter("root", default=None, type=str | None)
    limit = Parameter("limit", default=None, type=int | None)
    output = Parameter("output", default="corpus-report", type=str)
    report = Parameter("report", default=True, type=bool)

    # The number of files is not known until `list_files` has run. The maps are as wide as its list is long.
    files = list_files(root, limit)

    # Two stages for each file, one Dask task for a few hundred files. File 7 is measured when file 7 has been read, and
    # its text never leaves the process. `read` has retries (`@task(max_retries=2, retry_delay=0.1, retry_on=OSError)`),
    # one file at a time.
    sources = read.map(files)
    facts = measure.map(sources)

    # `@task(trigger=all_finished)`: it runs when every file has ended, successfully or not. A failed file is an
    # exception in its list.
    summary = summarise(files, facts, root)

    with case(report, True):
        write_json(summary, output)  # otherwise skipped


def main() -> int:
    """Run the flow on a cluster of this machine's cores and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="directory to analyse; default: standard library and site-packages")
    parser.add_argument("--limit", type=int, help="take at most so many files, evenly spaced over the list")
    parser.add_argument("--output", default="corpus-report", help="directory for corpus.json (default: %(default)s)")
    parser.add_argument("--no-report", dest="report", action="store_false", help="write no file")
    parameters = vars(parser.parse_args())

    started = time.perf_counter()
    state = flow.run(parameters=parameters, executor=DaskExecutor(), keep=[summary])
    if not state.is_successful():
        print(state.message)
        return 1
    print("\n".join(summary_lines(state.result[summary].result)))
    print(f"\n{time.perf_counter() - started:.1f} s; anabranch report {state.run_id} shows the run")
    return 0


if __name__ == "__main__":  # worker processes import this file; they must not run it
    raise SystemExit(main())
