"""Modules and names of Prefect 1 under their old paths."""

from __future__ import annotations

import copy
import importlib
import os
import pickle
import sys
from types import ModuleType

import cloudpickle
import pytest
from tests.refusals import refused

import anabranch
import anabranch.prefect as prefect
from anabranch import Flow, task
from anabranch.base.prefect1 import VARIABLE
from anabranch.errors import PrefectNameError
from anabranch.prefect.missing import Missing
from anabranch.prefect.modules import as_prefect, names_by_module
from anabranch.prefect.places import PLACES

ALL = [(module, name) for module, names in names_by_module().items() for name in sorted(names)]


def test_the_names_are_those_of_the_wheels():
    assert len(names_by_module()) > 300
    assert {"Flow", "Task", "task", "Parameter"} <= names_by_module()[""]
    assert "KubernetesRun" in names_by_module()["run_configs.kubernetes"]
    assert "DaskKubernetesEnvironment" in names_by_module()["environments"]


@pytest.mark.parametrize("module", names_by_module())
def test_every_name_works_or_tells_what_there_is_when_it_is_used(module: str):
    path = f"anabranch.prefect.{module}".rstrip(".")
    there = importlib.import_module(path)
    for name in names_by_module()[module]:
        found = getattr(there, name)
        if isinstance(found, Missing):
            with refused(PrefectNameError, f"prefect.{module}".rstrip("."), f"{name} is used", "; "):
                found()


def test_all_places_are_there():
    for home in PLACES.values():
        module, _, attribute = home.partition(":")
        there = importlib.import_module(module)
        assert not attribute or hasattr(there, attribute), home


@pytest.mark.parametrize(
    "line",
    [
        "from anabranch.core.flow import Flow",
        "from anabranch.tasks.control_flow.case import case",
        "from anabranch.schedules.schedules import IntervalSchedule",
        "from anabranch.utilities.tasks import *; defaults_from_attrs",
        "from anabranch import Client",
        "from anabranch.storage.github import GitHub",
        "from anabranch.engine.results.gcs_result import GCSResult",
        "from anabranch.executors.dask import LocalDaskExecutor",
        "from anabranch.schedules.clocks import RRuleClock",
        "from anabranch.schedules import adjustments; adjustments.add",
        "import anabranch.prefect as prefect; prefect.engine.signals.SKIP, prefect.tasks.control_flow.case",
        "import anabranch.prefect.utilities.notifications.notifications",
    ],
)
def test_old_paths_lead_to_the_names(line: str):
    exec(line, {})


def test_a_class_stays_where_a_module_has_its_name():
    importlib.import_module("anabranch.prefect.tasks.control_flow.case")
    assert prefect.tasks.control_flow.case is anabranch.case
    assert isinstance(importlib.import_module("anabranch.prefect.tasks.control_flow.case"), ModuleType)


def test_what_prefect_has_not_is_not_there_either():
    with pytest.raises(AttributeError, match="module 'prefect' has no attribute 'nothing'"):
        prefect.nothing  # noqa: B018
    with pytest.raises(AttributeError, match=r"module 'prefect\.core' has no attribute 'nothing'"):
        prefect.core.nothing  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("anabranch.prefect.nothing")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("anabranch.nothing")
    with pytest.raises(ImportError):
        exec("from anabranch import nothing", {})
    assert "Client" in dir(prefect.client)


def test_whatever_is_done_with_a_missing_name_is_refused_with_its_row():
    with refused(PrefectNameError, "prefect.Client is used", "; here: anabranch ls --json"):
        prefect.Client(api_server="x")
    with refused(PrefectNameError, "prefect.Client is used"):
        prefect.Client.graphql  # noqa: B018
    with (
        refused(PrefectNameError, "prefect.tasks.aws.S3Upload is used", "boto3"),
        Flow("f"),
        prefect.tasks.aws.S3Upload,
    ):
        pass
    with refused(PrefectNameError, "prefect.backend.FlowView is used"):
        prefect.backend.FlowView["x"]
    with refused(PrefectNameError, "prefect.agent.local.LocalAgent is used", "parts of Prefect's server"):

        class Mine(prefect.agent.local.LocalAgent):
            pass


def test_a_missing_name_can_be_kept_compared_and_pickled():
    missing = prefect.Client
    assert not isinstance(1, missing)
    assert repr(missing) == "<Client of Prefect 1, which is not here>"
    for twin in (pickle.loads(pickle.dumps(missing)), copy.deepcopy(missing)):
        assert repr(twin) == repr(missing)
    assert not hasattr(missing, "__wrapped__")


def test_prefect_is_this_package_as_long_as_it_is_asked_for():
    before = {name for name in sys.modules if name.partition(".")[0] == "prefect"}
    with as_prefect():
        assert os.environ[VARIABLE]
        there = importlib.import_module("prefect")
        inner = importlib.import_module("prefect.engine.signals")
        assert (there, inner.LOOP) == (prefect, anabranch.LOOP)
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("prefect.nothing")
    assert VARIABLE not in os.environ
    assert {name for name in sys.modules if name.partition(".")[0] == "prefect"} == before
    assert prefect.__spec__ is not None
    assert prefect.__spec__.name == "anabranch.prefect"


def test_functions_that_name_the_package_travel_by_its_own_name():
    with as_prefect():
        there = importlib.import_module("prefect")

    @task
    def name() -> str:
        return str(there.context.get("task_name"))

    assert b"anabranch.prefect" in cloudpickle.dumps(name.run)
    assert cloudpickle.loads(cloudpickle.dumps(name.run))() == "None"
