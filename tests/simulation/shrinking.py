"""Makes the choices of a world that fails plainer and fewer, for as long as it fails in the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

MOST_TRIES = 3_000


def shrunk(tape: Sequence[int], fails: Callable[[Sequence[int]], bool], *, most_tries: int = MOST_TRIES) -> list[int]:
    """The shortest and plainest tape that was found with which a world still fails.

    Parameters
    ----------
    tape
        Choices that make it fail; what comes after their end is 0.
    fails
        Whether the world of a tape fails as this one does.
    """
    best, left = _bare(tape), most_tries

    def is_better(candidate: Sequence[int]) -> bool:
        nonlocal best, left
        plain = _bare(candidate)
        if left <= 0 or plain == best or not fails(plain):
            left -= 1
            return False
        best, left = plain, left - 1
        return True

    has_changed = True
    while has_changed and left > 0:
        before = list(best)
        size = max(1, len(best) // 2)
        while size:
            place = len(best) - size
            while place >= 0:
                cut = best[:place] + best[place + size :]
                zeros = best[:place] + [0] * size + best[place + size :]
                if not is_better(cut) and any(best[place : place + size]):
                    is_better(zeros)
                place = min(place, len(best)) - size
            size //= 2
        for place in range(len(best)):
            for lower in (1, best[place] // 2, best[place] - 1) if place < len(best) else ():
                if place < len(best) and 0 < lower < best[place]:
                    is_better([*best[:place], lower, *best[place + 1 :]])
        has_changed = best != before
    return best


def _bare(tape: Sequence[int]) -> list[int]:
    """The tape without zeros at its end, which are there anyway."""
    end = len(tape)
    while end and not tape[end - 1]:
        end -= 1
    return list(tape[:end])
