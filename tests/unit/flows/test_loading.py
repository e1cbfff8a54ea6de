"""Flows from files and modules."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import cloudpickle
import pytest

from anabranch import Flow
from anabranch.errors import DefinitionError, FlowLoadError
from anabranch.flows.loading import load_flow, shipped_by_value, split_target

FLOW = "from anabranch import *\nwith Flow('etl') as flow:\n    Parameter('x', default=1)\n"


@pytest.fixture(autouse=True)
def _own_imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test in a directory of its own."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path.absolute()


def complaint(target: str) -> str:
    with pytest.raises(FlowLoadError) as caught:
        load_flow(target)
    return str(caught.value)


# Targets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "place", "name", "is_file"),
    [
        ("etl.py", "etl.py", "", True),
        ("etl.py:daily", "etl.py", "daily", True),
        ("sub/etl.py:a.b", "sub/etl.py", "a.b", True),
        ("pkg.flows:daily", "pkg.flows", "daily", False),
        ("pkg.flows", "pkg.flows", "", False),
        ("flows/etl", "flows/etl", "", True),
        ("C:\\flows\\etl.py", "C:\\flows\\etl.py", "", True),
        ("C:\\flows\\etl.py:daily", "C:\\flows\\etl.py", "daily", True),
    ],
)
def test_a_target_is_a_file_or_a_module_and_perhaps_a_name(target: str, place: str, name: str, is_file: bool) -> None:
    assert split_target(target) == (place, name, is_file)


def test_a_file_may_have_a_colon_in_its_name() -> None:
    write("a:b.py", FLOW)
    assert load_flow("a:b.py").flow.name == "etl"


# Loading --------------------------------------------------------------------------------------------------------------


def test_a_file_is_loaded_under_its_own_name_with_its_directory_first() -> None:
    path = write("sub/daily.py", f"import helper\n{FLOW}GUARD = __name__\n")
    write("sub/helper.py", "")

    loaded = load_flow("sub/daily.py")

    assert loaded.flow.name == "etl"
    assert loaded.module.GUARD == "daily"
    assert sys.modules["daily"] is loaded.module
    assert sys.path[0] == str(path.parent) == str(loaded.directory)


def test_a_file_that_has_changed_is_read_again() -> None:
    for name in ("first", "other"):  # of one length, and within the second that cached byte code would be good for
        write("etl.py", FLOW.replace("etl", name))
        assert load_flow("etl.py").flow.name == name


def test_a_file_named_like_a_module_of_others_does_not_take_its_place() -> None:
    write("json.py", FLOW)
    write("click.py", FLOW)
    import click

    assert load_flow("json.py").module.__name__ == "flow_json"
    assert load_flow("click.py").module.__name__ == "flow_click"
    assert hasattr(sys.modules["json"], "dumps")
    assert sys.modules["click"] is click


def test_a_module_is_found_from_the_current_directory() -> None:
    write("pkg/__init__.py", "")
    write("pkg/flows.py", FLOW)

    loaded = load_flow("pkg.flows:flow")

    assert loaded.flow.name == "etl"
    assert sys.modules["pkg"].flows is sys.modules["pkg.flows"]
    assert not loaded.is_file


@pytest.mark.parametrize("target", ["words.py", "words", "words:flow"])
def test_what_a_script_does_after_its_flow_is_not_done(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("words.py", f"{FLOW}state = flow.run()\nprint('done', state)\n")

    loaded = load_flow(target)

    assert loaded.flow.name == "etl"
    assert (loaded.stopped.line if loaded.stopped else None) == 4
    assert capsys.readouterr().out == ""
    assert Flow.run.__qualname__ == "Flow.run"
    assert loaded.flow.run().is_successful()


# Refusals -------------------------------------------------------------------------------------------------------------


def test_no_such_file_or_module() -> None:
    write("daily.py", FLOW)
    assert complaint("dayly.py") == "there is no file dayly.py; did you mean 'daily.py'?"
    assert complaint("sub/x.py") == "there is no file sub/x.py"
    assert complaint("no.such") == f"there is no module 'no.such', seen from {Path.cwd()}"
    assert complaint("dayly").endswith("; for a file, say dayly.py")
    assert complaint(".") == ". is a directory; name the file that has the flow"
    assert complaint("") == "expected a file such as etl.py, or a module; found ''"
    assert complaint("\0").startswith("there is no file")


def test_an_error_in_the_file_is_told_with_the_users_own_line_and_no_other() -> None:
    path = write("etl.py", "import json\n\ndef read():\n    return json.loads('{')\n\nCONFIG = read()\n")

    text = complaint("etl.py")

    assert text.startswith("etl.py cannot be loaded: JSONDecodeError: Expecting property name")
    assert text.splitlines()[1:] == [f"  {path}:4 in read", "    return json.loads('{')"]


def test_a_missing_import_is_told_with_its_line() -> None:
    path = write("etl.py", "x = 1\nimport no_such_thing\n")
    expected = f"No module named 'no_such_thing'\n  {path}:2 in <module>\n    import no_such_thing"
    assert complaint("etl.py") == f"etl.py cannot be loaded: ModuleNotFoundError: {expected}"

    write("pkg/__init__.py", "import no_such_thing\n")
    write("pkg/flows.py", FLOW)
    assert "No module named 'no_such_thing'" in complaint("pkg.flows")


def test_a_syntax_error_is_told_with_the_place() -> None:
    path = write("etl.py", "x = 1\n    y = (\n")
    text = complaint("etl.py")
    assert text.startswith("etl.py cannot be loaded: IndentationError: unexpected indent")
    assert f"{path}:2\n    y = (" in text


def test_null_bytes_and_unknown_encodings_are_syntax_errors() -> None:
    Path("nul.py").write_bytes(b"x = 1\0\n")
    Path("enc.py").write_bytes(b"# coding: no-such\n")
    assert "nul.py cannot be loaded: " in complaint("nul.py")
    assert "enc.py cannot be loaded: SyntaxError: unknown encoding" in complaint("enc.py")


def test_a_file_that_ends_the_program_is_told_to_guard_that() -> None:
    write("etl.py", "import sys\nsys.exit(0)\n")
    assert complaint("etl.py").startswith(
        'etl.py ends the program while it is loaded, with exit(0); put that under `if __name__ == "__main__":`'
    )


def test_what_is_wrong_with_a_flow_keeps_its_own_message() -> None:
    write("etl.py", "from anabranch import *\nFlow('')\n")
    with pytest.raises(DefinitionError, match="flow name"):
        load_flow("etl.py")


def test_a_file_that_fails_leaves_nothing_behind() -> None:
    write("etl.py", "1 / 0\n")
    complaint("etl.py")
    assert "etl" not in sys.modules


# Which flow -----------------------------------------------------------------------------------------------------------

TWO = "from anabranch import *\nwith Flow('a') as one: Parameter('x')\nwith Flow('b') as two: Parameter('x')\n"


def test_several_flows_are_listed() -> None:
    write("etl.py", TWO)
    assert complaint("etl.py") == "etl.py has 2 flows; say which: etl.py:one, etl.py:two"
    assert complaint("etl.py:tow") == "etl.py has no flow 'tow'; it has: 'one', 'two'; did you mean 'two'?"
    assert load_flow("etl.py:two").flow.name == "b"
    assert load_flow("etl.py:b").flow.name == "b"


def test_no_flow() -> None:
    write("etl.py", "x = 1\n")
    assert complaint("etl.py").startswith("etl.py has no flow among its variables")
    assert complaint("etl.py:x") == "etl.py:x is an int, not a flow; etl.py has: none"


def test_a_second_name_a_group_and_an_imported_flow_do_not_make_it_ambiguous() -> None:
    write("other.py", FLOW)
    write(
        "etl.py",
        "from anabranch import *\nfrom other import flow as imported\n"
        "@task\ndef f(): return 1\n"
        "with Flow('outer') as outer:\n    with Flow('inner') as inner:\n        a = f()\n    a + 1\n"
        "again = outer\n",
    )
    assert load_flow("etl.py").flow.name == "outer"


def test_an_imported_flow_will_do_if_there_is_no_other() -> None:
    write("other.py", FLOW)
    write("etl.py", "from other import flow\n")
    assert load_flow("etl.py").flow.name == "etl"


# By value -------------------------------------------------------------------------------------------------------------

PROJECT = """
import helper
from anabranch import *

