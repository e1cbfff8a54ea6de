"""Clusters, certificates and looks at workers, with real processes and real ports."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, Nanny, Scheduler, Security, SpecCluster

from anabranch import Flow, config, task
from anabranch.errors import NoWorkersError, SchedulerUnreachable
from anabranch.executors import DaskExecutor, preflight
from anabranch.executors.clusters import MadeCluster, make_cluster, performance_report
from anabranch.executors.connection import as_security, connect, reach
from anabranch.executors.fitness import Needs
from anabranch.executors.preflight import check, wait_for_workers

pytestmark = pytest.mark.cluster

PORT = {"port": 0, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}


@contextlib.contextmanager
def running(*arguments: Any) -> Iterator[tuple[MadeCluster, Client]]:
    """A cluster and a client of it."""
    made = make_cluster(*arguments)
    try:
        with connect(made.cluster, None, timeout_s=10) as client:
            yield made, client
    finally:
        made.close()


def eventually(claim: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether something becomes true; looked at often, as nothing announces it."""
    end = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def workers_of(client: Client) -> int:
    return len(client.scheduler_info(n_workers=-1)["workers"])


# Adaptive -------------------------------------------------------------------------------------------------------------


def test_a_window_of_chunks_asks_for_every_worker_that_an_adaptive_cluster_may_have():
    adapt = {"minimum": 0, "maximum": 3, "interval": "1h"}  # it is asked, and does nothing by itself
    with running(None, {"n_workers": 0, "threads_per_worker": 1}, adapt) as (made, client):
        window = made.window_slots(0) * config.engine.chunks_per_slot
        futures = [client.submit(abs, number, key=f"chunk-{number}") for number in range(window)]
        assert eventually(lambda: len(made.cluster.scheduler.tasks) == window)
        adaptive = made.cluster._adaptive
        assert made.cluster.sync(adaptive.target) >= 3
        adaptive.target_duration = 5.0  # Dask's own choice
        assert made.cluster.sync(adaptive.target) == 1
        del futures


def wait_for(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.01)


def test_an_adaptive_cluster_grows_for_a_window_of_chunks_and_shrinks_to_nothing(tmp_path: Path):
    # Given a cluster without workers, and a window of chunks for all the slots that it may have
    adapt = {"minimum": 0, "maximum": 3, "interval": "50ms", "wait_count": 1}
    with running(None, {"n_workers": 0, "threads_per_worker": 1}, adapt) as (made, client):
        window = made.window_slots(0) * config.engine.chunks_per_slot
        assert window == 9
        # When they are sent
        path = str(tmp_path / "go")
        futures = [client.submit(wait_for, path, key=f"chunk-{number}", pure=False) for number in range(window)]
        # Then every worker comes that may, and goes when there is no more to do.
        client.wait_for_workers(3, timeout=60)
        Path(path).touch()
        client.gather(futures)
        del futures  # a worker that holds a value stays
        assert eventually(lambda: workers_of(client) == 0)


# Whose cluster --------------------------------------------------------------------------------------------------------


def by_hand() -> SpecCluster:
    """A cluster with a worker of our own choosing."""
    scheduler = {"cls": Scheduler, "options": PORT}
    worker = {"cls": Nanny, "options": {"nthreads": 1, "host": "127.0.0.1"}}
    return SpecCluster(workers={"one": worker}, scheduler=scheduler, worker=worker, silence_logs=50)


def test_a_function_may_make_the_cluster():
    with running(by_hand) as (made, client):
        assert (made.is_ours, made.is_adaptive) == (True, False)
        assert client.submit(os.getpid).result() != os.getpid()
    assert made.cluster.status.name == "closed"


@pytest.mark.parametrize("processes", [True, False])
def test_workers_of_our_own_are_deaf_to_ctrl_c_which_is_the_drivers(processes: bool):
    before = signal.getsignal(signal.SIGINT)
    with running(None, {"n_workers": 1, "threads_per_worker": 1, "processes": processes}) as (_, client):
        (handler,) = client.run(lambda: str(signal.getsignal(signal.SIGINT))).values()
    assert (handler == str(signal.SIG_IGN)) is processes
    assert signal.getsignal(signal.SIGINT) is before


