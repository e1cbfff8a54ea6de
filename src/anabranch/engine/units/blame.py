"""Who failed first: names the root of a failure in the states of what it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from anabranch.base.states import Failure, State


def blamed(state: State, upstreams: Mapping[str, State]) -> State:
    """A TriggerFailed state that names the task run that failed first upstream, and counts the others."""
    failed = [(slug, each) for slug, each in upstreams.items() if not each.is_successful()]
    if not failed or state.failure is not None:
        return state
    slug, first = failed[0]
    root, message = slug, f"upstream {slug} failed with {first.message}"
    if first.failure is not None:
        root = first.failure.root or slug
        is_consequence = first.failure.type_name == "UpstreamFailure"  # then it has been said already who failed
        message = first.failure.message if is_consequence else f"upstream {root} failed with {first.failure.headline()}"
    others = sum(each.counts.failed if each.counts else 1 for _, each in failed) - 1
    if others > 0 and not message.endswith(" others)"):
        message += f" (+{others:,} others)"
    return replace(state, message=message, failure=Failure("UpstreamFailure", message, root=root))
