"""Registered flows that tasks of other runs ask for, in runs of a service, one process after another."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from anabranch import config
from anabranch.cli import anabranch
from anabranch.flows import requested
from anabranch.flows.registered import register_target
from anabranch.monitoring.pages.library import RecordedSource
from anabranch.runs import RunQuery
from anabranch.runs.read.run import read_run
from anabranch.runs.registry.ending import cancel
from anabranch.runs.registry.registration import read_clock, registry
from anabranch.runs.store.slots import Slot
from anabranch.service.work import one_run
from anabranch.service.work.messages import Job

FILE = """
from pathlib import Path
from anabranch import Flow, Parameter, task
from anabranch.tasks import run_flow
from anabranch.triggers import all_finished

@task
def work(n):
    with open("ran", "a") as file:
        file.write(f"{n}\\n")
    if Path("broken").exists():
        raise ValueError("so it is")

@task
def note(run_id):
    Path("noted").write_text(run_id)

with Flow("child") as child:
    work(Parameter("n"))
with Flow("parent") as parent:
    note(run_flow("child", parameters={"n": 1}))
with Flow("many") as many:
    run_flow.map(["child", "child", "child"], [{"n": n} for n in range(3)])
with Flow("asks") as asks:
    note(run_flow("child", {"n": 1}, wait=False))
with Flow("alone") as alone:
    run_flow("child", {"n": 1}, cancel=False)
with Flow("grand") as grand:
    run_flow("parent")
with Flow("wrong") as wrong:
    run_flow("child", {"m": 1})
with Flow("odd") as odd:
    run_flow("child", {"n": {1}})

@task
def size():
    if not Path("mended").exists():
        raise ValueError("no size yet")
    return 7

@task(trigger=all_finished)
def parameters(size):
    return {"n": 0 if isinstance(size, Exception) else size}

with Flow("tolerant") as tolerant:
    n = size()
    note(run_flow("child", parameters(n)))
tolerant.set_reference_tasks([n])
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(requested, "SOON_S", 0.0)
    monkeypatch.setattr(requested, "LEAST_S", 0.6)
    monkeypatch.setattr(one_run, "REST_S", 0.1)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with config.set({"backend": f"sqlite:///{tmp_path}/runs.db"}):
        Path("family.py").write_text(FILE)
        register_target("family.py")
        yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def ask(name: str) -> str:
    store, _, queue = registry()
    now = read_clock(store)
    queue.add([Slot(f"a-{name}", name, now)], now=now)
    return f"a-{name}"


def step(name: str | None = None) -> str:
    """Let the next run that may have the only place have it, for as long as it wants; its flow."""
    store, _, queue = registry()
    (claimed,) = queue.claim("me:1", 1, now=read_clock(store) + timedelta(minutes=1), lease_s=90)
    one_run.run_job(Job(claimed.run_id, claimed.token))
    assert name in (None, claimed.flow_name)
    return claimed.flow_name


def states() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for slot in registry()[2].all():
        found.setdefault(slot.flow_name, []).append(slot.state)
    return found


def part_of(run_id: str) -> Slot:
    (slot,) = [each for each in registry()[2].all() if each.parent == run_id]
    return slot


def ran() -> list[str]:
    return Path("ran").read_text().split() if Path("ran").exists() else []


def test_a_run_holds_no_place_while_it_waits_for_one_that_it_has_asked_for():
    run_id = ask("parent")
    step("parent")
    assert states() == {"parent": ["Waiting"], "child": ["Waiting"]}
    child = part_of(run_id)
    assert child.origin == "flow"
    waits = registry()[0].task_runs(run_id)
    text = f"waits for run {child.run_id} of flow 'child', which waits to begin or to go on"
    assert any(text in each.message for each in waits)
    explained = CliRunner().invoke(anabranch, ["explain", run_id, "run_flow"]).stdout
    assert text in explained
    while any("Waiting" in each for each in states().values()):
        step()
    assert states() == {"parent": ["Success"], "child": ["Success"]}
    assert (ran(), Path("noted").read_text()) == (["1"], child.run_id)
    store = registry()[0]
    assert store.get_run(child.run_id).parent_run_id == run_id
    assert [each.run_id for each in read_run(store, run_id).parts] == [child.run_id]
    shown = CliRunner().invoke(anabranch, ["show", run_id]).stdout
    assert f"{child.run_id}  Success      child" in shown
    assert (f"run?id={child.run_id}", f"child: {child.run_id}") in RecordedSource(store, run_id).links()
    assert (f"run?id={run_id}", f"part of run {run_id}") in RecordedSource(store, child.run_id).links()


