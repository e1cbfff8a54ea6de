"""The flow ``corpus``: analyse every Python file below a directory.

::

    root, limit → list_files → read (map) → measure (map) → summarise → write_json, if asked for

What each step does is a plain function in a module of its own: `sources` (files), `facts` (one file), `summary` (all of
them). This module gives them their policies and wires them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from anabranch import Flow, Parameter, case, task
from anabranch.base.files import write_whole
from anabranch.base.triggers import all_finished
from anabranch.demo.facts import FileFacts, measure_source
from anabranch.demo.sources import CorpusError, Source, SourceFile, list_sources, read_source
from anabranch.demo.summary import Summary, summarise_corpus, summary_as_json, summary_lines

__all__ = [
    "CorpusError",
    "Summary",
    "build",
    "flow",
    "list_files",
    "measure",
    "read",
    "summarise",
    "summary_lines",
    "write_json",
]


@task
def list_files(root: str | None, limit: int | None) -> list[SourceFile]:
    """Every Python file below `root`, at most `limit`."""
    return list_sources(root, limit=limit)


@task(max_retries=2, retry_delay=0.1, retry_on=OSError)
def read(file: SourceFile) -> Source:
    """The bytes of one file. Network file systems have bad moments, so it is tried three times."""
    return read_source(file)


@task
def measure(source: Source) -> FileFacts:
    """Decode, parse and count one file.

    Reading and measuring are two maps because only reading is worth a second try. Element by element they run in one
    Dask task, so the source text stays in the process that read it.
    """
    return measure_source(source)


@task(trigger=all_finished)
def summarise(files: list[SourceFile], facts: list[FileFacts], root: str | None) -> Summary:
    """Add up all files. It runs whatever happened to some of them: those are in `facts` as their exception."""
    if isinstance(files, BaseException):  # this trigger lets the task run without a list of files, too
        raise files
    return summarise_corpus(files, facts, root)


@task
def write_json(summary: Summary, output: str) -> str:
    """Write ``corpus.json`` into the directory `output`, on the machine where this runs, and give its path."""
    path = Path(output, "corpus.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(summary_as_json(summary), indent=2) + "\n")
    return str(path.resolve())


def build() -> Flow:
    """The flow, wired."""
    with Flow("corpus") as flow:
        root: Any = Parameter("root", default=None, type=str | None)
        limit: Any = Parameter("limit", default=None, type=int | None)
        output: Any = Parameter("output", default="corpus-report", type=str)
        report = Parameter("report", default=True, type=bool)

        files = list_files(root, limit)
        sources = read.map(files)
        facts = measure.map(sources)
        summary = summarise(files, facts, root)
        with case(report, True):
            write_json(summary, output)
    return flow


flow = build()
