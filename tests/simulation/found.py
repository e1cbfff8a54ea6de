"""Choices that make the plainest worlds in which planted faults are found.

They are of the way in which worlds are drawn today: ``python -m tests.simulation --planted`` finds others.
"""

from __future__ import annotations

TAPES: dict[str, tuple[int, ...]] = {}
