"""docs/howto/migrating.md has every public name of Prefect 1, and what it says is here is here."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path

import pytest
from tests.documents.names import problems_of_python, problems_of_shell
from tests.documents.prefect1 import NAMES

import anabranch
from anabranch.definition import caching
from anabranch.schedules import Schedule, filters

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "migrating.md").read_text(encoding="utf-8")
WAYS = ("same", "renamed", "otherwise", "no")
# What stands for anything of the reader's.
ANY = {"k", "node", "parse", "state", "x", "y", "z", "datetime", "logging", "self", "flow", "schedule", "task"}
PUBLIC = {name: getattr(anabranch, name) for name in anabranch.__all__}
KNOWN = {
    **PUBLIC,
    "all_finished": anabranch.triggers.all_finished,
    "anabranch": anabranch,
    "caching": caching,
    "filters": filters,
    "flow": anabranch.Flow,  # the variable, not the decorator
    "parse": anabranch.Task,
    "schedule": Schedule,
}


ALMOST = {"task_tags", "n_map_states", "scheduled_start_time"}
"""Names that rows of the same name mention beside it, and that the right-hand column renames."""


def rows() -> list[tuple[str, str, str]]:
    """Prefect's names, how they are here, and what is here: of every table with these columns."""
    table = re.compile(r"^\| Prefect 1 \| \| here \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", flags=re.MULTILINE)
    lines = [line for body in table.findall(PAGE) for line in body.splitlines()]
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]  # type: ignore[misc]


def problems_of_span(span: str) -> list[str]:
    """What a piece of code in the right-hand column says that is not so."""
    if re.match(r"([A-Z_]+=\S+ )?anabranch ", span):
        return problems_of_shell(span)
    if re.fullmatch(r"[\w./-]+\.(yaml|toml)|[A-Z_]+|with|\(flow, old, new\)|[\w]+=", span):
        return []  # a file, a word
    code = f"{span}\ndef f(): ..." if span.startswith("@") else span
    names = {each.id for each in ast.walk(ast.parse(code)) if isinstance(each, ast.Name)}
    nowhere = sorted(names - ANY - set(KNOWN) - set(dir(builtins)) - {"f"})
    return [f"{name} is nothing" for name in nowhere] + problems_of_python(code, names=KNOWN)


def test_rows_say_how_a_name_is_here():
    assert len(rows()) > 100
    assert {way for _, way, _ in rows()} == set(WAYS)


@pytest.mark.parametrize(("theirs", "ours"), [(theirs, ours) for theirs, _, ours in rows()])
def test_what_is_said_to_be_here_is_here(theirs: str, ours: str):
    spans = re.findall(r"`([^`]+)`", ours)
    assert [problem for span in spans for problem in problems_of_span(span)] == []


@pytest.mark.parametrize(
    "span",
    ["flow.rum()", "@task(retries=3)", "anabranch rum x.py", "results.GCSResult()", "nothing(x)", "state.is_done()"],
)
def test_what_is_not_here_would_be_found(span: str):
    assert problems_of_span(span) != []


def test_a_name_that_is_the_same_has_the_same_name():
    for theirs, way, ours in rows():
        if way == "same":
            words = set(re.findall(r"\w+", ours))
            for name in re.findall(r"`(?:[\w.]+\.)?(\w+)`", theirs):
                assert name in words or name in ALMOST, name


def test_every_public_name_of_prefect_is_on_the_page():
    left = " ".join(theirs for theirs, _, _ in rows())
    words = set(re.findall(r"\w+", left))
    assert sorted(NAMES - words) == []
