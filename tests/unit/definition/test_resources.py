"""Resources: set up before the tasks of a block, cleaned up after them, whatever becomes of the block."""

import threading

import pytest
from tests.refusals import refused

from anabranch import Flow, apply_map, case, resource_manager, task
from anabranch.errors import CallError, DefinitionError, OutsideFlowError
from anabranch.signals import SKIP

LOG = []


@pytest.fixture(autouse=True)
def empty_log():
    LOG.clear()


@resource_manager
class Database:
    def __init__(self, url, fails=""):
        self.url, self.fails = url, fails
        self.step("init")

    def step(self, name):
        LOG.append(f"{name} {self.url}")
        if self.fails == name:
            raise ConnectionError(name)
        if self.fails == f"skip {name}":
            raise SKIP(name)

    def setup(self):
        self.step("setup")
        return f"connection to {self.url}"

    def cleanup(self, connection):
        self.step("cleanup")
        LOG.append(f"closed {connection}")


@task
def note(*words):
    LOG.append(" ".join(map(str, words)))
    return words


@task
def value(x):
    return x


def states(flow, *nodes):
    view = flow.run()
    return view.state.name, [view.result[node].state.name for node in nodes]


def test_tasks_of_the_block_run_between_setup_and_cleanup():
    # given
    with Flow("f") as flow:
        with Database(value("db")) as connection:
            a = note("reads", connection)
            note("writes", upstream_tasks=[a])
            note("alone")
        note("after", a)

    # when
    view = flow.run()

    # then
    assert view.is_successful()
    assert LOG[:2] == ["init db", "setup db"]
    assert LOG.index("closed connection to db") > max(LOG.index("writes"), LOG.index("alone"))
    assert [node.name for node in flow.tasks if "Database" in node.name] == [
        "Database", "Database.setup", "Database.resource", "Database.cleanup",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fails", "flow_state", "expected", "cleaned"),
    [
        ("", "Success", ["Success", "Success", "Success", "Success"], True),
        ("init", "Failed", ["Failed", "TriggerFailed", "TriggerFailed", "Skipped"], False),
        ("setup", "Failed", ["Success", "Failed", "TriggerFailed", "Skipped"], False),
        ("skip setup", "Success", ["Success", "Skipped", "Skipped", "Skipped"], False),
        ("cleanup", "Success", ["Success", "Success", "Success", "Failed"], True),
    ],
)
def test_cleanup_runs_if_setup_succeeded_and_never_fails_the_flow(fails, flow_state, expected, cleaned):
    with Flow("f") as flow, Database("db", fails=fails):
        work = note("work")
    nodes = ["Database", "Database.setup", work, "Database.cleanup"]
    assert states(flow, *nodes) == (flow_state, expected)
    assert ("cleanup db" in LOG) == cleaned


def test_cleanup_runs_when_the_block_fails():
    with Flow("f") as flow, Database("db"):
        work = task(name="work")(lambda: 1 / 0)()
    assert states(flow, work, "Database.cleanup") == ("Failed", ["Failed", "Success"])


def test_reference_tasks_are_those_of_the_block():
    with Flow("f") as flow:
        with Database("db"):
            a, b = note("a"), note("b")
        with Database("other"):
            pass
    assert [node.slug for node in flow.reference_tasks()] == [a.slug, b.slug, "Database.resource-1"]


def test_blocks_nest():
    with Flow("f") as flow, Database("outer") as outer, Database("inner") as inner:
        note(outer, inner)
    assert flow.run().is_successful()
    assert LOG.index("closed connection to inner") < LOG.index("cleanup outer")


def test_a_block_inside_a_false_case_does_nothing():
    with Flow("f") as flow:
        with case(value(1), 2), Database("db") as connection:
            a = note(connection)
        with Database("db") as connection, case(value(1), 2):
            b = note(connection)
    assert states(flow, a, b, "Database.cleanup", "Database.cleanup-1")[1] == [
        "Skipped",
        "Skipped",
        "Skipped",
        "Success",
    ]
    assert LOG.count("cleanup db") == 1


def test_each_element_has_a_resource_of_its_own():
    def body(x):
        with Database(x) as connection:
            return note("reads", connection)

    with Flow("f") as flow:
        node = apply_map(body, ["a", "b"])
    view = flow.run()
    assert view.result[node].result == [("reads", "connection to a"), ("reads", "connection to b")]
    assert LOG.index("setup a") < LOG.index("reads connection to a") < LOG.index("cleanup a")
    assert [state.state.name for state in view.result["Database.cleanup"].map_states] == ["Success", "Success"]


