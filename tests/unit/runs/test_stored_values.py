"""Stores that fail, values that are gone or changed, and runs that want the same value; without a cluster."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from tests.faulty_results import faulty_result

from anabranch import Flow, config, signals, task
from anabranch.base.context import RunInfo
from anabranch.base.files import data_directory
from anabranch.definition.caching import duration_only, inputs, never_use
from anabranch.engine.worker.storage import Storage
from anabranch.engine.worker.task_runner import finish
from anabranch.errors import ResultMissing, ResultStoreError
from anabranch.executors import LocalDaskExecutor
from anabranch.results import InMemoryResult, JSONSerializer, LocalResult
from anabranch.results.claims import LEASE_S, Claim, value_or_claim
from anabranch.runs.stored_values import Housekeeping, with_storing

LARGE = 40_000


class Ran:
    """What ran; it is no part of the code that notes it, as a list would be."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def note(self, name: str = "ran") -> None:
        self.names.append(name)

    def __dask_tokenize__(self) -> str:
        return "ran"


def no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def chain(result: Any, ran: Ran, *, names: str = "") -> Flow:
    """A single task, a map in chunks, one by element, a target, a cache, and a join of all."""

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            ran.note(name)
            return function(*args)

        return run

    with Flow(f"chain{names}", result=result) as flow:
        xs = task(noting("xs", lambda: [1, 2, 3]), name="xs")()
        chunked = task(noting("chunked", lambda x: x + 1), name="chunked").map(xs)
        each = task(noting("each", lambda x: 2 * x), name="each", location="{run_id}/each/{map_index}").map(chunked)
        cached = task(noting("cached", lambda x: x**2), name="cached", cache_for=60).map(each)
        goal = task(noting("goal", lambda: 7), name="goal", target="goal")()
        task(noting("total", lambda a, b: sum(a) + b), name="total")(cached, goal)
    return flow


TOTAL = 4**2 + 6**2 + 8**2 + 7


# Stores that fail


def test_a_store_that_fails_at_any_call_fails_a_task_run_and_the_run_that_goes_on_ends_well():
    ran = Ran()
    result, store = faulty_result(no_space)
    assert chain(result, ran).run().result["total"].result == TOTAL
    calls = store.calls
    assert calls > 20
    failed = 0
    for k in range(calls):
        result, store = faulty_result(no_space)
        flow = chain(result, ran)
        store.arm(k)

        first = flow.run()

        store.arm(None)
        if first.is_successful():  # a claim, of which no more than a lease depends
            assert first.result["total"].result == TOTAL
            continue
        failed += 1
        (message,) = {state.message for _, state in first.failures()}
        assert "no space left" in message
        assert "a store that breaks" in message
        ran.names.clear()
        second = flow.run(resume=first.run_id)
        assert second.is_successful(), (k, second.state)
        assert second.result["total"].result == TOTAL
        assert len(ran.names) <= 12
    assert failed > 10


def test_a_store_that_stays_broken_fails_what_is_to_be_stored_and_says_where():
    ran = Ran()
    result, store = faulty_result(no_space, lasts=True)
    store.arm(0)

    view = chain(result, ran).run()

    assert view.is_failed()
    assert view.result["xs"].message.startswith("ResultStoreError: result 'chain/")
    assert "no space left there; free some, then resume the run" in view.result["xs"].message
    assert view.result["total"].name == "TriggerFailed"
    assert "xs" in ran.names


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_is_a_failure_that_names_it(tmp_path: Path):
    (tmp_path / "closed").mkdir(mode=0o500)
    view = chain(LocalResult(tmp_path / "closed"), Ran()).run()
    assert view.is_failed()
    assert str(tmp_path / "closed") in view.result["xs"].message


