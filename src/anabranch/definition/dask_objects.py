"""Dask's own objects where values are taken: what a future, a `Delayed` or a collection stands for, and its parts.

They are computed where they are needed: on the cluster, if the task is on one, without a way through the driver.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

from anabranch.base.errors import UpstreamFailure
from anabranch.definition.expressions import ATOMS, Const, Expression, evaluate, express, holds
from anabranch.definition.marks import Mark

MAX_SHOWN = 60  # characters of a key


def is_dask(value: object) -> bool:
    """Whether a value is an object of Dask's that stands for another: a future, a `Delayed`, or a collection."""
    cls: Any = type(value)
    return _is_kind(cls) and (is_future(value) or _is_collection(value))


def is_future(value: object) -> bool:
    """Whether a value is a future of a cluster."""
    return any(cls.__module__ == "distributed.client" and cls.__name__ == "Future" for cls in type(value).__mro__)


@lru_cache(maxsize=256)
def _is_kind(cls: type) -> bool:
    """Whether instances of a class may be objects of Dask's."""
    mro = type.mro(cls) if cls is type else cls.__mro__
    return any("__dask_graph__" in vars(each) or each.__module__ == "distributed.client" for each in mro)


@lru_cache(maxsize=256)
def _has_parts(cls: type) -> bool:
    """Whether instances of a class may hold some."""
    return issubclass(cls, _COLLECTIONS) or any(hasattr(cls, name) for name in _FIELDS)


_COLLECTIONS = (list, tuple, set, frozenset, deque, dict)
_FIELDS = ("__dataclass_fields__", "__attrs_attrs__", "__pydantic_validator__")


def _is_collection(value: object) -> bool:
    from dask.base import is_dask_collection

    try:
        return bool(is_dask_collection(value))
    except Exception:  # a class of the user's that is no collection after all
        return False


def holds_dask(value: Any) -> bool:
    """Whether there is an object of Dask's in a value, at any depth; quick, as it is asked of every value."""
    cls: Any = type(value)
    if cls in ATOMS:
        return False
    held: Any = value.values() if cls is dict else value if cls is list or cls is tuple else None
    if held is not None and ATOMS.issuperset(map(type, held)):
        return False
    return holds(value, is_dask) if _has_parts(cls) else is_dask(value)


def resolved(value: Any) -> Any:
    """A value with what Dask's objects in it stand for in their places."""
    found: list[Any] = []

    def note(each: Any) -> Expression:
        found.append(each)
        return Const(each)

    expression = express(value, is_dask, note)
    if not found:
        return value
    values = dict(zip(map(id, found), _computed(found), strict=True))
    return evaluate(expression, {}, lambda each: values.get(id(each), each))


def _computed(found: list[Any]) -> Sequence[Any]:
    """What objects stand for: by the cluster of this worker, else by that of the futures among them, else here."""
    from dask.base import compute, get_scheduler

    # Not in processes, as bags would have it: these load the user's script again.
    usual = partial(compute, *found, scheduler=get_scheduler() or "threads")
    if "distributed" not in sys.modules:
        return list(usual())
    from distributed import get_worker, worker_client

    try:
        get_worker()
    except ValueError:
        futures = list(_futures(found))
        return list(futures[0].client.compute(found, sync=True) if futures else usual())
    with worker_client() as client:
        futures = list(_futures(found))  # a frame computes to know its graph, and that needs the slot given up here
        _refuse_strangers([each for each in futures if each.key not in client.futures], client)
        bound = [type(each)(each.key, client) if is_future(each) else each for each in found]
        if futures:  # which have arrived here beside Dask, in what it takes for bytes
            client._send_to_scheduler({"op": "client-desires-keys", "keys": [each.key for each in futures]})
        return list(client.compute(bound, sync=True))


def _futures(found: list[Any]) -> Iterator[Any]:
    """Futures among objects, and in the graphs of those that were persisted."""
    for each in found:
        if is_future(each):
            yield each
        else:
            yield from (part for part in dict(each.__dask_graph__() or {}).values() if is_future(part))


def _refuse_strangers(futures: list[Any], client: Any) -> None:
    """Refuse futures that a cluster does not have: they would be waited for until the end of time."""
    keys = [each.key for each in futures]
    known = client.sync(client.scheduler.get_task_status, keys=keys) if keys else {}
    for key in keys:
        if known.get(key) is None:
            raise UpstreamFailure(
                f"a Future ({str(key)[:MAX_SHOWN]}) is not known to the cluster that the task runs on: it was "
                "cancelled, or is of another cluster; make it there, and keep it until the run has ended"
            )


# Arguments that are written -------------------------------------------------------------------------------------------


class Compute:
    """A function without arguments that gives what Dask's objects in a value stand for."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self) -> Any:
        """The value with what they stand for."""
        return resolved(self.value)


class ComputeElement:
    """A function that gives one element of a list that has Dask's objects in it."""

    def __init__(self, elements: Sequence[Any]) -> None:
        self.elements = elements

    def __call__(self, index: int) -> Any:
        """The element at an index."""
        return resolved(self.elements[index])


class Parts(Sequence[Any]):
    """Partitions of a frame or bag, or blocks of an array, in their order: each a collection of its own."""

    def __init__(self, view: Any, shape: tuple[int, ...]) -> None:
        self._view = view
        self._shape = shape

    def __len__(self) -> int:
        return math.prod(self._shape)

    def __getitem__(self, index: Any) -> Any:
        index = range(len(self))[index]
        places = []
        for width in reversed(self._shape):
            index, place = divmod(index, width)
            places.append(place)
        return self._view[places[0] if len(places) == 1 else tuple(reversed(places))]


def parts(value: Any) -> Parts | None:
    """What ``frame.partitions`` and ``array.blocks`` give element by element; None of anything else."""
    cls = type(value)
    if not cls.__module__.startswith("dask.") or cls.__name__ not in ("IndexCallable", "BlockView"):
        return None
    if cls.__name__ == "BlockView":
        return Parts(value, tuple(value.shape))
    owner: Any = getattr(value.fn, "__self__", None)
    if getattr(value.fn, "__name__", "") != "_partitions" or not hasattr(owner, "npartitions"):
        return None
    return Parts(value, (owner.npartitions,))


def resolved_argument(value: Any) -> Any:
    """An argument of a call in a running task, marked or not, with what Dask's objects in it stand for."""
    if isinstance(value, Mark):
        return type(value)(resolved_argument(value.value))
    elements = parts(value)
    value = value if elements is None else list(elements)
    return resolved(value) if holds_dask(value) else value
