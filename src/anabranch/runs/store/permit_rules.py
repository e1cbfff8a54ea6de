"""Who gets the permits of named limits: pure arithmetic on what is held and asked for.

Requests are served in the order in which they were made, each whole or not at all, so that of several names nobody
holds one while waiting for another. Who holds more than a fair share gives back what becomes free as long as somebody
has less: of a size of 4 and three runs each has one, and one of them two. With more runs than permits they take turns.

What was spent of a rate counts for the rest of its window, whoever is gone meanwhile, and has no share in what is free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from anabranch.engine.machine.permits import Bundle, Claim, window_of

SPENT = "spent "
"""How tokens begin of what was spent of a rate by drivers that are gone."""
RESTS = "rests "
"""How tokens begin of runs that were put down while they wait: an id follows."""
FRESH = 5_000_000
"""Microseconds. Who waits and has not asked again for so long is passed over, and is first again when it does. Who was
put down is passed over until it is called, and has so long to come."""


@dataclass(frozen=True, slots=True)
class Permit:
    """What a driver holds of a limit or, with a bundle, one name of what it waits for. Times are microseconds."""

    name: str
    token: str
    """Of the driver."""
    bundle: Bundle = ()
    """All names that are wanted together; none: this is what is held."""
    run_id: str = ""
    flow_name: str = ""
    owner: str = ""
    most: int = 1
    """Size of the limit, as the run says."""
    held: int = 0
    wanted: int = 0
    ticket: int = 0
    """When it began to wait, or to hold."""
    seen: int = 0
    """When it last asked."""
    lease_until: int = 0

    @property
    def is_spent(self) -> bool:
        """Whether no driver has it any more."""
        return self.token.startswith(SPENT)

    @property
    def is_resting(self) -> bool:
        """Whether its run was put down, and is to be called when there is room."""
        return self.token.startswith(RESTS)

    @property
    def is_uncalled(self) -> bool:
        """The same, and it has not been called."""
        return self.is_resting and not self.seen

    @property
    def counts_until(self) -> int:
        """When others may have it, if its driver is gone."""
        return self.lease_until + round(window_of(self.name) * 1e6 if self.held else 0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a claim."""

    held: Mapping[str, int]
    """What the driver holds from now on."""
    may_use: Mapping[str, int]
    """What it may use of that: less than it does, where it is to give some back."""
    waiting: Mapping[Bundle, tuple[int, int]]
    """What it still waits for: how much, and since when."""
    sizes: Mapping[str, int]
    """How many permits there are."""
    lost: frozenset[str] = frozenset()
    ahead: int = 0
    """Requests that come first."""
    short: tuple[str, ...] = field(default=())
    """Limits without room for what it waits for."""


def size_of(name: str, permits: Iterable[Permit], fixed: Mapping[str, int]) -> int:
    """How many permits there are: what somebody has set, else the lowest size that a run names which is there."""
    return fixed.get(name) or min((permit.most for permit in permits if permit.name == name), default=1)


