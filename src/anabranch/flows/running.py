"""One run of a flow, from its parameters to the view of what came out of it."""

from __future__ import annotations

import logging
import math
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from anabranch.base import context, known_secrets, origins
from anabranch.base.context import RunInfo
from anabranch.base.events import Observer
from anabranch.base.files import data_directory
from anabranch.base.masking import mask
from anabranch.base.observers import apart
from anabranch.base.settings import config
from anabranch.base.states import Cancelled, Crashed
from anabranch.definition.graph import Graph, NodeLike
from anabranch.definition.parameter import Parameter
from anabranch.definition.shape import shape_of
from anabranch.engine.driver.driver import run_flow
from anabranch.engine.driver.handlers import FlowHandlers
from anabranch.engine.driver.plan import FinishedRun, RunPlan
from anabranch.engine.driver.standing import Shown
from anabranch.engine.driver.static import compile_flow
from anabranch.engine.logs.book import LogBook
from anabranch.engine.logs.outbox import whole_log_path
from anabranch.engine.units.units import CallStoring, Doubles, Program
from anabranch.engine.worker import slots
from anabranch.executors.base import Executor
from anabranch.monitoring.progress import progress_of_settings
from anabranch.monitoring.terminal import Progress
from anabranch.runs import Heart
from anabranch.runs.parameters import resolve_parameters
from anabranch.runs.read.lookup import facts_of
from anabranch.runs.record.beginning import begin, secret_slugs
from anabranch.runs.record.logs import LogKeeper
from anabranch.runs.record.recorder import Recorder
from anabranch.runs.store.run_permits import RunPermits
from anabranch.runs.view import FlowRunView

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from anabranch.results.result import Result
    from anabranch.runs.resume.takeover import Request


def plan_of(
    graph: Graph,
    reference: Iterable[NodeLike],
    parameters: Iterable[Parameter],
    given: Mapping[str, Any],
    *,
    run_id: str | None = None,
    keep: frozenset[str] | Literal["all", "small"] = frozenset(),
    approved: frozenset[str] = frozenset(),
    result: Result | None = None,
    checkpointing: bool | None = None,
    date: datetime | None = None,
    timeout_s: float | None = None,
    doubles: Doubles | None = None,
) -> RunPlan:
    """What is to be run, with every parameter's value; `keep` is as `Flow.run` has it, by slug.

    `result` is the flow's; `checkpointing` None: as the settings say; `doubles` are a test's.

    Raises
    ------
    ParameterError
        The parameters given do not fit.
    """
    parameters = list(parameters)
    values = resolve_parameters(graph.name, parameters, given)
    frozen = graph.freeze(reference)
    checkpointing = config.checkpointing if checkpointing is None else checkpointing
    is_made_up = doubles is not None and doubles.has_values
    if result is not None or checkpointing or any(node.policies.storing for node in frozen.nodes.values()):
        from anabranch.runs.stored_values import with_storing, without_storing

        frozen = without_storing(frozen) if is_made_up else with_storing(frozen, result, checkpointing=checkpointing)
    named = {node.slug: node.name for node in frozen.nodes.values() if node.kind == "parameter"}
    return RunPlan(
        graph=frozen,
        name=graph.name,
        run_id=run_id or secrets.token_hex(6),
        parameters={slug: values[name] for slug, name in named.items()},
        settings={**_settings(), "secret_parameters": tuple(secret_slugs(frozen, parameters))},
        keep=frozenset(frozen.nodes if keep == "all" else () if keep == "small" else keep),
        keeps_ends=keep != "small",
        approved=approved,
        calls=CallStoring(
            result,
            checkpointing,
            is_off=is_made_up,
            directory=str(data_directory() / "results"),
            host=socket.gethostname(),
            only_in=config.results.only_in,
        ),
        date=date,
        timeout_s=timeout_s,
        doubles=doubles,
    )


def _settings() -> dict[str, Any]:
    """What workers and driver must know of the settings here."""
    found = config.snapshot()
    level = logging.getLevelNamesMapping()[found["logging"]["level"].upper()]
    shown = {"scheduler_page": found["scheduler_page"]}
    return {**found["engine"], **shown, "log_level": level, "log_directory": found["logging"]["directory"]}


def recorded_plan(
    graph: Graph,
    reference: Iterable[NodeLike],
    parameters: Iterable[Parameter],
    given: Mapping[str, Any],
    *,
    source: str,
    request: Request | None = None,
    **options: Any,
) -> tuple[RunPlan, Recorder | None]:
    """What is to be run, and who records it: of a new run, or of the one that is to go on.

    Parameters
    ----------
    source
        Where the flow is, as ``file:name``.
    request
        Which run is to go on, and how.
    **options
        As for `plan_of`.

    Raises
    ------
    ParameterError
        The parameters given do not fit.
    RunStoreError
        There is no such run, it is held, or the run store that was asked for cannot be used.
    """
    parameters = list(parameters)
    if request is None:
        plan = plan_of(graph, reference, parameters, given, **options)
        return plan, begin(plan, parameters, source=source, shape=shape_of(graph))
    from anabranch.runs.resume.takeover import go_on, take

    taken = take(request, graph.name)
    try:
        checkpointing = config.checkpointing or bool(facts_of(taken.record).get("checkpointing"))
        plan = plan_of(graph, reference, parameters, taken.parameters, checkpointing=checkpointing, **options)
        return go_on(taken, plan, request)
    except BaseException:
        taken.give_back()
        raise


