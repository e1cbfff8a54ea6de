"""The error tree: one class per kind of mistake, each also the builtin that a caller expects.

::

    AnabranchError
    ├── DefinitionError                    building a flow
    │   ├── OptionError (ValueError)         a wrong option of a task, parameter or flow
    │   ├── CallError (TypeError)            arguments that do not fit the signature
    │   ├── OutsideFlowError (RuntimeError)  a call with no flow open
    │   ├── NodeValueError (TypeError)       a node used as if it were its value
    │   │   └── NodeAttributeError (AttributeError)
    │   ├── MappingError (TypeError)         something that cannot be mapped over
    │   │   └── WidthError (ValueError)        mapped arguments of different widths
    │   ├── UnknownNodeError (LookupError)   a node, task or name that the flow does not have
    │   ├── AmbiguousTaskError (LookupError) a task that stands for several nodes
    │   └── FlowValidationError (ValueError) every problem of a flow at once
    ├── ParameterError (ValueError)        every problem of a run's parameters at once
    ├── UnsendableError (TypeError)        everything of a flow that cannot be sent to workers
    ├── SettingError (AttributeError)      a setting that is unknown or of the wrong type
    ├── FlowLoadError (ImportError)        a file without the flow that was asked for
    ├── ScheduleError (ValueError)         a schedule that is impossible, or has no times
    ├── RegistryError (RuntimeError)       the registry of flows, or runs that wait in it
    │   ├── FlowNotRegistered (LookupError)
    │   ├── UnregistrableFlow (ValueError)   every reason why a flow cannot be registered
    │   └── SealError (PermissionError)      code that was registered without the key
    ├── ServiceError (RuntimeError)        a service that cannot start as asked
    ├── DrawingError (RuntimeError)        a picture of a flow that cannot be made
    │   └── GraphvizMissing
    ├── ReportError (OSError)              a report of a run that cannot be written
    ├── PagesError (RuntimeError)          live pages that cannot be served
    ├── MetricsError (OSError)             metrics that cannot be written or sent
    ├── ExecutorError (RuntimeError)       the place where tasks should run
    │   ├── SchedulerUnreachable (ConnectionError)
    │   ├── NoWorkersError (TimeoutError)
    │   └── PreflightError                   every reason why a cluster cannot run the flow
    ├── RunStoreError (RuntimeError)       the history of runs, which cannot be read or written
    │   ├── RunStoreDamaged (ValueError)     a file or row that is incomplete or not a run store's
    │   ├── RunStoreUnavailable (ConnectionError)
    │   ├── RunQueryError (ValueError)       a query that it does not support
    │   ├── RunNotFound (LookupError)
    │   ├── RunExists (ValueError)           a new run with the id of another
    │   ├── RunHeld                          a run whose owner is alive
    │   ├── ResumeError (ValueError)         a run that cannot be resumed like this
    │   ├── StaleOwner                       a write by a former owner of a run
    │   └── LimitError (ValueError)          a wrong name or size of a named limit
    ├── ResultError                        a stored value
    │   ├── ResultMissing (LookupError)
    │   ├── ResultDamaged (ValueError)       one that is incomplete, another value, or does not load
    │   ├── ResultConflict (ValueError)      a place with the value of another task run
    │   ├── LocationError (ValueError)       a name that no store accepts
    │   └── ResultStoreError (OSError)       the place where values are stored
    ├── ExtraMissing (ImportError)         an optional package that is missing
    ├── RunHandleError (LookupError)       a detached run that a scheduler does not know, or has lost
    ├── ReplayError (LookupError)          an attempt that cannot be run again like this
    ├── ResultReleased (LookupError)       a value that was not kept
    ├── FlowRunFailed (RuntimeError)       a failed run without an exception of the user's
    └── TaskError                          failures of a task run that are not its own exceptions
        ├── TaskFailure (RuntimeError)       replaces an exception that could not be sent
        ├── TaskTimeout (TimeoutError)
        ├── UpstreamFailure (RuntimeError)   a trigger that did not allow the task to run
        ├── UnmappableError (TypeError)
        ├── ComparisonError (TypeError)      values that cannot be compared with a case or a choice
        ├── MissingOutputError (LookupError)
        ├── UnstorableValueError (TypeError)
        ├── DeferDepthError (RecursionError)  deferred calls nested too deep
        ├── CodeNotLoadable (ImportError)
        ├── VersionMismatch (ImportError)
        ├── SecretNotFound (LookupError)     a secret that is missing where it is used
        ├── ProcessDied (RuntimeError)       the task's own process ended, or was killed for its memory
        └── WorkerLost (RuntimeError)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class AnabranchError(Exception):
    """Base of every error this library raises."""


class DefinitionError(AnabranchError):
    """A flow, task or parameter cannot be built as written."""


class OptionError(DefinitionError, ValueError):
    """An option of a task, parameter or flow has a wrong value."""


class PrefectNameError(DefinitionError, AttributeError):
    """A name of Prefect 1 is used that is not here; the message says what there is in place of it."""


class CallError(DefinitionError, TypeError):
    """The arguments of a call do not fit the task's signature."""


