"""How long what is recorded and stored is kept: rules as they stand in settings, and which runs they leave.

``90d, keep 20; etl: 1y; /Failed: 180d, 5 GB`` are three rules, of which the most specific one holds for a run: one of
its flow and state, else of its flow, else of its state, else the one for all; of two alike, the first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from anabranch.base.states import BY_CODE

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400, "y": 365 * 86_400}
_UNITS_NBYTES = {
    f"{prefix}{byte}": base**power
    for byte, base in (("B", 1000), ("iB", 1024))
    for power, prefix in enumerate(" kMGT")
    if power
}
_AGE = re.compile(rf"(\d{{1,9}}) ?([{''.join(_UNITS_S)}])")
_NBYTES = re.compile(rf"(\d{{1,9}}) ?({'|'.join(_UNITS_NBYTES)})", re.IGNORECASE)
_COUNT = re.compile(r"(\d{1,9}) runs?")
_KEEP = re.compile(r"keep (\d{1,9})")
_SIZES = {name.casefold(): nbytes for name, nbytes in _UNITS_NBYTES.items()}
RULES = "rules such as '90d, 1000 runs, 5 GB, keep 20; etl: 1y; etl/Failed: all'"


@dataclass(frozen=True, slots=True)
class Rule:
    """What is kept of some runs."""

    flow: str = "*"
    """Pattern of the names of their flows, as of file names."""
    state: str = ""
    """Their state; empty: any."""
    age: timedelta | None = None
    """Of what began longer ago, nothing is kept."""
    count: int | None = None
    """How many runs of each flow are kept, at most."""
    nbytes: int | None = None
    """How many bytes are kept of all these runs together, at most."""
    keep: int = 0
    """How many of the newest runs of each flow are kept, however old and large they are."""

    @property
    def specificity(self) -> tuple[bool, bool]:
        """Later in order: what holds rather than another rule."""
        return self.flow != "*", bool(self.state)

    def is_for(self, flow_name: str, state: str) -> bool:
        """Whether it may hold for a run."""
        return self.state in ("", state) and fnmatchcase(flow_name, self.flow)


Rules = Sequence[Rule]


def read_rules(text: str) -> tuple[Rule, ...]:
    """Rules of a text, the most specific first; none of an empty one.

    Raises
    ------
    ValueError
        It is no such text.

    Examples
    --------
    >>> read_rules("90d, keep 20")
    (Rule(flow='*', state='', age=datetime.timedelta(days=90), count=None, nbytes=None, keep=20),)
    """
    rules = [_read_rule(part.strip()) for part in text.split(";")] if text.strip() else []
    return tuple(sorted(rules, key=lambda rule: rule.specificity, reverse=True))


def _read_rule(text: str) -> Rule:
    scope, colon, words = text.rpartition(":")
    flow, _, state = scope.rpartition("/") if "/" in scope else (scope, "", "")
    rule = Rule(flow=flow.strip() or "*", state=state.strip()) if colon else Rule()
    for word in (each.strip() for each in words.split(",")):
        if found := _AGE.fullmatch(word):
            rule = replace(rule, age=timedelta(seconds=int(found[1]) * _UNITS_S[found[2]]))
        elif found := _NBYTES.fullmatch(word):
            rule = replace(rule, nbytes=int(found[1]) * _SIZES[found[2].casefold()])
        elif found := _COUNT.fullmatch(word):
            rule = replace(rule, count=int(found[1]))
        elif found := _KEEP.fullmatch(word):
            rule = replace(rule, keep=int(found[1]))
        elif word != "all":
            raise ValueError(f"{word!r} is no limit")
    if rule.state not in ("", "Interrupted", *(state.__name__ for state in BY_CODE.values())):
        raise ValueError(f"there is no state {rule.state!r}")
    return rule


class Tally:
    """Which runs rules leave, of runs that are shown to it from the newest to the oldest.

    Parameters
    ----------
    rules
        As `read_rules` gives them.
    now
        When it is.
    """

    def __init__(self, rules: Rules, now: datetime) -> None:
        self._rules = rules
        self._now = now
        self._counts: Counter[tuple[Rule, str]] = Counter()
        self._sizes: Counter[Rule] = Counter()
        self.weighs = any(rule.nbytes is not None for rule in rules)
        """Whether sizes of runs are asked for."""

    def is_over(self, flow_name: str, state: str, began: datetime, nbytes: int = 0) -> bool:
        """Whether the next run is past the limits."""
        rule = next((rule for rule in self._rules if rule.is_for(flow_name, state)), None)
        if rule is None or (state == "Paused" and not rule.state):  # it is not over: somebody may approve it
            return False
        self._counts[rule, flow_name] += 1
        self._sizes[rule] += nbytes
        count = self._counts[rule, flow_name]
        return count > rule.keep and (
            (rule.age is not None and self._now - began > rule.age)
            or (rule.count is not None and count > rule.count)
            or (rule.nbytes is not None and self._sizes[rule] > rule.nbytes)
        )
