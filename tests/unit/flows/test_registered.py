"""Flows in the registry: all that a file makes, each once, and loaded back as a service will load it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from anabranch import config
from anabranch.cli import anabranch
from anabranch.errors import FlowLoadError, FlowNotRegistered, RegistryError, SealError, UnregistrableFlow
from anabranch.flows.kept_files import are_in_use, pack_files
from anabranch.flows.loading import load_flow
from anabranch.flows.registered import _names_own, flows_gone, load_registered, register_target
from anabranch.runs.registry.registration import registry
from anabranch.runs.store.flows import FlowRecord

HEAD = """
from anabranch import Flow, task

@task
def load(region):
    return region

def make(region):
    with Flow(f"load-{region}") as made:
        load(region)
    return made

"""
ONE = """
from anabranch import Flow, task
go = task(lambda: {value}, name="go")
with Flow("{name}") as {variable}:
    go()
"""
NAMES = ["load-north", "load-south"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    with config.set({"backend": f"sqlite:///{tmp_path}/runs.db"}):
        yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def one(name: str = "daily", variable: str = "flow", value: object = 1) -> str:
    return ONE.format(name=name, variable=variable, value=value)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(anabranch, list(arguments), prog_name="anabranch")


def names() -> list[str]:
    return sorted(registry()[1].names())


# What a file makes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        'for region in ("north", "south"):\n    with Flow(f"load-{region}") as flow:\n        load(region)\n',
        'for region in ("north", "south"):\n    make(region)\n',
        'flows = [make(region) for region in ("north", "south")]\n',
        'flows = {region: (make(region),) for region in ("north", "south")}\n',
        'flow = make("north")\nothers = {make("south")}\nagain = [flow, *others]\ntwice = [again, again]\n',
        'globals().update({region: make(region) for region in ("north", "south")})\n',
        'import helper\nflow = make("north")\nothers = [helper.make("south")]\n',
        'base = make("north")\nsouth = base.copy("load-south")\n',
        'made = make("north").copy()\nsouth = make("south")\n',  # a step on the way is no flow of its own
        'from helper import theirs\nboth = [make(region) for region in ("north", "south")]\n',
    ],
)
def test_all_flows_that_a_file_has_made_are_registered_and_load_back(body: str):
    write("helper.py", f'{HEAD}theirs = make("west")\n')
    write("etl.py", HEAD + body)
    records = register_target("etl.py")
    assert sorted(each.name for each in records) == names() == NAMES
    assert sorted(load_registered(each).flow.name for each in records) == NAMES


def test_what_is_run_of_a_file_with_one_variable_is_that():
    write("etl.py", f'{HEAD}flow = make("north")\nothers = [make("south")]\n')
    assert load_flow("etl.py").flow.name == "load-north"
    assert load_flow("etl.py:load-south").flow.name == "load-south"


def test_a_name_with_a_slash_or_a_colon_loads_back():
    write("etl.py", f'{HEAD}flows = [make("a/b"), make("c:d")]\n')
    assert [load_registered(each).flow.name for each in register_target("etl.py")] == ["load-a/b", "load-c:d"]


def test_loading_a_file_that_registers_its_flows_registers_nothing():
    write("etl.py", one() + 'version = flow.register("project").version\n' + one("other", "other"))
    assert load_flow("etl.py:other").flow.name == "other"
    assert names() == []


@pytest.mark.parametrize("second", ["flow", "other"])
def test_two_flows_of_one_name_in_a_file_are_refused(second: str):
    write("etl.py", one() + one(variable=second))
    with pytest.raises(FlowLoadError, match=r"etl.py has two flows of the name 'daily': \S*:\d+ and \S*:\d+; give"):
        register_target("etl.py")
    assert names() == []


def test_a_name_of_another_file_is_replaced_only_if_that_is_asked_for():
    write("sales.py", one(value=1))
    write("stock.py", one(value=2))
    register_target("sales.py", project="sales")
    with pytest.raises(RegistryError, match=r"is registered from \S*sales.py \(project 'sales'\), and this"):
        register_target("stock.py", project="stock")
    assert registry()[1].get("daily").project == "sales"
    assert register_target("stock.py", replaces=True)[0].version == 2
    assert invoke("register", "sales.py").exit_code == 1
    assert invoke("register", "sales.py", "--replace").exit_code == 0


def test_a_file_that_has_moved_keeps_its_flows_and_one_project_takes_none_of_another():
    register_target(str(write("old.py", one())))
    assert register_target(str(Path("old.py").rename("new.py")))[0].version == 1
    flow = load_flow("new.py").flow
    flow.register("sales", storage="database", replace=True)
    with pytest.raises(RegistryError, match=r"registered from a pickle \(project 'sales'\)"):
        flow.register("stock", storage="database")


def test_another_flow_under_the_variable_of_one_is_not_taken_for_it():
    write("etl.py", one("old"))
    (record,) = register_target("etl.py")
    write("etl.py", one("new"))
    with pytest.raises(FlowLoadError, match="that is flow 'new' now; register it again"):
        load_registered(record)
    write("etl.py", one("new") + one("old", "other"))
    assert load_registered(record).flow.name == "old"


# Loading back ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["from .rates import RATE", "from shop.rates import RATE", "from . import rates"])
@pytest.mark.parametrize("target", ["shop/flows.py", "shop.flows", "shop/flows.py:flow"])
def test_a_flow_of_a_package_loads_from_everywhere(line: str, target: str, monkeypatch: pytest.MonkeyPatch):
    write("shop/__init__.py", "")
    write("shop/rates.py", "RATE = 2\n")
    write("shop/flows.py", f"{line}\n{one()}")
    (record,) = register_target(target)
    elsewhere = Path("elsewhere")
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "anabranch", "run", "daily"],
        env={**os.environ, "ANABRANCH__BACKEND": str(config.backend)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert record.source.endswith("shop/flows.py:flow")


def test_what_is_wrong_with_a_package_is_told_if_the_flow_needs_it():
    write("shop/__init__.py", "1 / 0\n")
    write("shop/flows.py", one())
    assert load_flow("shop/flows.py").module.__name__ == "flows"
    write("shop/flows.py", f"from .rates import RATE\n{one()}")
    with pytest.raises(FlowLoadError, match="ZeroDivisionError"):
        load_flow("shop/flows.py")


def test_a_module_that_is_only_found_from_here_is_refused():
    write("shop/rates.py", "RATE = 2\n")
    write("shop/flows.py", f"from .rates import RATE\n{one()}")  # and there is no __init__.py
    with pytest.raises(UnregistrableFlow, match=r"cannot be registered, as it does not load back") as told:
        register_target("shop.flows")
    assert "attempted relative import" in told.value.problems[0]
    assert names() == []


def test_code_that_ends_the_process_that_loads_it_is_refused():
    write("ending/flows.py", f"import os\nif os.getcwd() == os.sep:\n    os._exit(7)\n{one()}")
    with pytest.raises(UnregistrableFlow, match="the process that loads it ended with 7"):
        register_target("ending.flows")


@pytest.mark.parametrize(
    ("script", "is_pickled"),
    [
        (one() + 'if __name__ == "__main__":\n    flow.register()\n', False),
        ("import limits\n" + one(value="limits.LIMIT") + 'if __name__ == "__main__":\n    flow.register()\n', False),
        ("import limits\n" + one(value="limits.LIMIT") + 'flow.register(storage="database")\n', True),
        ('if __name__ == "__main__":\n' + one().replace("\n", "\n    ") + "\n    flow.register()\n", True),
        ("def main():\n" + one().replace("\n", "\n    ") + "\n    flow.register()\nmain()\n", False),
        ("import limits\nfrom lib.made import flow\nflow.register()\n", True),
    ],
    ids=["module", "neighbour", "stored", "guarded", "in a function", "of a library beside it"],
)
def test_flows_of_a_script_load_back_in_a_process_elsewhere(home: Path, script: str, is_pickled: bool):
    write("limits.py", "LIMIT = 7\n")
    write("lib/made.py", "import limits\n" + one(value="limits.LIMIT"))
    path = write("script.py", script).resolve()
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "ANABRANCH__BACKEND": str(config.backend)}
    for command in ([str(path)], ["-P", "-m", "anabranch", "run", "daily"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert (registry()[1].get("daily").source == "") == is_pickled


def test_only_a_pickle_that_names_a_module_of_the_users_is_loaded_to_see_whether_it_loads():
    assert _names_own(pickle.dumps(["json", __name__]))
    assert not _names_own(pickle.dumps(["json", "pytest", "anabranch.flows.flow", "__main__", "no such module"]))
    assert not _names_own(b"")


# What is gone ---------------------------------------------------------------------------------------------------------


def test_what_is_no_longer_in_its_file_is_told_and_can_be_taken_out():
    write("etl.py", one("old", "first") + one("kept", "second"))
    register_target("etl.py")
    write("etl.py", one("new", "first") + one("kept", "second"))
    assert [each.name for each in flows_gone(register_target("etl.py"))] == ["old"]
    done = invoke("register", "etl.py")
    assert done.stderr == "old: no longer in etl.py, and still registered from there; " + (
        "if nobody needs it: anabranch unregister old\n"
    )
    assert invoke("register", "etl.py:first").stderr == ""
    assert invoke("unregister", "old", "kept").stdout == "old: no longer registered\nkept: no longer registered\n"
    assert names() == ["new"]
    assert invoke("unregister", "old").exit_code != 0
    with pytest.raises(FlowNotRegistered):
        registry()[1].get("old")


def test_a_file_that_is_gone_is_told_of_in_the_list_of_flows():
    path = write("etl.py", one()).resolve()
    register_target("etl.py")
    path.unlink()
    assert f"its file is gone: {str(path)[:40]}" in invoke("flows").stdout


# What is registered is what runs -------------------------------------------------------------------------------------


@pytest.fixture
def reloads() -> Iterator[None]:
    """As in the processes of a service that registers again what changes."""
    with config.set({"service.reload": True}):
        yield


def value_of(record: FlowRecord) -> object:
    """What the flow gives in a process that has loaded nothing of it yet."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("etl", "rates", "shop")]:
        del sys.modules[name]
    flow = load_registered(record).flow
    return flow.run()[flow.tasks[0].slug].result


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("etl.py", "this is half of a fi"),
        ("etl.py", "raise OSError('not now')"),
        ("etl.py", ""),
        ("etl.py", "import rates\n" + one(value=100)),
        ("rates.py", "RATE = 100"),
        ("rates.py", "RATE = "),
        ("rates.py", None),
    ],
)
@pytest.mark.usefixtures("reloads")
def test_a_flow_runs_as_it_was_registered_whatever_its_files_say_by_now(
    name: str, text: str | None, caplog: pytest.LogCaptureFixture
):
    write("rates.py", "RATE = 1")
    write("etl.py", "import rates\n" + one(value="rates.RATE"))
    register_target("etl.py")
    record = registry()[1].get("daily")
    assert value_of(record) == 1
    assert not are_in_use()
    if text is None:
        Path(name).unlink()
    else:
        write(name, text)
    assert value_of(record) == 1
    assert are_in_use()
    place = Path("etl.py").resolve()
    assert caplog.messages[-1] == (
        f"{place}, or a file beside it, has changed since flow 'daily' was registered: version 1 runs, as it was then"
    )
    write("rates.py", "RATE = 2")
    write("etl.py", "import rates\n" + one(value="rates.RATE"))
    del sys.modules["rates"]
    register_target("etl.py")
    assert value_of(registry()[1].get("daily")) == 2


