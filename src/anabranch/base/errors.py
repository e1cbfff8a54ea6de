"""The error tree: one class per kind of mistake, each also the builtin that a caller expects.

::

    AnabranchError
    ├── DefinitionError                    building a flow
    │   ├── OptionError (ValueError)         a task, parameter or flow option that cannot be
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
    ├── UnsendableError (TypeError)        what cannot be sent to workers, all of it at once
    ├── SettingError (AttributeError)      a setting that is unknown or of the wrong type
    ├── FlowLoadError (ImportError)        a file that does not give the flow asked for
    ├── ScheduleError (ValueError)         a schedule that cannot be, or has no times
    ├── RegistryError (RuntimeError)       the registry of flows, or what waits to run
    │   ├── FlowNotRegistered (LookupError)
    │   ├── UnregistrableFlow (ValueError)   every reason why a flow cannot be registered
    │   └── SealError (PermissionError)      code that nobody who has the key has registered
    ├── ServiceError (RuntimeError)        a service that cannot start as asked
    ├── DrawingError (RuntimeError)        a picture of a flow that cannot be made
    │   └── GraphvizMissing
    ├── ReportError (OSError)              a report of a run that cannot be written
    ├── PagesError (RuntimeError)          live pages that cannot be served
    ├── MetricsError (OSError)             metrics that cannot be handed over
    ├── ExecutorError (RuntimeError)       the place where tasks should run
    │   ├── SchedulerUnreachable (ConnectionError)
    │   ├── NoWorkersError (TimeoutError)
    │   └── PreflightError                   every reason at once why a cluster cannot run the flow
    ├── RunStoreError (RuntimeError)       the history of runs, which cannot be read or written
    │   ├── RunStoreDamaged (ValueError)     a file or row that no run store wrote, or not whole
    │   ├── RunStoreUnavailable (ConnectionError)
    │   ├── RunQueryError (ValueError)       a question that cannot be asked of it
    │   ├── RunNotFound (LookupError)
    │   ├── RunExists (ValueError)           a new run with the id of another
    │   ├── RunHeld                          a run whose owner is alive
    │   ├── ResumeError (ValueError)         a run that cannot be gone on with like this
    │   ├── StaleOwner                       a write by a former owner of a run
    │   └── LimitError (ValueError)          a named limit that cannot be
    ├── ResultError                        a stored value
    │   ├── ResultMissing (LookupError)
    │   ├── ResultDamaged (ValueError)       one that is not whole, not the one asked for, or does not load
    │   ├── ResultConflict (ValueError)      a place that is somebody else's
    │   ├── LocationError (ValueError)       a name that no store should be given
    │   └── ResultStoreError (OSError)       the place where values are stored
    ├── ExtraMissing (ImportError)         a package that only some need
    ├── RunHandleError (LookupError)       a detached run that a scheduler does not know, or has lost
    ├── ReplayError (LookupError)          an attempt that cannot be run again like this
    ├── ResultReleased (LookupError)       a value that was not kept
    ├── FlowRunFailed (RuntimeError)       asked for by ``raise_on_failure``, without a user's exception
    └── TaskError                          how a task run can fail, seen as a value
        ├── TaskFailure (RuntimeError)       stands for an exception that could not travel
        ├── TaskTimeout (TimeoutError)
        ├── UpstreamFailure (RuntimeError)   a trigger that said no
        ├── UnmappableError (TypeError)
        ├── MissingOutputError (LookupError)
        ├── UnstorableValueError (TypeError)
        ├── DeferDepthError (RecursionError)  deferred calls that make deferred calls, too deep
        ├── CodeNotLoadable (ImportError)
        ├── VersionMismatch (ImportError)
        ├── SecretNotFound (LookupError)     a secret that is not where it is used
        ├── ProcessDied (RuntimeError)       the task's own process ended, or was killed for its memory
        └── WorkerLost (RuntimeError)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class AnabranchError(Exception):
    """Base of every error this library raises."""


class DefinitionError(AnabranchError):
    """A flow, task or parameter that cannot be built as written."""


class OptionError(DefinitionError, ValueError):
    """An option of a task, parameter or flow has a value it cannot have."""


class CallError(DefinitionError, TypeError):
    """The arguments of a call do not fit the task's signature."""


class OutsideFlowError(DefinitionError, RuntimeError):
    """A task was called with no flow open and no task running."""


class NodeValueError(DefinitionError, TypeError):
    """A node was used as if it were the value it will have."""


class NodeAttributeError(NodeValueError, AttributeError):
    """An attribute was asked of a node that only its value may have."""


class MappingError(DefinitionError, TypeError):
    """Something was mapped over that has no elements in order."""


class WidthError(MappingError, ValueError):
    """Mapped arguments have different widths."""


class UnknownNodeError(DefinitionError, LookupError):
    """The flow has no such node, task or name."""


class AmbiguousTaskError(DefinitionError, LookupError):
    """A task was named where one node is needed, and it has been called several times."""


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
    """Code, constants or parameters of a flow that cannot leave this process; ``problems`` lists all of them."""


class SettingError(AnabranchError, AttributeError):
    """A setting is unknown, or has a value of the wrong type."""


class FlowLoadError(AnabranchError, ImportError):
    """A file or module does not give the flow that was asked for."""


class ReportError(AnabranchError, OSError):
    """The report of a run cannot be written."""