def settle(
    claim: Claim, token: str, permits: Sequence[Permit], *, names: Iterable[str], fixed: Mapping[str, int], now: int
) -> Verdict:
    """Decide about a claim.

    Parameters
    ----------
    claim
        What a driver uses and wants.
    token
        Of that driver.
    permits
        All that is held and waited for of these limits, by drivers that live.
    names
        The limits that the claim is about.
    fixed
        Sizes that somebody has set, which hold whatever runs say.
    now
        When it is.
    """
    mine = [each for each in permits if each.token == token]
    others = [each for each in permits if each.token != token]
    had = {each.name: each.held for each in mine if not each.bundle}
    lost = frozenset(name for name, count in claim.in_use.items() if count > had.get(name, 0))
    held = Counter({name: count for name, count in claim.in_use.items() if name not in lost})
    views = {name: _View(name, token, claim, others, fixed, now, waits=_waits(claim, name)) for name in names}
    tickets = {each.bundle: each.ticket for each in mine if each.bundle}
    back: set[Bundle] = set()
    """What the driver waits for with a name that it gives back for others: it is behind them now."""
    may_use = dict(held)
    for name, view in views.items():
        if view.is_contended and had.get(name, 0) > view.floor:
            may_use[name] = min(held[name], view.floor)
            if had[name] > held[name]:
                back |= {bundle for bundle in tickets if name in bundle}
    # They keep their order: else the same one would come last each time.
    tickets.update((bundle, now + n) for n, bundle in enumerate(sorted(back, key=lambda each: (tickets[each], each))))
    wants = sorted(((tickets.get(bundle, now + len(back)), bundle, count) for bundle, count in claim.wants))
    waiting: dict[Bundle, tuple[int, int]] = {}
    short: dict[str, None] = {}
    ahead = 0
    for ticket, bundle, wanted in wants:
        got = 0
        while got < wanted and all(views[name].have_room(held[name], (ticket, token)) for name in bundle):
            held.update(bundle)
            got += 1
        if got < wanted:
            waiting[bundle] = (wanted - got, now + len(back) if got else ticket)
            short.update((name, None) for name in bundle if not views[name].have_room(held[name], (ticket, token)))
            ahead = max(ahead, *(views[name].ahead((ticket, token)) for name in bundle))
        if got:
            may_use.update((name, held[name]) for name in bundle)
    return Verdict(
        held={name: count for name, count in held.items() if count > 0},
        may_use={name: count for name, count in may_use.items() if count > 0},
        waiting=waiting,
        sizes={name: view.size for name, view in views.items()},
        lost=lost,
        ahead=ahead,
        short=tuple(short),
    )


def call(
    name: str, permits: Iterable[Permit], fixed: Mapping[str, int], *, now: int, comes: Callable[[Permit], bool]
) -> None:
    """Call those that were put down and for which a limit has room: as many as that is for, who waited longest first.

    Parameters
    ----------
    permits
        All that is held and waited for of the limit, by those who live.
    comes
        Calls one; whether it will come.
    """
    about = [each for each in permits if each.name == name]
    size, number = size_of(name, about, fixed), len({each.token for each in about if not each.is_spent})
    room = size - sum(each.held for each in about)
    for each in sorted((each for each in about if each.bundle), key=lambda each: (each.ticket, each.token)):
        if room <= 0:
            break
        if now - each.seen <= FRESH or (each.is_resting and comes(each)):
            room -= min(each.wanted, -(-size // number))


def _waits(claim: Claim, name: str) -> bool:
    return any(name in bundle for bundle, _ in claim.wants)


class _View:
    """A limit, as one driver sees it."""

    def __init__(
        self,
        name: str,
        token: str,
        claim: Claim,
        others: Iterable[Permit],
        fixed: Mapping[str, int],
        now: int,
        *,
        waits: bool,
    ) -> None:
        about = [each for each in others if each.name == name]
        self._held = Counter[str]()
        for each in about:
            if not each.bundle:
                self._held[each.token] += each.held
        self._requests = [each for each in about if each.bundle and now - each.seen <= FRESH]
        sizes = [fixed.get(name) or claim.sizes.get(name, 0), *(fixed.get(name) or each.most for each in about)]
        self.size = min((size for size in sizes if size), default=1)
        waiters = {each.token for each in about if each.bundle and (now - each.seen <= FRESH or each.is_uncalled)}
        holders = {each.token for each in about if each.held and not each.is_spent}
        has_me = waits or claim.in_use.get(name, 0) > 0
        number = max(1, len(waiters | holders) + has_me)
        self.floor = self.size // number
        """What each may keep whoever else waits."""
        self._ceiling = -(-self.size // number)
        self.is_contended = any(self._held[each] < max(1, self.floor) for each in waiters)
        """Whether somebody who waits has less than a fair share."""
        self._has_waiters = bool(waiters)

    def have_room(self, held: int, place: tuple[int, str]) -> bool:
        """Whether a driver at this place of the queue, that holds so much, may have one more."""
        if self.is_contended:
            most = max(1, self.floor)
        else:
            most = self._ceiling if self._has_waiters else self.size
        kept = Counter[str]()
        for each in self._requests:
            if (each.ticket, each.token) < place:
                kept[each.token] += each.wanted
        reserved = sum(min(count, max(0, self._ceiling - self._held[token])) for token, count in kept.items())
        return held < most and held + sum(self._held.values()) + reserved < self.size

    def ahead(self, place: tuple[int, str]) -> int:
        """Requests that come before this place."""
        return sum((each.ticket, each.token) < place for each in self._requests)
