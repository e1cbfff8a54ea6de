"""Values of classes that travelled with them, when the module that has these classes is here as well.

A record outlives its process, and has classes of the user's file by value. Loaded again, they are twins of those in the
file: equal in all but identity, so that no ``isinstance`` and no member of an `Enum` fits.
"""

from __future__ import annotations

import io
import pickle
import sys
from functools import reduce
from typing import Any

import cloudpickle


def of_this_process(value: Any) -> Any:
    """The value with the classes that modules have here, where it has twins of them; otherwise itself."""
    with io.BytesIO() as file:
        try:
            pickler = _Pickler(file)
            pickler.dump(value)
            return pickle.loads(file.getvalue()) if pickler.has_twins else value
        except Exception:  # the user's classes do as they like, and may have changed
            return value


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """Has classes by name if a module has one of that name here."""

    has_twins = False

    def reducer_override(self, value: Any) -> Any:
        """How to make a value again, as the pickle module asks for it."""
        if isinstance(value, type) and _own_class(value.__module__, value.__qualname__) not in (value, None):
            self.has_twins = True
            return _own_class, (value.__module__, value.__qualname__)
        return super().reducer_override(value)


def _own_class(module: str, name: str) -> type | None:
    """The class of that name, as far as one can be found by name."""
    found = reduce(lambda place, each: getattr(place, each, None), name.split("."), sys.modules.get(module))
    return found if isinstance(found, type) else None