def test_whatever_tries_there_are_it_is_one_run():
    ask("parent")
    for _ in range(3):
        step("parent")  # the child has to wait: it came later
        assert states() == {"parent": ["Waiting"], "child": ["Waiting"]}
        child = part_of("a-parent")
        registry()[0].database.write(
            lambda transaction: transaction.execute("UPDATE anabranch_slots SET ready = 0 WHERE flow_name = 'parent'")
        )
    registry()[2].cancel(child.run_id, now=read_clock(registry()[0]))
    while "Waiting" in states()["parent"]:
        step("parent")
    assert states() == {"parent": ["Failed"], "child": ["Cancelled"]}


def test_each_element_of_a_map_has_its_run():
    ask("many")
    while any("Waiting" in each for each in states().values()):
        step()
    assert states() == {"many": ["Success"], "child": ["Success"] * 3}
    assert sorted(ran()) == ["0", "1", "2"]


def test_a_run_that_is_not_waited_for_is_only_asked_for():
    ask("asks")
    step("asks")
    assert states() == {"asks": ["Success"], "child": ["Waiting"]}
    assert Path("noted").read_text() == part_of("a-asks").run_id


def test_a_failure_is_the_tasks_and_a_resumed_run_has_its_part_go_on():
    Path("broken").touch()
    run_id = ask("parent")
    while any("Waiting" in each for each in states().values()):
        step()
    assert states() == {"parent": ["Failed"], "child": ["Failed"]}
    child = part_of(run_id)
    store, _, queue = registry()
    message = store.get_run(run_id).message
    assert f"flow 'child', run {child.run_id}: Failed: " in message
    assert "so it is" in message
    Path("broken").unlink()
    assert queue.again(Slot(run_id, "parent", read_clock(store), origin="resume"), now=read_clock(store))
    while any("Waiting" in each for each in states().values()):
        step()
    assert states() == {"parent": ["Success"], "child": ["Success"]}
    assert ran() == ["1", "1"]
    assert Path("noted").read_text() == child.run_id


def test_a_resumed_run_that_asks_with_other_parameters_has_another_part():
    run_id = ask("tolerant")
    while any("Waiting" in each for each in states().values()):
        step()
    assert states() == {"tolerant": ["Failed"], "child": ["Success"]}
    first = part_of(run_id).run_id
    Path("mended").touch()
    store, _, queue = registry()
    assert queue.again(Slot(run_id, "tolerant", read_clock(store), origin="resume"), now=read_clock(store))
    while any("Waiting" in each for each in states().values()):
        step()
    assert states() == {"tolerant": ["Success"], "child": ["Success", "Success"]}
    assert ran() == ["0", "7"]
    assert Path("noted").read_text() != first


@pytest.mark.parametrize(("name", "state"), [("parent", "Cancelled"), ("alone", "Waiting")])
def test_a_run_is_cancelled_with_the_one_that_has_asked_for_it_unless_that_is_not_wanted(name: str, state: str):
    run_id = ask(name)
    step(name)
    store, _, queue = registry()
    cancel(store, queue, run_id, by="ann")
    assert states() == {name: ["Cancelled"], "child": [state]}
    if state == "Cancelled":
        assert part_of(run_id).message == f"cancelled by run {run_id}, which was cancelled before it began"


def test_runs_below_such_runs_are_cancelled_too():
    ask("grand")
    step("grand")
    while "child" not in states():
        step()
    store, _, queue = registry()
    cancel(store, queue, "a-grand")
    assert states() == {"grand": ["Cancelled"], "parent": ["Cancelled"], "child": ["Cancelled"]}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong", "the parameters do not fit flow 'child': there is no parameter 'm'; n: a value is required"),
        ("odd", "the parameters do not fit flow 'child': a set cannot be kept until the run"),
    ],
)
def test_parameters_that_do_not_fit_are_a_failure(name: str, message: str):
    run_id = ask(name)
    step(name)
    assert states() == {name: ["Failed"]}
    assert message in registry()[0].get_run(run_id).message


def test_a_run_by_hand_drives_its_part_itself():
    from anabranch.flows.registered import load_registered

    flow = load_registered(registry()[1].get("parent")).flow
    view = flow.run()
    assert view.is_successful()
    assert states() == {}
    assert ran() == ["1"]
    (child,) = registry()[0].list_runs(RunQuery(part_of=view.run_id))
    assert Path("noted").read_text() == child.run_id