@pytest.mark.usefixtures("reloads")
def test_a_flow_of_a_package_runs_as_it_was_registered():
    write("shop/__init__.py", "NUMBER = 1")
    write("shop/parts/__init__.py", "")
    write("shop/parts/rates.py", "from shop import NUMBER\nRATE = NUMBER")
    write("shop/etl.py", "from .parts import rates\n" + one(value="rates.RATE"))
    register_target("shop/etl.py")
    for each in ("shop/__init__.py", "shop/parts/__init__.py", "shop/parts/rates.py", "shop/etl.py"):
        write(each, "raise OSError('not now')")
    assert value_of(registry()[1].get("daily")) == 1


@pytest.mark.usefixtures("reloads")
def test_an_error_of_a_file_that_has_changed_shows_its_lines_as_they_were():
    write("etl.py", one(value="1 / 0"))
    register_target("etl.py")
    write("etl.py", "# not this\n" * 20)
    flow = load_registered(registry()[1].get("daily")).flow
    failure = flow.run()[flow.tasks[0].slug].failure
    assert failure is not None
    assert 'go = task(lambda: 1 / 0, name="go")' in failure.traceback
    assert "not this" not in failure.traceback


@pytest.mark.usefixtures("reloads")
def test_what_is_too_large_to_be_kept_is_loaded_as_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("anabranch.flows.kept_files.MOST_NBYTES", 10)
    write("etl.py", one(value=1))
    register_target("etl.py")
    record = registry()[1].get("daily")
    assert record.code is None
    write("etl.py", one(value=2))
    assert value_of(record) == 2


@pytest.mark.usefixtures("reloads")
def test_a_sealed_flow_runs_as_it_was_registered():
    with config.set({"service.key": "k" * 32}):
        write("etl.py", one(value=1))
        register_target("etl.py")
        write("etl.py", one(value=2))
        record = registry()[1].get("daily")
        assert value_of(record) == 1
        with pytest.raises(SealError):
            load_registered(replace(record, code=None, seal=record.seal[64:]))
        with pytest.raises(SealError):
            load_registered(replace(record, code=pack_files([str(Path("etl.py").resolve())])))


def test_a_service_that_does_not_reload_takes_files_as_they_are_and_says_what_was_registered():
    write("etl.py", one(value=1))
    register_target("etl.py")
    record = registry()[1].get("daily")
    write("etl.py", one(value=2))
    assert value_of(record) == 2
    write("etl.py", "this is half of a fi")
    with pytest.raises(FlowLoadError, match="it has changed since version 1 was registered: mend it and register it"):
        load_registered(record)