class MetricsError(AnabranchError, OSError):
    """Metrics cannot be written or sent."""


class PagesError(AnabranchError, RuntimeError):
    """Live pages cannot be served as asked."""


class ScheduleError(AnabranchError, ValueError):
    """A schedule cannot be as it was written, or has no times."""


class RegistryError(AnabranchError, RuntimeError):
    """The registry of flows cannot be used, or not like this."""


class FlowNotRegistered(RegistryError, LookupError):
    """The registry has no flow of this name."""


class UnregistrableFlow(ProblemsError, RegistryError, ValueError):
    """A flow cannot be registered; ``problems`` lists every reason. Nothing of it was."""


class SealError(RegistryError, PermissionError):
    """Code in the registry, or in a flow storage, is not sealed with the key that the settings have."""


class ServiceError(AnabranchError, RuntimeError):
    """A service cannot start as it was asked to."""


class DrawingError(AnabranchError, RuntimeError):
    """A picture of a flow could not be made."""


class GraphvizMissing(DrawingError):
    """A picture was asked for that needs Graphviz, and its program ``dot`` is not there."""


class ExecutorError(AnabranchError, RuntimeError):
    """The place where tasks should run cannot run them."""


class SchedulerUnreachable(ExecutorError, ConnectionError):
    """No Dask scheduler answered at the address."""


class NoWorkersError(ExecutorError, TimeoutError):
    """The cluster has no worker that can run the tasks."""


class PreflightError(ProblemsError, ExecutorError):
    """A cluster that was found unfit before anything was sent to it; ``problems`` lists everything."""


class RunStoreError(AnabranchError, RuntimeError):
    """The history of runs cannot be read or written."""


class RunStoreDamaged(RunStoreError, ValueError):
    """A file or row where the run store should be was not written by one, or is not whole."""


class RunStoreUnavailable(RunStoreError, ConnectionError):
    """The database of the run store does not answer, or is locked, for longer than is waited."""


class RunQueryError(RunStoreError, ValueError):
    """The run store was asked for something that it cannot be asked for."""


class RunNotFound(RunStoreError, LookupError):
    """The run store has no such run, or several that it could be."""


class RunExists(RunStoreError, ValueError):
    """A new run was given the id of another."""


class RunHeld(RunStoreError):
    """A run was to be taken over or deleted while its owner is alive."""


class ResumeError(RunStoreError, ValueError):
    """A recorded run cannot be resumed with this flow, or in this way."""


class StaleOwner(RunStoreError):
    """A process wrote to a run that it does not own any more."""


class LimitError(RunStoreError, ValueError):
    """A named limit cannot have that name or size."""


class ResultError(AnabranchError):
    """A value cannot be stored or had back."""


class ResultMissing(ResultError, LookupError):
    """There is no stored value at this location."""


class ResultDamaged(ResultError, ValueError):
    """What is stored is not whole, is not the value asked for, or cannot be loaded."""


class ResultConflict(ResultError, ValueError):
    """The location of a result has the value of another task run, or a file that is no result."""

    owner: str = ""
    """Ids of whose value is there, as JSON; nothing if it is no result."""


class LocationError(ResultError, ValueError):
    """The name of a result could leave its store, or cannot be a name everywhere."""


class ResultStoreError(ResultError, OSError):
    """The place where values are stored cannot be read or written."""


class ExtraMissing(AnabranchError, ImportError):
    """A package that only some users need is not installed; the message has the command that installs it."""


class RunHandleError(AnabranchError, LookupError):
    """A detached run that a scheduler does not know, or whose driver it has lost."""


class ReplayError(AnabranchError, LookupError):
    """An attempt of a recorded run cannot be run again here."""


class ResultReleased(AnabranchError, LookupError):
    """The value of this task run was not kept after the run."""


class FlowRunFailed(AnabranchError, RuntimeError):
    """A flow run did not succeed and no exception of the user's explains it."""


class TaskError(AnabranchError):
    """A way for a task run to fail that is not the task's own exception."""


class TaskFailure(TaskError, RuntimeError):
    """Stands for a task's exception that could not be carried out of the process it was raised in."""


class TaskTimeout(TaskError, TimeoutError):
    """A task ran past its deadline."""


class UpstreamFailure(TaskError, RuntimeError):
    """A task did not run because its trigger did not allow it."""


class UnmappableError(TaskError, TypeError):
    """The value to map over has no elements in order."""


class MissingOutputError(TaskError, LookupError):
    """A dependency names an output that the upstream value does not have."""


class UnstorableValueError(TaskError, TypeError):
    """A task returned a value that cannot leave the process it was made in."""


class DeferDepthError(TaskError, RecursionError):
    """Deferred calls make deferred calls, more callers deep than ``engine.max_defer_depth`` allows."""


class CodeNotLoadable(TaskError, ImportError):
    """The code of a task cannot be loaded where it should run."""


class SecretNotFound(TaskError, LookupError):
    """A secret is not there in the process that uses it."""


class ProcessDied(TaskError, RuntimeError):
    """The process of an attempt with ``isolation="process"`` ended by itself, or was killed for its memory."""


class VersionMismatch(TaskError, ImportError):
    """A task was sent to a worker with another version of Python, or of this library."""


class WorkerLost(TaskError, RuntimeError):
    """The worker that ran the task died."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause with the names closest to `name`, or nothing if none is close.

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
