"""How clusters are made and schedulers addressed, as far as no process is needed: arguments in, arguments out."""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import dask.config
import pytest
from distributed import LocalCluster, Security, SpecCluster

from anabranch import config
from anabranch.errors import ExecutorError, OptionError, SchedulerUnreachable
from anabranch.executors import clusters
from anabranch.executors import connection as security
from anabranch.executors.clusters import (
    DEAF_TO_CTRL_C,
    MadeCluster,
    _preloads,
    make_cluster,
    most_slots,
    performance_report,
)


class FakeCluster:
    """A cluster of nobody's: it has what every cluster class has, and remembers what it was told."""

    made: ClassVar[list[FakeCluster]] = []

    def __init__(self, **kwargs: Any) -> None:
        self.kwargs = kwargs
        self.adapted: dict[str, Any] | None = None
        self.closings = 0
        self.scheduler_address = "tcp://127.0.0.1:8786"
        self.made.append(self)

    def adapt(self, minimum: int | None = None, maximum: int | None = None) -> None:
        self.adapted = {"minimum": minimum, "maximum": maximum}

    def close(self, timeout: float | None = None) -> None:
        self.closings += 1


class KubeCluster(FakeCluster):
    """As dask-kubernetes has it: ``adapt`` takes two limits and nothing else."""


class SLURMCluster(SpecCluster):
    """As dask-jobqueue has it: one of Dask's own, which counts by jobs and starts none unless asked."""

    asynchronous = False
    scheduler_address = "tcp://127.0.0.1:8786"
    status = SimpleNamespace(name="running")

    def __init__(self, n_workers: int = 0, security: Any = None, **job_kwargs: Any) -> None:
        self.kwargs = {"n_workers": n_workers, "security": security, **job_kwargs}
        self.new_spec = {"cls": object, "options": job_kwargs}
        self.worker_spec = dict.fromkeys(range(n_workers), self.new_spec)
        self.closings = 0

    def adapt(
        self, *args: Any, minimum_jobs: int | None = None, maximum_jobs: int | None = None, **kwargs: Any
    ) -> None:
        processes = self.new_spec["options"].get("processes", 1)
        if maximum_jobs is not None:
            kwargs["maximum"] = maximum_jobs * processes
        self.adapted = kwargs
        self._adaptive = SimpleNamespace(maximum=kwargs.get("maximum", math.inf), state="running")

    def close(self, timeout: float | None = None) -> None:
        self.closings += 1

    def __del__(self) -> None:
        """There is nothing to end."""


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """dask-kubernetes and dask-jobqueue, as far as their names go."""
    for name, attributes in {
        "dask_kubernetes": {},
        "dask_kubernetes.operator": {"KubeCluster": KubeCluster},
        "dask_jobqueue": {"SLURMCluster": SLURMCluster},
    }.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)


# Classes of others ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("packages")
def test_kubecluster_gets_its_arguments_and_its_limits():
    made = make_cluster(
        "dask_kubernetes.operator.KubeCluster", {"name": "etl", "image": "etl:1"}, {"minimum": 1, "maximum": 20}
    )
    assert isinstance(made.cluster, KubeCluster)
    assert made.cluster.kwargs == {"name": "etl", "image": "etl:1"}
    assert made.cluster.adapted == {"minimum": 1, "maximum": 20}
    assert (made.is_ours, made.is_adaptive, made.most_slots) == (True, True, 20)


@pytest.mark.usefixtures("packages")
def test_slurmcluster_is_sized_by_threads_of_a_process_not_by_jobs():
    made = make_cluster(
        "dask_jobqueue.SLURMCluster", {"cores": 24, "processes": 4, "memory": "64 GB"}, {"maximum_jobs": 10}
    )
    assert made.cluster.kwargs["memory"] == "64 GB"
    assert made.most_slots == 10 * 24


@pytest.mark.usefixtures("packages")
def test_dasks_own_clusters_are_told_that_a_chunk_is_worth_a_worker():
    with config.set(engine__target_chunk_s=0.4):
        made = make_cluster("dask_jobqueue.SLURMCluster", {"cores": 1}, {"maximum_jobs": 2})
    assert made.cluster.adapted["target_duration"] == "0.4s"


@pytest.mark.usefixtures("packages")
def test_a_target_duration_of_the_users_is_left_alone():
    made = make_cluster("dask_jobqueue.SLURMCluster", {"cores": 1}, {"maximum_jobs": 2, "target_duration": "1m"})
    assert made.cluster.adapted["target_duration"] == "1m"


@pytest.mark.usefixtures("packages")
def test_slurmcluster_without_workers_is_refused_and_closed():
    given: list[SLURMCluster] = []

    def make(**kwargs: Any) -> SLURMCluster:
        given.append(SLURMCluster(**kwargs))
        return given[0]

    with pytest.raises(OptionError, match=r"make\(cores=1\) has no workers.*'n_workers'.*'maximum'"):
        make_cluster(make, {"cores": 1})
    assert given[0].closings == 1