def test_a_file_in_the_place_of_the_directory_is_a_failure_that_names_it(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    view = chain(LocalResult(tmp_path / "file"), Ran()).run()
    assert view.is_failed()
    assert f"cannot be written in '{tmp_path}/file'" in view.result["xs"].message


def test_a_disk_that_fills_up_leaves_no_torn_file_and_the_rest_runs_once_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ran = Ran()
    flow = chain(LocalResult(tmp_path), ran)
    real, left = os.write, [600]

    def write(handle: int, data: Any) -> int:
        if bytes(data[:4]) != b"\x89ANB" and not os.readlink(f"/proc/self/fd/{handle}").startswith(str(tmp_path)):
            return real(handle, data)
        if left[0] <= 0:
            raise no_space()
        n = real(handle, data[: left[0]])
        left[0] -= n
        return n

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        first = flow.run()
    assert first.is_failed()
    assert any("no space left" in state.message for _, state in first.failures())
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]

    second = flow.run(resume=first.run_id)

    assert second.is_successful(), second.state
    assert second.result["total"].result == TOTAL


def test_elements_that_the_format_refuses_fail_by_themselves_and_stop_what_took_them():
    with Flow("json", result=InMemoryResult(serializer=JSONSerializer())) as flow:
        made = task(lambda x: {x: 1} if x == 2 else x, name="made").map([1, 2, 3])
        after = task(lambda x: str(x), name="after").map(made)

    view = flow.run()

    assert [state.name for state in view.result[made].map_states] == ["Success", "Failed", "Success"]
    assert "element" not in view.result[made].map_states[1].message
    assert "use PickleSerializer, or return what JSON has" in view.result[made].map_states[1].message
    assert [state.name for state in view.result[after].map_states] == ["Success", "TriggerFailed", "Success"]
    assert view.result[after].map_states[2].result == "3"


# What is there already


def test_somebody_elses_file_at_the_target_is_a_failure_before_anything_runs(tmp_path: Path):
    ran = Ran()
    (tmp_path / "out.csv").write_text("my table")
    with Flow("etl", result=LocalResult(tmp_path)) as flow:
        task(lambda: ran.note(), name="load", target="out.csv")()

    view = flow.run()

    assert view.is_failed()
    assert "remove it, or choose another location" in view.result["load"].message
    assert ran.names == []
    assert (tmp_path / "out.csv").read_text() == "my table"


def test_two_tasks_with_one_target_are_told_of_each_other():
    with Flow("etl", result=InMemoryResult()) as flow:
        first = task(lambda: 1, name="first", target="same")()
        task(lambda x: 2, name="second", target="same")(first)

    view = flow.run()

    assert view.result["second"].is_failed()
    assert "'same'" in view.result["second"].message
    assert "first" in view.result["second"].message


def test_a_location_that_names_no_run_holds_the_last_one():
    result = InMemoryResult()
    with Flow("etl", result=result) as flow:
        task(iter(range(1, 9)).__next__, name="count", location="latest/{task_name}")()

    first, second = flow.run(), flow.run()

    assert result.read("latest/count") == 2
    assert first.result["count"].result == 1  # it travelled with the report
    assert second.result["count"].result == 2


def test_two_elements_with_one_location_are_told_of_each_other():
    with Flow("etl", result=InMemoryResult()) as flow:
        task(lambda x: x, name="each", location="{x:.1}").map(["ab", "ac"])

    view = flow.run()

    assert [state.name for state in view.result["each"].map_states] == ["Success", "Failed"]
    assert '"element":0' in view.result["each"].map_states[1].message


# Values that are gone or changed


@pytest.mark.parametrize("how", ["deleted", "truncated", "emptied", "flipped", "replaced"])
def test_a_stored_value_that_is_not_what_it_was_is_told_of_and_made_again(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
):
    ran = Ran()
    is_fixed = Event()

    def check(parts: list[bytes]) -> int:
        if not is_fixed.is_set():
            raise ValueError("later")
        return len(b"".join(parts))

    with Flow("etl", result=LocalResult(tmp_path)) as flow:
        one = task(lambda: ran.note("one") or [1, 2, 3], name="one")()
        large = task(lambda x: ran.note(f"large{x}") or bytes([x]) * LARGE, name="large", chunksize=1).map(one)
        task(check)(large)
    first = flow.run()
    file = tmp_path / first.result["large"].map_states[1].ref.location
    other = tmp_path / first.result["large"].map_states[2].ref.location
    _spoil(file, how, other)
    ran.names.clear()
    is_fixed.set()

    with caplog.at_level(logging.WARNING, "anabranch.history"):
        second = flow.run(resume=first.run_id)

    assert second.is_successful(), second.state
    assert second.result["check"].result == 3 * LARGE
    assert ran.names == ["large2"]
    assert [each.name for each in caplog.records] == ["anabranch.history"]
    assert str(file.relative_to(tmp_path)) in caplog.text
    assert second.result["large"].result == [bytes([i]) * LARGE for i in (1, 2, 3)]


