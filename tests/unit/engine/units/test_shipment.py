"""What travels to workers, and the text that receives it there."""

from __future__ import annotations

import ast
import bz2
import functools
import importlib
import linecache
import pickle
import re
import subprocess
import sys
import textwrap
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import pytest
import yaml
from dask.tokenize import tokenize

from anabranch import Flow, Task, config, task
from anabranch.base import package_files
from anabranch.base.context import RunInfo
from anabranch.engine.driver.compiler import (
    compile_program,
    compile_units,
    handed_back,
    read_report,
    unfit_worker,
    wants_code,
)
from anabranch.engine.units import shipment as shipping
from anabranch.engine.units.shipment import archive_of, origin, own_modules, pack
from anabranch.engine.units.units import Program, Report, Unit
from anabranch.engine.worker.arrival import forget_program, load_program, opened_outcome
from anabranch.errors import CodeNotLoadable, UnsendableError, VersionMismatch
from anabranch.executors import entry, shelf
from anabranch.executors.entry import Parcel, Sourced
from anabranch.states import Failed, Pending

MODULE = """
    import threading

    LOCK = threading.Lock()

    class Row:
        def __init__(self, number):
            self.number = number

        def __eq__(self, other):
            return isinstance(other, Row) and self.number == other.number

    def parse(number):
        return Row(number)

    def with_lock(number):
        with LOCK:
            return number
"""


def program_of(function: Callable[..., Any], *args: Any) -> Program:
    """A program of one task."""
    with Flow("one") as flow:
        task(function, name="only")(*args)
    graph = flow.graph.freeze(flow._reference)
    info = RunInfo("one", "run", {}, datetime.now(UTC))
    return Program(info, graph.nodes, {}, config.snapshot()["engine"])


