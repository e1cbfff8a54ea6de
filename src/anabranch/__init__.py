"""anabranch: data workflows on Dask.

Decorate functions with `task`, wire them inside ``with Flow("name") as flow:``, and run the flow here or on a cluster.
Each part loads when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from anabranch.base.prefect1 import find_old_paths, getter

if TYPE_CHECKING:
    from anabranch import context as context
    from anabranch import engine as engine
    from anabranch import executors as executors
    from anabranch import notifiers as notifiers
    from anabranch import results as results
    from anabranch import runs as runs
    from anabranch import schedules as schedules
    from anabranch import signals as signals
    from anabranch import states as states
    from anabranch import storage as storage
    from anabranch import tasks as tasks
    from anabranch import testing as testing
    from anabranch import triggers as triggers
    from anabranch.base.secret import Secret as Secret
    from anabranch.base.settings import config as config
    from anabranch.base.signals import CANCEL as CANCEL
    from anabranch.base.signals import ENDRUN as ENDRUN
    from anabranch.base.signals import FAIL as FAIL
    from anabranch.base.signals import LOOP as LOOP
    from anabranch.base.signals import PAUSE as PAUSE
    from anabranch.base.signals import RETRY as RETRY
    from anabranch.base.signals import SKIP as SKIP
    from anabranch.base.signals import SUCCESS as SUCCESS
    from anabranch.base.signals import TRIGGERFAIL as TRIGGERFAIL
    from anabranch.base.signals import VALIDATIONFAIL as VALIDATIONFAIL
    from anabranch.definition.branching import Switch as Switch
    from anabranch.definition.branching import case as case
    from anabranch.definition.branching import ifelse as ifelse
    from anabranch.definition.branching import merge as merge
    from anabranch.definition.branching import switch as switch
    from anabranch.definition.branching import when as when
    from anabranch.definition.mapping import apply_map as apply_map
    from anabranch.definition.mapping import flatten as flatten
    from anabranch.definition.mapping import mapped as mapped
    from anabranch.definition.mapping import unmapped as unmapped
    from anabranch.definition.node import Node as Node
    from anabranch.definition.resources import resource_manager as resource_manager
    from anabranch.definition.scope import tags as tags
    from anabranch.definition.task import Dependency as Dependency
    from anabranch.definition.task import Parameter as Parameter
    from anabranch.definition.task import Task as Task
    from anabranch.definition.task import task as task
    from anabranch.flows.flow import Flow as Flow
    from anabranch.flows.flow import FlowRunner as FlowRunner
    from anabranch.flows.flow import flow as flow
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

_MODULES = (
    *("context", "engine", "executors", "notifiers", "prefect", "results", "runs", "schedules", "signals", "states"),
    *("storage", "tasks", "testing", "triggers"),
)
_HOMES = {
    "base.secret": ("Secret",),
    "base.settings": ("config",),
    "base.signals": (
        *("CANCEL", "ENDRUN", "FAIL", "LOOP", "PAUSE", "RETRY", "SKIP", "SUCCESS", "TRIGGERFAIL", "VALIDATIONFAIL"),
    ),
    "definition.branching": ("Switch", "case", "ifelse", "merge", "switch", "when"),
    "definition.mapping": ("apply_map", "flatten", "mapped", "unmapped"),
    "definition.node": ("Node",),
    "definition.resources": ("resource_manager",),
    "definition.scope": ("tags",),
    "definition.task": ("Dependency", "Parameter", "Task", "task"),
    "flows.flow": ("Flow", "FlowRunner", "flow"),
    "flows.replay": ("replay",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def _part(name: str) -> Any:
    """A part of the library, loaded when it is first asked for: commands need few of them."""
    if name in _MODULES:
        return import_module(f"anabranch.{name}")
    if name == "__version__":
        from anabranch.base.version import VERSION

        return VERSION
    if name not in _HOME_OF:
        raise AttributeError(f"module 'anabranch' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"anabranch.{_HOME_OF[name]}"), name)
    return found


__getattr__ = getter("", _part)
find_old_paths()
if "dask" in sys.modules:  # a block with its settings may follow, and must not take with it what is loaded there
    import_module("anabranch.base.settings")
