"""``anabranch validate`` and ``anabranch visualize``: look at a flow without running it."""

from __future__ import annotations

from typing import get_args

import click

from anabranch.base.texts import printable
from anabranch.cli.completion import targets
from anabranch.cli.exits import exit_codes

FORMATS = ("dot", "mermaid", "svg", "png")


@click.command(short_help="Load a flow and check it.")
@click.argument("target", metavar="FILE[:FLOW]|MODULE[:FLOW]", shell_complete=targets)
def validate(target: str) -> None:
    """Load a flow and check that it is well formed, without running it.

    All problems are reported together, each with its line. The exit code is then 3.
    """
    from anabranch.cli.run import load

    flow = load(target).flow
    with exit_codes():
        flow.validate()
    parameters = len(flow.parameters())
    tasks = sum(node.kind == "task" for node in flow.tasks)
    counts = f"{tasks:,} task{'s' if tasks != 1 else ''}, {parameters:,} parameter{'s' if parameters != 1 else ''}"
    click.echo(f"{printable(target)}: flow {printable(flow.name)!r} is well formed: {counts}")


@click.command(short_help="Draw a flow.")
@click.argument("target", metavar="FILE[:FLOW]|MODULE[:FLOW]", shell_complete=targets)
@click.option(
    "-f", "--format", "format_", type=click.Choice(FORMATS), help="Default: by the suffix of the output file, else dot."
)
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(dir_okay=False), help="File to write; default: standard output."
)
def visualize(target: str, format_: str | None, output: str | None) -> None:
    """Draw a flow without running it. svg and png need Graphviz; dot and mermaid need nothing."""
    from anabranch.base.errors import OptionError
    from anabranch.cli.run import load
    from anabranch.monitoring.pictures.draw import SUFFIXES, Format, draw

    assert get_args(Format) == FORMATS
    chosen: Format | None = format_  # type: ignore[assignment]  # Click has checked it
    if output is not None and chosen is None and not output.lower().endswith(tuple(SUFFIXES)):
        raise click.UsageError(f"--output {output}: expected --format, or one of the suffixes {', '.join(SUFFIXES)}")
    flow = load(target).flow
    with exit_codes():
        flow.validate()
        try:
            drawn = draw(flow.graph, format=chosen, filename=output)
        except OptionError as error:
            raise click.UsageError(str(error)) from error
        except OSError as error:
            raise click.UsageError(f"--output {output}: {error.strerror}") from error
    click.echo(drawn, nl=not drawn.endswith("\n"))