def add(number: int) -> int:
    return number + 1


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module of the user's."""
    (tmp_path / "mine_alone.py").write_text(textwrap.dedent(MODULE), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield importlib.import_module("mine_alone")
    del sys.modules["mine_alone"]


def run_without_us(code: str, **values: Any) -> str:
    """What code prints in an interpreter that can import dask and the like, and nothing of ours.

    The path is that of this process, without where this package is.
    """
    package = str(Path(shipping.__file__).parents[3])
    head = (
        "import pickle, sys\n"
        f"sys.path[:] = {[each for each in sys.path if each and each != package]!r}\n"
        "sys.meta_path[:] = [each for each in sys.meta_path if not hasattr(each, '__module__') or "
        "'editable' not in str(each.__module__)]\n"
        "values = pickle.loads(sys.stdin.buffer.read())\n"
    )
    command = [sys.executable, "-I", "-W", "ignore", "-c", head + textwrap.dedent(code)]
    outcome = subprocess.run(command, input=pickle.dumps(values), capture_output=True, timeout=60)
    assert outcome.returncode == 0, outcome.stderr.decode()
    return outcome.stdout.decode().strip()


# What Dask loads ------------------------------------------------------------------------------------------------------


def test_a_task_is_text_that_any_process_can_load():
    # Given a unit's task, as Dask pickles it
    unit = Unit(key=("one.only-run", 1), nodes=("only",))
    shipment = pack(program_of(add, 1), is_elsewhere=True, has_code=False)
    (region,) = compile_units([unit], "run", program=shipment, resources=lambda unit: {}, priority=lambda unit: 0)
    data = compile_program(shipment, "run")
    # When a process loads it that has nothing of ours
    printed = run_without_us(
        """
        tasks = pickle.loads(values["tasks"])
        again = pickle.loads(pickle.dumps(tasks))
        print([name for name in sys.modules if name.startswith("anabranch")], len(again))
        """,
        tasks=pickle.dumps((region.graph, data.graph), protocol=5),
    )
    # Then nothing else was needed.
    assert printed == "[] 2"


def test_dask_hashes_no_large_unit_before_it_is_sent():
    large = bytes(10_000_000)
    unit = Unit(key=("one.only-run", 1), nodes=("only",), slices={("only", "x"): [large]}, indices=range(1))
    shipment = pack(program_of(add, 1), is_elsewhere=False)
    (region,) = compile_units([unit], "run", program=shipment, resources=lambda unit: {}, priority=lambda unit: 0)
    tracemalloc.start()
    tokenize(region.graph)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    (sent,) = [each for each in region.graph[unit.key].args if isinstance(each, bytes) and len(each) > len(large)]
    arrived = pickle.loads(pickle.dumps(region.graph[unit.key], protocol=5))

    assert peak < 1_000_000
    assert [type(each) for each in arrived.args if each == sent] == [bytes]


def test_the_archive_is_all_that_a_worker_needs_of_us():
    shipment = pack(program_of(add, 1), is_elsewhere=True, has_code=False)
    printed = run_without_us(
        """
        enter = pickle.loads(values["enter"])
        unit = values["unit"]
        outcome = enter(("k", 1), values["outline"], "run", values["program"], unit, (), False)
        print(outcome.singles["only"].value, outcome.singles["only"].state.name)
        mine = [module for name, module in sys.modules.items() if name.partition(".")[0] == "anabranch"]
        print(len({module.__loader__ for module in mine}), sys.modules["anabranch"].__version__)
        print([name for name in ("pydantic", "networkx", "rich", "bokeh", "click") if name in sys.modules])
        """,
        enter=pickle.dumps(Sourced("enter", (shipment.origin, True))),
        unit=shipment.dumps(Unit(key=("k", 1), nodes=("only",))),
        outline=pickle.dumps((("only",), None)),
        program=shipment.content,
    )
    assert printed.splitlines() == ["2 Success", f"1 {origin()[1]}", "[]"]


def test_tracebacks_show_our_own_lines_from_the_archive():
    shipment = pack(program_of(add, 1), is_elsewhere=True, has_code=False)
    printed = run_without_us(
        """
        import traceback
        assert pickle.loads(values["probe"])(values["data"]) is None
        try:
            sys.modules["anabranch.engine.worker.arrival"].read_outline(b"")
        except EOFError:
            print(traceback.format_exc())
        """,
        probe=pickle.dumps(shipping.probe_call(shipment, "run")[0]),
        data=shipping.probe_call(shipment, "run")[1],
    )
    assert "anabranch/engine/worker/arrival.py" in printed
    assert "nodes, indices = pickle.loads(outline" in printed


def test_what_travels_is_our_code_line_by_line_without_docstrings_and_comments():
    def told(source: bytes) -> list[tuple[str, int]]:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                node.value.value = ""
        lines = [(type(node).__name__, node.lineno) for node in ast.walk(tree) if isinstance(node, ast.stmt)]
        return [(ast.dump(tree), source.count(b"\n")), *lines]

    with zipfile.ZipFile(BytesIO(bz2.decompress(archive_of()))) as archive:
        modules = {name: archive.read(name) for name in archive.namelist() if name.endswith(".py")}

    for name, source in modules.items():
        assert told(source) == told(package_files.read(name.removeprefix("anabranch/"))), name
    assert not re.search(rb"The part of this package|  # type: ignore|^ *#", b"".join(modules.values()), re.MULTILINE)


def test_settings_travel_as_they_are_without_comments():
    with zipfile.ZipFile(BytesIO(bz2.decompress(archive_of()))) as archive:
        sent = archive.read("anabranch/base/anabranch.yaml")
    assert yaml.safe_load(sent) == yaml.safe_load(package_files.read("base/anabranch.yaml"))
    assert not re.search(rb"^ *#", sent, re.MULTILINE)


def test_the_archive_is_small_and_the_same_each_time():
    first = archive_of()
    archive_of.cache_clear()
    assert archive_of() == first
    assert len(first) < 140_000
    with zipfile.ZipFile(BytesIO(bz2.decompress(first))) as archive:
        names = archive.namelist()
    assert "anabranch/engine/worker/arrival.py" in names
    them = {name for name in names if name.startswith(("anabranch/cli", "anabranch/executors"))}
    assert them == {f"anabranch/executors/{name}.py" for name in ("__init__", "entry", "shelf")}


def test_modules_of_ours_that_a_program_names_travel_too():
    from anabranch.definition import ready_made

    shipment = pack(program_of(ready_made._is_value, 1), is_elsewhere=True, has_code=False)
    assert shipment.archive is not None
    with zipfile.ZipFile(BytesIO(bz2.decompress(shipment.archive))) as archive:
        assert "anabranch/definition/ready_made.py" in archive.namelist()


# The user's modules ---------------------------------------------------------------------------------------------------


def test_own_modules_are_those_that_nobody_installed(mine: ModuleType):
    own = own_modules()
    assert own["mine_alone"] is mine
    assert not {"pytest", "dask", "json", "anabranch", "anabranch.flow", "__main__"} & own.keys()


def test_functions_of_own_modules_travel_by_value_and_nothing_stays_registered(mine: ModuleType):
    before = cloudpickle.list_registry_pickle_by_value()
    shipment = pack(program_of(mine.parse, 1), is_elsewhere=True)
    assert shipment.by_value == ("mine_alone",)
    assert [name for name, *_ in shipment.sources] == ["mine_alone"]
    assert cloudpickle.list_registry_pickle_by_value() == before
    parse = pickle.loads(shipment.program).nodes["only"].signature.function
    assert parse is not mine.parse
    assert parse(1) == mine.Row(1)


def test_elements_of_own_classes_travel_by_value_with_their_unit(mine: ModuleType):
    shipment = pack(program_of(mine.parse, 1), is_elsewhere=True)
    unit = Unit(key=("k", 1), nodes=("only",), indices=range(1), slices={("only", "x"): [mine.Row(3)]})
    data = shipment.dumps(unit)
    assert b"cloudpickle" in data
    assert pickle.loads(data).slices["only", "x"] == [mine.Row(3)]
    plain = Unit(key=("k", 1), nodes=("only",), indices=range(1), slices={("only", "x"): [3]})
    assert b"cloudpickle" not in shipment.dumps(plain)


def test_a_module_that_does_not_pickle_by_value_is_left_to_its_source(mine: ModuleType):
    shipment = pack(program_of(mine.with_lock, 1), is_elsewhere=True)
    assert shipment.by_value == ()
    assert [name for name, *_ in shipment.sources] == ["mine_alone"]


def test_workers_of_this_machine_import_own_modules_themselves(mine: ModuleType):
    shipment = pack(program_of(mine.parse, 1), is_elsewhere=False)
    assert (shipment.by_value, shipment.sources, shipment.archive, shipment.origin[2]) == ((), (), None, None)
    assert shipment.is_inline


def test_what_does_not_pickle_at_all_is_named():
    class Stubborn:
        def __reduce__(self) -> Any:
            raise TypeError("it stays")

    with pytest.raises(UnsendableError, match=r"argument 'number' of 'only'.*it stays"):
        pack(program_of(add, Stubborn()), is_elsewhere=True)


def of_a_script(source: str) -> Any:
    """The function `f` of a script, whose functions travel as code."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(source, space)
    return space["f"]


class Door:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class Shop(Task[[int], bool]):
    def __init__(self) -> None:
        super().__init__()
        self.door = threading.Lock()

    def run(self, x: int) -> bool:
        return bool(self.door)


LOCK = "import threading\n"


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (of_a_script(f"{LOCK}gate = threading.Lock()\ndef f(x): return gate"), "the global variable 'gate' of f(): "),
        (
            of_a_script(f"{LOCK}gate = [threading.Lock()]\ndef f(x): return [gate for _ in '']"),
            "the global variable 'gate' of f(): ",
        ),
        (
            of_a_script("import queue\nwaiting = queue.Queue()\ndef g(): return waiting\ndef f(x): return g()"),
            "the global variable 'g' of f(): the global variable 'waiting' of g(): the attribute 'mutex' of Queue: ",
        ),
        (
            of_a_script(f"{LOCK}def make(inner):\n def f(x): return inner\n return f\nf = make(threading.Lock())"),
            "the variable 'inner' around f(): ",
        ),
        (of_a_script(f"{LOCK}def f(x=threading.Lock()): return x"), "a default of f(): "),
        (
            of_a_script("journal = open('/dev/null')\ndef f(x): return journal"),
            "the global variable 'journal' of f(): ",
        ),
        (Shop().run, "the attribute 'door' of Shop: "),
        (functools.partial(isinstance, Door()), "the attribute 'lock' of Door: "),
    ],
)
def test_what_a_function_uses_and_cannot_be_sent_is_named(function: Any, words: str):
    with pytest.raises(UnsendableError) as refusal:
        pack(program_of(function, 1), is_elsewhere=True)
    assert words in str(refusal.value)


@pytest.mark.parametrize("mode", ["r", "w+", "a"])
def test_an_open_file_is_not_sent_as_a_copy(mode: str, tmp_path: Path):
    path = tmp_path / "journal.txt"
    path.write_text("so far")
    with path.open(mode) as file, pytest.raises(UnsendableError, match="an open file stays where it was opened"):
        pack(program_of(add, [file]), is_elsewhere=True)


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def token() -> Iterator[str]:
    """A run that this process forgets."""
    yield "run-of-a-test"
    entry.forget("run-of-a-test")


def test_another_python_is_refused_before_anything_is_loaded(token: str):
    refusal = entry.refused(((3, 8), *origin()[1:]), token, b"\x80not a pickle")
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert refusal == {
        "refused": f"the worker has Python {here}, the flow was sent by Python 3.8",
        "kind": "python",
    }


def test_the_same_code_needs_no_archive(token: str):
    assert entry.refused(origin(), token, b"") is None
    assert entry.look() == {"python": ".".join(map(str, origin()[0])), "anabranch": origin()[2]}


def test_other_code_that_is_imported_already_is_refused_with_both_versions(token: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules["anabranch"], "__digest__", origin()[2], raising=False)
    python, number, digest, home = origin()
    other = "0" * 64
    loaders = entry._shelf().loaders
    monkeypatch.setitem(loaders, other, shelf.load)
    refusal = entry.refused((python, number, other, home), token, b"")
    assert refusal is not None
    assert refusal["kind"] == "version"
    assert f"loaded anabranch {number} ({str(digest)[:8]})" in refusal["refused"]
    assert f"sent by anabranch {number} (00000000)" in refusal["refused"]


@pytest.mark.parametrize("indices", [None, range(3), (1, 5)])
def test_a_refusal_reads_as_the_failure_of_all_that_was_refused(indices: Any):
    refusal = {"kind": "version", "refused": "no", "key": ["k", 1], "outline": pickle.dumps((("a",), indices))}
    report = read_report(refusal)
    assert report.key == ("k", 1)
    states = [each.state for each in report.singles] if indices is None else list(report.columns[0].records.values())
    assert len(states) == (1 if indices is None else len(indices))
    assert all(isinstance(state, Failed) and state.failure.type_name == "VersionMismatch" for state in states)  # type: ignore[union-attr]
    outcome = opened_outcome(refusal)
    values = [each.value for each in outcome.singles.values()] if indices is None else outcome.columns["a"].values
    assert all(isinstance(value, VersionMismatch) for value in values)


def test_a_worker_that_only_wants_the_code_hands_its_unit_back():
    refusal = {"kind": "code", "refused": "no", "key": ("k", 1), "outline": pickle.dumps((("a",), range(4)))}
    assert wants_code(refusal)
    assert read_report(refusal) == Report(("k", 1), indices=())
    single = read_report({**refusal, "outline": pickle.dumps((("a", "b"), None))})
    assert [type(each.state) for each in single.singles] == [Pending, Pending]
    assert not wants_code(pickle.dumps(single))


def test_a_worker_that_will_never_do_is_told_from_one_that_lacks_the_code():
    refusal = {"refused": "no", "key": ("k", 1), "outline": pickle.dumps((("a",), range(4))), "worker": "tcp://w:1"}
    assert [unfit_worker({**refusal, "kind": kind}) for kind in ("python", "version", "code", "load")] == [
        "tcp://w:1",
        "tcp://w:1",
        None,
        None,
    ]
    assert unfit_worker(b"a report") is None
    assert read_report(handed_back({**refusal, "kind": "python"})) == Report(("k", 1), indices=())


# On a worker ----------------------------------------------------------------------------------------------------------


def test_an_outcome_that_comes_before_the_code_can_go_on_and_is_opened_later():
    # Given an outcome in a process without our code
    parcel = Parcel(100, pickle.dumps(({}, {}, {}, None)), [memoryview(b"abc")], b"report")
    assert parcel.__sizeof__() == 612
    # When it goes to one that has it
    there = pickle.loads(pickle.dumps(parcel))
    # Then it is still closed, and is opened once.
    assert (there.nbytes, there.report) == (100, b"report")
    assert opened_outcome(there).singles == {}
    assert opened_outcome(there) is opened_outcome(there)


def test_only_what_is_missing_is_missing_from_a_program():
    program = program_of(add, 1)
    node = program.nodes["only"]
    sys.modules["gone_soon"] = gone = ModuleType("gone_soon")
    exec("def there(number):\n    return number", gone.__dict__)
    bad = replace(node, slug="bad", signature=replace(node.signature, function=gone.there))
    data = cloudpickle.dumps(replace(program, nodes={"only": node, "bad": bad}))
    del sys.modules["gone_soon"]
    try:
        loaded = load_program("lenient", data)
    finally:
        forget_program("lenient")
    assert loaded.nodes["only"].signature.function(1) == 2
    with pytest.raises(CodeNotLoadable, match="No module named 'gone_soon'"):
        loaded.nodes["bad"].signature.function(1)


def test_sources_of_two_runs_that_differ_are_never_mixed_up(monkeypatch: pytest.MonkeyPatch):
    def source(factor: int) -> tuple[tuple[str, bool, str, str], ...]:
        return (("two_runs_have_it", False, "two_runs_have_it.py", f"FACTOR = {factor}\n"),)

    monkeypatch.setattr(sys, "meta_path", sys.meta_path[:])
    tokens = ("run-of-one", "run-of-two")
    try:
        # Given a run that has not imported its module, and another with another one of that name
        assert entry.refused(origin(), tokens[0], (None, source(1), b"")) is None
        assert entry.refused(origin(), tokens[1], (None, source(2), b"")) is None
        # When either imports it, it is not given that of the other.
        with pytest.raises(ImportError, match="different modules 'two_runs_have_it'"):
            importlib.import_module("two_runs_have_it")
        # When one has ended, the next is given its own.
        for token in tokens:
            entry.forget(token)
        assert entry.refused(origin(), tokens[0], (None, source(3), b"")) is None
        assert importlib.import_module("two_runs_have_it").FACTOR == 3
        # Now one that differs has to wait.
        refusal = entry.refused(origin(), tokens[1], (None, source(4), b""))
        assert refusal is not None
        assert "another run on this worker has another module 'two_runs_have_it'" in refusal["refused"]
    finally:
        for token in tokens:
            entry.forget(token)
    assert "two_runs_have_it" not in sys.modules


def test_lines_of_the_users_modules_are_shown_while_a_run_has_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    # Given a file that has changed since it was sent, with a form feed, which ends no line
    file = tmp_path / "two_runs_share_it.py"
    file.write_text("# new\n", encoding="utf-8")
    sources = (("two_runs_share_it", False, str(file), "A = 1\x0c\nB = 2\n"),)
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[:])
    tokens = ("run-of-one", "run-of-two")
    try:
        for token in tokens:
            assert entry.refused(origin(), token, (None, sources, b"")) is None
        assert linecache.getlines(str(file)) == ["A = 1\x0c\n", "B = 2\n"]
        # When one of two runs ends, the other's lines are still shown; when both have, what is in the file.
        entry.forget(tokens[0])
        assert linecache.getline(str(file), 2) == "B = 2\n"
        entry.forget(tokens[1])
        assert linecache.getlines(str(file)) == ["# new\n"]
    finally:
        for token in tokens:
            entry.forget(token)
