"""What running task code may ask about its run: ``from anabranch import context``, then ``context.map_index``.

The attributes are those of `TaskContext`. Where no task is running, asking raises `AttributeError`.
"""

from __future__ import annotations

from anabranch.base.context import TaskContext, current, get, is_running
from anabranch.base.context import __getattr__ as __getattr__

__all__ = ["TaskContext", "current", "get", "is_running"]
