"""Who failed: names the root of a failure in the states of what it stopped, and callbacks of the user's that raised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from anabranch.base.errors import AnabranchError
from anabranch.base.states import Failure, State, tally


class CallbackRaised(Exception):
    """A function of the user's has raised, which is not a task's own."""

    def __init__(self, name: str, error: BaseException) -> None:
        super().__init__(name)
        self.name = name
        """Of the option that takes it."""
        self.error = error


@contextmanager
def asking(name: str) -> Iterator[None]:
    """Give what a callback of the user's raises in this block the name of the option that takes it.

    Raises
    ------
    CallbackRaised
        It has raised; errors of ours, and Ctrl-C, stay what they are.
    """
    try:
        yield
    except (AnabranchError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise CallbackRaised(name, error) from None


def noted(state: State, text: str) -> State:
    """A state whose message, and that of its failure, says this besides."""
    failure = state.failure
    if failure is not None:
        failure = replace(failure, message=f"{failure.message} ({text})".lstrip())
    return replace(state, message=f"{state.message} ({text})", failure=failure)


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
    others = tally(each for _, each in failed).by_word()["failed"] - 1
    if others > 0 and not message.endswith(" others)"):
        message += f" (+{others:,} others)"
    return replace(state, message=message, failure=Failure("UpstreamFailure", message, root=root))
