"""Task runs that workers are at, and how that is said, wherever a run is shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime

from anabranch.base.states import State

MAX_NAMED = 8  # elements of a map whose workers and times are recorded and told in data; all of them are counted
MAX_SAID = 3  # elements that a text names: that fits on a line or two
_LAST = datetime.max.replace(tzinfo=UTC)


class RunningElements:
    """Elements of a map that workers are at, as `Running` states; those that have run longest come first."""

    def __init__(self, states: Iterable[State] = ()) -> None:
        self._states: dict[int, State] = {}
        for state in states:
            self.begin(state)

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[State]:
        return iter(sorted(self._states.values(), key=_rank_running))  # at once: another thread may take events

    def __contains__(self, index: object) -> bool:
        return index in self._states

    def begin(self, state: State) -> None:
        """Note that a worker is at an element."""
        assert state.map_index is not None
        self._states[state.map_index] = state

    def end(self, indices: Sequence[int]) -> bool:
        """Note that these are not run any more; whether one of them was."""
        if not self._states:
            return False
        ended = indices if isinstance(indices, range) else frozenset(indices)
        found = [index for index in self._states if index in ended]
        for index in found:
            del self._states[index]
        return bool(found)

    def clear(self) -> None:
        """Note that none is run any more."""
        self._states.clear()

    def __str__(self) -> str:
        named = [f"[{each.map_index}] {since_text(each)}".rstrip() for each in list(self)[:MAX_SAID]]
        more = f", and {len(self) - MAX_SAID:,} more" if len(self) > MAX_SAID else ""
        return f"{', '.join(named)}{more}"


def _rank_running(state: State) -> tuple[datetime, int]:
    return state.start_time or _LAST, state.map_index or 0


def since_text(state: State, *, today: date | None = None) -> str:
    """Since when, and where, a task run is being run: ``since 12:30:01 on w1, attempt 2``; as far as that is known."""
    parts = []
    if state.start_time is not None:
        time = state.start_time.astimezone()
        is_today = time.date() == (today or datetime.now(UTC).astimezone().date())
        parts.append(f"since {time:%H:%M:%S}" if is_today else f"since {time:%Y-%m-%d %H:%M:%S}")
    parts += [f"on {state.worker}"] if state.worker else []
    return f"{' '.join(parts)}{f', attempt {state.attempt}' if state.attempt > 1 else ''}"
