"""Making Dask clusters: from a class, a function or a name, with arguments checked and errors that say what to do.

What a cluster is asked for while it runs is the executor's business, and how a scheduler is reached that of
`executors.security`.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import ipaddress
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import dask.config

from anabranch.base.errors import ExecutorError, OptionError, listed, nearest
from anabranch.base.masking import SECRET_NAME
from anabranch.base.settings import config
from anabranch.executors.connection import is_loopback

if TYPE_CHECKING:
    from distributed import Client, Security

_log = logging.getLogger("anabranch.executors")

ClusterClass: TypeAlias = "str | type[Any] | Callable[..., Any] | object"
"""A dotted name, a class, a function that returns a cluster, or a cluster that is there."""

# Ctrl-C in a terminal goes to every process there. It is the driver's to act on, not that of workers in mid-task. A
# worker that is a thread of the driver (processes=False) has no signals of its own.
DEAF_TO_CTRL_C = (
    "import signal, threading\n"
    "if threading.current_thread() is threading.main_thread(): signal.signal(signal.SIGINT, signal.SIG_IGN)"
)
CLOSE_S = 30.0  # on a busy machine nannies take seconds to end their workers; one that takes longer is left alone
REPORT_S = 30.0  # a scheduler that has served hours of tasks takes seconds to draw its report
WORKER_NBYTES = 64 << 20  # of memory that a worker process takes before it has done anything
FIRST_SLOTS = 4  # an adaptive cluster without a maximum is asked for this much to begin with
_SHOWN = 200  # characters of an argument in a message


# ---------------------------------------------------------------------------------------------------------------------
# What users see


@dataclass(frozen=True, slots=True)
class MadeCluster:
    """A cluster for a run."""

    cluster: Any
    is_ours: bool
    """Whether it was made here, and so is to be closed here."""
    is_adaptive: bool = False
    most_slots: int | None = None
    """Slots it may grow to if it is adaptive; None if nobody has set a limit."""

    def window_slots(self, slots: int) -> int:
        """Slots for which work should be on its way, when the cluster has `slots` now.

        An adaptive cluster grows by the work that waits for it. A window as wide as the cluster is now would be done
        in no time, so that no worker were ever added. Without a limit the window is twice what is there.
        """
        if not self.is_adaptive:
            return slots
        return max(slots, self.most_slots if self.most_slots is not None else max(FIRST_SLOTS, 2 * slots))

    def close(self) -> None:
        """Close it if it is ours; trouble in doing so is logged, as the run is over."""
        if not self.is_ours:
            return
        try:
            self.cluster.close(timeout=CLOSE_S)
        except TypeError:  # not every class takes a timeout
            with contextlib.suppress(Exception):
                self.cluster.close()
        except Exception as error:
            _log.warning("%s did not close: %s", _name(type(self.cluster)), _cause(error))


def make_cluster(
    cluster_class: ClusterClass | None = None,
    cluster_kwargs: Mapping[str, Any] | None = None,
    adapt_kwargs: Mapping[str, Any] | None = None,
    security: Security | None = None,
) -> MadeCluster:
    """Make a cluster; with `adapt_kwargs`, let it follow the work.

    Parameters
    ----------
    cluster_class
        Class, dotted name, or function that returns a cluster; or a cluster that is there already, which is used and
        not closed. Default: ``distributed.LocalCluster``, on loopback.
    cluster_kwargs
        Its arguments.
    adapt_kwargs
        Arguments of the cluster's ``adapt``.
    security
        Passed on as ``security`` where the class has such an argument.

    Raises
    ------
    OptionError
        Arguments that cannot work.
    ExecutorError
        The cluster could not be made.
    """
    kwargs = dict(cluster_kwargs or {})
    if is_cluster(cluster_class):
        if kwargs:
            raise OptionError(
                f"cluster_kwargs are for making a cluster; {_name(type(cluster_class))} exists already, so "
                f"{_shown(kwargs)} would have no effect"
            )
        _check_usable(cluster_class)
        return _adapted(cluster_class, False, adapt_kwargs)
    maker = _maker(cluster_class)
    if cluster_class is None:
        # A page of Dask's own on a port that is free: two runs on one machine must not quarrel about 8787.
        kwargs = {"dashboard_address": "127.0.0.1:0", "silence_logs": 50, **_preloads(), **kwargs}
    if security is not None and "security" in _parameters(maker):
        kwargs.setdefault("security", security)
    if _is_local(maker):
        kwargs.update({"host": _bracketed(kwargs["host"])} if isinstance(kwargs.get("host"), str) else {})
        _check_local(kwargs, is_adaptive=adapt_kwargs is not None)
    made = MadeCluster(_made(maker, kwargs), is_ours=True)
    try:
        _check_usable(made.cluster)
        if adapt_kwargs is None:
            _check_has_workers(made.cluster, maker, kwargs)
        return _adapted(made.cluster, True, adapt_kwargs)
    except BaseException:
        made.close()
        raise


def is_cluster(value: object) -> bool:
    """Whether something is a cluster object rather than what makes one."""
    return not isinstance(value, type) and hasattr(value, "scheduler_address")


@contextlib.contextmanager
def performance_report(client: Client, path: str | os.PathLike[str], *, title: str = "") -> Iterator[None]:
    """Write Dask's performance report of what happens inside to an HTML file; it holds all that is needed to show it.

    A report that cannot be written is logged and no more: the run matters, and it is over by then.

    Parameters
    ----------
    client
        A client of the cluster; it need not be the default one.
    path
        Path or fsspec URL of the file.
    title
        Shown where Dask shows the code that was run.

    Raises
    ------
    OptionError
        The file cannot be written where it should be.
    """
    from distributed.client import performance_report as dask_report

    target = os.fspath(path)
    _check_writable(target)
    report = dask_report(filename=target, mode="inline")
    with client.as_current():
        client.sync(report.__aenter__)
    try:
        yield
    finally:
        try:
            with client.as_current():
                client.sync(report.__aexit__, None, None, None, code=title, callback_timeout=REPORT_S)
        except Exception as error:
            _log.warning("no performance report was written to %s: %s", target, _cause(error))


# ---------------------------------------------------------------------------------------------------------------------
# From name to cluster


def _maker(cluster_class: Any) -> Callable[..., Any]:
    if cluster_class is None:
        from distributed import LocalCluster

        return LocalCluster
    maker = _imported(cluster_class) if isinstance(cluster_class, str) else cluster_class
    if not callable(maker):
        raise OptionError(
            f"cluster_class: expected a class, its dotted name, a function that returns a cluster, or a cluster; "
            f"found {cluster_class!r}"
        )
    made: Callable[..., Any] = maker
    return made


def _imported(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    if not module:
        raise OptionError(
            f"cluster_class {name!r}: expected a dotted name such as 'dask_kubernetes.operator.KubeCluster'"
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        cure = f": pip install {package.replace('_', '-')}" if error.name == package else f": {error}"
        raise OptionError(f"cluster_class {name!r} needs the package {package}, which is not here{cure}") from error
    except AttributeError as error:
        known = [each for each in dir(importlib.import_module(module)) if each.endswith("Cluster")]
        raise OptionError(
            f"cluster_class {name!r}: module {module} has no {attribute}; its clusters: {listed(known)}"
        ) from error
    except Exception as error:  # importing runs code
        raise OptionError(f"cluster_class {name!r} cannot be imported: {_cause(error)}") from error


def _made(maker: Callable[..., Any], kwargs: Mapping[str, Any]) -> Any:
    call = f"{_name(maker)}({_shown(kwargs)})"
    try:
        cluster = maker(**kwargs)
    except Exception as error:
        raise ExecutorError(f"{call} could not be made: {_cause(error)}") from error
    if not is_cluster(cluster):
        raise ExecutorError(f"{call} returned a {type(cluster).__name__}, which is not a cluster")
    return cluster


def _check_usable(cluster: Any) -> None:
    """Refuse clusters that a run cannot use."""
    if getattr(cluster, "asynchronous", False):
        raise OptionError(f"{_name(type(cluster))} is asynchronous; make it without asynchronous=True")
    status = getattr(getattr(cluster, "status", None), "name", "running")
    if status in ("closing", "closed", "failed"):
        raise ExecutorError(f"{_name(type(cluster))} is {status} and cannot run anything; make a new one")


def _check_has_workers(cluster: Any, maker: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse a cluster that plans no worker: those of batch systems start none unless asked."""
    from distributed import SpecCluster

    if isinstance(cluster, SpecCluster) and not cluster.worker_spec:
        raise OptionError(
            f"{_name(maker)}({_shown(kwargs)}) has no workers and would never get one; give "
            "cluster_kwargs={'n_workers': …}, or adapt_kwargs={'maximum': …}"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Clusters on this machine


def _is_local(maker: Callable[..., Any]) -> bool:
    from distributed import LocalCluster

    return isinstance(maker, type) and issubclass(maker, LocalCluster)


def _check_local(kwargs: Mapping[str, Any], *, is_adaptive: bool) -> None:
    """Refuse arguments of a LocalCluster that Dask would take, and then hang, die or listen to everybody."""
    from dask.utils import parse_bytes
    from distributed.system import MEMORY_LIMIT

    n_workers = kwargs.get("n_workers")
    if n_workers is not None:
        least = 0 if is_adaptive else 1
        if not _is_whole(n_workers, least):
            cure = "" if is_adaptive else "; 0 is for an adaptive cluster: give adapt_kwargs={'maximum': …}"
            raise OptionError(f"LocalCluster: expected n_workers of {least} or more, found {n_workers!r}{cure}")
        if kwargs.get("processes", True) and n_workers * WORKER_NBYTES > MEMORY_LIMIT:
            raise OptionError(
                f"LocalCluster: n_workers={n_workers} processes need at least {n_workers * WORKER_NBYTES >> 30} GiB, "
                f"and this machine has {MEMORY_LIMIT >> 30}; for more slots in fewer processes give threads_per_worker"
            )
    threads = kwargs.get("threads_per_worker")
    if threads is not None and not _is_whole(threads, 1):
        raise OptionError(f"LocalCluster: expected threads_per_worker of 1 or more, found {threads!r}")
    memory_limit = kwargs.get("memory_limit", "auto")
    if isinstance(memory_limit, str) and memory_limit != "auto":
        try:
            parse_bytes(memory_limit)
        except ValueError:
            raise OptionError(
                f"LocalCluster: expected memory_limit as bytes, such as '2 GiB', or 'auto'; found {memory_limit!r}"
            ) from None
    host = str(kwargs.get("host") or "127.0.0.1").rpartition("://")[2]
    if not kwargs.get("security") and not is_loopback(host):
        raise OptionError(
            f"LocalCluster: host={host!r} would let others run code here, because no certificate is required; "
            "give security=True as well, or leave out host"
        )


def _preloads() -> dict[str, Any]:
    """What the workers load as they start: what Dask's settings say, after what is ours."""
    names, arguments = (dask.config.get(f"distributed.worker.{each}", None) for each in ("preload", "preload-argv"))
    preloads: dict[str, Any] = {"preload": [DEAF_TO_CTRL_C, *([names] if isinstance(names, str) else names or ())]}
    if arguments and not isinstance(arguments[0], str):  # those of each; else they are for all alike
        preloads["preload_argv"] = [[], *arguments]
    return preloads


def _bracketed(host: str) -> str:
    """A host as Dask takes it, which wants an address of IPv6 in brackets.

    >>> _bracketed("::1"), _bracketed("tcp://::1"), _bracketed("[::1]"), _bracketed("localhost")
    ('[::1]', 'tcp://[::1]', '[::1]', 'localhost')
    """
    scheme, separator, name = host.rpartition("://")
    try:
        return f"{scheme}{separator}[{ipaddress.IPv6Address(name)}]"
    except ValueError:
        return host


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


# ---------------------------------------------------------------------------------------------------------------------
# Clusters that follow the work


def _adapted(cluster: Any, is_ours: bool, adapt_kwargs: Mapping[str, Any] | None) -> MadeCluster:
    if adapt_kwargs is None:
        return MadeCluster(
            cluster, is_ours, is_adaptive=_adaptive_of(cluster) is not None, most_slots=most_slots(cluster)
        )
    name = _name(type(cluster))
    adapt = getattr(cluster, "adapt", None)
    if adapt is None:
        raise OptionError(
            f"adapt_kwargs: {name} cannot adapt, as it has no method adapt(); "
            "leave them out, or use another cluster class"
        )
    kwargs = dict(adapt_kwargs)
    known = _adapt_parameters(cluster)
    if known is not None:
        for each in kwargs:
            if each not in known:
                raise OptionError(f"adapt_kwargs: {name}.adapt has no argument {each!r}{nearest(each, known)}")
    _check_limits(name, kwargs)
    if known is not None and "target_duration" in known:
        # Dask asks for as many workers as would finish the work that waits within this time, 5 s by default. What
        # waits for us is three chunks for each slot (the window), of this length: with less than 5 s of it in all,
        # Dask would never ask for a second worker.
        kwargs.setdefault("target_duration", f"{config.engine.target_chunk_s}s")
    if _is_local(type(cluster)) and not any(each.startswith("maximum") for each in kwargs):
        # Without a limit it would fill this machine with processes.
        kwargs["maximum"] = max(kwargs.get("minimum", 0), _processors() // (_threads_per_worker(cluster) or 1), 1)
    try:
        adapt(**kwargs)
    except Exception as error:
        raise OptionError(f"{name}.adapt({_shown(kwargs)}) failed: {_cause(error)}") from error
    return MadeCluster(cluster, is_ours, is_adaptive=True, most_slots=most_slots(cluster, kwargs))


def most_slots(
    cluster: Any, adapt_kwargs: Mapping[str, Any] | None = None, *, nthreads: Iterable[int] = ()
) -> int | None:
    """Task slots a cluster can have when it has grown as far as it may; None if it has no limit.

    Parameters
    ----------
    cluster
        The cluster.
    adapt_kwargs
        What its ``adapt`` was called with, for classes that do not tell.
    nthreads
        Threads of workers that are there, for classes that do not say how many theirs will have; without either a
        worker counts as one slot.
    """
    adaptive = _adaptive_of(cluster)
    maximum = getattr(adaptive, "maximum", None)
    if maximum is None:
        maximum = (adapt_kwargs or {}).get("maximum", math.inf)
    if maximum is None or maximum == math.inf:
        return None
    threads = _threads_per_worker(cluster) or max(nthreads, default=1)
    return max(1, int(maximum) * threads)


def _adaptive_of(cluster: Any) -> Any:
    """What adapts the cluster, for Dask's own classes; None if nothing does or it cannot be told."""
    adaptive = getattr(cluster, "_adaptive", None)
    return None if getattr(adaptive, "state", "running") in ("stopped", "inactive") else adaptive


def _threads_per_worker(cluster: Any) -> int | None:
    """Threads of each worker that is to come; None where the cluster does not say."""
    options = (getattr(cluster, "new_spec", None) or {}).get("options", {})
    for name in ("nthreads", "ncores", "threads", "cores"):
        if name in options:
            threads = options[name]
            if threads is None:
                # LocalCluster(n_workers=0) leaves it open, and a worker then takes what the machine has.
                return _processors() if name == "nthreads" else None
            # Clusters of batch systems count by job, which may hold several worker processes.
            return max(1, int(threads) // max(1, int(options.get("processes") or 1)))
    return None


def _processors() -> int:
    from dask.system import CPU_COUNT

    return int(CPU_COUNT)


def _check_limits(name: str, kwargs: Mapping[str, Any]) -> None:
    least, most = kwargs.get("minimum", 0), kwargs.get("maximum", math.inf)
    for argument, value in (("minimum", least), ("maximum", most)):
        is_open = argument == "maximum" and (value is None or value == math.inf)
        if not is_open and not _is_whole(value, 0 if argument == "minimum" else 1):
            raise OptionError(f"adapt_kwargs: expected {argument} as a number of workers, found {value!r}")
    if most is not None and least > most:
        raise OptionError(f"adapt_kwargs: {name} cannot have at least {least} and at most {most} workers")


def _adapt_parameters(cluster: Any) -> set[str] | None:
    """Arguments that the ``adapt`` of a cluster takes; None if it takes any.

    Dask's own swallows what it does not know, and stumbles over it when workers are to be closed.
    """
    from distributed.deploy.adaptive import Adaptive
    from distributed.deploy.cluster import Cluster

    if not isinstance(cluster, Cluster):
        parameters = inspect.signature(cluster.adapt).parameters.values()
        takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
        return None if takes_any else {each.name for each in parameters}
    known: set[str] = set()
    for kind in type(cluster).__mro__:
        if "adapt" in vars(kind):
            parameters = inspect.signature(vars(kind)["adapt"]).parameters.values()
            variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
            known |= {each.name for each in parameters if each.kind not in variadic} - {"self"}
            if not any(each.kind is each.VAR_KEYWORD for each in parameters):
                return known
    own = inspect.signature(Adaptive.__init__).parameters.values()
    known |= {each.name for each in own if each.kind is not each.VAR_KEYWORD} - {"self", "cluster"}
    return known | {"memory_ratio"}  # for the scheduler's choice of workers to close


# ---------------------------------------------------------------------------------------------------------------------
# Messages


def _parameters(maker: Callable[..., Any]) -> set[str]:
    """Names of the arguments of a class, those of its bases included, or of a function."""
    makers = [vars(kind).get("__init__") for kind in maker.__mro__] if isinstance(maker, type) else [maker]
    found: set[str] = set()
    for each in makers:
        with contextlib.suppress(TypeError, ValueError):  # some of C have no signature
            found.update(inspect.signature(each).parameters if each is not None else ())
    return found


def _name(maker: Any) -> str:
    return str(getattr(maker, "__name__", None) or type(maker).__name__)


def _shown(kwargs: Mapping[str, Any]) -> str:
    """Arguments for a message: short, and without what may be secret."""
    return ", ".join(f"{name}={_shown_value(name, value)}" for name, value in kwargs.items())


def _shown_value(name: str, value: Any) -> str:
    if SECRET_NAME.search(name) or "private" in name.lower():
        return "…"
    if name.lower() in ("env", "environment") and isinstance(value, Mapping):
        return "{" + ", ".join(f"{each!r}: …" for each in value) + "}"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _cause(error: BaseException) -> str:
    """An exception and what it came from: Dask's "Nanny failed to start." tells nothing by itself."""
    texts: list[str] = []
    each: BaseException | None = error
    while each is not None:
        text = f"{type(each).__name__}: {each}"
        if text not in texts:
            texts.append(text)
        each = each.__cause__
    return "; ".join(texts)


def _check_writable(target: str) -> None:
    if "://" in target:
        return  # its own file system will tell
    folder = os.path.dirname(os.path.abspath(target))
    if os.path.isdir(target) or not os.path.isdir(folder):
        raise OptionError(f"performance_report={target!r}: expected a file in a directory that exists")
    if not os.access(target if os.path.exists(target) else folder, os.W_OK):
        raise OptionError(
            f"performance_report={target!r} cannot be written: no permission; name a file in a directory of yours"
        )
