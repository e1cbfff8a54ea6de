"""Operators between nodes: each adds a node whose value is the operation on theirs."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any


class Operators:
    """Arithmetic, comparison and items for classes that can make a node of an operation.

    ``==`` and ``!=`` are not here, because nodes are compared by identity: see `is_equal`.
    """

    __slots__ = ()

    # NumPy and pandas leave operators to this class then, instead of applying them to each of their elements.
    __array_ufunc__ = None
    __pandas_priority__ = 10_000  # a DataFrame's is 4,000

    def _operation(self, function: Callable[..., Any], name: str, *operands: object) -> Any:
        raise NotImplementedError

    def __add__(self, other: object) -> Any:
        return self._operation(operator.add, "add", self, other)

    def __radd__(self, other: object) -> Any:
        return self._operation(operator.add, "add", other, self)

    def __sub__(self, other: object) -> Any:
        return self._operation(operator.sub, "sub", self, other)

    def __rsub__(self, other: object) -> Any:
        return self._operation(operator.sub, "sub", other, self)

    def __mul__(self, other: object) -> Any:
        return self._operation(operator.mul, "mul", self, other)

    def __rmul__(self, other: object) -> Any:
        return self._operation(operator.mul, "mul", other, self)

    def __matmul__(self, other: object) -> Any:
        return self._operation(operator.matmul, "matmul", self, other)

    def __rmatmul__(self, other: object) -> Any:
        return self._operation(operator.matmul, "matmul", other, self)

    def __truediv__(self, other: object) -> Any:
        return self._operation(operator.truediv, "truediv", self, other)

    def __rtruediv__(self, other: object) -> Any:
        return self._operation(operator.truediv, "truediv", other, self)

    def __floordiv__(self, other: object) -> Any:
        return self._operation(operator.floordiv, "floordiv", self, other)

    def __rfloordiv__(self, other: object) -> Any:
        return self._operation(operator.floordiv, "floordiv", other, self)

    def __mod__(self, other: object) -> Any:
        return self._operation(operator.mod, "mod", self, other)

    def __rmod__(self, other: object) -> Any:
        return self._operation(operator.mod, "mod", other, self)

    def __pow__(self, other: object) -> Any:
        return self._operation(operator.pow, "pow", self, other)

    def __rpow__(self, other: object) -> Any:
        return self._operation(operator.pow, "pow", other, self)

    def __neg__(self) -> Any:
        return self._operation(operator.neg, "neg", self)

    def __abs__(self) -> Any:
        return self._operation(operator.abs, "abs", self)

    def __and__(self, other: object) -> Any:
        return self._operation(operator.and_, "and", self, other)

    def __rand__(self, other: object) -> Any:
        return self._operation(operator.and_, "and", other, self)

    def __lt__(self, other: object) -> Any:
        return self._operation(operator.lt, "lt", self, other)

    def __le__(self, other: object) -> Any:
        return self._operation(operator.le, "le", self, other)

    def __gt__(self, other: object) -> Any:
        return self._operation(operator.gt, "gt", self, other)

    def __ge__(self, other: object) -> Any:
        return self._operation(operator.ge, "ge", self, other)

    def is_equal(self, other: object) -> Any:
        """A node that is true if the two values are equal."""
        return self._operation(operator.eq, "is_equal", self, other)

    def is_not_equal(self, other: object) -> Any:
        """A node that is true if the two values differ."""
        return self._operation(operator.ne, "is_not_equal", self, other)

    def not_(self) -> Any:
        """A node that is true if this one's value is false."""
        return self._operation(operator.not_, "not", self)

    def and_(self, other: object) -> Any:
        """A node that is true if both values are true."""
        return self._operation(both, "and", self, other)

    def or_(self, other: object) -> Any:
        """A node that is true if one of the two values is true."""
        return self._operation(either, "or", self, other)


def both(a: Any, b: Any, /) -> bool:
    """Whether both values are true: what ``and_`` does."""
    return bool(a and b)


def either(a: Any, b: Any, /) -> bool:
    """Whether one of two values is true: what ``or_`` does."""
    return bool(a or b)
