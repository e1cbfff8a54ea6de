"""Flows with the options of Prefect 1."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from tests.refusals import refused

import anabranch
from anabranch.errors import FlowValidationError, OptionError, PrefectNameError
from anabranch.executors import DaskExecutor, LocalExecutor
from anabranch.prefect import Flow, Parameter, task
from anabranch.prefect.code_places import GCS, S3, Azure, Docker, GitHub, Local, Storage
from anabranch.prefect.machines import DockerRun, KubernetesRun, LocalRun, UniversalRun
from anabranch.prefect.modules import as_prefect
from anabranch.prefect.tools import raise_on_exception
from anabranch.schedules import CronSchedule
from anabranch.states import Failed, Success
from anabranch.storage import LocalStorage


@task
def one(x: int = 1) -> int:
    return x


@task
def fail() -> None:
    raise KeyError("x")


def flow_of(**options: Any) -> Flow:
    with Flow("tea", **options) as flow:
        one()
    return flow


def test_a_run_config_is_an_executor_unless_one_is_given():
    flow = flow_of(run_config=KubernetesRun(image="i"))
    assert isinstance(flow.executor, DaskExecutor)
    flow.executor = mine = LocalExecutor()
    assert flow.executor is mine
    flow.executor = None
    flow.run_config = UniversalRun()
    assert flow.executor is None
    flow.environment = environment = UniversalRun()
    assert (flow.run_config, flow.environment) == (environment, environment)
    with refused(OptionError, "expected an executor"):
        flow.executor = "dask"  # type: ignore[assignment]  # on purpose


def test_a_run_has_the_variables_and_the_directory_of_its_run_config(tmp_path: Path):
    @task
    def place() -> tuple[Any, str]:
        return os.environ.get("TEA"), os.getcwd()

    with Flow("tea", run_config=LocalRun(env={"TEA": "green"}, working_dir=str(tmp_path))) as flow:
        node = place()
    before = os.getcwd()
    assert flow.run().result[node].result == ("green", str(tmp_path))
    assert ("TEA" in os.environ, os.getcwd()) == (False, before)


def test_a_copy_has_the_options_and_the_nodes():
    flow = flow_of(run_config=UniversalRun(), storage=Local(), terminal_state_handler=lambda *each: None)
    twin = flow.copy("other")
    assert (twin.name, twin.run_config, twin.storage) == ("other", flow.run_config, flow.storage)
    assert twin.tasks == flow.tasks
    assert len(pickle.loads(cloudpickle.dumps(flow)).tasks) == 1


def test_the_terminal_state_handler_has_the_last_word():
    seen = []

    def decide(flow: Flow, state: Any, states: set[Any]) -> Any:
        seen.append((flow.name, state.name, sorted(each.name for each in states)))
        return Success("enough")

    with Flow("tea", terminal_state_handler=decide, state_handlers=[lambda flow, old, new: None]) as flow:
        one(), fail()
    assert flow.run().message == "enough"
    assert seen == [("tea", "Failed", ["Failed", "Success"])]


def test_a_terminal_state_handler_may_leave_the_state_as_it_is():
    with Flow("tea", terminal_state_handler=lambda flow, state, states: None) as flow:
        fail()
    assert isinstance(flow.run(), Failed)


def test_runs_are_made_once_and_now():
    flow = flow_of(schedule=CronSchedule("@daily"))
    assert flow.run(run_on_schedule=False).is_successful()
    assert flow.run({}, None).is_successful()
    with refused(OptionError, "flow.run(run_on_schedule=) is of Prefect 1", "anabranch serve"):
        flow.run(run_on_schedule=True)
    with refused(OptionError, "flow.run(runner_cls=) is of Prefect 1"):
        flow.run(runner_cls=object)
    with refused(OptionError, "flow.run(context=) is of Prefect 1"):
        flow.run(context={})


def test_exceptions_are_raised_where_that_is_asked_for():
    with Flow("tea") as flow:
        fail()
    assert flow.run().is_failed()
    with raise_on_exception(), pytest.raises(KeyError):
        flow.run()


def test_what_has_validate_takes_it():
    flow = flow_of(validate=True)
    first, *rest = [flow.tasks[0], *(one(n, flow=flow) for n in range(6))]
    flow.add_edge(first, rest[0], None, validate=False)
    flow.chain(*rest[:3], validate=None)
    flow.set_dependencies(rest[3], [rest[4]], validate=True)
    flow.replace(rest[5], one(7, flow=flow), validate=True)
    with Flow("other") as other:
        one(Parameter("x", default=1))
    flow.update(other, True, True)
    assert flow.parameters(by_name=True).keys() == {"x"}
    with pytest.raises(FlowValidationError):
        flow.chain(flow.tasks[0], flow.tasks[1], flow.tasks[0], validate=True)


def test_what_flows_have_there_only_is_refused_with_its_row():
    flow = flow_of()
    with refused(PrefectNameError, "flow.diagnostics is a method that only Prefect 1 has", "anabranch doctor"):
        flow.diagnostics()
    assert not hasattr(flow, "serialize")
    with pytest.raises(AttributeError, match="'Flow' object has no attribute 'nothing'"):
        flow.nothing  # noqa: B018
    assert "digraph" in flow.visualize(None, format="dot", horizontal=True)


# Registered -----------------------------------------------------------------------------------------------------------


def test_what_means_something_for_a_registration_works(tmp_path: Path):
    flow = flow_of(
        schedule=CronSchedule("@daily"),
        storage=Local(directory=str(tmp_path), labels=["a"]),
        run_config=UniversalRun(labels=["b"]),
    )
    record = flow.register("kitchen", labels=["c"], idempotency_key="k", build=False, no_url=True)
    assert record is not None
    assert (record.project, sorted(record.labels), record.storage is not None) == ("kitchen", ["a", "b", "c"], True)
    assert record.schedule is not None
    silent = flow.register(project_name="kitchen", set_schedule_active=False)
    assert silent is not None
    assert silent.schedule is None
    assert flow.schedule is not None


@pytest.mark.parametrize("storage", [None, Local(stored_as_script=True)])
def test_a_flow_of_a_file_that_imports_prefect_is_kept_as_a_pickle(storage: Storage | None):
    with as_prefect():
        __import__("prefect")
        record = flow_of(storage=storage).register(replace=True)
    assert record is not None
    assert (record.source, record.code is not None) == ("", True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"storage": GitHub(repo="x", path="y")}, "GitHub storage is used to register a flow"),
        ({"storage": Docker(registry_url="x")}, "in its image, or by a checkout"),
        ({"run_config": DockerRun(image="x")}, "services do not start runs as DockerRun says"),
    ],
)
def test_what_services_cannot_do_is_refused_where_a_flow_is_registered(options: dict[str, Any], words: str):
    flow = flow_of(**options)
    assert flow.run().is_successful()
    with refused(PrefectNameError, words):
        flow.register("kitchen")
    with as_prefect():
        __import__("prefect")
        with pytest.warns(UserWarning, match="flow 'tea' is not registered"):
            assert flow.register("kitchen") is None


@pytest.mark.parametrize(
    ("storage", "url"),
    [(Local(), "file://"), (GCS("b", project="p"), "gcs://b"), (Azure("c", connection_string="x"), "az://c")],
)
def test_storage_is_ours(storage: Storage, url: str):
    found: Any = storage.of_ours()
    assert found.url.startswith(url)
    assert storage.build().add_flow(anabranch.Flow("x")) == "x"


def test_storage_of_s3_and_of_scripts():
    assert S3("bucket", key="x", client_options={"endpoint_url": "y"}).of_ours().url == "s3://bucket"
    assert Local(path="x.py").of_ours() == Local(stored_as_script=True).of_ours() == "source"
    assert isinstance(Local().of_ours(), LocalStorage)