@pytest.mark.usefixtures("packages")
def test_security_goes_to_classes_that_take_it_and_to_no_other():
    certificates = Security()
    assert make_cluster(SLURMCluster, {"n_workers": 1}, None, certificates).cluster.kwargs["security"] is certificates
    assert make_cluster(KubeCluster, {"name": "a"}, None, certificates).cluster.kwargs == {"name": "a"}


@pytest.mark.parametrize(
    ("name", "package", "command"),
    [
        ("dask_kubernetes.operator.KubeCluster", "dask_kubernetes", "pip install dask-kubernetes"),
        ("dask_jobqueue.SLURMCluster", "dask_jobqueue", "pip install dask-jobqueue"),
    ],
)
def test_an_absent_package_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, command: str
):
    class Absent:
        def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
            if fullname.partition(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(OptionError, match=rf"needs the package {package}, which is not here: {command}$"):
        make_cluster(name)


# What cannot make a cluster -------------------------------------------------------------------------------------------


def fails(**kwargs: Any) -> Any:
    raise RuntimeError("Nanny failed to start.") from TypeError("unexpected argument 'foo'")


@pytest.mark.parametrize(
    ("cluster_class", "cluster_kwargs", "error", "message"),
    [
        ("LocalCluster", None, OptionError, r"'LocalCluster': expected a dotted name such as"),
        (
            "distributed.LocalClutser",
            None,
            OptionError,
            r"distributed has no LocalClutser; its clusters: 'LocalCluster'",
        ),
        ("distributed.nowhere.KubeCluster", None, OptionError, r"No module named 'distributed.nowhere'"),
        (7, None, OptionError, r"expected a class, its dotted name, a function .* found 7"),
        (dict, None, ExecutorError, r"dict\(\) returned a dict, which is not a cluster"),
        (
            fails,
            {"foo": 1},
            ExecutorError,
            r"fails\(foo=1\) could not be made: .*; TypeError: unexpected argument 'foo'",
        ),
        (fails, {"password": "hush"}, ExecutorError, r"fails\(password=…\) could not"),
        (fails, {"env": {"KEY": "hush"}}, ExecutorError, r"fails\(env=\{'KEY': …\}\) could not"),
        (fails, {"image": "x" * 500}, ExecutorError, r"fails\(image='x{199}…\) could not"),
        (None, {"n_workers": 0}, OptionError, r"expected n_workers of 1 or more, found 0; .*adapt_kwargs"),
        (None, {"n_workers": -1}, OptionError, r"expected n_workers of 1 or more, found -1"),
        (None, {"n_workers": "2"}, OptionError, r"expected n_workers of 1 or more, found '2'"),
        (None, {"n_workers": 10**6}, OptionError, r"n_workers=1000000 processes need at least \d+ GiB"),
        (None, {"threads_per_worker": 0}, OptionError, r"expected threads_per_worker of 1 or more, found 0"),
        (None, {"memory_limit": "abc"}, OptionError, r"expected memory_limit as bytes, such as '2 GiB'.*'abc'"),
        (None, {"host": "0.0.0.0"}, OptionError, r"host='0.0.0.0' would let others run code here.*security=True"),
        (LocalCluster, {"host": "tcp://192.0.2.1"}, OptionError, r"host='192.0.2.1' would let others"),
        (FakeCluster(), {"n_workers": 1}, OptionError, r"FakeCluster exists already, so n_workers=1 would have no"),
    ],
)
def test_what_cannot_make_a_cluster_is_refused_with_its_reason(
    cluster_class: Any, cluster_kwargs: Any, error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        make_cluster(cluster_class, cluster_kwargs)


@pytest.mark.parametrize(
    ("adapt_kwargs", "message"),
    [
        ({"maximun": 4}, r"KubeCluster.adapt has no argument 'maximun'; did you mean 'maximum'"),
        ({"maximum": 0}, r"expected maximum as a number of workers, found 0"),
        ({"minimum": -1}, r"expected minimum as a number of workers, found -1"),
        ({"minimum": 4, "maximum": 2}, r"cannot have at least 4 and at most 2 workers"),
    ],
)
def test_limits_that_cannot_hold_are_refused_and_the_cluster_closed(adapt_kwargs: dict[str, Any], message: str):
    with pytest.raises(OptionError, match=message):
        make_cluster(KubeCluster, None, adapt_kwargs)
    assert FakeCluster.made[-1].closings == 1


@pytest.mark.usefixtures("packages")
def test_dasks_adapt_which_swallows_anything_is_given_nothing_it_does_not_know():
    with pytest.raises(OptionError, match=r"SLURMCluster.adapt has no argument 'max'"):
        make_cluster(SLURMCluster, {"cores": 1}, {"max": 4})


def test_an_asynchronous_or_closed_cluster_is_refused():
    cluster = FakeCluster()
    cluster.asynchronous = True  # type: ignore[attr-defined]
    with pytest.raises(OptionError, match="asynchronous=True"):
        make_cluster(cluster)
    closed = FakeCluster()
    closed.status = SimpleNamespace(name="closed")  # type: ignore[attr-defined]
    with pytest.raises(ExecutorError, match="FakeCluster is closed"):
        make_cluster(closed)


# Whose it is, and how wide --------------------------------------------------------------------------------------------


def test_a_cluster_that_was_there_is_not_closed_and_one_that_was_made_is():
    there = FakeCluster()
    make_cluster(there).close()
    made = make_cluster(FakeCluster)
    made.close()
    assert (there.closings, made.cluster.closings) == (0, 1)


def test_a_cluster_whose_close_takes_no_timeout_is_closed_too():
    class Plain(FakeCluster):
        def close(self) -> None:  # type: ignore[override]
            self.closings += 1

    made = make_cluster(Plain)
    made.close()
    assert made.cluster.closings == 1


def test_trouble_in_closing_is_logged(caplog: pytest.LogCaptureFixture):
    class Stuck(FakeCluster):
        def close(self, timeout: float | None = None) -> None:
            raise RuntimeError("the API is gone")

    make_cluster(Stuck).close()
    assert "Stuck did not close: RuntimeError: the API is gone" in caplog.text


@pytest.mark.parametrize(
    ("is_adaptive", "most", "now", "window"),
    [
        (False, None, 3, 3),  # as wide as the cluster is
        (True, 8, 0, 8),  # as wide as it may become
        (True, 8, 9, 9),  # it may have more by other means
        (True, None, 0, 4),  # no limit: something to begin with, then twice what is there
        (True, None, 16, 32),
    ],
)
def test_the_window_is_as_wide_as_the_cluster_may_become(is_adaptive: bool, most: int | None, now: int, window: int):
    assert MadeCluster(None, True, is_adaptive, most).window_slots(now) == window


@pytest.mark.parametrize(
    ("options", "nthreads", "slots"),
    [
        ({"nthreads": 2}, (), 8),
        ({"nthreads": None}, (), 4 * clusters._processors()),
        ({"cores": 6, "processes": 3}, (), 8),
        ({"cores": None}, (3, 2), 12),  # from the batch system's configuration: as the workers that are there
        ({}, (), 4),
    ],
)
def test_most_slots_are_workers_times_threads(options: dict[str, Any], nthreads: tuple[int, ...], slots: int):
    cluster = SimpleNamespace(new_spec={"options": options})
    assert most_slots(cluster, {"maximum": 4}, nthreads=nthreads) == slots


def test_a_cluster_without_a_limit_has_no_most():
    assert most_slots(SimpleNamespace(), {"minimum": 1}) is None
    assert most_slots(SimpleNamespace(), {"maximum": None}) is None


def test_a_report_that_has_no_place_to_go_is_refused_before_the_run(tmp_path: Path):
    with (
        pytest.raises(OptionError, match="expected a file in a directory that exists"),
        performance_report(
            None,  # type: ignore[arg-type]  # not used, as the path is looked at first
            tmp_path / "missing" / "report.html",
        ),
    ):
        pytest.fail("the run has begun")


# Addresses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "has no protocol"),
        ("", "has no protocol"),
        ("127.0.0.1:8786", "has no protocol"),
        ("http://127.0.0.1:8787", "is a web address, perhaps of Dask's dashboard"),
        ("gopher://127.0.0.1:70", "has an unknown protocol"),
        ("tcp://127.0.0.1", "lacks a host or a port"),
        ("tcp://:8786", "lacks a host or a port"),
        ("tcp://[::1]", "lacks a host or a port"),
        ("tcp://", "lacks a host or a port"),
        ("tcp://127.0.0.1:0", "has port '0', not 1 to 65535"),
        ("tcp://127.0.0.1:99999", "has port '99999'"),
        ("tcp://127.0.0.1:-1", "has port '-1'"),
        ("tcp://127.0.0.1:abc", "has port 'abc'"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_with_one_that_can(address: str, message: str):
    with pytest.raises(SchedulerUnreachable, match=message) as refusal:
        security.reach(address, None, timeout_s=1)
    assert "tcp://host:8786" in str(refusal.value)


@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        (
            "certificate verify failed: certificate has expired",
            "its certificate has expired; renew it on the scheduler",
        ),
        ("[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED]", "the client's certificate has expired; renew it"),
        ("identity() got an unexpected keyword argument 'n_workers'", "it runs an older Dask than this process"),
    ],
)
def test_what_dask_says_deep_inside_decides_the_advice(cause: str, advice: str):
    outer = OSError("Timed out trying to connect")
    outer.__cause__ = TypeError(cause)
    refused = security.unreachable("tls://192.0.2.1:8786", outer, None, timeout_s=1)
    assert f"no Dask scheduler could be reached at tls://192.0.2.1:8786: {advice}" in str(refused)


@pytest.fixture
def unwarned(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(security, "_warned", threading.Event())
    caplog.set_level(logging.WARNING)
    return caplog


def test_an_open_scheduler_is_warned_about_once_in_a_process(unwarned: pytest.LogCaptureFixture):
    security.warn_if_open("tcp://scheduler.example:8786")
    security.warn_if_open("tcp://192.0.2.1:8786")
    assert len(unwarned.records) == 1
    assert "asks for no certificate" in unwarned.text
    assert "docs/clusters.md" in unwarned.text


@pytest.mark.parametrize(
    "address",
    ["tcp://127.0.0.1:8786", "tcp://localhost:1", "tcp://[::1]:1", "tls://192.0.2.1:1", "inproc://192.0.2.1/1/1"],
)
def test_what_is_closed_to_others_is_not_warned_about(address: str, unwarned: pytest.LogCaptureFixture):
    security.warn_if_open(address)
    assert not unwarned.records


# Certificates ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of a certificate that is its own authority."""
    pytest.importorskip("cryptography")
    made = Security.temporary()
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("tls_ca_file", "tls_client_cert", "tls_client_key"):
        (folder / name).write_text(getattr(made, name), encoding="ascii")
    return {name: str(folder / name) for name in ("tls_ca_file", "tls_client_cert", "tls_client_key")}


def test_a_dict_of_files_makes_a_security_that_demands_encryption(certificates: dict[str, str]):
    made = security.as_security(certificates)
    assert made is not None
    assert (made.require_encryption, made.tls_ca_file) == (True, certificates["tls_ca_file"])
    assert security.as_security(made) is made
    assert security.as_security(None) is None


def test_true_makes_certificates():
    pytest.importorskip("cryptography")
    made = security.as_security(True)
    assert made is not None
    assert "BEGIN CERTIFICATE" in made.tls_ca_file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files, folder: {**files, "tls_ca": "x"}, "has no argument 'tls_ca'; did you mean 'tls_ca_file'"),
        (lambda files, folder: {**files, "tls_client_key": str(folder / "none")}, "tls_client_key='.*No such file"),
        (lambda files, folder: {**files, "tls_client_cert": str(folder / "junk")}, "tls_client_cert='.*not a PEM file"),
        (lambda files, folder: {**files, "tls_client_key": str(folder / "other")}, "is not the key of tls_client_cert"),
        (lambda files, folder: "certificate.pem", "expected a distributed.Security, a dict of its arguments or True"),
    ],
)
def test_certificates_that_cannot_be_used_are_refused_by_name(
    certificates: dict[str, str], tmp_path: Path, change: Callable[[dict[str, str], Path], Any], message: str
):
    (tmp_path / "junk").write_text("junk", encoding="ascii")
    (tmp_path / "other").write_text(Security.temporary().tls_client_key, encoding="ascii")
    with pytest.raises(OptionError, match=message):
        security.as_security(change(certificates, tmp_path))