class OutsideFlowError(DefinitionError, RuntimeError):
    """A task was called with no flow open and no task running."""


class NodeValueError(DefinitionError, TypeError):
    """A node was used as if it were the value it will have."""


class NodeAttributeError(NodeValueError, AttributeError):
    """A node was asked for an attribute that only its value can have."""


class MappingError(DefinitionError, TypeError):
    """A map was given something that is not a sequence."""


class WidthError(MappingError, ValueError):
    """Mapped arguments have different widths."""


class UnknownNodeError(DefinitionError, LookupError):
    """The flow has no such node, task or name."""


class AmbiguousTaskError(DefinitionError, LookupError):
    """A task was given where one node is needed, but it has several calls in the flow."""


class ProblemsError(AnabranchError):
    """An error that reports several problems at once.

    Attributes
    ----------
    problems : tuple of str
        One line each, ready to be shown.
    """

    def __init__(self, heading: str, problems: Sequence[str]) -> None:
        self.heading = heading
        self.problems = tuple(problems)
        super().__init__(heading, self.problems)

    def __str__(self) -> str:
        return "\n".join([self.heading, *(f"  - {problem}" for problem in self.problems)])


class FlowValidationError(ProblemsError, DefinitionError, ValueError):
    """A flow is not well formed; ``problems`` lists everything that is wrong with it."""


class ParameterError(ProblemsError, ValueError):
    """A run's parameters do not fit the flow; ``problems`` lists all of them."""


class UnsendableError(ProblemsError, TypeError):
    """Code, constants or parameters of a flow cannot be sent to workers; ``problems`` lists all of them."""


class SettingError(AnabranchError, AttributeError):
    """A setting is unknown, or has a value of the wrong type."""


class FlowLoadError(AnabranchError, ImportError):
    """A file or module does not have the flow that was asked for."""


class ReportError(AnabranchError, OSError):
    """The report of a run cannot be written."""


class MetricsError(AnabranchError, OSError):
    """Metrics cannot be written or sent."""


class PagesError(AnabranchError, RuntimeError):
    """Live pages cannot be served as asked."""


class ScheduleError(AnabranchError, ValueError):
    """A schedule is impossible as written, or has no times."""


class RegistryError(AnabranchError, RuntimeError):
    """The registry of flows cannot be used, or does not support this use."""


class FlowNotRegistered(RegistryError, LookupError):
    """The registry has no flow of this name."""


class UnregistrableFlow(ProblemsError, RegistryError, ValueError):
    """A flow cannot be registered, and was not; ``problems`` lists every reason."""


class SealError(RegistryError, PermissionError):
    """Code in the registry or a flow storage is not sealed with the key of the settings."""


class ServiceError(AnabranchError, RuntimeError):
    """A service cannot start with these options."""


class DrawingError(AnabranchError, RuntimeError):
    """A picture of a flow could not be made."""


class GraphvizMissing(DrawingError):
    """A picture needs Graphviz, but its program ``dot`` was not found."""


class ExecutorError(AnabranchError, RuntimeError):
    """The place where tasks should run cannot run them."""


class SchedulerUnreachable(ExecutorError, ConnectionError):
    """No Dask scheduler answered at the address."""


class NoWorkersError(ExecutorError, TimeoutError):
    """The cluster has no worker that can run the tasks."""


class PreflightError(ProblemsError, ExecutorError):
    """A cluster cannot run the flow, and nothing was sent to it; ``problems`` lists every reason."""


class RunStoreError(AnabranchError, RuntimeError):
    """The history of runs cannot be read or written."""