class Record:
    pass

@task
def make(): return helper.double(2)

with Flow("etl") as flow:
    make()
"""


def test_code_of_the_file_travels_and_that_of_its_neighbours_only_to_workers_elsewhere() -> None:
    write("helper.py", "def double(x): return 2 * x\n")
    write("etl.py", PROJECT)
    loaded = load_flow("etl.py")

    with shipped_by_value(loaded, with_neighbours=False) as names:
        assert names == ("etl",)
        assert b"helper" in cloudpickle.dumps(loaded.module.make.function)
    with shipped_by_value(loaded, with_neighbours=True) as names:
        assert sorted(names) == ["etl", "helper"]
        data = cloudpickle.dumps((loaded.module.make.function, loaded.module.Record))
    assert cloudpickle.list_registry_pickle_by_value() == set()

    for name in ("etl", "helper"):
        del sys.modules[name]
    sys.path.remove(str(Path.cwd()))
    make, record = pickle.loads(data)
    assert make() == 4
    assert isinstance(record(), loaded.module.Record)


def test_modules_of_others_that_lie_below_the_file_do_not_travel() -> None:
    write("venv/lib/python3/site-packages/lib_of_others.py", "")
    write("etl.py", f"import sys\nsys.path.append('venv/lib/python3/site-packages')\nimport lib_of_others\n{FLOW}")
    loaded = load_flow("etl.py")
    with shipped_by_value(loaded, with_neighbours=True) as names:
        assert names == ("etl",)


def test_a_module_that_is_installed_does_not_travel() -> None:
    loaded = load_flow("anabranch.demo.corpus")
    with shipped_by_value(loaded, with_neighbours=True) as names:
        assert names == ()


def test_a_file_of_prefect_1_is_told_how_to_be_run():
    write("etl.py", "import prefect.nothing_of_the_kind\n")
    text = complaint("etl.py")
    assert "it is written for Prefect 1: use `anabranch run --prefect`, or set ANABRANCH_PREFECT=1" in text
    assert "written for Prefect" not in complaint(str(write("other.py", "import prefects\n")))


def test_a_run_that_begins_in_another_thread_while_a_file_is_loaded_is_a_run():
    write(
        "etl.py",
        f"""{FLOW}
import threading
thread = threading.Thread(target=lambda: seen.append(flow.run().name))
seen = []
thread.start()
thread.join()
""",
    )
    loaded = load_flow("etl.py")
    assert (loaded.module.seen, loaded.stopped) == (["Success"], None)
