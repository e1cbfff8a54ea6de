"""``anabranch run``: run a flow, with its parameters as options."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from anabranch.base.texts import printable
from anabranch.cli.completion import targets
from anabranch.cli.exits import USAGE, Problem, exit_codes
from anabranch.cli.options import executor_of, progress_mode, refuse_both, run_options
from anabranch.cli.parameters import Given, ParameterOption, options_for, read_file

if TYPE_CHECKING:
    from anabranch.flows.flow import Flow
    from anabranch.flows.loading import LoadedFlow

_LOADED = "anabranch.loaded"
_OPTIONS = "anabranch.options"


class RunCommand(click.Command):
    """A command that loads the flow while it parses arguments, because the flow's parameters are options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse twice: first to find the flow, then with its parameters."""
        if not ctx.resilient_parsing:  # that is shell completion, which should not execute anybody's file
            target = self._target(ctx, args)
            if target is not None:
                if "--prefect" in args:
                    from anabranch.prefect.modules import as_prefect

                    ctx.with_resource(as_prefect())
                loaded = load(target)
                parameters = loaded.flow.parameters(by_name=True)
                taken = [name for each in self.params for name in (*each.opts, *each.secondary_opts)]
                ctx.meta[_LOADED] = loaded
                ctx.info_name = f"{ctx.info_name} {printable(target)}"  # for usage messages: help is about this flow
                ctx.meta[_OPTIONS] = options_for(parameters, [*taken, *ctx.help_option_names])
        return super().parse_args(ctx, args)

    def _target(self, ctx: click.Context, args: list[str]) -> str | None:
        parser = self.make_parser(ctx)
        parser.ignore_unknown_options = True
        values, _, _ = parser.parse_args(args=list(args))
        target = values.get("target")
        if not isinstance(target, str):
            return None
        if target.startswith("-"):
            raise click.UsageError(f"run has no option {target}; put parameters of a flow after its file", ctx)
        return target

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Our own, and the flow's after it was loaded."""
        return [*super().get_params(ctx), *ctx.meta.get(_OPTIONS, ())]

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """What follows the command's name; the file is part of that name after it was loaded."""
        return [self.options_metavar or ""] if _LOADED in ctx.meta else super().collect_usage_pieces(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The flow's parameters, then our options."""
        loaded: LoadedFlow | None = ctx.meta.get(_LOADED)
        if loaded is not None:
            options: list[ParameterOption] = ctx.meta[_OPTIONS]
            records = [record for each in options if (record := each.get_help_record(ctx))]
            shown = {each.parameter.name for each in options}
            parameters = loaded.flow.parameters(by_name=True)
            records += [(f"-p {name}=VALUE", "(the option is ours)") for name in parameters if name not in shown]
            with formatter.section(f"Parameters of flow {printable(loaded.flow.name)!r}"):
                formatter.write_dl(records or [("none", "")])
        with formatter.section("Options"):
            own = [each for each in super().get_params(ctx) if isinstance(each, click.Option)]
            formatter.write_dl([record for each in own if (record := each.get_help_record(ctx))])


def load(target: str) -> LoadedFlow:
    """Load a flow from a file or module, else by its registered name. Its prints go to standard error."""
    from anabranch.base.errors import FlowLoadError
    from anabranch.flows.loading import load_flow

    with exit_codes(), contextlib.redirect_stdout(sys.stderr):
        try:
            return load_flow(target)
        except FlowLoadError:
            registered = _registered(target)
            if registered is None:
                raise
            return registered


def _registered(name: str) -> LoadedFlow | None:
    """The registered flow of this name, if there is one and no file has that name."""
    import os

    from anabranch.base.errors import AnabranchError
    from anabranch.base.settings import config
    from anabranch.flows.registered import load_registered
    from anabranch.runs import default_path
    from anabranch.runs.registry.registration import registry

    if os.path.exists(name) or (config.backend == "local" and not default_path().exists()):
        return None
    try:
        record = registry()[1].get(name)
    except AnabranchError:
        return None
    return load_registered(record)


def check_task_names(flow: Flow, names: tuple[str, ...], option: str) -> None:
    """Refuse names that are not tasks of the flow."""
    from anabranch.base.errors import listed, nearest

    known = list(dict.fromkeys(each for node in flow.tasks for each in (node.slug, node.name)))
    for name in names:
        if name not in known:
            text = f"flow {flow.name!r} has no task {name!r}{nearest(name, known)}; it has: {listed(known)}"
            raise Problem(f"{option}: {text}", USAGE)


@click.command(cls=RunCommand, short_help="Run a flow.")
@click.argument("target", metavar="FILE[:FLOW]|MODULE[:FLOW]|NAME", shell_complete=targets)
@click.option(
    "-p",
    "--param",
    "pairs",
    multiple=True,
    metavar="NAME=VALUE",
    help="Parameter: JSON, else text; @FILE: what is in it; -: from standard input.",
)
@click.option("--params", "params_file", metavar="FILE", help="YAML or JSON file with parameters, or -; options win.")
@click.option("--keep", multiple=True, metavar="TASK", help="Also keep and show the value of this task, or of 'all'.")
@click.option("--approve", multiple=True, metavar="TASK", help="Approve this task, so that it runs.")
@click.option(
    "--checkpoint/--no-checkpoint", default=None, help="Store the values of all tasks, or only of those that ask."
)
@click.option("--prefect", is_flag=True, help="Let `import prefect` mean anabranch.prefect.")
@click.option("--detach", is_flag=True, help="Send the run and its driver to --executor ADDRESS, and return.")
@run_options("Where to run; default: the flow's executor, or local.")
@click.pass_context
def run(
    ctx: click.Context,
    /,
    *,
    target: str,
    pairs: tuple[str, ...],
    params_file: str | None,
    keep: tuple[str, ...],
    approve: tuple[str, ...],
    checkpoint: bool | None,
    prefect: bool,  # which has been heeded: the file is loaded
    detach: bool,
    executor: str | None,
    workers: int | None,
    dashboard: bool,
    metrics_file: str | None,
    pushgateway: str | None,
    metrics_port: int | None,
    progress: bool | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,  # the flow's parameters
) -> None:
    """Run a flow: in a file (etl.py, or etl.py:name), in a module (package.flows:name), or registered (its name).

    The flow's parameters are options, and come after the file: anabranch run etl.py --date 2026-11-20.
    anabranch run etl.py --help lists them. For a list, repeat the option or give JSON.
    """
    from anabranch.cli.session import MetricsWanted, Session
    from anabranch.flows.loading import shipped_by_value

    loaded: LoadedFlow = ctx.meta[_LOADED]
    flow = loaded.flow
    refuse_both(quiet=quiet, verbose=verbose)
    given = Given(flow.parameters(by_name=True))
    given.take_options(options)
    given.take_pairs(pairs)
    below = read_file(params_file) if params_file is not None else {}
    given.ask_for_secrets(below)
    values = given.values(below)
    place = executor_of(executor, workers) or flow.executor or executor_of("local", None)
    assert place is not None
    keep_all = "all" in keep
    with exit_codes():
        check_task_names(flow, () if keep_all else keep, "--keep")
        check_task_names(flow, approve, "--approve")
    if loaded.stopped is not None and not quiet:
        text = 'this line runs a flow, so loading stopped here; put it under `if __name__ == "__main__":`'
        click.echo(f"note: {printable(loaded.stopped)}: {text}", err=True)
    is_elsewhere = detach or place.is_elsewhere
    checkpointing = _checkpointing(checkpoint, is_elsewhere=is_elsewhere)
    if detach:
        if dashboard or metrics_file or pushgateway or metrics_port is not None:
            text = "--dashboard, --metrics-… and --pushgateway cannot be combined with --detach"
            raise click.UsageError(text)
        with shipped_by_value(loaded, with_neighbours=True), checkpointing:
            _detach(flow, values, place, keep="all" if keep_all else keep, approve=approve)
        return
    session = Session(
        flow=flow,
        parameters=values,
        executor=place,
        keep=[node.slug for node in flow.tasks] if keep_all else keep,
        approve=approve,
        progress=progress_mode(progress, quiet=quiet),
        quiet=quiet,
        verbose=verbose,
        as_json=as_json,
        dashboard=dashboard,
        metrics=MetricsWanted(metrics_file, pushgateway, metrics_port),
    )
    with shipped_by_value(loaded, with_neighbours=is_elsewhere), checkpointing:
        ctx.exit(session.run())


def _checkpointing(asked: bool | None, *, is_elsewhere: bool) -> contextlib.AbstractContextManager[object]:
    """Store values if the option or the setting says so; by default only where this machine can read them."""
    from anabranch.base.settings import config, is_chosen

    with exit_codes():
        if asked is None:
            asked = config.checkpointing if is_chosen("checkpointing") else not is_elsewhere
        return config.set(checkpointing=asked)


def _detach(flow: Flow, values: dict[str, Any], place: Any, **options: Any) -> None:
    """Send the run to a cluster, and say how to find it."""
    with exit_codes(), flow.submit(values, executor=place, **options) as handle:
        click.echo(handle.run_id)
        click.echo(f"follow it with: anabranch attach {printable(handle.address)} {handle.run_id}", err=True)
