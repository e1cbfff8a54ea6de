"""anabranch: data workflows on Dask.

Decorate functions with `task`, wire them inside ``with Flow("name") as flow:``, and run the flow here or on a cluster.
Heavy parts load when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anabranch import context, signals, states, triggers
from anabranch.base.prefect1 import find_old_paths, getter
from anabranch.base.secret import Secret
from anabranch.base.settings import config
from anabranch.base.signals import CANCEL, ENDRUN, FAIL, LOOP, PAUSE, RETRY, SKIP, SUCCESS, TRIGGERFAIL, VALIDATIONFAIL

# Writing flows
from anabranch.definition.branching import Switch, case, ifelse, merge, switch, when
from anabranch.definition.mapping import apply_map, flatten, mapped, unmapped
from anabranch.definition.node import Node
from anabranch.definition.resources import resource_manager
from anabranch.definition.scope import tags
from anabranch.definition.task import Dependency, Parameter, Task, task
from anabranch.flows.flow import Flow, FlowRunner, flow

if TYPE_CHECKING:
    from anabranch import engine as engine
    from anabranch import executors as executors
    from anabranch import notifiers as notifiers
    from anabranch import results as results
    from anabranch import runs as runs
    from anabranch import schedules as schedules
    from anabranch import storage as storage
    from anabranch import tasks as tasks
    from anabranch import testing as testing
    from anabranch.flows.replay import replay as replay

__all__ = [  # noqa: RUF022  # in groups, as above
    # Writing flows
    "Dependency",
    "Flow",
    "Node",
    "Parameter",
    "Secret",
    "Switch",
    "Task",
    "apply_map",
    "case",
    "flatten",
    "flow",
    "ifelse",
    "mapped",
    "merge",
    "resource_manager",
    "switch",
    "tags",
    "task",
    "unmapped",
    "when",
    # Running them
    "FlowRunner",
    "config",
    "context",
    "executors",
    "notifiers",
    "replay",
    "results",
    "runs",
    "schedules",
    "storage",
    # What tasks can say
    "CANCEL",
    "ENDRUN",
    "FAIL",
    "LOOP",
    "PAUSE",
    "RETRY",
    "SKIP",
    "SUCCESS",
    "TRIGGERFAIL",
    "VALIDATIONFAIL",
    "signals",
    "states",
    "triggers",
]

_LAZY = ("engine", "executors", "notifiers", "prefect", "results", "runs", "schedules", "storage", "tasks", "testing")


def _part(name: str) -> Any:
    """A part of the library, loaded when it is first asked for."""
    if name in _LAZY:
        return import_module(f"anabranch.{name}")
    if name == "replay":
        from anabranch.flows.replay import replay

        return replay
    if name == "__version__":
        from anabranch.base.version import VERSION

        return VERSION
    raise AttributeError(f"module 'anabranch' has no attribute {name!r}")


__getattr__ = getter("", _part)
find_old_paths()
