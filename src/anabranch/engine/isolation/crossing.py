"""Exceptions that go from a process to another on the same machine, and are raised there as if they came from there.

What describes failures (`anabranch.engine.units.failures`) needs to know nothing of it: class, text, notes, cause and
the user's frames are the same. Where the exception itself cannot cross, something of the same name stands for it.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from anabranch.base.errors import TaskFailure
from anabranch.base.texts import message_of
from anabranch.base.tracebacks import Frame, make_traceback
from anabranch.base.where import is_library
from anabranch.engine.units.failures import FIRST_FRAMES, LAST_FRAMES
from anabranch.engine.units.values import dumps


@dataclass(frozen=True, slots=True)
class Crossing:
    """An exception under way."""

    module: str
    qualname: str
    message: str
    data: bytes | None
    """Pickled recipe of the exception, or of one with the same class and what can cross; None if neither works."""
    frames: tuple[Frame, ...] = ()
    """The user's, outermost first."""
    cause: Crossing | None = None
    is_explicit: bool = False
    """Whether it was raised *from* its cause."""


def packed(error: BaseException, *, with_cause: bool = True) -> Crossing:
    """What goes over of an exception that was caught here."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    cls = type(error)
    return Crossing(
        cls.__module__,
        cls.__qualname__,
        message_of(error),
        _pickled(error),
        _frames(error.__traceback__),
        packed(cause, with_cause=False) if cause is not None and with_cause else None,
        error.__cause__ is not None,
    )


def unpacked(crossing: Crossing) -> BaseException:
    """The exception, or what stands for it, with its traceback and cause."""
    error = _loaded(crossing.data) or _stand_in(crossing)
    if crossing.cause is not None:
        cause = unpacked(crossing.cause)
        if crossing.is_explicit:
            error.__cause__ = cause
        else:
            error.__context__ = cause
    return error.with_traceback(make_traceback(crossing.frames))


def _pickled(error: BaseException) -> bytes | None:
    chained = error.__traceback__, error.__cause__, error.__context__, error.__suppress_context__
    try:
        error.__traceback__ = error.__cause__ = error.__context__ = None
        for make in (_whole, _parts):
            try:
                data = make(error)
                if type(_loaded(data)) is type(error):
                    return data
            except BaseException:  # pickling runs the user's code, which may raise anything
                continue
        return None
    finally:
        error.__traceback__, error.__cause__, error.__context__, error.__suppress_context__ = chained


def _whole(error: BaseException) -> bytes:
    # By its own recipe: the one that Dask gives to pickle leaves out what a constructor in C sets, as SystemExit.code.
    recipe = error.__reduce_ex__(5)
    if isinstance(recipe, str) or len(recipe) > 3:
        raise TypeError("exceptions do not pickle in that way")
    return dumps(tuple(recipe))


def _parts(error: BaseException) -> bytes:
    """For those whose constructor wants more than their text, or that hold something which does not pickle."""
    attributes = {name: value for name, value in vars(error).items() if _is_portable(value)}
    return dumps((_remade, (type(error), _portable(error.args), attributes)))


def _remade(cls: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def _portable(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(each if _is_portable(each) else f"<{type(each).__name__}>" for each in args)


def _is_portable(value: Any) -> bool:
    try:
        pickle.loads(dumps(value))
    except BaseException:
        return False
    return True


def _loaded(data: bytes | None) -> BaseException | None:
    if data is None:
        return None
    try:
        make, args, *state = pickle.loads(data)
        error = make(*args)
        if state and state[0] is not None:
            error.__setstate__(state[0])
    except BaseException:  # loading runs the user's code
        return None
    return error if isinstance(error, BaseException) else None


def _stand_in(crossing: Crossing) -> BaseException:
    def stay(self: BaseException) -> Any:
        raise TypeError("stands for an exception that does not pickle")

    name = crossing.qualname.rpartition(".")[2]
    names = {"__module__": crossing.module, "__qualname__": crossing.qualname, "__reduce__": stay}
    stand_in: BaseException = type(name, (TaskFailure,), names)(crossing.message)
    return stand_in


def _frames(trace: TracebackType | None) -> tuple[Frame, ...]:
    found: list[Frame] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        if found or not is_library(code.co_filename):
            found.append(Frame(code.co_filename, trace.tb_lineno, code.co_name))
        trace = trace.tb_next
    first, last = (
        2 * FIRST_FRAMES,
        2 * LAST_FRAMES,
    )  # more than a description shows, so that it says that some are left out
    return tuple(found if len(found) <= first + last else [*found[:first], *found[-last:]])
