"""``anabranch migrate``: what of files for Prefect 1 works here, and what needs a hand."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import click

from anabranch.base.texts import printable
from anabranch.cli.exits import NOT_LOADED, USAGE, Problem

BOM = "\ufeff"


@click.command(short_help="Say what of files for Prefect 1 works here.")
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path(dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print all findings as JSON, also of what works.")
@click.option("--write", is_flag=True, help="Change imports to those of anabranch.prefect, and show the difference.")
@click.pass_context
def migrate(ctx: click.Context, /, *, files: tuple[str, ...], as_json: bool, write: bool) -> None:
    """Read files for Prefect 1, without running them, and list by line what is otherwise here and what needs a hand.

    The exit code is 1 if something needs a hand.
    """
    from anabranch.base.files import write_whole
    from anabranch.prefect.migration import MEANT, read, rewritten

    everything, needs_hand = {}, 0
    for file in files:
        try:
            text = Path(file).read_bytes().decode()
            source = text.removeprefix(BOM)
            found = read(source)
        except OSError as error:
            raise Problem(f"{printable(file)} is not a file that can be read: {error.strerror}", USAGE) from None
        except (SyntaxError, ValueError) as error:
            raise Problem(f"{printable(file)} cannot be read as Python: {printable(str(error))}", NOT_LOADED) from None
        everything[file] = [each.as_json() for each in found]
        needs_hand += sum(each.kind == "hand" for each in found)
        if write and (changed := rewritten(source)) != source:
            mark = text[: len(text) - len(source)]
            write_whole(file, (mark + changed).encode(), mode=Path(file).stat().st_mode & 0o777)
            lines = difflib.unified_diff(source.splitlines(), changed.splitlines(), file, file, lineterm="")
            click.echo("\n".join(map(printable, lines)), err=as_json)
        if as_json:
            continue
        for each in found:
            if each.kind != "works":
                click.echo(f"{printable(file)}:{each.line}: {each.name} {MEANT[each.kind]}: {each.text}")
        works = {each.name for each in found if each.kind == "works"}
        hands = len({each.name for each in found if each.kind == "hand"})
        rest = f"{hands} need a hand" if hands else "nothing needs a hand"
        click.echo(f"{printable(file)}: {len(works)} names work as they are, {rest}")
    if as_json:
        click.echo(json.dumps(everything, indent=2))
    ctx.exit(1 if needs_hand else 0)
