"""Whatever drivers do with the permits of a rate, and however they die: no window has more attempts than it allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from anabranch.engine.machine.permits import Claim, rate_limit
from anabranch.runs.store.permit_table import Holder, PermitTable
from anabranch.runs.store.sqlite import InMemoryRunStore

LEASE_S = 30.0


@dataclass
class Driver:
    """A driver as its machine and its desk are, in short."""

    number: int
    run: int
    flying: int = 0
    ended: list[float] = field(default_factory=list)
    may_use: int = 0
    deadline: float = 0.0

    @property
    def holder(self) -> Holder:
        return Holder(f"token-{self.number}", f"run-{self.run}", "etl", "host:1")


ACTIONS = ("ask", "ask", "begin", "begin", "end", "sleep", "live", "die", "close", "new driver of a run")


@given(
    count=st.integers(1, 6),
    window_s=st.sampled_from([0.5, 10.0, 60.0]),
    steps=st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 5), st.floats(0.0, 25.0)), max_size=80),
)
def test_no_window_has_more_attempts_than_its_rate_allows(
    count: int, window_s: float, steps: Sequence[tuple[str, int, float]]
) -> None:
    table, limit, now = PermitTable(InMemoryRunStore().database), rate_limit("api", window_s), 1_000.0
    drivers = [Driver(number, number) for number in range(3)]
    begins: list[float] = []

    def used(driver: Driver) -> int:
        return driver.flying + sum(end + window_s > now for end in driver.ended)

    def ask(driver: Driver, wants: int) -> None:
        in_use = used(driver)
        claim = Claim({limit: count}, {limit: in_use} if in_use else {}, (((limit,), wants),) if wants else ())
        found = table.settle(driver.holder, claim, {limit}, lease_s=LEASE_S, now=round(now * 1e6)).verdict
        if found.lost:
            driver.flying, driver.ended = 0, []
        driver.may_use, driver.deadline = found.may_use.get(limit, 0), now + LEASE_S

    for step, choice, amount in steps:
        driver = drivers[choice % len(drivers)]
        if step == "ask":
            ask(driver, 1 + int(amount) % 6)
        elif step == "begin":
            if now >= driver.deadline:
                ask(driver, 1)
            if used(driver) < driver.may_use:
                driver.flying += 1
                begins.append(now)
        elif step == "end" and driver.flying:
            driver.flying -= 1
            driver.ended.append(now)
        elif step == "sleep":
            now += amount
        elif step == "live":
            now += min(amount, 10.0)
            for each in drivers:
                if table.renew(each.holder.token, lease_s=LEASE_S, now=round(now * 1e6)):
                    each.deadline = now + LEASE_S
        elif step in ("die", "close"):
            if step == "close" and now < driver.deadline:
                spent = [(limit, 1, end + window_s - now) for end in driver.ended if end + window_s > now]
                spent += [(limit, 1, window_s)] * driver.flying
                table.drop(driver.holder.token, spent, now=round(now * 1e6))
            drivers[drivers.index(driver)] = Driver(len(begins) + 100 * len(drivers) + driver.number, driver.number)
        elif step == "new driver of a run":
            drivers[drivers.index(driver)] = Driver(driver.number + 1_000, driver.run)
        now += 0.001

    assert all(sum(first <= each < first + window_s - 1e-5 for each in begins) <= count for first in begins)
    now += LEASE_S + 1.02 * window_s + 1.0
    late = Driver(-1, -1)
    ask(late, count)
    assert late.may_use >= max(1, count // (len(drivers) + 1))