@pytest.mark.parametrize(
    ("names", "argv", "preloads"),
    [
        ([], [], {"preload": [DEAF_TO_CTRL_C]}),
        (["a.py", "import b"], [], {"preload": [DEAF_TO_CTRL_C, "a.py", "import b"]}),
        ("a.py", ["--x"], {"preload": [DEAF_TO_CTRL_C, "a.py"]}),
        (["a.py"], [["--x"]], {"preload": [DEAF_TO_CTRL_C, "a.py"], "preload_argv": [[], ["--x"]]}),
    ],
)
def test_workers_of_a_cluster_made_here_load_what_dasks_settings_say(names: Any, argv: Any, preloads: Any):
    with dask.config.set({"distributed.worker.preload": names, "distributed.worker.preload-argv": argv}):
        assert _preloads() == preloads


@pytest.mark.parametrize(
    "host", ["::1", "[::1]", "tcp://::1", "tcp://[::1]", "127.0.0.1", "tcp://127.8.8.8", "localhost"]
)
def test_loopback_is_loopback_however_it_is_written(host: str, monkeypatch: pytest.MonkeyPatch):
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(clusters, "_made", lambda maker, kwargs: made.append(kwargs) or FakeCluster())
    make_cluster(LocalCluster, {"host": host}).close()
    assert made[0]["host"] == host.replace("[", "").replace("]", "").replace("::1", "[::1]")