def test_a_cluster_that_is_there_serves_and_stays():
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster:
        with running(cluster) as (made, client):
            assert client.submit(sum, [1, 2]).result() == 3
        assert (made.is_ours, cluster.status.name) == (False, "running")


def test_security_true_encrypts_a_cluster_of_our_own():
    pytest.importorskip("cryptography")
    arguments = (None, {"n_workers": 1, "threads_per_worker": 1}, None, as_security(True))
    with running(*arguments) as (made, client):
        assert made.cluster.scheduler_address.startswith("tls://127.0.0.1:")
        assert client.submit(sum, [1, 2]).result() == 3


def test_the_performance_report_is_of_the_client_given(tmp_path: Path):
    report = tmp_path / "report.html"
    with (
        running(None, {"n_workers": 1, "threads_per_worker": 1}) as (made, _),
        connect(made.cluster, None, timeout_s=5) as client,
        performance_report(client, report, title="flow 'etl'"),
    ):
        client.gather(client.map(abs, range(7)))
    text = report.read_text(encoding="utf-8")
    assert "number of tasks: 7" in text
    assert "flow 'etl'" in text
    assert not re.search(r"<script[^>]+src=", text)  # it opens where there is no network


def test_a_performance_report_that_cannot_be_had_does_not_fail_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    report = tmp_path / "report.html"
    with running(None, {"n_workers": 1, "threads_per_worker": 1, "processes": False}) as (made, _):
        client = connect(made.cluster, None, timeout_s=5)
        caplog.handler.setLevel(0)  # clusters silence all that they find on Dask's loggers, at times this one too
        with performance_report(client, report):
            client.close()
    assert f"no performance report was written to {report}: " in caplog.text
    assert not report.exists()


# Workers looked at ----------------------------------------------------------------------------------------------------


def load(data: bytes) -> str | None:
    __import__(data.decode())
    return None