def _spoil(file: Path, how: str, other: Path) -> None:
    data = file.read_bytes()
    if how == "deleted":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(data[:-7])
    elif how == "emptied":
        file.write_bytes(b"")
    elif how == "flipped":
        file.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    else:
        file.write_bytes(other.read_bytes())


def test_elements_hold_though_the_list_that_they_came_from_is_made_again(tmp_path: Path):
    ran, is_fixed = Ran(), Event()

    def double(x: int) -> int:
        ran.note(f"double {x}")
        if x == 2 and not is_fixed.is_set():
            raise ValueError("two")
        return 2 * x

    with Flow("etl") as flow:
        rows = task(lambda: ran.note("rows") or [0, 1, 2, 3], name="rows", result=LocalResult(tmp_path))()
        task(double, name="double", chunksize=1).map(rows)
    first = flow.run()
    (tmp_path / first.result["rows"].ref.location).unlink()
    ran.names.clear()
    is_fixed.set()

    second = flow.run(resume=first.run_id)

    assert second.result["double"].result == [0, 2, 4, 6]
    assert ran.names == ["rows", "double 2"]


def test_values_deleted_under_a_finished_run_are_missed_by_who_asks_for_them(tmp_path: Path):
    with Flow("etl", result=LocalResult(tmp_path)) as flow:
        task(lambda: bytes(LARGE), name="large")()
    view = flow.run()
    (tmp_path / view.result["large"].ref.location).unlink()
    with pytest.raises(ResultMissing, match="there is no result 'etl/"):
        _ = view.result["large"].result


def test_a_damaged_value_in_a_cache_is_computed_again_and_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    ran = Ran()
    with Flow("etl", result=LocalResult(tmp_path)) as flow:
        task(lambda: ran.note() or 5, name="five", cache_for=60)()
    location = flow.run().result["five"].ref.location
    data = (tmp_path / location).read_bytes()
    (tmp_path / location).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    views = [flow.run(), flow.run()]

    assert [view.result["five"].name for view in views] == ["Success", "Cached"]
    assert [view.result["five"].result for view in views] == [5, 5]
    assert len(ran.names) == 2
    assert "it is computed again" in caplog.text


def test_what_is_run_again_on_purpose_takes_the_place_of_what_it_had_stored():
    result = InMemoryResult()
    with Flow("etl", result=result) as flow:
        source = task(iter(range(1, 9)).__next__, name="count")()
        task(lambda x: 10 * x, name="tens")(source)
    first = flow.run()

    second = flow.run(resume=first.run_id, resume_from="count")

    assert second.result["tens"].result == 20
    assert result.read(second.result["count"].ref) == 2


# Caches


def test_a_value_that_is_too_old_is_computed_again():
    ran = Ran()
    with Flow("etl", result=InMemoryResult()) as flow:
        task(lambda: ran.note(), name="quick", cache_for=0.000001)()
    flow.run()
    assert flow.run().result["quick"].name == "Success"
    assert len(ran.names) == 2


@pytest.mark.parametrize(
    ("validator", "states"),
    [
        (duration_only, ["Success", "Cached"]),
        (never_use, ["Success", "Success"]),
        (lambda value, inputs, parameters: value == inputs["x"], ["Success", "Success"]),
    ],
)
def test_validators_decide_which_value_will_do(validator: Any, states: list[str]):
    result = InMemoryResult()
    found = []
    for x in (1, 2):
        with Flow("etl", result=result) as flow:
            task(lambda x: 10 * x, name="tens", cache_for=60, cache_validator=validator)(x)
        found.append(flow.run().result["tens"].name)
    assert found == states