class RunStoreDamaged(RunStoreError, ValueError):
    """A file or row of the run store is incomplete, or was not written by anabranch."""


class RunStoreUnavailable(RunStoreError, ConnectionError):
    """The database of the run store did not answer, or was locked, for ``runs.patience_s`` seconds."""


class RunQueryError(RunStoreError, ValueError):
    """The run store does not support this query."""


class RunNotFound(RunStoreError, LookupError):
    """The run store has no such run, or several that begin with this id."""


class RunExists(RunStoreError, ValueError):
    """A new run was given the id of another."""


class RunHeld(RunStoreError):
    """A run cannot be taken over or deleted while its owner is alive."""


class RunOver(AnabranchError, RuntimeError):
    """A run cannot be cancelled: it has ended, or nobody is there to end it."""


class ResumeError(RunStoreError, ValueError):
    """A recorded run cannot be resumed with this flow, or in this way."""


class StaleOwner(RunStoreError):
    """A process tried to write to a run that it does not own any more."""


class LimitError(RunStoreError, ValueError):
    """A named limit cannot have that name or size."""


class ResultError(AnabranchError):
    """A value cannot be stored or read back."""


class ResultMissing(ResultError, LookupError):
    """There is no stored value at this location."""


class ResultDamaged(ResultError, ValueError):
    """A stored value is incomplete, is another value than the one asked for, or cannot be loaded."""


class ResultConflict(ResultError, ValueError):
    """The location of a result has the value of another task run, or a file that is not a result."""

    owner: str = ""
    """Ids of the task run whose value is there, as JSON; empty if the file is not a result."""


class LocationError(ResultError, ValueError):
    """The name of a result leads outside of its store, or is not valid on every platform."""


class ResultStoreError(ResultError, OSError):
    """The place where values are stored cannot be read or written."""


class ExtraMissing(AnabranchError, ImportError):
    """An optional package is not installed; the message has the command that installs it."""


class RunHandleError(AnabranchError, LookupError):
    """The scheduler does not know a detached run, or has lost its driver."""


class ReplayError(AnabranchError, LookupError):
    """An attempt of a recorded run cannot be run again here."""


class ResultReleased(AnabranchError, LookupError):
    """The value of this task run was not kept after the run."""


class FlowRunFailed(AnabranchError, RuntimeError):
    """A flow run did not succeed, and no exception of the user explains it."""


class TaskError(AnabranchError):
    """Base of failures of a task run that are not the task's own exceptions."""


class TaskFailure(TaskError, RuntimeError):
    """Replaces a task's exception that could not be sent from the process where it was raised."""


class TaskTimeout(TaskError, TimeoutError):
    """A task ran past its deadline."""


class UpstreamFailure(TaskError, RuntimeError):
    """A task did not run because its trigger did not allow it."""


class UnmappableError(TaskError, TypeError):
    """The value to map over is not a sequence."""


class ComparisonError(TaskError, TypeError):
    """Values cannot be compared with a case or a choice."""


class MissingOutputError(TaskError, LookupError):
    """A dependency names an output that the upstream value does not have."""


class UnstorableValueError(TaskError, TypeError):
    """A task returned a value that cannot be sent from its process."""


class DeferDepthError(TaskError, RecursionError):
    """Deferred calls are nested deeper than ``engine.max_defer_depth``."""


class CodeNotLoadable(TaskError, ImportError):
    """The code of a task cannot be loaded where it should run."""


class SecretNotFound(TaskError, LookupError):
    """A secret is missing in the process that uses it."""


class ProcessDied(TaskError, RuntimeError):
    """The process of an attempt with ``isolation="process"`` ended by itself, or was killed for its memory."""


class VersionMismatch(TaskError, ImportError):
    """A task was sent to a worker with another version of Python, or of this library."""


class WorkerLost(TaskError, RuntimeError):
    """The worker that ran the task died."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that suggests the names closest to `name`; empty if none is close.

    Examples
    --------
    >>> nearest("dat", ["date", "limit"])
    "; did you mean 'date'?"
    >>> nearest("x", ["date"])
    ''
    """
    close = get_close_matches(name, list(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def listed(names: Iterable[str]) -> str:
    """Names as a quoted list, for messages.

    Examples
    --------
    >>> listed(["a", "b"])
    "'a', 'b'"
    >>> listed([])
    'none'
    """
    return ", ".join(map(repr, names)) or "none"
