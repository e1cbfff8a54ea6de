"""When a driver asks for permits, gives them back, and says that it waits."""

from __future__ import annotations

from collections.abc import Collection

from anabranch.engine.driver.permit_desk import LOOK_S, PermitDesk
from anabranch.engine.machine.permits import Claim, Grant, Spent

SIZES = {"db": 4}
WANTS = ((("db",), 2),)


class Office:
    """Permits that are given as a test says, a clock, and what was said."""

    def __init__(self, *, keeps: bool = True) -> None:
        self.now = 100.0
        self.answers: list[Grant] = []
        self.claims: list[Claim] = []
        self.said: list[str] = []
        self.is_closed = False
        self.lapsed = False
        self.desk = PermitDesk(self, self.said.append, keeps=keeps, clock=lambda: self.now, jitter=lambda: 1.0)

    def settle(self, claim: Claim) -> Grant:
        self.claims.append(claim)
        return self.answers.pop(0) if self.answers else Grant(dict(claim.in_use))

    def has_lapsed(self) -> bool:
        return self.lapsed

    def close(self, spent: Collection[Spent] = ()) -> None:
        self.is_closed = True

    def claim(self, *, in_use: int = 0, wants: int = 0, has_more: bool = False) -> None:
        used = {"db": in_use} if in_use else {}
        self.desk.take(Claim(SIZES, used, ((("db",), wants),) if wants else (), has_more=has_more or wants > 0))

    def look(self, *answers: Grant) -> Grant | None:
        self.answers = list(answers)
        return self.desk.look()

    def wait(self) -> None:
        assert self.desk.due_s is not None
        self.now += self.desk.due_s


def test_what_was_given_for_a_time_that_is_over_is_asked_for_again_before_anything_begins() -> None:
    office = Office()
    office.claim(wants=1)
    office.look(Grant({"db": 1}))
    office.claim(in_use=1)
    assert office.look() is None

    office.lapsed = True

    assert office.look(Grant({}, lost=frozenset({"db"}))) == Grant({}, lost=frozenset({"db"}))


def test_what_is_wanted_is_asked_for_at_once_and_told_to_the_machine() -> None:
    office = Office()
    assert office.desk.due_s is None

    office.claim(wants=2)

    assert office.desk.due_s == 0.0
    assert office.look(Grant({"db": 2})) == Grant({"db": 2})
    assert office.claims == [Claim(SIZES, {}, WANTS, has_more=True)]


def test_a_run_that_has_all_it_wants_and_no_more_work_never_asks_again() -> None:
    office = Office()
    office.claim(wants=2)
    office.look(Grant({"db": 2}))

    office.claim(in_use=2)

    assert office.desk.due_s is None
    assert office.look() is None


def test_a_run_that_goes_on_using_permits_looks_now_and_then_whether_others_wait() -> None:
    office = Office()
    office.claim(wants=2)
    office.look(Grant({"db": 2}))
    office.claim(in_use=2, has_more=True)

    assert office.desk.due_s == LOOK_S
    office.wait()
    assert office.look(Grant({"db": 1})) == Grant({"db": 1})


def test_each_permit_that_becomes_free_while_others_wait_is_given_back_at_once() -> None:
    office = Office()
    office.claim(wants=2)
    office.look(Grant({"db": 2}))
    office.claim(in_use=2, has_more=True)
    office.wait()
    office.look(Grant({}))

    office.claim(in_use=1, has_more=True)

    assert office.desk.due_s == 0.0


def test_permits_that_nothing_uses_are_kept_for_a_moment() -> None:
    office = Office()
    office.claim(wants=2)
    office.look(Grant({"db": 2}))
    office.claim(in_use=2)
    office.claim(in_use=1)

    assert office.desk.due_s == LOOK_S
    office.wait()
    assert office.look() == Grant({"db": 1})
    assert office.desk.due_s is None


def test_a_driver_that_runs_tasks_itself_gives_them_back_at_once() -> None:
    office = Office(keeps=False)
    office.claim(wants=1)
    office.look(Grant({"db": 1}))
    office.claim(in_use=1)
    office.claim()

    assert office.desk.due_s == 0.0


def test_who_is_first_in_the_queue_asks_often_and_who_is_far_from_it_seldom() -> None:
    office = Office()
    office.claim(wants=2)
    office.look(Grant(waits_for="db", ahead=0))
    first = office.desk.due_s
    office.wait()
    office.look(Grant(waits_for="db", ahead=100))

    assert first is not None
    assert office.desk.due_s is not None
    assert first < 0.2 < office.desk.due_s <= 1.0


def test_the_same_wish_does_not_ask_anew_but_another_name_does() -> None:
    office = Office()
    office.claim(wants=2)
    office.look(Grant(waits_for="db", ahead=9))
    due_s = office.desk.due_s

    office.claim(wants=1)
    assert office.desk.due_s == due_s
    office.desk.take(Claim(SIZES, {}, ((("api",), 1),), has_more=True))
    assert office.desk.due_s == 0.0


def test_a_wish_that_is_given_up_is_taken_back() -> None:
    office = Office()
    office.claim(wants=2)
    office.look(Grant(waits_for="db", ahead=9))

    office.claim()

    assert office.desk.due_s == 0.0
    office.look()
    assert office.claims[-1] == Claim(SIZES)
    assert office.desk.due_s is None


def test_a_store_that_does_not_answer_is_asked_less_and_less_often_whatever_the_machine_wants() -> None:
    office = Office()
    office.claim(wants=2)
    pauses = []
    for _ in range(7):
        office.wait()
        assert office.look(Grant(is_answered=False)) is None
        office.claim(wants=1 + len(pauses) % 2)
        pauses.append(office.desk.due_s)

    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    office.wait()
    assert office.look(Grant({"db": 1})) == Grant({"db": 1})


def test_it_says_once_what_a_run_that_stands_still_waits_for() -> None:
    office = Office()
    office.claim(wants=2)
    for _ in range(100):
        office.wait()
        office.look(Grant(waits_for="db (4 of 4, held by 3aab)"))

    assert office.said == ["waits for room in a limit: db (4 of 4, held by 3aab)"]


def test_a_run_that_has_something_to_do_meanwhile_does_not_say_that_it_waits() -> None:
    office = Office()
    office.claim(in_use=1, wants=2)
    for _ in range(10):
        office.wait()
        office.look(Grant({"db": 1}, waits_for="db"))

    assert office.said == []


def test_what_was_lost_is_told_to_the_machine_even_if_as_much_was_given_anew() -> None:
    office = Office()
    office.claim(wants=2)
    office.look(Grant({"db": 2}))
    office.claim(in_use=2, has_more=True)
    office.wait()

    told = office.look(Grant({"db": 2}, lost=frozenset({"db"}), notes=("lost",)))

    assert told is not None
    assert told.lost == {"db"}
    assert office.said == ["lost"]


def test_all_is_given_back_at_the_end() -> None:
    office = Office()
    office.claim(wants=2)
    office.look(Grant({"db": 2}))

    office.desk.close()

    assert office.is_closed
    assert office.desk.due_s is None
