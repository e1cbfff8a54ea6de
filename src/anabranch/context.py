"""What running task code may ask about its run: ``from anabranch import context``, then ``context.map_index``.

The attributes are those of `TaskContext`; ``context["map_index"]`` and ``"map_index" in context`` work, too. Where no
task is running, there is a `logger` only; asking for anything else raises `AttributeError`.
"""

from __future__ import annotations

import sys

from anabranch.base.context import ContextModule, TaskContext, current, get, get_logger, is_running
from anabranch.base.context import __getattr__ as __getattr__

__all__ = ["TaskContext", "current", "get", "get_logger", "is_running"]

sys.modules[__name__].__class__ = ContextModule
