"""Texts of exceptions."""

from __future__ import annotations

from anabranch.base.texts import headline_of, message_of


def test_a_task_that_may_not_start_processes_is_told_how_it_may():
    error = AssertionError("daemonic processes are not allowed to have children")
    assert headline_of(error) == (
        "AssertionError: daemonic processes are not allowed to have children; a task whose worker may not start "
        "processes can with @task(isolation='process')"
    )
    assert message_of(AssertionError("daemonic")) == "daemonic"
