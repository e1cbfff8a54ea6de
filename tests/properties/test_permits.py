"""Whatever drivers do, and however they die: never more permits than there are, none lost, and all are served."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from anabranch.engine.machine.permits import Bundle, Claim
from anabranch.runs.store.permit_table import Holder, PermitTable
from anabranch.runs.store.sqlite import InMemoryRunStore

NAMES = ("api", "db", "gpu")
BUNDLES: tuple[Bundle, ...] = (("api",), ("db",), ("api", "db"), ("db", "gpu"), ("api", "db", "gpu"))
LEASE_S = 30.0
SECOND = 1_000_000

choices = st.integers(0, 1_000)


@dataclass
class Driver:
    """A driver as its machine and its desk are, in short."""

    number: int
    work: Counter[Bundle] = field(default_factory=Counter)
    """What has not begun."""
    units: list[Bundle] = field(default_factory=list)
    """What runs with permits that it has."""
    strays: list[Bundle] = field(default_factory=list)
    """What runs although its permits were lost."""
    begun: Counter[Bundle] = field(default_factory=Counter)
    may_use: dict[str, int] = field(default_factory=dict)
    names: frozenset[str] = frozenset()

    @property
    def holder(self) -> Holder:
        return Holder(f"token-{self.number}", f"run-{self.number}", "etl", f"host:{self.number}")

    @property
    def in_use(self) -> Counter[str]:
        return Counter(name for bundle in self.units for name in bundle)

    def begin(self) -> None:
        """Let go out what may; of its own work, too, nothing is kept waiting for ever."""
        while ready := [bundle for bundle, left in self.work.items() if left and self.has_room(bundle)]:
            bundle = min(ready, key=lambda each: (self.begun[each], each))
            self.work[bundle] -= 1
            self.begun[bundle] += 1
            self.units.append(bundle)

    def has_room(self, bundle: Bundle) -> bool:
        return all(self.in_use[name] < self.may_use.get(name, 0) for name in bundle)


class AnyDrivers(RuleBasedStateMachine):
    """Drivers that ask, run, end, sleep and die as Hypothesis likes, over one table."""

    @initialize(sizes=st.tuples(*(st.integers(1, 4) for _ in NAMES)))
    def start(self, sizes: tuple[int, ...]) -> None:
        self.sizes = dict(zip(NAMES, sizes, strict=True))
        self.table = PermitTable(InMemoryRunStore().database)
        self.now = 1_000 * SECOND
        self.drivers: list[Driver] = []
        self.made = 0

    def pick(self, choice: int) -> Driver:
        return self.drivers[choice % len(self.drivers)]

    @precondition(lambda self: len(self.drivers) < 6)
    @rule(bundles=st.lists(st.tuples(st.sampled_from(BUNDLES), st.integers(1, 4)), min_size=1, max_size=3))
    def a_run_begins(self, bundles: list[tuple[Bundle, int]]) -> None:
        self.made += 1
        driver = Driver(self.made)
        for bundle, count in bundles:
            driver.work[bundle] += count
        self.drivers.append(driver)

    def settle(self, driver: Driver) -> None:
        wants = tuple((bundle, count) for bundle, count in sorted(driver.work.items()) if count)
        claim = Claim(self.sizes, dict(driver.in_use), wants)
        names = driver.names.union(claim.in_use, *(bundle for bundle, _ in wants))
        if not names:
            return
        found = self.table.settle(driver.holder, claim, names, lease_s=LEASE_S, now=self.now).verdict
        for name in found.lost:
            driver.strays += [bundle for bundle in driver.units if name in bundle]
            driver.units = [bundle for bundle in driver.units if name not in bundle]
        if found.lost:
            self.settle(driver)  # of what those units held beside it
            return
        driver.may_use = dict(found.may_use)
        driver.names = frozenset({*found.held, *(name for bundle in found.waiting for name in bundle)})
        driver.begin()

    @precondition(lambda self: self.drivers)
    @rule(choice=choices)
    def a_driver_asks(self, choice: int) -> None:
        self.settle(self.pick(choice))

    @precondition(lambda self: any(driver.units for driver in self.drivers))
    @rule(choice=choices, other=choices)
    def a_unit_ends_and_the_next_one_follows(self, choice: int, other: int) -> None:
        busy = [driver for driver in self.drivers if driver.units]
        driver = busy[choice % len(busy)]
        driver.units.pop(other % len(driver.units))
        driver.begin()

    @precondition(lambda self: self.drivers)
    @rule(seconds=st.integers(1, 20))
    def time_passes_and_all_give_signs_of_life(self, seconds: int) -> None:
        self.now += seconds * SECOND
        for driver in self.drivers:
            self.table.renew(driver.holder.token, lease_s=LEASE_S, now=self.now)

    @precondition(lambda self: self.drivers)
    @rule(choice=choices)
    def a_driver_is_killed(self, choice: int) -> None:
        self.drivers.remove(self.pick(choice))

    @precondition(lambda self: self.drivers)
    @rule(choice=choices)
    def a_driver_sleeps_through_its_lease(self, choice: int) -> None:
        sleeper = self.pick(choice)
        for _ in range(4):
            self.now += 10 * SECOND
            for driver in self.drivers:
                if driver is not sleeper:
                    self.table.renew(driver.holder.token, lease_s=LEASE_S, now=self.now)
        sleeper.may_use = {}  # by its own clock
        self.settle(sleeper)

    @precondition(lambda self: self.drivers)
    @rule(choice=choices)
    def permits_are_taken_by_force(self, choice: int) -> None:
        driver = self.pick(choice)
        self.table.release(driver.holder.run_id, NAMES)
        self.settle(driver)

    @invariant()
    def no_more_is_held_than_there_is(self) -> None:
        if not hasattr(self, "table"):
            return
        held = {limit.name: limit for limit in self.table.all(now=self.now)}
        for name, limit in held.items():
            assert sum(each.held for each in limit.holders) <= self.sizes[name]
        used = Counter[str]()
        for driver in self.drivers:
            used += driver.in_use
            for name, count in driver.in_use.items():
                mine = [each for each in held[name].holders if each.run_id == driver.holder.run_id]
                assert count <= sum(each.held for each in mine)
        assert all(count <= self.sizes[name] for name, count in used.items())

    def teardown(self) -> None:
        """Left alone, every driver is served however much the others want, and comes to its end."""
        if not hasattr(self, "table"):
            return
        self.now += 40 * SECOND
        for driver in self.drivers:
            driver.may_use, driver.strays = {}, [*driver.strays, *driver.units]
            driver.units = []
        self.all_are_served_although_nobody_runs_out_of_work()
        rounds = 20 + 4 * sum(sum(driver.work.values()) for driver in self.drivers)
        for _ in range(rounds):
            for driver in self.drivers:
                self.settle(driver)
            for driver in self.drivers:
                driver.units.clear()
                driver.begin()
            self.now += SECOND // 2
        left = {driver.number: dict(driver.work) for driver in self.drivers if sum(driver.work.values())}
        assert not left, f"never served: {left}, {self.table.all(now=self.now)}"
        for driver in self.drivers:
            driver.units.clear()
            self.table.drop(driver.holder.token)
        assert self.table.all(now=self.now) == []

    def all_are_served_although_nobody_runs_out_of_work(self) -> None:
        wanted = {(driver.number, bundle) for driver in self.drivers for bundle, n in driver.work.items() if n}
        for _ in range(20 + 10 * len(wanted)):
            for driver in self.drivers:  # always in the same order: the first would take all, if it could
                driver.units.clear()
                driver.begin()
                driver.work.update(bundle for number, bundle in wanted if number == driver.number)
                self.settle(driver)
                wanted -= {(driver.number, bundle) for bundle in driver.units}
            self.now += SECOND // 2
        assert not wanted, f"starved: {wanted}, {self.table.all(now=self.now)}"
        for driver in self.drivers:
            driver.work = +Counter({bundle: min(n, 2) for bundle, n in driver.work.items()})


TestAnyDrivers = AnyDrivers.TestCase
TestAnyDrivers.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
