"""Who failed first: names the root of a failure in the states of what it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from anabranch.states import Failure, State


def blamed(state: State, upstreams: Mapping[str, State]) -> State:
    """A TriggerFailed state that names the task run that failed first upstream, and counts the others."""
    failed = [(slug, each) for slug, each in upstreams.items() if not each.is_successful()]
    if not failed or state.failure is not None:
        return state
    slug, first = failed[0]
    root, headline = slug, first.message
    if first.failure is not None:
        root, headline = first.failure.root or slug, first.failure.headline()
    if first.counts is None and first.failure is not None and first.failure.type_name == "UpstreamFailure":
        message = first.failure.message  # it has been said already who failed
    else:
        others = sum(each.counts.failed if each.counts else 1 for _, each in failed) - 1
        message = f"upstream {root} failed with {headline}" + (f" (+{others:,} others)" if others > 0 else "")
    return replace(state, message=message, failure=Failure("UpstreamFailure", message, root=root))