def test_setup_may_be_missing_and_tasks_have_options():
    @resource_manager(name="lock", setup_task_kwargs={"max_retries": 2}, cleanup_task_kwargs={"tags": ["last"]})
    class Lock:
        def cleanup(self, nothing):
            return f"cleaned up {nothing}"

    with Flow("f") as flow, Lock() as held:
        work = note(held)
    view = flow.run(keep="all")
    assert view.result[work].result == (None,)
    assert view.result["lock.cleanup"].result == "cleaned up None"
    assert flow.get_tasks("lock.setup")[0].policies.retry.max_retries == 2
    assert flow.get_tasks(tags=["last"])[0].name == "lock.cleanup"


def test_a_block_that_raises_while_it_is_written_adds_no_cleanup():
    def write():
        with Flow("f") as flow, pytest.raises(KeyError), Database("db"):
            raise KeyError
        return flow

    assert [node.name for node in write().tasks] == ["Database", "Database.setup", "Database.resource"]


def test_what_cannot_be_a_resource_is_refused():
    words = "@resource_manager needs a class with a method cleanup(self, resource), found "
    with refused(DefinitionError, words + "len"):
        resource_manager(len)
    with refused(DefinitionError, words + "Bare"):

        @resource_manager
        class Bare:
            pass

    with refused(OutsideFlowError, "Database() was called with no flow open"), Database("db"):
        pass
    with Flow("f"), refused(CallError, "Database() is missing 'url'"), Database():
        pass
    assert repr(Database) == "<ResourceManager 'Database'>"


class Cluster:
    """Two processes away from the cleanup, what setup has put on self is there only if it travels."""

    def __init__(self, nodes):
        self.nodes, self.names = nodes, []

    def setup(self):
        self.open = dict.fromkeys(range(self.nodes), "open")
        self.names.append("scheduler")
        self.nodes += 1
        return len(self.open)

    def cleanup(self, resource):
        LOG.append((resource, self.open, self.names, self.nodes))


BLOCKS = {
    "nothing": lambda size: None,
    "a task": lambda size: note(size),
    "two tasks": lambda size: value(value(size)),
    "a map": lambda size: value.map([size, size]),
    "an empty map": lambda size: note.map([], upstream_tasks=[value(size)]),
    "a failure": lambda size: task(lambda x: 1 / 0, name="fails")(size),
    "a join": lambda size: value(value.map([1, 2], upstream_tasks=[value(size)])),
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_cleanup_finds_what_setup_has_put_on_self(block):
    manager = resource_manager(name="Cluster")(Cluster)
    with Flow("f") as flow, manager(2) as size:
        block(size)
    flow.run()
    assert LOG[-1] == (2, {0: "open", 1: "open"}, ["scheduler"], 3)


def test_cleanup_of_each_element_finds_its_own():
    manager = resource_manager(name="Cluster")(Cluster)

    def body(nodes):
        with manager(nodes) as size:
            return value(size)

    with Flow("f") as flow:
        node = apply_map(body, [1, 2])
    assert flow.run().result[node].result == [1, 2]
    assert [(resource, after) for resource, *_, after in LOG] == [(1, 2), (2, 3)]


def test_what_setup_puts_on_self_must_be_picklable():
    @resource_manager
    class Guard:
        def setup(self):
            self.lock = threading.Lock()

        def cleanup(self, nothing):
            self.lock.acquire()

    with Flow("f") as flow, Guard():
        pass
    view = flow.run()
    assert view["Guard.setup"].is_failed()
    assert "resources.SetUp cannot leave the process it was made in: TypeError" in view.message


@pytest.mark.parametrize("block", ["nothing", "a task", "a failure"])
def test_the_run_tells_that_a_cleanup_failed(block):
    with Flow("f") as flow, Database("db", fails="cleanup") as connection:
        BLOCKS[block](connection)
    view = flow.run()
    assert view.message.endswith("; Database.cleanup failed with ConnectionError: cleanup")


def test_a_cleanup_that_decides_about_the_run_is_told_once():
    with Flow("f") as flow, Database("db", fails="cleanup"):
        pass
    flow.set_reference_tasks(flow.get_tasks("Database.cleanup"))
    assert flow.run().message == "Database.cleanup failed with ConnectionError: cleanup"