@pytest.mark.parametrize("is_map", [False, True])
def test_an_input_without_a_digest_never_hits_and_one_warning_a_run_says_what_to_do(
    caplog: pytest.LogCaptureFixture, is_map: bool
):
    ran = Ran()
    with Flow("etl", result=InMemoryResult()) as flow:
        things = task(lambda: [object(), object()], name="things")()
        one = task(lambda x: ran.note() or 1, name="one", cache_for=60)
        one.map(things) if is_map else one(things)

    for number in (1, 2):
        caplog.clear()
        assert flow.run().is_successful()
        assert len(ran.names) == number * (2 if is_map else 1)
        assert len(caplog.messages) == 1
        assert "no cached value is used for one: input 'x'" in caplog.text
        assert "cache_key=inputs('…')" in caplog.text


@pytest.mark.parametrize("key", [None, inputs])
def test_code_that_holds_what_cannot_be_told_never_hits_unless_it_is_no_part_of_the_key(
    caplog: pytest.LogCaptureFixture, key: Any
):
    ran, held = Ran(), sys.__stdout__
    with Flow("etl", result=InMemoryResult()) as flow:
        task(lambda x: ran.note() or bool(held), name="one", cache_for=60, cache_key=key)(1)

    states = [flow.run().result["one"].name for _ in range(2)]

    assert states == (["Success", "Success"] if key is None else ["Success", "Cached"])
    assert len(caplog.messages) == (2 if key is None else 0)
    if key is None:
        said = (
            "no cached value is used for one: its code has no fingerprint that is the same in every process: 'held' of "
        )
        assert said in caplog.text
        assert (
            "give the class of that a method __dask_tokenize__, or choose the parts of the key: cache_key=inputs"
            in (caplog.text)
        )


def test_a_failure_is_not_cached_and_does_not_keep_the_key():
    tries = iter([ValueError("first"), None])

    def fragile() -> int:
        error = next(tries)
        if error is not None:
            raise error
        return 1

    result = InMemoryResult()
    with Flow("etl", result=result) as flow:
        task(fragile, cache_for=60)()
    assert flow.run().result["fragile"].is_failed()
    assert not [name for name in result.store.objects if "claim" in name]
    assert flow.run().result["fragile"].result == 1


def test_a_skip_and_a_signal_with_a_value_are_what_they_are():
    result = InMemoryResult()

    def skip() -> None:
        raise signals.SKIP("no need")

    def succeed() -> None:
        raise signals.SUCCESS("enough", result=[1])

    with Flow("etl", result=result) as flow:
        task(skip)()
        task(succeed)()
    view = flow.run()
    assert view.result["skip"].is_skipped()
    assert view.result["skip"].ref is None
    assert result.read(view.result["succeed"].ref) == [1]


def test_what_a_state_handler_puts_in_the_place_of_a_value_is_stored():
    result = InMemoryResult()

    def more(node: Any, old: Any, new: Any) -> Any:
        return type(new)(message=new.message, result=new.result + 1) if new.is_successful() else None

    with Flow("etl", result=result) as flow:
        task(lambda: 1, name="one", state_handlers=[more])()
    view = flow.run()
    assert view.result["one"].result == 2
    assert result.read(view.result["one"].ref) == 2


def test_two_runs_that_want_one_key_at_once_compute_it_once():
    result = InMemoryResult()
    began, may_end, ran = Event(), Event(), Ran()

    def slow() -> int:
        ran.note()
        began.set()
        assert may_end.wait(30)
        return 5

    def flow() -> Flow:
        with Flow("etl", result=result) as made:
            task(slow, cache_for=60)()
        return made

    views: list[Any] = []
    threads = [Thread(target=lambda: views.append(flow().run(executor=LocalDaskExecutor(num_workers=1)))) for _ in "ab"]
    threads[0].start()
    assert began.wait(30)
    threads[1].start()
    may_end.set()
    for thread in threads:
        thread.join(30)

    assert sorted(view.result["slow"].name for view in views) == ["Cached", "Success"]
    assert [view.result["slow"].result for view in views] == [5, 5]
    assert ran.names == ["ran"]


# Claims


