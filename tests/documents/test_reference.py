"""The reference shows public names only, of modules that the documentation promises."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
PROMISED = {
    "anabranch",
    "anabranch.context",
    "anabranch.definition.caching",
    "anabranch.errors",
    "anabranch.executors",
    "anabranch.notifiers",
    "anabranch.results",
    "anabranch.runs",
    "anabranch.schedules",
    "anabranch.schedules.filters",
    "anabranch.signals",
    "anabranch.states",
    "anabranch.storage",
    "anabranch.testing",
    "anabranch.triggers",
}
"""Modules whose names users import."""
TEXT_ONLY = {"anabranch.base.errors"}
"""Modules of which the reference shows nothing but what they say of themselves."""


def test_every_documented_name_is_public() -> None:
    names = dict(documented())

    wrong = [f"{page}: {name}" for name, page in names.items() if not is_public(name)]

    assert len(names) > 150
    assert not wrong


@pytest.mark.parametrize("name", ["anabranch.flows.flow.Flow", "anabranch.states._codes", "anabranch.errors.Sequence"])
def test_what_is_not_public_is_noticed(name: str) -> None:
    assert not is_public(name)


def is_public(name: str) -> bool:
    """Whether a name is of a promised module, belongs to this package, and has no private part."""
    module, _, leaf = name.rpartition(".")
    if module not in PROMISED or leaf.startswith("_"):
        return False
    value = getattr(importlib.import_module(module), leaf, None)
    is_value = not inspect.isroutine(value) and not inspect.isclass(value)
    return is_value or value.__module__.partition(".")[0] == "anabranch"


def documented() -> Iterator[tuple[str, str]]:
    """Names that the pages of the reference show, each with its page."""
    for page in sorted(REFERENCE.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        module = next(iter(re.findall(r"currentmodule:: (\S+)", text)), "")
        for kind, name, options in re.findall(r"^\.\. auto(\w+):: (\S+)\n((?:   :.*\n)*)", text, flags=re.MULTILINE):
            if kind != "module":
                yield (name if "." in name else f"{module}.{name}"), page.name
            elif ":no-members:" in options:
                assert name in TEXT_ONLY, name
            else:
                hidden = ",".join(re.findall(r":exclude-members:(.*)", options)).replace(" ", "").split(",")
                shown = members(name, imported=":imported-members:" in options)
                yield from ((f"{name}.{each}", page.name) for each in shown if each not in hidden)


def members(name: str, *, imported: bool) -> list[str]:
    """What `automodule` shows of a module: what it exports; else what it defines, or imports if that is asked for."""
    module = importlib.import_module(name)
    if exported := getattr(module, "__all__", None):
        return list(exported)
    return [
        each
        for each, value in vars(module).items()
        if not each.startswith("_") and (imported or getattr(value, "__module__", None) == name)
    ]