def run_plan(
    plan: RunPlan,
    graph: Graph,
    executor: Executor,
    *,
    handlers: FlowHandlers,
    observers: Sequence[Observer] = (),
    recorder: Recorder | None = None,
    wants_end: Callable[[], str] = str,
) -> FlowRunView:
    """Run a plan to its end, with the flow's handlers around it; whatever they do, the states known are returned.

    Parameters
    ----------
    wants_end
        Asked now and then: why the run should be cancelled; nothing as long as it should not.
    """
    wants_end = _end_of(wants_end)
    level, directory = plan.settings.get("log_level", logging.INFO), plan.settings.get("log_directory", "")
    keeper = LogKeeper(recorder.store, recorder.ownership) if recorder is not None else None
    logs = LogBook(level, keeper=keeper, whole=whole_log_path(directory, plan.run_id) if executor.in_process else None)
    watch = progress_of_settings()
    known_secrets.learn(plan.run_id, [plan.parameters[slug] for slug in plan.settings.get("secret_parameters", ())])
    try:
        shown = [] if executor.in_process else [Shown(executor.show)]
        watches = [] if type(watch) is Progress else [watch]
        waits = nullcontext() if executor.in_process else slots.given_up()  # in a task, for tasks of this run
        with waits, watch, _stores(plan), apart([*shown, *observers, *watches]) as told:
            if recorder is None:
                done = run_flow(plan, executor, told, handlers=handlers, logs=logs, wants_end=wants_end)
            else:
                done = _run_recorded(plan, executor, told, recorder, handlers, logs, wants_end)
    finally:
        known_secrets.forget(plan.run_id)
    return FlowRunView(done, graph)


def _end_of(wants_end: Callable[[], str]) -> Callable[[], str]:
    """Why a run should end: for a reason of its own, or because it is part of another that is over."""
    is_over = context.over()
    return lambda: wants_end() or ("the run that it is part of is over" if is_over() else "")


@contextmanager
def _stores(plan: RunPlan) -> Iterator[None]:
    """The stores of a run, kept in order: swept of what dead writers left, and closed."""
    if all(node.policies.storing is None for node in plan.graph.nodes.values()):
        yield
        return
    from anabranch.runs.stored_values import Housekeeping

    with Housekeeping(plan.graph):
        yield


def _run_recorded(
    plan: RunPlan,
    executor: Executor,
    observers: Sequence[Observer],
    recorder: Recorder,
    handlers: FlowHandlers,
    logs: LogBook,
    wants_end: Callable[[], str],
) -> FinishedRun:
    """Run a plan while its record is kept, for as long as this process may write there."""
    permits = RunPermits(recorder.store, recorder.ownership, plan.name, outside=context.held_limits())
    heart = Heart(recorder.store, recorder.ownership, on_lost=recorder.lost, renew=permits.renew)

    def ends() -> str:
        heart.catch_up()
        if recorder.end is not None:
            return recorder.end.message or recorder.end.name
        return wants_end() or mask(heart.wish)

    def settled(done: FinishedRun) -> FinishedRun:
        heart.make_sure()
        if recorder.end is not None:
            state = replace(recorder.end, start_time=done.started, end_time=done.ended)
            return replace(done, state=state, is_handed_over=state.is_cancelled())
        if done.state.is_crashed():
            message = f"{done.state.message}; what had finished is recorded: anabranch resume {plan.run_id}"
            return replace(done, state=replace(done.state, message=message))
        return done

    try:
        with heart:
            done = run_flow(
                plan,
                executor,
                [recorder.observe, *observers],
                handlers=handlers,
                journal=recorder.write,
                logs=logs,
                permits=permits,
                wants_end=ends,
                settle=settled,
            )
    except BaseException as error:
        kind = Cancelled if isinstance(error, KeyboardInterrupt) else Crashed
        recorder.put_down(kind(message=f"{type(error).__name__}: {error}"))
        raise
    recorder.finish(done.state, done.runs)
    return done


def delayed_of(plan: RunPlan) -> Delayed:
    """A plan as one Dask graph.

    Raises
    ------
    DefinitionError
        The width of a map depends on a value that only a run gives.
    """
    parameters = {plan.graph.nodes[slug].name: value for slug, value in plan.parameters.items()}
    info = RunInfo(plan.name, plan.run_id, parameters, datetime.now(UTC))
    # No driver is there to wait elsewhere, nor to take what is logged.
    settings = {**plan.settings, "inplace_retry_delay_s": math.inf, "log_level": None}
    program = Program(info, dict(plan.graph.nodes), plan.parameters, settings, plan.calls)
    return compile_flow(plan.graph, program, plan.run_id, origins.dumps_to_keep(program))
