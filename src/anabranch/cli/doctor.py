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
class Remark:
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
    topics: list[tuple[str, Callable[[], Iterator[Remark]]]] = [
        ("versions", _check_versions),
        ("settings", _check_settings),
        ("run store", _check_run_store),
        ("results", _check_results),
    ]
    if executor is not None:
        topics.append(("cluster", lambda: _check_cluster(executor)))
    found: list[Remark] = []
    for topic, look in topics:
        found += _examine(topic, look)
        if topic == "settings" and found[-1].verdict == "problem":
            found.append(Remark("settings", "nothing else was checked: correct the settings first", "warning"))
            break
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=1))
    else:
        for each in found:
            click.echo(f"{_MARKS[each.verdict]} {each.topic:<10} {printable(each.text)}")
    if any(each.verdict == "problem" for each in found):
        context.exit(RUN_FAILED)


def _examine(topic: str, look: Callable[[], Iterator[Remark]]) -> list[Remark]:
    """Findings of a topic; an error of this library becomes a problem."""
    from anabranch.base.errors import AnabranchError

    found: list[Remark] = []
    try:
        found.extend(look())
    except AnabranchError as error:
        found.append(Remark(topic, str(error), "problem"))
    return found


def _check_versions() -> Iterator[Remark]:
    from importlib.metadata import PackageNotFoundError, version

    yield Remark("versions", f"Python {platform.python_version()} at {sys.executable}, {platform.platform()}")
    for name in PACKAGES:
        try:
            yield Remark("versions", f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Remark("versions", f"{name} is not installed; python -m pip install {name}", "problem")


def _check_settings() -> Iterator[Remark]:
    from anabranch.base.files import is_public
    from anabranch.base.settings import chosen, config, explain_unread
    from anabranch.base.texts import masked

    config.refresh()  # names every setting that cannot be
    if unread := explain_unread():
        yield Remark("settings", unread, "warning")
    yield Remark("settings", f"in order; backend = {_name_backend()}")
    yield from (Remark("settings", f"{name} = {masked(value)}") for name, value in chosen().items())
    if is_public(config.service.tls_key):
        yield Remark("settings", f"everybody can read service.tls_key; chmod o-r {config.service.tls_key}", "warning")


def _name_backend() -> str:
    from anabranch.base.settings import config
    from anabranch.base.texts import masked

    return masked(config.backend)


def _check_run_store() -> Iterator[Remark]:
    from anabranch.base.settings import config
    from anabranch.runs import default_path, open_store

    if config.backend == "none":
        yield Remark("run store", "runs are not recorded (backend: none), so none can be shown or resumed", "warning")
        return
    if config.backend == "local" and not default_path().exists():
        if _can_be_made(default_path().parent):
            yield Remark("run store", f"the first run will create {default_path()}")
        else:
            cure = "set ANABRANCH_HOME or runs.path to a place that you can write to"
            yield Remark(
                "run store", f"{default_path()} cannot be created, so runs cannot be recorded; {cure}", "problem"
            )
        return
    with open_store(read_only=True) as store:
        facts: dict[str, Any] = dict(store.describe())
        warning = facts.pop("warning", None)
        yield Remark("run store", ", ".join(f"{name} {value}" for name, value in facts.items()))
        if warning:
            yield Remark("run store", warning, "warning")
        complaints = store.check()
        yield from (Remark("run store", text, "problem") for text in complaints)
        if not complaints:
            yield Remark("run store", "the database's own check found no damage")
            yield from _check_stopped(store)
            yield from _check_registered(store)


def _check_stopped(store: RunStore) -> Iterator[Remark]:
    from anabranch.runs import RunQuery
    from anabranch.runs.store.records import INTERRUPTED

    stopped = store.list_runs(RunQuery(state=INTERRUPTED, limit=MAX_NAMED + 1))
    if stopped:
        names = _few([record.run_id for record in stopped])
        text = f"runs whose driver died: {names}; continue one with: anabranch resume RUN"
        yield Remark("run store", text, "warning")


def _check_registered(store: RunStore) -> Iterator[Remark]:
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
    yield Remark("flows", f"{len(flows):,} registered")
    if gone:
        text = f"registered from files that this machine does not have: {_few(gone)}; register them where they are"
        yield Remark("flows", text, "warning")


def _few(names: list[str]) -> str:
    return ", ".join(names[:MAX_NAMED]) + (", …" if len(names) > MAX_NAMED else "")


def _can_be_made(directory: Path) -> bool:
    """Whether a directory exists or can be created, and is writable."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)


def _check_results() -> Iterator[Remark]:
    from anabranch.results.local import LocalResult, LocalStore

    store = LocalResult().store
    assert isinstance(store, LocalStore)
    root = Path(store.root)
    if _can_be_made(root):
        yield Remark("results", f"values are stored in {root} unless a task or flow says otherwise")
    else:
        text = f"{root} is not writable; set ANABRANCH_HOME to a directory that is, or give tasks another result"
        yield Remark("results", text, "problem")


def _check_cluster(address: str) -> Iterator[Remark]:
    from anabranch.base.settings import config
    from anabranch.executors.connection import connect
    from anabranch.executors.fitness import Needs
    from anabranch.executors.preflight import check

    with connect(address, None, timeout_s=config.engine.connect_timeout_s) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        if not workers:
            yield Remark("cluster", f"{address} has no workers; start one: dask worker {address}", "problem")
            return
        threads = sum(worker["nthreads"] for worker in workers.values())
        yield Remark("cluster", f"{address} answers: {len(workers)} workers, {threads} threads")
        report = check(client, Needs())
    yield from (Remark("cluster", text, "problem") for text in report.problems)
    yield from (Remark("cluster", text, "warning") for text in report.warnings)
