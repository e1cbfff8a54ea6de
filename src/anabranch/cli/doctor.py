"""``anabranch doctor``: check what is installed, and whether store, results and cluster can be used."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anabranch.base.texts import printable
from anabranch.cli.exits import RUN_FAILED

if TYPE_CHECKING:
    from anabranch.runs import RunStore

MAX_NAMED = 5
PACKAGES = ("anabranch", "dask", "distributed", "cloudpickle", "networkx", "bokeh", "pydantic")
_MARKS = {"ok": "✓", "warning": "!", "problem": "✗"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked."""

    topic: str
    text: str
    verdict: str = "ok"
    """``ok``, ``warning`` or ``problem``."""


@click.command(short_help="Check that this machine can run flows.")
@click.option("--executor", metavar="ADDRESS", help="Also check this Dask scheduler and its workers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(context: click.Context, *, executor: str | None, as_json: bool) -> None:
    """Check what runs need: versions, settings, run store, results, a cluster.

    The exit code is 1 if a problem would keep runs from working.
    """
    topics: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("versions", _versions),
        ("settings", _settings),
        ("run store", _run_store),
        ("results", _results),
    ]
    if executor is not None:
        topics.append(("cluster", lambda: _cluster(executor)))
    found: list[Finding] = []
    for topic, look in topics:
        found += _looked_at(topic, look)
        if topic == "settings" and found[-1].verdict == "problem":
            found.append(Finding("settings", "nothing else was checked: correct the settings first", "warning"))
            break
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=1))
    else:
        for each in found:
            click.echo(f"{_MARKS[each.verdict]} {each.topic:<10} {printable(each.text)}")
    if any(each.verdict == "problem" for each in found):
        context.exit(RUN_FAILED)


def _looked_at(topic: str, look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Findings of a topic; an error of this library becomes a problem."""
    from anabranch.base.errors import AnabranchError

    found: list[Finding] = []
    try:
        found.extend(look())
    except AnabranchError as error:
        found.append(Finding(topic, str(error), "problem"))
    return found


def _versions() -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    yield Finding("versions", f"Python {platform.python_version()} at {sys.executable}, {platform.platform()}")
    for name in PACKAGES:
        try:
            yield Finding("versions", f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding("versions", f"{name} is not installed; python -m pip install {name}", "problem")


def _settings() -> Iterator[Finding]:
    from anabranch.base.settings import chosen, config
    from anabranch.base.texts import masked

    config.refresh()  # names every setting that cannot be
    yield Finding("settings", f"in order; backend = {_shown_backend()}")
    yield from (Finding("settings", f"{name} = {masked(value)}") for name, value in chosen().items())


def _shown_backend() -> str:
    from anabranch.base.settings import config
    from anabranch.base.texts import masked

    return masked(config.backend)


def _run_store() -> Iterator[Finding]:
    from anabranch.base.settings import config
    from anabranch.runs import default_path, open_store

    if config.backend == "none":
        yield Finding("run store", "runs are not recorded (backend: none), so none can be shown or resumed", "warning")
        return
    if config.backend == "local" and not default_path().exists():
        if _can_be_made(default_path().parent):
            yield Finding("run store", f"the first run will create {default_path()}")
        else:
            cure = "set ANABRANCH_HOME or runs.path to a place that you can write to"
            yield Finding(
                "run store", f"{default_path()} cannot be created, so runs cannot be recorded; {cure}", "problem"
            )
        return
    with open_store(read_only=True) as store:
        facts: dict[str, Any] = dict(store.describe())
        warning = facts.pop("warning", None)
        yield Finding("run store", ", ".join(f"{name} {value}" for name, value in facts.items()))
        if warning:
            yield Finding("run store", warning, "warning")
        complaints = store.check()
        yield from (Finding("run store", text, "problem") for text in complaints)
        if not complaints:
            yield Finding("run store", "the database's own check found no damage")
            yield from _stopped(store)
            yield from _registered(store)


def _stopped(store: RunStore) -> Iterator[Finding]:
    from anabranch.runs import RunQuery
    from anabranch.runs.store.records import INTERRUPTED

    stopped = store.list_runs(RunQuery(state=INTERRUPTED, limit=MAX_NAMED + 1))
    if stopped:
        names = _few([record.run_id for record in stopped])
        text = f"runs whose driver died: {names}; continue one with: anabranch resume RUN"
        yield Finding("run store", text, "warning")


def _registered(store: RunStore) -> Iterator[Finding]:
    """Flows whose code is missing: a service cannot run them."""
    from anabranch.flows.loading import split_target
    from anabranch.runs.store.flows import FlowTable
    from anabranch.runs.store.relational import RelationalRunStore

    if not isinstance(store, RelationalRunStore):
        return
    flows = FlowTable(store.database).all()
    if not flows:
        return
    gone = []
    for flow in flows:
        place, _, is_file = split_target(flow.source)
        if flow.source and is_file and not os.path.exists(place):
            gone.append(f"{flow.name} ({place})")
    yield Finding("flows", f"{len(flows):,} registered")
    if gone:
        text = f"registered from files that this machine does not have: {_few(gone)}; register them where they are"
        yield Finding("flows", text, "warning")


def _few(names: list[str]) -> str:
    return ", ".join(names[:MAX_NAMED]) + (", …" if len(names) > MAX_NAMED else "")


def _can_be_made(directory: Path) -> bool:
    """Whether a directory exists or can be created, and is writable."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)


def _results() -> Iterator[Finding]:
    from anabranch.results.local import LocalResult, LocalStore

    store = LocalResult().store
    assert isinstance(store, LocalStore)
    root = Path(store.root)
    if _can_be_made(root):
        yield Finding("results", f"values are stored in {root} unless a task or flow says otherwise")
    else:
        text = f"{root} is not writable; set ANABRANCH_HOME to a directory that is, or give tasks another result"
        yield Finding("results", text, "problem")


def _cluster(address: str) -> Iterator[Finding]:
    from anabranch.base.settings import config
    from anabranch.executors.connection import connect
    from anabranch.executors.fitness import Needs
    from anabranch.executors.preflight import check

    with connect(address, None, timeout_s=config.engine.connect_timeout_s) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        if not workers:
            yield Finding("cluster", f"{address} has no workers; start one: dask worker {address}", "problem")
            return
        threads = sum(worker["nthreads"] for worker in workers.values())
        yield Finding("cluster", f"{address} answers: {len(workers)} workers, {threads} threads")
        report = check(client, Needs())
    yield from (Finding("cluster", text, "problem") for text in report.problems)
    yield from (Finding("cluster", text, "warning") for text in report.warnings)
