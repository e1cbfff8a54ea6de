"""What we rely on in Dask, Python, cloudpickle and Bokeh that they promise nobody, each by its name in CONTRIBUTING.md.

A test that fails here tells of a change in one of them before users meet it: it looks at theirs and at nothing of ours.
"""

from __future__ import annotations

import _signal
import asyncio
import inspect
import pickle
import re
import signal
import threading
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import dask.config
import distributed.threadpoolexecutor
import distributed.utils
import distributed.worker
import pytest
import yaml
from bokeh.application import Application
from bokeh.application.handlers.document_lifecycle import DocumentLifecycleHandler
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.server.contexts import ApplicationContext
from bokeh.server.tornado import BokehTornado
from bokeh.server.views.doc_handler import DocHandler
from bokeh.server.views.ws import WSHandler
from dask._task_spec import DataNode, Task, TaskRef
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.local import get_async
from distributed import Adaptive, Client, KilledWorker, LocalCluster, Scheduler, Security, Worker
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.nanny import WorkerProcess
from distributed.worker_memory import NannyMemoryManager
from tornado.ioloop import IOLoop

GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def add(*numbers: int) -> int:
    return sum(numbers)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Of a scheduler and a worker in this process."""
    options: dict[str, Any] = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "silence_logs": 50}
    with (
        LocalCluster(**options, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as found,
    ):
        yield found


@pytest.fixture
def scheduler(client: Client) -> Scheduler:
    found: Scheduler = client.cluster.scheduler
    return found


def test_every_private_behaviour_is_listed_with_its_test():
    listed = re.findall(r"^\| .+ \| `(test_\w+)` \|$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    _, *here = [name for name in globals() if name.startswith("test_")]
    assert listed == here


# Dask -----------------------------------------------------------------------------------------------------------------


def test_tasks_have_functions_arguments_and_dependencies():
    task = Task("sum", add, 1, TaskRef("two"))
    assert (task.key, task.func, task.args[0], set(task.dependencies)) == ("sum", add, 1, {"two"})
    assert task({"two": 2}) == 3
    assert DataNode("two", 2)() == 2


def test_the_local_scheduler_takes_tasks_and_what_submits():
    graph = {"two": DataNode("two", 2), "sum": Task("sum", add, 1, TaskRef("two"))}
    with ThreadPoolExecutor(2) as pool:
        assert get_async(pool.submit, 2, graph, ["sum"]) == (3,)


def test_a_delayed_is_made_of_layers_of_tasks():
    layers = {
        "one": MaterializedLayer({("one", 1): DataNode(("one", 1), 1)}, annotations={"priority": 1}),
        "sum": MaterializedLayer({"sum": Task("sum", add, 1, TaskRef(("one", 1)))}),
    }
    graph = HighLevelGraph(layers, {"one": set(), "sum": {"one"}})
    assert Delayed("sum", graph, layer="sum").compute(scheduler="sync", optimize_graph=False) == 2


def test_settings_are_read_again_into_a_dict_of_ours():
    section: dict[str, Any] = {}
    dask.config.refresh(config=section)
    assert "distributed" in section, "defaults of packages come with it"
    assert dask.config.global_config is dask.config.config
    assert list(dask.config.collect_yaml([], return_paths=True)) == []


def test_defaults_of_distributed_are_in_a_file_beside_it():
    file = Path(distributed.__file__).with_name("distributed.yaml")
    assert yaml.safe_load(file.read_bytes()) in dask.config.defaults
    assert dask.config.canonical_name("work_stealing", {"work-stealing": True}) == "work-stealing"
    with dask.config.config_lock:
        pass


# distributed: client and scheduler ------------------------------------------------------------------------------------


def test_a_client_takes_tasks_for_chosen_workers_and_gives_futures(client: Client):
    (worker,) = client.scheduler_info()["workers"]
    graph = {("sum", 1): Task(("sum", 1), add, 1, 2)}
    (future,) = client.get(graph, [("sum", 1)], sync=False, resources=None, priority=1, workers=[worker])
    assert future.result(timeout=10) == 3
    assert future.status == "finished"


def test_a_client_tells_how_it_is_connected(client: Client, scheduler: Scheduler):
    assert client.status == "running"
    assert client.id in scheduler.clients
    assert client.scheduler_comm is client.scheduler_comm is not None
    assert client.loop.asyncio_loop.is_running()
    assert client.generation == 0
    assert "self.generation += 1" in inspect.getsource(Client._handle_restart)


def test_a_client_asks_its_scheduler_what_ours_asks(client: Client):
    def ask(question: Any, **arguments: Any) -> Any:
        return client.sync(question, callback_timeout=10, **arguments)

    scheduler: Any = client.scheduler
    identity = ask(scheduler.identity, n_workers=-1)
    ((address, worker),) = identity["workers"].items()
    assert identity["id"]
    assert {"nthreads", "resources", "status", "local_directory", "metrics", "memory_limit", "last_seen"} <= {*worker}
    assert ask(scheduler.get_task_status, keys=["none"]) == {"none": None}
    assert set(ask(scheduler.processing, workers=None)) == {address}
    versions = ask(scheduler.broadcast, msg={"op": "versions"}, workers=[address], on_error="ignore")
    assert isinstance(worker["metrics"]["task_counts"], dict)
    assert {"python", "dask", "distributed"} <= {*versions[address]["packages"]}
    assert ask(scheduler.versions)["packages"] == versions[address]["packages"]
    ask(scheduler.set_metadata, keys=["of", "ours"], value=1)
    assert ask(scheduler.get_metadata, keys=["of", "ours"], default=None) == 1


def test_functions_run_on_workers_by_coroutines_of_the_client(client: Client):
    answers = client.sync(client._run, add, 1, 2, on_error="return", callback_timeout=10)
    assert list(answers.values()) == [3]

    async def on_its_loop() -> Any:
        return await client.run(add, 1, 2, on_error="return")

    assert list(client.sync(on_its_loop).values()) == [3]


def test_events_of_a_task_are_there_before_its_value(client: Client):
    seen: list[Any] = []

    def tell(number: int) -> int:
        distributed.get_worker().log_event("of-ours", number)
        return number

    client.subscribe_topic("of-ours", lambda event: seen.append(event[1]))
    for number in range(20):
        assert client.submit(tell, number, pure=False).result(timeout=10) == number
        # Both come on one connection, in order; handlers of events run on the loop, which has seen them by then.
        client.sync(asyncio.sleep, 0)
        assert seen[-1] == number
    client.unsubscribe_topic("of-ours")


def test_topics_of_events_are_kept_until_they_are_deleted(client: Client, scheduler: Scheduler):
    client.subscribe_topic("kept", lambda event: None)
    client.log_event("kept", 1)
    client.sync(asyncio.sleep, 0)
    assert client.get_events("kept")
    topics = scheduler._broker._topics
    topics["kept"].unsubscribe(client.id)
    assert not topics["kept"].subscribers
    del topics["kept"]
    assert not client.get_events("kept")


def test_plugins_travel_as_plain_pickles_and_hear_of_clients_and_transitions(client: Client, scheduler: Scheduler):
    assert {"plugin", "name", "idempotent"} <= {*inspect.signature(Scheduler.register_scheduler_plugin).parameters}
    assert {"key", "start", "finish"} <= {*inspect.signature(SchedulerPlugin.transition).parameters}
    assert {"scheduler", "client"} <= {*inspect.signature(SchedulerPlugin.remove_client).parameters}
    data = distributed.protocol.pickle.dumps(SchedulerPlugin())
    remote: Any = client.scheduler
    client.sync(remote.register_scheduler_plugin, plugin=data, name="of-ours", idempotent=False)
    assert type(scheduler.plugins.pop("of-ours")) is SchedulerPlugin


def test_plugins_hear_of_workers_that_leave_and_of_what_they_were_at(scheduler: Scheduler):
    assert {"scheduler", "worker"} <= {*inspect.signature(SchedulerPlugin.add_worker).parameters}
    assert {"scheduler", "worker"} <= {*inspect.signature(SchedulerPlugin.remove_worker).parameters}
    ((address, worker),) = scheduler.workers.items()
    assert worker.address == address
    assert isinstance(worker.executing, dict)
    assert isinstance(worker.last_seen, float)
    assert {"who_wants", "dependents", "worker_restrictions"} <= {*distributed.scheduler.TaskState.__slots__}
    text = inspect.getsource(Scheduler.remove_worker)
    removed, told = text.index("del self.workers[address]"), text.index("self.transitions(recommendations")
    assert removed < text.index('self.log_event("all", event_msg)') < told < text.index("plugin.remove_worker(")
    assert " await " not in text[: text.index("plugin.remove_worker(")]
    assert {"topic", "msg"} <= {*inspect.signature(SchedulerPlugin.log_event).parameters}
    assert '"action": "remove-worker"' in text
    assert '"expected": expected' in text
    assert {"processing", "long_running", "nthreads"} <= {*distributed.scheduler.WorkerState.__slots__}
    assert {"keys", "client"} <= {*inspect.signature(Scheduler.client_releases_keys).parameters}


def test_a_task_is_given_up_at_the_death_after_those_allowed(scheduler: Scheduler):
    assert isinstance(scheduler.allowed_failures, int)
    assert "suspicious" in distributed.scheduler.TaskState.__slots__
    assert {"nanny", "address", "pid"} <= {*distributed.scheduler.WorkerState.__slots__}
    text = inspect.getsource(Scheduler.remove_worker)
    assert "ts.suspicious += 1" in text
    assert "ts.suspicious > self.allowed_failures" in text
    error = KilledWorker("key", None, 3)
    assert (error.task, error.last_worker) == ("key", None)


def test_nannies_write_how_their_workers_ended():
    told: Any = WorkerProcess._death_message
    assert told(None, 7, -9) == "Worker process 7 was killed by signal 9"
    assert told(None, 7, 3) == "Worker process 7 exited with status 3"
    text = re.sub(r'"\s+f"', "", inspect.getsource(NannyMemoryManager))
    assert re.search(r"\(pid=\{process.pid\}\) exceeded [^\"]*\. Restarting", text)


def test_metadata_and_topics_of_the_scheduler_are_plain_dicts(scheduler: Scheduler):
    assert type(scheduler.task_metadata) is dict
    assert isinstance(scheduler.plugins, dict)
    assert type(scheduler._broker._topics).__name__ in ("dict", "defaultdict")


def test_dasks_dashboard_takes_another_page(scheduler: Scheduler):
    from distributed.dashboard.components.scheduler import BOKEH_THEME, env
    from distributed.dashboard.core import BokehApplication
    from distributed.dashboard.scheduler import template_variables

    web: Any = scheduler.http_application
    (dashboard,) = [each for each in web.applications if hasattr(each, "app_paths")]
    assert isinstance(dashboard.prefix, str)
    assert callable(web.add_application)
    assert isinstance(template_variables(scheduler)["pages"], list)
    assert template_variables(scheduler)["pages"] is template_variables(scheduler)["pages"]
    assert BOKEH_THEME is not None
    assert env.get_template("simple.html") is not None
    assert {"prefix", "template_variables"} <= {*inspect.signature(BokehApplication).parameters}


# distributed: workers and clusters ------------------------------------------------------------------------------------


def test_a_worker_has_what_drivers_and_units_ask_of_it(client: Client):
    def look() -> dict[str, Any]:
        worker = distributed.get_worker()
        return {
            "address": worker.address,
            "directory": worker.local_directory,
            "security": type(worker.security).__name__,
            "scheduler": worker.scheduler.address,
            "loop": worker.loop.asyncio_loop.is_running(),
            "slots": worker.state.nthreads,
            "resources": worker.state.total_resources,
            "has room": vars(worker).setdefault("ours", True),
        }

    found = client.submit(look, pure=False).result(timeout=10)
    assert found["address"] in client.scheduler_info()["workers"]
    assert found["scheduler"] == client.scheduler.address
    assert (found["security"], found["loop"], bool(found["directory"])) == ("Security", True, True)
    assert (type(found["slots"]), type(found["resources"]), found["has room"]) == (int, dict, True)
    assert {"topic", "msg"} <= {*inspect.signature(Worker.log_event).parameters}
    assert "callback_timeout" in inspect.signature(distributed.utils.sync).parameters


def test_metadata_of_a_task_reach_the_scheduler_and_annotations_its_worker(client: Client, scheduler: Scheduler):
    def leave_and_take() -> Any:
        worker = distributed.get_worker()
        task = worker.state.tasks[worker.get_current_task()]
        task.metadata["ours"] = b"left"
        return (task.annotations or {}).get("given")

    key = ("anything", 1)
    with dask.annotate(given=b"taken"):
        graph = {key: Task(key, leave_and_take)}
        (future,) = client.get(graph, [key], sync=False)
    assert future.result(timeout=10) == b"taken"
    task = scheduler.tasks[key]
    assert task.metadata == {"ours": b"left"}
    task.annotations = {**task.annotations, "given": task.metadata["ours"]}
    assert scheduler._task_to_msg(task)["annotations"]["given"] == b"left", "of one that is run again"


def test_a_thread_leaves_the_pool_that_its_state_names():
    state = distributed.threadpoolexecutor.thread_state
    state.executor = types.SimpleNamespace(
        _threads={threading.current_thread()},
        _adjust_thread_count=lambda: None,
        _rejoin_lock=threading.Lock(),
        _rejoin_list=[],
        submit=lambda function: state.executor._rejoin_list[0][1].set(),
    )
    try:
        distributed.threadpoolexecutor.secede()
        assert (state.executor._threads, state.proceed) == (set(), False)
        distributed.threadpoolexecutor.rejoin()
        assert (state.executor._rejoin_list[0][0], state.proceed) == (threading.current_thread(), True)
    finally:
        del state.executor, state.proceed
    assert distributed.worker.thread_state is distributed.utils.thread_state


def test_a_future_is_made_of_a_key_and_announced(client: Client):
    there = client.submit(add, 1, 2, pure=False)
    with Client(client.scheduler.address, set_as_default=False) as other:
        here = distributed.Future(there.key, other)
        other._inform_scheduler_of_futures()
        assert here.result(timeout=10) == 3
        known = other.sync(other.scheduler.get_task_status, keys=[there.key, "unknown"])
        assert known == {there.key: "memory", "unknown": None}


def test_functions_that_name_dask_worker_are_given_it(client: Client):
    def ask(dask_worker: Any = None) -> str:
        return str(dask_worker.address)

    assert list(client.run(ask)) == list(client.run(ask).values())


def test_clusters_tell_how_they_adapt_and_what_workers_they_start(client: Client):
    cluster: Any = client.cluster
    assert cluster.new_spec["options"]["nthreads"] == 2
    assert len(cluster.worker_spec) == len(cluster.workers) == 1
    assert cluster.scheduler.status.name == "running"
    adaptive = cluster.adapt(minimum=1, maximum=1)
    assert cluster._adaptive is adaptive
    assert (adaptive.maximum, adaptive.state) in ((1, "starting"), (1, "running"))
    adaptive.stop()
    assert adaptive.state == "stopped"
    assert "target_duration" in inspect.signature(Adaptive.__init__).parameters


def test_protocols_are_registered_by_name():
    from distributed.comm import registry

    assert {"tcp", "tls", "inproc"} <= registry.backends.keys()
    assert '"distributed.comm.backends"' in inspect.getsource(registry)


def test_a_connection_is_opened_and_greeted_in_steps():
    from distributed.comm.core import Comm, FatalCommClosedError
    from distributed.comm.registry import get_backend
    from distributed.core import send_recv

    connector = get_backend("tcp").get_connector()
    assert list(inspect.signature(connector.connect).parameters)[:2] == ["address", "deserialize"]
    assert list(inspect.signature(Comm.handshake_configuration).parameters) == ["local", "remote"]
    assert {"handshake_info", "abort", "read", "write"} <= {*dir(Comm)}
    assert "handshake_options" in inspect.getsource(Comm)
    assert issubclass(FatalCommClosedError, OSError)
    assert inspect.iscoroutinefunction(send_recv)
    assert "tls_ca_file" in Security.__slots__
    assert {"require_encryption", "extra_conn_args"} <= {*Security().get_connection_args("client")}


def test_a_performance_report_can_be_entered_by_hand():
    from distributed.client import performance_report

    report = performance_report(filename="x.html", mode="inline")
    assert inspect.iscoroutinefunction(report.__aenter__)
    assert "code" in inspect.signature(report.__aexit__).parameters


# Python ---------------------------------------------------------------------------------------------------------------


def test_functions_of_signal_are_in_a_module_of_their_own():
    handler = _signal.getsignal(_signal.SIGINT)
    assert _signal.signal(_signal.SIGINT, lambda signum, frame: None) is handler
    assert signal.signal(signal.SIGINT, handler) is not handler
    assert _signal.getsignal(signal.SIGINT) is handler


# cloudpickle ----------------------------------------------------------------------------------------------------------


def test_what_is_pickled_by_value_names_cloudpickle_and_nothing_else_does():
    assert b"cloudpickle.cloudpickle" in cloudpickle.dumps(lambda: 1)
    assert b"cloudpickle.cloudpickle" not in cloudpickle.dumps(add)


def test_functions_of_main_are_pickled_by_value():
    def here() -> int:
        return 1

    here.__qualname__ = here.__name__  # as at the top of a module
    here.__module__ = "__main__"
    assert b"cloudpickle.cloudpickle" in cloudpickle.dumps(here)


def test_modules_are_loaded_by_a_function_of_that_name():
    data = cloudpickle.dumps(lambda: pickle.dumps(1))
    assert b"subimport" in data
    assert cloudpickle.cloudpickle.subimport("pickle") is pickle


def test_the_file_of_code_is_the_eleventh_argument_that_it_is_made_of():
    make, arguments = cloudpickle.Pickler.dispatch_table[types.CodeType](add.__code__)
    assert make(*arguments).co_code == add.__code__.co_code
    assert arguments[10] in (add.__code__.co_filename, "<dynamic-code>")
    assert make(*arguments[:10], "of-ours.py", *arguments[11:]).co_filename == "of-ours.py"


# Bokeh ----------------------------------------------------------------------------------------------------------------


def test_the_web_application_finds_handlers_of_pages_and_websockets():
    application = Application(FunctionHandler(lambda doc: None))
    app = BokehTornado({"/": application}, absolute_url="", include_headers=[], include_cookies=[], use_index=False)
    rules = [rule.target for rule in app.default_router.rules[-1].target.rules]
    assert any(issubclass(each, DocHandler) for each in rules if isinstance(each, type))
    assert any(issubclass(each, WSHandler) for each in rules if isinstance(each, type))
    assert app.app_paths == {"/"}
    assert list(app.get_sessions("/")) == []
    assert inspect.iscoroutinefunction(app._applications["/"]._cleanup_sessions)
    assert inspect.iscoroutinefunction(app._cleanup_sessions)
    doc = Document()
    assert {"destroy", "remove_on_change"} <= {*dir(doc)}
    assert all(callable(each.destroy) for each in (doc.callbacks, doc.models, doc.modules))
    assert {"wait"} <= {*inspect.signature(BokehTornado.stop).parameters}
    assert app.resources().clone(components=["bokeh"]).components == ["bokeh"]


def test_pages_and_websockets_have_the_methods_that_ours_are_in_front_of():
    assert callable(DocHandler.get_session)
    assert inspect.iscoroutinefunction(WSHandler._async_open)
    assert list(inspect.signature(WSHandler._async_open).parameters) == ["self", "token"]
    assert "connection" in WSHandler.__annotations__
    assert {"open", "on_close"} <= {*vars(WSHandler)}


def test_documents_of_lifecycle_handlers_are_made_in_the_thread_of_the_loop():
    threads = []

    class Handler(DocumentLifecycleHandler):
        def modify_document(self, doc: Document) -> None:
            threads.append(threading.current_thread())

    async def make() -> None:
        await ApplicationContext(Application(Handler()), IOLoop.current()).create_session_if_needed("one")

    asyncio.run(make())
    assert threads == [threading.current_thread()]


def test_scripts_of_a_page_are_tags_that_a_nonce_can_be_put_into():
    from bokeh.embed import file_html
    from bokeh.models import Div
    from bokeh.resources import Resources

    page = file_html(Div(text="<script>x</script>"), Resources(mode="server"))
    assert "<script " in page
    assert set(re.findall(r"<script.", page)) <= {"<script ", "<script>"}
    assert "<script>x</script>" not in page, "what is shown is escaped"
