"""The names of Prefect 1 under their old paths: ``import anabranch.prefect as prefect``.

``anabranch run --prefect FILE`` runs a file that says ``import prefect``. What is not here can be imported, and tells
when it is used what there is in place of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anabranch import (
    Parameter,
    apply_map,
    case,
    config,
    context,
    flatten,
    mapped,
    resource_manager,
    tags,
    triggers,
    unmapped,
)
from anabranch.base.version import VERSION
from anabranch.prefect.definitions import Task, task
from anabranch.prefect.flows import Flow
from anabranch.prefect.modules import found

__version__ = VERSION

__all__ = [
    "Flow",
    "Parameter",
    "Task",
    "apply_map",
    "case",
    "config",
    "context",
    "flatten",
    "mapped",
    "resource_manager",
    "tags",
    "task",
    "triggers",
    "unmapped",
]

if not TYPE_CHECKING:  # a type checker should know what is here

    def __getattr__(name: str) -> Any:
        """A module of Prefect's, or a name that is not here."""
        return found("", name)