load.__module__ = "__main__"  # by value, as it is not installed where workers run


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Two workers, of which one has the module `helpers_of_ours` and a GPU, or says so."""
    folder = tmp_path_factory.mktemp("helpers")
    (folder / "helpers_of_ours.py").write_text("", encoding="ascii")
    options = {"nthreads": 1, "host": "127.0.0.1"}
    path = f"import sys; sys.path.append({str(folder)!r})"
    rich = {"cls": Nanny, "options": {**options, "preload": [path], "resources": {"GPU": 1}}}
    workers = {"rich": rich, "poor": {"cls": Nanny, "options": options}}
    cluster = SpecCluster(workers=workers, scheduler={"cls": Scheduler, "options": PORT}, silence_logs=50)
    with cluster, connect(cluster, None, timeout_s=10) as client:
        wait_for_workers(client, 30.0, pytest.fail, patience_s=30.0)
        client.wait_for_workers(2, timeout=30)
        yield client


def addresses(client: Client) -> dict[str, str]:
    return {each["name"]: address for address, each in client.scheduler_info(n_workers=-1)["workers"].items()}


def test_workers_of_this_installation_are_found_fit(uneven: Client, tmp_path: Path):
    needs = Needs(resources={"train": {"GPU": 1}}, directories=[str(tmp_path)], probe=load, probe_data=b"json")
    report = check(uneven, needs)
    assert str(report) == "nothing is wrong with 2 workers"
    assert report.good_workers == set(addresses(uneven).values())


def test_the_worker_that_lacks_a_module_is_named(uneven: Client):
    report = check(uneven, Needs(probe=load, probe_data=b"helpers_of_ours"))
    assert report.problems == ()
    (warning,) = report.warnings
    assert addresses(uneven)["poor"] in warning
    assert "ModuleNotFoundError: No module named 'helpers_of_ours'" in warning
    assert report.good_workers == {addresses(uneven)["rich"]}


def test_a_module_that_no_worker_has_is_a_problem_and_they_live_on(uneven: Client):
    before = uneven.run(os.getpid)
    (problem,) = check(uneven, Needs(probe=load, probe_data=b"helpers_of_nobody")).problems
    assert "No module named 'helpers_of_nobody'" in problem
    assert uneven.run(os.getpid) == before


def test_a_resource_that_no_worker_has_is_a_problem(uneven: Client):
    (problem,) = check(uneven, Needs(resources={"train": {"GPU": 2}})).problems
    assert "task 'train' wants GPU=2, and no worker offers that (GPU: at most 1)" in problem


def test_a_scheduler_without_workers_is_waited_for_so_long_and_no_longer():
    with running(None, {"n_workers": 0, "threads_per_worker": 1}, {"interval": "10s"}) as (made, client):
        assert made.most_slots == CPU_COUNT  # a limit that nobody has set, as processes fill a machine
        said: list[str] = []
        with pytest.raises(NoWorkersError, match="none came within"):
            wait_for_workers(client, 0.3, said.append, patience_s=0.1)
        assert said[0].startswith("no workers yet at tcp://127.0.0.1:")
        assert check(client).warnings == ()


# TLS ------------------------------------------------------------------------------------------------------------------


class Secured:
    """A scheduler and a worker that ask for certificates, in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificates = self.written("ours")
        self.strangers = self.written("strangers")
        self.processes: list[subprocess.Popen[str]] = []
        self.readers: list[threading.Thread] = []
        self.address = ""

    def written(self, name: str) -> dict[str, str]:
        """Files of new certificates."""
        made = Security.temporary()
        files = {
            each: self.folder / f"{name}-{each}.pem" for each in ("tls_ca_file", "tls_client_cert", "tls_client_key")
        }
        for each, file in files.items():
            file.write_text(getattr(made, each), encoding="ascii")
        return {each: str(file) for each, file in files.items()}

    def start(self) -> None:
        ca, cert, key = self.certificates.values()
        tls = ["--tls-ca-file", ca, "--tls-cert", cert, "--tls-key", key]
        scheduler = self.spawn("scheduler", "--host", "tls://127.0.0.1", "--port", "0", "--no-dashboard", *tls)
        self.address = self.line_with(scheduler, r"Scheduler at: +(tls://\S+)")
        worker = self.spawn("worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", *tls)
        self.line_with(worker, r"(Registered) to")

    def spawn(self, kind: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "distributed.cli.dask_" + kind, *arguments]
        process = subprocess.Popen(command, cwd=self.folder, stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    def line_with(self, process: subprocess.Popen[str], pattern: str) -> str:
        """What a pattern finds in the log of a process, which is read to its end from then on."""
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(pattern, line):
                self.readers.append(threading.Thread(target=process.stderr.read))
                self.readers[-1].start()
                return found[1]
        pytest.fail(f"the process ended with {process.wait()}")

    def stop(self) -> None:
        for process in self.processes:
            process.kill()  # a worker that has lost its scheduler takes its time to end by itself
        for process in self.processes:
            process.wait(20)
        for reader in self.readers:
            reader.join(20)
        for process in self.processes:
            assert process.stderr is not None
            process.stderr.close()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    pytest.importorskip("cryptography")
    place = Secured(tmp_path_factory.mktemp("tls"))
    try:
        place.start()
        yield place
    finally:
        place.stop()


def refusal(address: str, security: Any = None, timeout_s: float = 3.0) -> str:
    """What a user reads who cannot connect."""
    with pytest.raises(SchedulerUnreachable) as refused:
        connect(address, as_security(security), timeout_s=timeout_s)
    return str(refused.value)


def test_a_client_with_the_certificates_runs_a_flow(secured: Secured):
    @task
    def double(x: int) -> int:
        return 2 * x

    with Flow("secured") as flow:
        doubled = double.map([1, 2, 3])
    state = flow.run(executor=DaskExecutor(secured.address, security=as_security(secured.certificates)))
    assert state.result[doubled].result == [2, 4, 6]


def test_a_client_without_certificates_is_told_to_give_them(secured: Secured):
    assert "tls:// needs certificates; give security=Security(tls_ca_file=…" in refusal(secured.address)


def test_a_client_that_trusts_another_authority_is_told_so(secured: Secured):
    assert "not signed by the authority in tls_ca_file" in refusal(secured.address, secured.strangers)


def test_a_client_whose_certificate_is_a_strangers_is_told_so(secured: Secured):
    mixed = {**secured.strangers, "tls_ca_file": secured.certificates["tls_ca_file"]}
    assert "refuses the client's certificate" in refusal(secured.address, mixed)


def test_a_client_that_speaks_plainly_to_tls_is_told_the_address(secured: Secured):
    plain = secured.address.replace("tls://", "tcp://")
    assert f"that port speaks TLS; connect to {secured.address} with security=" in refusal(plain)
    assert f"the security given demands encryption; connect to {secured.address}" in refusal(
        plain, secured.certificates
    )


def connections_to(address: str) -> list[socket.socket]:
    """Those of this process that the garbage collector knows."""
    port = int(address.rpartition(":")[2])
    sockets = [each for each in gc.get_objects() if isinstance(each, socket.socket) and each.fileno() >= 0]
    return [each for each in sockets if each.family == socket.AF_INET and peer_port(each) == port]


def peer_port(connection: socket.socket) -> int | None:
    with contextlib.suppress(OSError):
        return int(connection.getpeername()[1])
    return None  # it listens, or is not connected


def test_a_client_that_speaks_tls_to_a_plain_scheduler_is_told_the_address(uneven: Client, secured: Secured):
    plain = uneven.scheduler.address
    encrypted = plain.replace("tcp://", "tls://")
    before = {id(each) for each in connections_to(plain)}
    message = refusal(encrypted, secured.certificates)
    for each in connections_to(
        plain
    ):  # Tornado forgets one if the scheduler's greeting comes before its own first message
        if id(each) not in before:
            each.close()
    assert f"without TLS; connect to {plain}" in message


# Ports that are no scheduler's ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def port_that_says(greeting: bytes, answer: bytes = b"") -> Iterator[str]:
    """The address of a server that greets, then waits to hear something and gives one answer, or says nothing more."""
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(greeting)
            if answer:
                connection.recv(1000)
                connection.sendall(answer)
            else:
                over.wait(60)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        finally:
            over.set()
            server.shutdown(socket.SHUT_RDWR)
            accepting.join(10)


@pytest.mark.parametrize(
    ("greeting", "answer", "found"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", b"", "an SSH server answers"),
        (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", "a web server, perhaps Dask's dashboard, answers"),
        (b"\x05abc", b"", "something else answers"),
        (b"\0" * 64, b"", "something else answers"),
        (b"", b"", "something else answers"),  # accepts and is silent: Dask's own client waits for ever
    ],
)
def test_another_server_on_the_port_is_named_for_what_it_is(greeting: bytes, answer: bytes, found: str):
    with port_that_says(greeting, answer) as address:
        assert found in refusal(address, timeout_s=1.0)


def test_a_port_where_nothing_listens_is_told_with_the_command():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    message = refusal(f"tcp://127.0.0.1:{port}", timeout_s=0.5)
    assert (
        f"nothing listens on port {port} of 127.0.0.1; start one there with `dask scheduler --port {port}`" in message
    )


def test_an_unknown_host_is_told_by_its_name():
    assert "the host name 'no-such-host.invalid' is not known" in refusal("tcp://no-such-host.invalid:1", timeout_s=0.5)


def test_a_workers_address_is_told_from_a_schedulers(uneven: Client):
    address = next(iter(addresses(uneven).values()))
    assert f"what answers at {address} is not a Dask scheduler but a Worker" in refusal(address)


def test_a_scheduler_that_answers_is_no_error(uneven: Client):
    reach(uneven.scheduler.address, None, timeout_s=5.0)
    preflight.forget()
    assert check(uneven).problems == ()
