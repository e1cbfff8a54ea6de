"""Exceptions turned into values that survive any trip.

No exception of the user's ever crosses Dask as an exception: its text is bounded and can be encoded, its traceback is
text, and a copy is kept only if that is known to load again.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Mapping
from functools import lru_cache
from types import TracebackType
from typing import Any

from anabranch.base import errors
from anabranch.base.names import Shortener
from anabranch.base.states import Failure
from anabranch.base.texts import clean, message_of, type_name
from anabranch.base.tracebacks import HEAD, LED, frame_of, frames_of, make_traceback
from anabranch.base.where import is_library, is_users
from anabranch.engine.units.values import ATOMS, dumps

MAX_TRACEBACK = 32_768  # characters
MAX_EXCEPTION_NBYTES = 65_536
SMALL_EXCEPTION_NBYTES = 2_048  # carried even by failures that are not described in full
MAX_INPUT = 200  # characters of an argument's repr
MAX_INPUTS = 500  # characters of all of them
FIRST_FRAMES, LAST_FRAMES = 10, 20


def describe(
    exception: BaseException, inputs: Mapping[str, object] | None = None, *, in_full: bool = True, root: str = ""
) -> Failure:
    """The exception as a value; not `in_full`: without traceback and inputs, and with a copy only if that is small."""
    if not in_full:
        return Failure(
            type_name(exception),
            clean(message_of(exception), 300),
            line=_last_line(exception),
            exception=_portable(exception, SMALL_EXCEPTION_NBYTES),
            root=root,
        )
    frames = _user_frames(exception)
    return Failure(
        type_name(exception),
        message_of(exception),
        traceback=_formatted(exception, frames),
        line=_last_line(exception),
        inputs=shorten(inputs or {}),
        exception=_portable(exception),
        root=root,
    )


def _last_line(exception: BaseException) -> str:
    """``file:line in function`` of the innermost frame in a file of the user's, else of the innermost outside ours."""
    own, other, trace = "", "", exception.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not is_library(code.co_filename):
            other = f"{code.co_filename}:{trace.tb_lineno} in {code.co_name}"
            own = other if is_users(code.co_filename) else own
        trace = trace.tb_next
    return clean(own or other, 500)


def _user_frames(exception: BaseException) -> list[traceback.FrameSummary]:
    """Frames below the engine's own, without reading a source line yet."""
    try:
        # A walk is cheap; StackSummary with lookup_lines=False does not touch the file system.
        walk = list(traceback.walk_tb(exception.__traceback__))
        if len(walk) > FIRST_FRAMES + LAST_FRAMES + 10:
            walk = walk[: FIRST_FRAMES + 10] + walk[-LAST_FRAMES:]
        summary = list(traceback.StackSummary.extract(iter(walk), lookup_lines=False))
    except Exception:  # a traceback that cannot be read is no reason to lose the failure itself
        return []
    while summary and is_library(summary[0].filename):
        summary.pop(0)
    return summary


def _formatted(exception: BaseException, frames: list[traceback.FrameSummary]) -> str:
    if len(frames) > FIRST_FRAMES + LAST_FRAMES:
        shown = [
            *traceback.format_list(frames[:FIRST_FRAMES]),
            "  …\n",
            *traceback.format_list(frames[-LAST_FRAMES:]),
        ]
    else:
        shown = traceback.format_list(frames)
    text = "".join([HEAD, *shown])
    headline = f"{type_name(exception)}: {message_of(exception)}\n"
    notes = "".join(f"{note}\n" for note in getattr(exception, "__notes__", ()) if isinstance(note, str))
    cause = exception.__cause__ or (None if exception.__suppress_context__ else exception.__context__)
    before = ""
    if cause is not None:
        before = f"{type_name(cause)}: {clean(message_of(cause), 500)}{LED}"
    return clean(before + text + headline + notes, MAX_TRACEBACK)


def _portable(exception: BaseException, limit: int = MAX_EXCEPTION_NBYTES) -> bytes | None:
    """The pickled exception if it is small and loads again as what it was, else None."""
    if _is_simple(exception):
        # As a whole, tblib would pickle it, which takes ten times as long.
        data = pickle.dumps(exception.__reduce__()[:2], protocol=5)
        return data if len(data) <= limit else None
    chained = exception.__traceback__, exception.__cause__, exception.__context__, exception.__suppress_context__
    try:
        # Dask teaches pickle to take tracebacks and causes along; the text has them, and they are large.
        exception.__traceback__ = exception.__cause__ = exception.__context__ = None
        data = dumps(exception)
        if len(data) > limit:
            return None
        if type(pickle.loads(data)).__name__ != type(exception).__name__:
            return None
    except BaseException:  # pickling runs the user's code; whatever it raises, the text is there
        return None
    finally:
        exception.__traceback__, exception.__cause__, exception.__context__, exception.__suppress_context__ = chained
    return data


def _is_simple(exception: BaseException) -> bool:
    """Whether an exception is sure to load again: one of Python's own, made of nothing but atoms."""
    is_own = type(exception).__module__ == "builtins" and not isinstance(exception, BaseExceptionGroup)
    return is_own and not vars(exception) and ATOMS.issuperset(map(type, exception.args))


def restore(failure: Failure | None, message: str = "") -> BaseException:
    """What `revive` gives, with the frames that the failure knows of: all of them, or the last."""
    exception = revive(failure, message)
    return exception.with_traceback(_traceback(failure.traceback, failure.line)) if failure is not None else exception


@lru_cache(maxsize=32)  # a map may have a million of a kind
def _traceback(text: str, line: str) -> TracebackType | None:
    last = frame_of(line)
    return make_traceback(frames_of(text) or ([last] if last is not None else []))


def revive(failure: Failure | None, message: str = "") -> BaseException:
    """The exception that a failure stands for; a `TaskFailure` with its text where there is no copy that loads."""
    if failure is not None and failure.exception is not None:
        try:
            exception = pickle.loads(failure.exception)
            if isinstance(exception, tuple):  # how `_portable` keeps simple ones
                cls, args = exception
                exception = cls(*args)
            if isinstance(exception, BaseException):
                return exception
        except BaseException:  # the class may not be importable in this process
            pass
    if failure is None:
        return errors.TaskFailure(message)
    ours = getattr(errors, failure.type_name, None)
    if isinstance(ours, type) and issubclass(ours, (errors.TaskError, errors.MappingError)):
        return ours(failure.message)
    return errors.TaskFailure(failure.headline())


class _Shortener(Shortener):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = MAX_INPUT
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 6


def shorten(inputs: Mapping[str, Any]) -> dict[str, str]:
    """Arguments as bounded reprs, by name; a repr that raises is said so."""
    shortener = _Shortener()
    shown: dict[str, str] = {}
    left = MAX_INPUTS
    for name, value in inputs.items():
        if left <= 0:
            shown["…"] = f"{len(inputs) - len(shown)} more"
            break
        try:
            text = clean(shortener.repr(value), MAX_INPUT)
        except BaseException as error:  # a user's __repr__ may do anything
            text = f"<repr of {type(value).__name__} failed with {type(error).__name__}>"
        shown[name] = text
        left -= len(text)
    return shown
