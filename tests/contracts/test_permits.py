"""What the table of permits must do in every run store: never too many, none lost, first come first served."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.limited_driver import LimitedDrivers, ended
from tests.postgres_server import PostgresServer, postgres  # noqa: F401

from anabranch.engine.machine.permits import Bundle, Claim, rate_limit
from anabranch.errors import LimitError
from anabranch.runs import RunRecord, open_store
from anabranch.runs.store.permit_rules import FRESH, Verdict
from anabranch.runs.store.permit_table import Holder, PermitTable
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.runs.store.slots import Slot

SECOND = 1_000_000
LEASE_S = 30.0
DB: Bundle = ("db",)
BOTH: Bundle = ("api", "db")


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RelationalRunStore]:
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/runs.db"}.get(request.param)
    if url is None:
        url = request.getfixturevalue("postgres").fresh_url()
    with open_store(url) as opened:
        assert isinstance(opened, RelationalRunStore)
        yield opened


@pytest.fixture
def table(store: RelationalRunStore) -> PermitTable:
    return PermitTable(store.database)


def driver(name: str, *, run: str = "") -> Holder:
    return Holder(f"token-{name}", run or f"run-{name}", "etl", f"host:{name}")


def settle(
    table: PermitTable,
    name: str,
    *,
    in_use: Mapping[str, int] | None = None,
    wants: Mapping[Bundle, int] | None = None,
    size: int = 2,
    at: float = 0,
    run: str = "",
) -> Verdict:
    claim = Claim({"db": size, "api": size}, in_use or {}, tuple((wants or {}).items()))
    names = {*claim.in_use, *(each for bundle, _ in claim.wants for each in bundle)} or {"db"}
    now = round((1_000 + at) * SECOND)
    return table.settle(driver(name, run=run), claim, names, lease_s=LEASE_S, now=now).verdict


def held(table: PermitTable, name: str = "db", *, at: float = 0) -> dict[str, int]:
    limits = {each.name: each for each in table.all(now=round((1_000 + at) * SECOND))}
    return {each.run_id: each.held for each in limits[name].holders} if name in limits else {}


def test_who_comes_first_gets_all_it_wants_and_the_next_waits(table: PermitTable):
    assert settle(table, "a", wants={DB: 2}).may_use == {"db": 2}

    second = settle(table, "b", wants={DB: 1}, at=1)

    assert (second.may_use, second.short, second.waiting) == ({}, ("db",), {DB: (1, 1_001 * SECOND)})
    assert held(table, at=1) == {"run-a": 2}


def test_what_is_not_in_use_any_more_is_there_for_the_next(table: PermitTable):
    settle(table, "a", wants={DB: 2})
    settle(table, "b", wants={DB: 1}, at=1)

    settle(table, "a", in_use={"db": 1}, at=2)

    assert settle(table, "b", wants={DB: 1}, at=2).may_use == {"db": 1}
    assert held(table, at=2) == {"run-a": 1, "run-b": 1}


def test_saying_the_same_twice_changes_nothing(table: PermitTable):
    first = settle(table, "a", wants={DB: 1})
    assert settle(table, "a", wants={DB: 1}) == first
    assert settle(table, "a", in_use={"db": 1}) == settle(table, "a", in_use={"db": 1})
    assert held(table) == {"run-a": 1}


def test_who_waits_longest_is_served_first(table: PermitTable):
    settle(table, "a", wants={DB: 1}, size=1)
    settle(table, "b", wants={DB: 1}, size=1, at=1)
    settle(table, "c", wants={DB: 1}, size=1, at=2)
    table.drop("token-a")

    assert settle(table, "c", wants={DB: 1}, size=1, at=3).may_use == {}
    assert settle(table, "b", wants={DB: 1}, size=1, at=3).may_use == {"db": 1}


def test_who_does_not_ask_any_more_keeps_nobody_waiting(table: PermitTable):
    settle(table, "a", wants={DB: 1}, size=1)
    settle(table, "b", wants={DB: 1}, size=1, at=1)
    settle(table, "c", wants={DB: 1}, size=1, at=2)
    table.drop("token-a")

    late = 1 + FRESH / SECOND + 1
    assert settle(table, "c", wants={DB: 1}, size=1, at=late).may_use == {"db": 1}
    settle(table, "c", at=late)
    settle(table, "d", wants={DB: 1}, size=1, at=late)
    assert settle(table, "b", wants={DB: 1}, size=1, at=late).ahead == 0


def test_who_has_more_than_a_share_is_told_to_give_back_what_becomes_free(table: PermitTable):
    settle(table, "a", wants={DB: 4}, size=4)
    settle(table, "b", wants={DB: 4}, size=4, at=1)

    told = settle(table, "a", in_use={"db": 4}, size=4, at=2)
    assert (told.may_use, told.held) == ({"db": 2}, {"db": 4})
    settle(table, "a", in_use={"db": 3}, wants={DB: 1}, size=4, at=3)
    assert settle(table, "b", wants={DB: 4}, size=4, at=3).may_use == {"db": 1}
    settle(table, "a", in_use={"db": 2}, wants={DB: 1}, size=4, at=4)
    assert settle(table, "b", in_use={"db": 1}, wants={DB: 3}, size=4, at=4).may_use == {"db": 2}

    assert settle(table, "a", in_use={"db": 2}, wants={DB: 1}, size=4, at=5).may_use == {"db": 2}
    assert settle(table, "b", in_use={"db": 2}, wants={DB: 2}, size=4, at=5).may_use == {"db": 2}


def test_more_drivers_than_permits_take_turns(table: PermitTable):
    settle(table, "a", wants={DB: 1}, size=1)
    for name in "bc":
        settle(table, name, wants={DB: 1}, size=1, at=1)

    turns, holder = [], "a"
    for at in range(2, 8):
        assert settle(table, holder, in_use={"db": 1}, size=1, at=at).may_use == {}
        settle(table, holder, wants={DB: 1}, size=1, at=at)
        for name in "cba":
            if settle(table, name, wants={DB: 1}, size=1, at=at + 0.5).may_use:
                holder = name
                break
        turns.append(holder)

    assert sorted(turns[:3]) == ["a", "b", "c"]
    assert turns[3:] == turns[:3]


def test_several_names_are_given_together_or_not_at_all(table: PermitTable):
    settle(table, "a", wants={("api",): 1}, size=1)

    refused = settle(table, "b", wants={BOTH: 1}, size=1, at=1)

    assert (refused.may_use, refused.short) == ({}, ("api",))
    assert held(table, at=1) == {}
    table.drop("token-a")
    assert settle(table, "b", wants={BOTH: 1}, size=1, at=2).may_use == {"api": 1, "db": 1}


def test_of_all_that_one_run_waits_for_each_has_its_turn(table: PermitTable):
    wants: dict[Bundle, int] = {("api",): 1, BOTH: 1, ("api", "db", "gpu"): 1}
    served = set()
    for at in range(30):
        served.add(tuple(sorted(settle(table, "a", wants=wants, size=1, at=at).may_use)))
        settle(table, "b", wants={("api",): 1}, size=1, at=at + 0.5)

    assert served >= wants.keys()


def test_what_a_dead_driver_held_is_free_when_its_lease_has_ended(table: PermitTable):
    settle(table, "a", wants={DB: 2})
    settle(table, "b", wants={DB: 1}, at=LEASE_S - 1)
    assert settle(table, "b", wants={DB: 1}, at=LEASE_S - 1).may_use == {}

    assert settle(table, "b", wants={DB: 1}, at=LEASE_S).may_use == {"db": 1}
    assert held(table, at=LEASE_S) == {"run-b": 1}


def test_a_sign_of_life_keeps_permits_and_one_that_comes_too_late_does_not(table: PermitTable):
    settle(table, "a", wants={DB: 2})

    assert table.renew("token-a", lease_s=LEASE_S, now=1_020 * SECOND)
    assert settle(table, "b", wants={DB: 1}, at=40).may_use == {}
    assert not table.renew("token-a", lease_s=LEASE_S, now=1_051 * SECOND)
    assert settle(table, "b", wants={DB: 1}, at=51).may_use == {"db": 1}


def test_who_comes_too_late_is_told_what_it_lost_and_must_ask_again(table: PermitTable):
    settle(table, "a", wants={DB: 2})
    settle(table, "b", wants={DB: 1}, at=31)

    late = settle(table, "a", in_use={"db": 2}, wants={DB: 1}, at=32)

    assert late.lost == {"db"}
    assert late.may_use == {"db": 1}
    assert held(table, at=32) == {"run-a": 1, "run-b": 1}


def test_the_next_driver_of_a_run_has_what_the_last_one_left(table: PermitTable):
    settle(table, "a", wants={DB: 2}, run="run-1")

    assert settle(table, "b", wants={DB: 2}, run="run-1", at=1).may_use == {"db": 2}
    assert held(table, at=1) == {"run-1": 2}
    assert settle(table, "a", in_use={"db": 2}, run="run-1", at=2).lost == {"db"}


def test_of_two_sizes_the_lower_holds_while_both_are_there(table: PermitTable):
    settle(table, "a", wants={DB: 4}, size=4)
    assert settle(table, "b", wants={DB: 1}, size=3, at=1).sizes == {"db": 3}

    told = settle(table, "a", in_use={"db": 4}, size=4, at=2)
    assert (told.sizes, told.may_use) == ({"db": 3}, {"db": 1})
    table.drop("token-b")
    assert settle(table, "a", in_use={"db": 1}, wants={DB: 3}, size=4, at=3).may_use == {"db": 4}


def test_a_size_that_was_set_holds_whatever_runs_say(table: PermitTable):
    table.fix("db", 1)
    assert settle(table, "a", wants={DB: 4}, size=4).may_use == {"db": 1}

    table.fix("db", 8)
    for name in "bcde":
        settle(table, name, wants={DB: 1}, size=2)
    assert len(held(table)) == 5
    table.fix("db", None)
    assert settle(table, "f", wants={DB: 1}, size=2).may_use == {}


@pytest.mark.parametrize(("name", "size"), [("db", 0), ("db", -1), ("", 3), (201 * "n", 3)])
def test_a_limit_has_a_name_and_a_size_of_one_or_more(table: PermitTable, name: str, size: int):
    with pytest.raises(LimitError, match=r"expected a (size of 1 or more|name of 1 to 200 characters), found"):
        table.fix(name, size)


def test_permits_are_taken_from_a_run_by_force_and_it_is_told(table: PermitTable):
    settle(table, "a", wants={DB: 2})
    settle(table, "b", wants={DB: 2})

    taken = table.release("run-a", ["db"])

    assert [(each.run_id, each.held) for each in taken] == [("run-a", 2)]
    assert settle(table, "b", wants={DB: 2}, at=1).may_use["db"] >= 1
    assert settle(table, "a", in_use={"db": 2}, at=2).lost == {"db"}
    assert table.release("run-a", ["db"]) == []


def test_a_driver_that_has_given_all_back_leaves_no_row(table: PermitTable):
    settle(table, "a", wants={DB: 1, BOTH: 1}, size=1)
    settle(table, "a", in_use={}, wants={})
    table.drop("token-a")
    assert table.all(now=1_000 * SECOND) == []


def test_nothing_is_left_of_limits_that_nobody_uses(table: PermitTable, store: RelationalRunStore):
    table.fix("db", 3)
    for n in range(20):
        names = sorted((f"host:{n}", f"host:{n + 1}", "db"))
        claim = Claim(dict.fromkeys(names, 1), {}, tuple(((name,), 1) for name in names))
        table.settle(driver("a"), claim, names, lease_s=LEASE_S, now=SECOND)
        table.settle(driver("a"), Claim({}, {f"host:{n}": 1}), names, lease_s=LEASE_S, now=SECOND)
        if n % 2:
            table.settle(driver("a"), Claim(), names, lease_s=LEASE_S, now=SECOND)
        else:
            table.drop("token-a", now=SECOND)

    names = store.database.read(lambda transaction: transaction.fetch("SELECT name FROM anabranch_limits"))

    assert [name for (name,) in names] == ["db"]
    assert [each.name for each in table.all(now=SECOND)] == ["db"]


def test_names_are_only_ever_values(table: PermitTable):
    name = "x'); DROP TABLE anabranch_permits; -- %_ é 😀 <b>"
    claim = Claim({name: 1}, {}, (((name,), 1),))
    table.settle(driver("a"), claim, [name], lease_s=LEASE_S, now=SECOND)
    assert [(each.name, each.size) for each in table.all(now=SECOND)] == [(name, 1)]


# Rates ----------------------------------------------------------------------------------------------------------------

MIN = rate_limit("api", 60.0)
RATE: Bundle = (MIN,)


def ask(
    table: PermitTable,
    name: str,
    *,
    in_use: int = 0,
    wants: int = 0,
    at: float = 0,
    run: str = "",
    late: bool = False,
    alive_at: float = 5,
) -> Verdict:
    claim = Claim({MIN: 10}, {MIN: in_use} if in_use else {}, ((RATE, wants),) if wants else ())
    now = round((1_000 + at) * SECOND)
    if in_use and not late:  # it has given signs of life
        table.renew(f"token-{name}", lease_s=1_000.0, now=round((1_000 + alive_at) * SECOND))
    return table.settle(driver(name, run=run), claim, {MIN}, lease_s=LEASE_S, now=now).verdict


def drop(table: PermitTable, name: str, *spent: tuple[int, float], at: float = 0) -> None:
    entries = [(MIN, count, seconds) for count, seconds in spent]
    table.drop(f"token-{name}", entries, now=round((1_000 + at) * SECOND))


def test_what_was_spent_of_a_rate_counts_until_its_window_ends_whoever_has_gone(table: PermitTable):
    assert ask(table, "a", wants=10).may_use == {MIN: 10}

    drop(table, "a", (4, 50.0), (3, 60.0), at=1)

    assert ask(table, "b", wants=10, at=2).may_use == {MIN: 3}
    assert ask(table, "b", in_use=3, wants=10, at=50.9).may_use == {MIN: 3}
    assert ask(table, "b", in_use=3, wants=10, at=51.7).may_use == {MIN: 7}
    assert ask(table, "b", in_use=7, wants=10, at=61.7).may_use == {MIN: 10}


def test_of_a_dead_driver_what_it_held_of_a_rate_counts_for_a_window_after_its_lease(table: PermitTable):
    ask(table, "a", wants=10)

    assert ask(table, "b", wants=1, at=LEASE_S + 59.9).may_use == {}
    assert ask(table, "b", wants=1, at=LEASE_S + 60.7).may_use == {MIN: 1}


def test_of_an_earlier_driver_of_the_run_what_it_held_of_a_rate_counts_for_a_window(table: PermitTable):
    ask(table, "a", wants=6, run="run-1")

    assert ask(table, "b", wants=10, run="run-1", at=5).may_use == {MIN: 4}
    assert ask(table, "b", in_use=4, wants=10, run="run-1", at=64.9).may_use == {MIN: 4}
    assert ask(table, "b", in_use=4, wants=10, run="run-1", at=65.7).may_use == {MIN: 10}


def test_who_comes_too_late_has_spent_what_it_had_of_a_rate(table: PermitTable):
    ask(table, "a", wants=6)

    late = ask(table, "a", in_use=6, wants=10, at=LEASE_S + 1, late=True)

    assert late.lost == {MIN}
    assert late.may_use == {MIN: 4}
    assert ask(table, "a", in_use=4, wants=10, at=LEASE_S + 59.9, alive_at=LEASE_S + 2).may_use == {MIN: 4}
    assert ask(table, "a", wants=10, at=LEASE_S + 60.7).may_use == {MIN: 10}


def test_what_was_spent_has_no_share_in_what_is_free(table: PermitTable):
    for n in range(8):
        ask(table, f"gone-{n}", wants=1)
        drop(table, f"gone-{n}", (1, 60.0))
    ask(table, "a", wants=2)

    ask(table, "b", wants=2, at=1)

    assert ask(table, "a", in_use=2, wants=1, at=2).may_use == {MIN: 2}
    assert ask(table, "b", wants=2, at=61).may_use[MIN] == 2


def test_permits_of_a_rate_that_are_taken_by_force_were_spent(table: PermitTable, store: RelationalRunStore):
    now = store.database.now()
    claim = Claim({MIN: 10}, {}, ((RATE, 10),))
    table.settle(driver("a"), claim, {MIN}, lease_s=LEASE_S, now=now)

    assert [each.held for each in table.release("run-a", [MIN])] == [10]

    found = table.settle(driver("b"), claim, {MIN}, lease_s=LEASE_S, now=now + 59 * SECOND).verdict
    assert found.may_use == {}
    assert table.release("run-a", [MIN]) == []


def test_many_runs_that_have_ended_leave_few_rows(table: PermitTable, store: RelationalRunStore):
    size, now = 1_000_000, 1_000 * SECOND
    for n in range(300):
        claim = Claim({MIN: size}, {}, ((RATE, 3),))
        table.settle(driver(f"{n}"), claim, {MIN}, lease_s=LEASE_S, now=now + n * SECOND)
        table.drop(f"token-{n}", [(MIN, 3, 60.0)], now=now + n * SECOND)

    rows = store.database.read(lambda transaction: transaction.fetch("SELECT name FROM anabranch_permits"))
    (limit,) = table.all(now=now + 299 * SECOND)

    assert len(rows) <= 103
    assert 180 <= sum(each.held for each in limit.holders) <= 186


def test_threads_never_hold_more_than_there_is(store: RelationalRunStore):
    counted, most, lock = [0], [0], threading.Lock()

    def work(name: str) -> None:
        table, done = PermitTable(store.database), 0
        while done < 5:
            claim = Claim({"db": 2, "api": 2}, {}, ((BOTH if name in "ab" else DB, 1),))
            found = table.settle(driver(name), claim, {"db", "api"}, lease_s=LEASE_S).verdict
            if not found.may_use:
                continue
            with lock:
                counted[0] += 1
                most[0] = max(most[0], counted[0])
            with lock:
                counted[0] -= 1
            table.settle(driver(name), Claim({"db": 2, "api": 2}), {"db", "api"}, lease_s=LEASE_S)
            done += 1

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert not any(thread.is_alive() for thread in threads)
    assert 1 <= most[0] <= 2
    assert PermitTable(store.database).all() == []


@pytest.mark.parametrize(("kind", "number", "size"), [("sqlite", 3, 2), ("postgresql", 2, 1)])
def test_drivers_in_several_processes_never_hold_more_than_there_is(
    kind: str, number: int, size: int, tmp_path: Path, request: pytest.FixtureRequest
):
    is_file = kind == "sqlite"
    backend = f"sqlite:///{tmp_path}/runs.db" if is_file else request.getfixturevalue("postgres").fresh_url()
    drivers = LimitedDrivers(tmp_path, backend, size=size)

    processes = [drivers.start(width=8) for _ in range(number)]

    assert [ended(process) for process in processes] == ["Success"] * number
    assert len(drivers.ledger()) == 2 * number * 8
    assert 1 <= drivers.most_at_once() <= size


def test_a_driver_that_has_lost_its_run_takes_no_permits_from_who_has_it(store: RelationalRunStore, table: PermitTable):
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    later = noon + timedelta(hours=1)
    lost = store.create_run(RunRecord("run-1", "etl", noon), owner="host:1", now=noon)
    owned = store.take_over("run-1", owner="host:2", now=later)

    def settle(token: str, claim: Claim) -> Verdict:
        holder = Holder(token, "run-1", "etl", "host:1")
        now = round(later.timestamp()) * SECOND
        return table.settle(holder, claim, {"db"}, lease_s=LEASE_S, now=now).verdict

    wanting = Claim({"db": 1}, {}, ((DB, 1),))
    using = Claim({"db": 1}, {"db": 1}, ())
    assert settle(owned.token, wanting).held == {"db": 1}
    assert settle(lost.token, using).lost == {"db"}
    assert settle(owned.token, using).lost == frozenset()
    assert settle(lost.token, wanting).held == {}


# Runs that are put down while they wait -------------------------------------------------------------------------------


def put_down(store: RelationalRunStore, table: PermitTable, name: str, *, at: float = 0) -> None:
    """A run of a service waits for a permit, and is put down."""
    assert settle(table, name, wants={DB: 1}, size=1, at=at).may_use == {}
    table.rest(driver(name))
    table.drop(f"token-{name}", now=round((1_000 + at) * SECOND))
    queue, far = SlotQueue(store.database), datetime.fromtimestamp(5_000, UTC)
    queue.add([Slot(f"run-{name}", "etl", far)], now=far)


def called(store: RelationalRunStore) -> dict[str, float]:
    """When runs that wait are to be taken up, if they were called."""
    slots = SlotQueue(store.database).all(state="Waiting")
    return {each.run_id: each.ready.timestamp() - 1_000 for each in slots if each.ready and each.ready < each.due}


@pytest.mark.parametrize("how", ["all is given back", "less is used", "its lease ends", "a look", "a newcomer"])
def test_who_was_put_down_first_is_called_when_there_is_room(store: RelationalRunStore, table: PermitTable, how: str):
    settle(table, "a", wants={DB: 1}, size=1)
    put_down(store, table, "b", at=1)
    put_down(store, table, "c", at=2)
    table.call(now=1_003 * SECOND)
    assert called(store) == {}
    late = {"its lease ends": 31}.get(how, 3)
    if how == "all is given back":
        table.drop("token-a", now=1_003 * SECOND)
    elif how == "less is used":
        assert settle(table, "a", in_use={"db": 0}, wants={DB: 1}, size=1, at=3).may_use == {}
    elif how == "its lease ends":
        table.call(now=1_031 * SECOND)
    else:
        gone = "DELETE FROM anabranch_permits WHERE held > 0"
        store.database.write(lambda transaction: transaction.execute(gone, ()))
        if how == "a look":
            table.call(now=1_003 * SECOND)
        else:
            assert settle(table, "d", wants={DB: 1}, size=1, at=3).may_use == {}
    assert called(store) == {"run-b": late}
    table.call(now=(1_004 + late) * SECOND)
    assert called(store) == {"run-b": late}  # one at a time, as there is one permit
    assert settle(table, "b2", run="run-b", wants={DB: 1}, size=1, at=late + 4).may_use == {"db": 1}
    assert held(table, at=late + 4) == {"run-b": 1}


def test_who_was_called_and_does_not_come_keeps_nobody_waiting_and_its_place(
    store: RelationalRunStore, table: PermitTable
):
    settle(table, "a", wants={DB: 1}, size=1)
    put_down(store, table, "b", at=1)
    put_down(store, table, "c", at=2)
    table.drop("token-a", now=1_003 * SECOND)
    late = 4 + FRESH / SECOND
    table.call(now=round((1_000 + late) * SECOND))
    assert set(called(store)) == {"run-b", "run-c"}
    assert settle(table, "c2", run="run-c", wants={DB: 1}, size=1, at=late).may_use == {"db": 1}
    assert settle(table, "b2", run="run-b", wants={DB: 1}, size=1, at=late).waiting == {DB: (1, 1_001 * SECOND)}


def test_who_goes_on_gives_back_what_becomes_free_for_those_who_were_put_down(
    store: RelationalRunStore, table: PermitTable
):
    settle(table, "a", wants={DB: 1}, size=1)
    put_down(store, table, "b", at=1)
    assert settle(table, "a", in_use={"db": 1}, wants={DB: 1}, size=1, at=2).may_use == {}


def test_a_run_that_has_ended_is_not_called(store: RelationalRunStore, table: PermitTable):
    settle(table, "a", wants={DB: 1}, size=1)
    put_down(store, table, "b", at=1)
    put_down(store, table, "c", at=2)
    SlotQueue(store.database).cancel("run-b", now=datetime.fromtimestamp(1_002, UTC))
    table.drop("token-a", now=1_003 * SECOND)
    assert set(called(store)) == {"run-c"}
    assert [each.run_id for each in table.all(now=1_003 * SECOND)[0].waiters] == ["run-c"]


def test_who_takes_a_run_over_has_the_place_of_its_last_driver(table: PermitTable):
    settle(table, "a", wants={DB: 1}, size=1)
    settle(table, "b", wants={DB: 1}, size=1, at=1)
    settle(table, "c", wants={DB: 1}, size=1, at=2)
    assert settle(table, "b2", run="run-b", wants={DB: 1}, size=1, at=3).waiting == {DB: (1, 1_001 * SECOND)}