class Clock:
    """A time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.naps = 0

    def __call__(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        self.now += seconds
        self.naps += 1


def claim(result: Any, look: Callable[[], Any] = lambda: None, clock: Clock | None = None) -> Any:
    clock = clock or Clock()
    return finish(value_or_claim(result, "cache/x", look, clock.pause, clock=clock))


def test_a_claim_is_one_persons_until_it_is_released():
    result, clock = InMemoryResult(), Clock()
    mine = claim(result)
    assert isinstance(mine, Claim)

    def look() -> str | None:
        if clock.naps == 3:
            mine.release()
        return "value" if clock.naps == 5 else None

    theirs = claim(result, look, clock)

    assert isinstance(theirs, Claim)
    assert clock.naps == 3
    theirs.release()
    assert list(result.store.objects) == []


def test_who_waits_takes_the_value_as_soon_as_it_is_there():
    result, clock = InMemoryResult(), Clock()
    mine = claim(result)
    assert claim(result, lambda: "value" if clock.naps == 2 else None, clock) == "value"
    mine.release()


def test_a_claim_without_a_sign_of_life_is_passed_over_after_the_lease():
    result, clock = InMemoryResult(), Clock()
    result.put_note("cache/x.claim-0", b'{"owner": "dead", "host": "elsewhere", "pid": 1}')

    mine = claim(result, clock=clock)

    assert mine.number == 1
    assert clock.now >= LEASE_S
    mine.release()
    assert list(result.store.objects) == []


def test_a_claim_that_gives_signs_of_life_is_waited_for():
    result, clock = InMemoryResult(), Clock()
    mine = claim(result)

    def look() -> str | None:
        if clock.naps % 10 == 9:
            mine.beat()
        return "late" if clock.now > 3 * LEASE_S else None

    assert claim(result, look, clock) == "late"
    mine.release()
    mine.beat()  # too late: it must not come back
    assert list(result.store.objects) == []


def test_a_claim_of_a_process_of_this_machine_that_is_gone_is_passed_over_at_once():
    import json
    import socket

    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    result, clock = InMemoryResult(), Clock()
    content = {"owner": "dead", "host": socket.gethostname(), "pid": process.pid}
    result.put_note("cache/x.claim-0", json.dumps(content).encode())
    mine = claim(result, clock=clock)
    assert clock.naps == 0
    mine.release()


# By default


def test_checkpointing_stores_the_values_of_all_tasks_below_the_home_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path))
    with Flow("etl") as flow:
        one = task(lambda: [1, 2], name="one")()
        two = task(lambda x: x, name="two", checkpoint=False)(one[0])
        task(lambda x: x, name="three").map(one)
    assert flow.run().result[one].ref is None
    with config.set(checkpointing=True):
        view = flow.run()
    assert LocalResult().read(view.result[one].ref) == [1, 2]
    assert view.result[two].ref is None
    assert view.result["three"].map_states[1].ref is not None
    assert sorted(path.name for path in (tmp_path / "results" / "etl" / view.run_id).iterdir()) == ["one", "three"]


def test_a_store_error_while_a_directory_is_read_for_resuming_is_an_error_of_the_resume():
    ran = Ran()
    result, store = faulty_result(lambda: PermissionError(errno.EACCES, "no"), lasts=True)
    flow = chain(result, ran)
    first = flow.run()
    store.arm(0)
    with pytest.raises(ResultStoreError, match="this user may not do that there"):
        flow.run(resume=first.run_id)
    store.arm(None)
    assert flow.run(resume=first.run_id).is_successful()


class Fickle:
    """Loads as long as it may."""

    may_load = True

    def __reduce__(self) -> tuple[Any, ...]:
        return _fickle, ()


def _fickle() -> Fickle:
    if not Fickle.may_load:
        raise ImportError("no such class in this version")
    return Fickle()


def test_a_value_of_another_python_that_does_not_load_here_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ran, is_fixed = Ran(), Event()

    def make() -> list[Any]:
        ran.note("make")
        return [Fickle() if Fickle.may_load else "new", "x" * LARGE]

    def take(value: list[Any]) -> str:
        if not is_fixed.is_set():
            raise ValueError("later")
        return type(value[0]).__name__

    with Flow("etl", result=LocalResult(tmp_path)) as flow:
        task(take)(task(make)())
    with monkeypatch.context() as patch:
        patch.setattr("anabranch.runs.record.beginning._versions", lambda: {"python": "3.9.1"})
        first = flow.run()
    is_fixed.set()
    monkeypatch.setattr(Fickle, "may_load", False)

    second = flow.run(resume=first.run_id)

    assert second.is_successful(), second.state
    assert second.result["take"].result == "str"
    assert ran.names == ["make", "make"]


def test_a_list_that_chunks_are_cut_from_is_read_once_when_the_run_goes_on():
    is_fixed = Event()

    def half(x: int, rest: str) -> int:
        if x % 2 and not is_fixed.is_set():
            raise ValueError("odd")
        return x

    result, store = faulty_result(no_space)
    with Flow("etl", result=result) as flow:
        rows = task(lambda: [(i, f"{i:0500}") for i in range(100)], name="rows")()
        task(lambda row: half(*row), name="half", chunksize=10, checkpoint=False).map(rows)
    first = flow.run()
    assert first.result["half"].map_states[1].is_failed()
    is_fixed.set()
    store.arm(None)

    second = flow.run(resume=first.run_id)

    assert second.is_successful(), second.state
    assert second.result["half"].result == list(range(100))
    assert store.calls == 2  # once to see that it is whole, once for all chunks


def test_what_writers_that_died_have_left_is_swept_when_a_run_begins(tmp_path: Path):
    old, new = tmp_path / ".anabranch-tmp-old", tmp_path / ".anabranch-tmp-new"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    with Flow("etl", result=LocalResult(tmp_path)) as flow:
        task(lambda: 1, name="one")()
    with Housekeeping(with_storing(flow.graph.freeze(), flow.result, checkpointing=False)) as keeping:
        keeping.sweeper.join(30)
    assert not old.exists()
    assert new.exists()


def test_stores_are_swept_once_an_hour_whichever_runs_begin(tmp_path: Path):
    """To walk through all results for each of many short runs would take longer than they do."""
    other = tmp_path / "other"
    with Flow("etl", result=LocalResult(tmp_path / "results")) as flow:
        task(lambda: 1, name="one")()
        task(lambda: 1, name="two", result=LocalResult(other))()
    graph = with_storing(flow.graph.freeze(), flow.result, checkpointing=False)

    def left_after_a_run() -> list[str]:
        for root in (tmp_path / "results", other):
            root.mkdir(exist_ok=True)
            (root / ".anabranch-tmp-old").touch()
            os.utime(root / ".anabranch-tmp-old", (0, 0))
        with Housekeeping(graph) as keeping:
            if keeping.sweeper.ident is not None:
                keeping.sweeper.join(30)
        return sorted(each.parent.name for each in tmp_path.glob("*/.anabranch-tmp-old"))

    assert left_after_a_run() == []
    assert left_after_a_run() == ["other", "results"]
    for mark in (data_directory() / "swept").iterdir():
        os.utime(mark, (0, 0))
    assert left_after_a_run() == []


def test_a_zombies_late_commit_is_ignored(tmp_path: Path):
    """The worker of a former owner writes after the run has gone on and stored another value in its place."""
    result = LocalResult(tmp_path)
    counter = iter(range(1, 9))
    with Flow("etl", result=result) as flow:
        task(counter.__next__, name="count")()
    first = flow.run()
    graph = with_storing(flow.graph.freeze(), flow.result, checkpointing=False)
    info = RunInfo("etl", first.run_id)
    zombie = Storage(graph.nodes["count"], info, {}).errand({}, None)
    second = flow.run(resume=first.run_id, resume_from="count")

    value, ref = zombie.commit(99)

    assert value == 2
    assert ref == second.result["count"].ref
    assert result.read(second.result["count"].ref) == 2


def test_a_run_that_stores_nothing_loads_nothing_for_it(tmp_path: Path):
    program = """
import sys
from anabranch import Flow, task
with Flow("etl") as flow:
    task(sum)([1, 2])
assert flow.run().is_successful()
print(*[name for name in sys.modules if name.startswith(("anabranch.results.result", "anabranch.definition.storing"))])
"""
    environment = {**os.environ, "ANABRANCH_HOME": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == ""
