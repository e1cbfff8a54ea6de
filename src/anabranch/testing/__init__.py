"""For tests of flows: runs on a fake clock, failures on request, assertions on states, a home of their own.

With pytest there are fixtures for these, too: ``flow_tester``, ``fake_clock``, ``anabranch_home`` and
``anabranch_cluster``.
"""

from anabranch.testing.asserting import (
    assert_failed,
    assert_inputs_kept,
    assert_skipped,
    assert_states,
    assert_success,
    states,
)
from anabranch.testing.clock import FakeClock
from anabranch.testing.home import isolated_home
from anabranch.testing.tester import Call, FlowTester

__all__ = [
    "Call",
    "FakeClock",
    "FlowTester",
    "assert_failed",
    "assert_inputs_kept",
    "assert_skipped",
    "assert_states",
    "assert_success",
    "isolated_home",
    "states",
]
