"""What is said of why a task run stands as it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from anabranch import Flow, case, context, signals, task, unmapped
from anabranch.definition.caching import digest, inputs, parameters
from anabranch.errors import RunQueryError, RunStoreDamaged
from anabranch.results import InMemoryResult, ResultRef
from anabranch.runs.read.explain import Explanation, explain
from anabranch.runs.record.refs import dump_note, dump_stored, load_note, load_ref, load_stored
from anabranch.runs.store.opening import current_store

REF = ResultRef("a/b", 3, "0" * 64, "pickle", "int", "7", width=2)


def add(x: int, y: int) -> int:
    return x + y


def explained(view: Any, name: str) -> Explanation:
    store = current_store()
    assert store is not None
    return explain(store, view.run_id, name)


def run(name: str, result: Any, y: int, **options: Any) -> Any:
    with Flow(name, result=result) as flow:
        task(add, **{"cache_for": 600, **options}).map([1, 2], unmapped(y))
    return flow.run()


def test_a_miss_names_the_part_of_the_key_that_has_changed():
    result = InMemoryResult()
    first, again, other = (run("explained", result, y) for y in (10, 10, 11))

    assert explained(first, "add[1]").reasons[0] == "it ran, as no value was stored for its key"
    assert explained(first, "add[1]").reasons[1] == "no earlier run of the flow has a key for it"
    hit = explained(again, "add[1]")
    assert (hit.state, hit.changed, hit.compared_with) == ("Cached", [], first.run_id)
    assert hit.reasons == ["a stored value was found, so it was not run"]
    assert hit.location == again.result["add"].map_states[1].ref.location
    miss = explained(other, "add[1]")
    assert miss.changed == ["input y"]
    assert miss.reasons[1] == f"since run {again.run_id}, 'input y' changed"
    assert set(miss.digests or ()) == {"input x", "input y", "code"}


def test_a_miss_with_the_same_key_says_that_the_value_is_gone():
    run("gone", InMemoryResult(), 10)
    found = explained(run("gone", InMemoryResult(), 10), "add[0]")
    assert found.reasons[1].endswith("nothing in the key changed")
    assert "not there any more" in found.reasons[2]


def test_a_value_that_is_too_old_is_said_to_be():
    result = InMemoryResult()
    run("old", result, 10, cache_for=0.000001)
    found = explained(run("old", result, 10, cache_for=0.000001), "add[0]")
    assert found.reasons == ["it ran, as the stored value was too old (cache_for)"]


@pytest.fixture(scope="module")
def view() -> Any:
    def fail(x: int) -> int:
        if x == 2:
            raise ValueError("two")
        return x

    def pause() -> None:
        raise signals.PAUSE("ask first")

    with Flow("mixed") as flow:
        failed = task(fail).map([1, 2])
        task(sum, name="total")(failed)
        paused = task(pause)()
        task(lambda x: x, name="later")(paused)
        with case(task(lambda: 1, name="one")(), 2):
            task(lambda: 1, name="never")()
    return flow.run()


@pytest.mark.parametrize(
    ("name", "state", "reason"),
    [
        ("fail[0]", "Success", "it ran on local"),
        ("fail[1]", "Failed", "it ended as Failed on local: ValueError: two"),
        ("total", "TriggerFailed", "upstream fail[1] failed with ValueError: two"),
        ("never", "Skipped", "it was skipped: "),
        ("pause", "Paused", "ask first"),
        ("later", "Pending", "nothing of it is recorded, so it has not ended"),
        ("fail", "Failed", "it is a map of 2 elements: 1 successful, 1 failed; ask about an element: fail[0]"),
    ],
)
def test_what_has_no_key_is_explained_by_its_state(view: Any, name: str, state: str, reason: str):
    found = explained(view, name)
    assert found.state == state
    assert reason in found.reasons[0]


def test_who_waits_learns_for_what(view: Any):
    assert "before it in the flow, these have not ended: pause (Paused)" in explained(view, "later").reasons


def test_who_waits_for_a_rate_learns_who_has_its_permits():
    @task(rate={"api": (2, 0.3)})
    def ask(x: int) -> int:
        return x

    @task
    def look(first: list[int]) -> Any:
        store = current_store()
        assert store is not None
        return list(explain(store, context.flow_run_id, "third").reasons)

    with Flow("asks") as flow:
        looked = look([ask(1), ask(2)])
        ask(3, task_args={"name": "third"})
    reasons = flow.run(raise_on_failure=True).result[looked].result

    assert reasons[0] == "nothing of it is recorded, so it has not ended"
    assert reasons[-1] == (
        "if it needs a permit of 'api per 0.3s', it waits for one: 2 of 2 are held, 2 of them by this run"
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fial", "did you mean 'fail'"),
        ("fail[2]", "fail has 2 elements"),
        ("total[0]", "total is no map that has begun"),
    ],
)
def test_a_name_that_is_none_is_refused(view: Any, name: str, said: str):
    with pytest.raises(RunQueryError, match=r".") as info:
        explained(view, name)
    assert said in str(info.value)


# Rows


def test_rows_give_back_what_was_put_into_them():
    refs = ((range(3, 5), REF), ((1, 9), REF))
    notes = {3: ("hit", {"input x": "ab"})}
    assert load_stored(dump_stored(refs, notes)) == (refs, notes)
    assert dump_stored((), {}) is None
    assert load_stored(None) == ((), {})
    assert load_note(dump_note(("miss", {"code": "c"}))) == ("miss", {"code": "c"})
    assert load_note(dump_note(None)) is None


@pytest.mark.parametrize(
    ("load", "text"),
    [
        (load_ref, "{"),
        (load_ref, "[1]"),
        (load_note, "[]"),
        (load_note, '["hit", 3]'),
        (load_stored, "{}"),
        (load_stored, '{"refs": [[1, 2]], "notes": {}}'),
    ],
)
def test_a_row_that_nobody_wrote_is_refused(load: Callable[[str], Any], text: str):
    with pytest.raises(RunStoreDamaged, match="where a value is"):
        load(text)


def test_a_secret_in_a_value_is_not_in_the_row_that_says_where_it_is():
    from anabranch import Parameter

    with Flow("hush", result=InMemoryResult()) as flow:
        token = Parameter("token")
        task(lambda token: f"token {token}", name="tell")(token)
        task(lambda token, x: x, name="keyed", cache_for=60, cache_key=inputs + parameters)(token, 1)
        task(lambda x, token: x, name="each", cache_for=60).map([1], token=unmapped(token))
    view = flow.run(token="swordfish-42")
    store = current_store()
    assert store is not None
    rows = {row.slug: row for row in store.task_runs(view.run_id)}
    assert rows["tell"].result is not None
    assert "swordfish" not in rows["tell"].result
    assert load_note(rows["keyed"].fingerprint) == ("miss", {"input x": digest(1)})
    assert set(explained(view, "each[0]").digests or ()) == {"input x", "code"}
