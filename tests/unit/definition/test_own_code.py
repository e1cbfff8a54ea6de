"""What code names in modules of the user's own, which are imported if they have not been."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anabranch.definition.fingerprints import Fingerprint, describe_code

FILES = {
    "shop/__init__.py": "N = 1",
    "shop/etl.py": "",
    "shop/deep/__init__.py": "",
    "shop/deep/prices.py": "from ..rates import rate\nN = 1\ndef price(): return rate()",
    "shop/rates.py": "def rate(): return 1\ndef other(): return 7",
}

EDITS = {
    "a module of a package": ("import shop.rates\ndef run(): return shop.rates.rate()", "shop/rates.py"),
    "one from a package": ("from shop import rates\ndef run(): return rates.rate()", "shop/rates.py"),
    "a relative one": ("from . import rates\ndef run(): return rates.rate()", "shop/rates.py"),
    "a deep one": ("import shop.deep.prices as p\ndef run(): return p.N", "shop/deep/prices.py"),
    "what a deep one names": ("import shop.deep.prices as p\ndef run(): return p.price()", "shop/rates.py"),
    "the package": ("import shop\ndef run(): return shop.N", "shop/__init__.py"),
    "a module within": ("def run():\n  import shop.rates\n  return shop.rates.rate()", "shop/rates.py"),
    "one within by another name": ("def run():\n  import shop.rates as r\n  return r.rate()", "shop/rates.py"),
    "one within from a package": ("def run():\n  from shop import rates\n  return rates.rate()", "shop/rates.py"),
    "a relative one within": ("def run():\n  from . import rates\n  return rates.rate()", "shop/rates.py"),
    "a relative name within": ("def run():\n  from .rates import rate\n  return rate()", "shop/rates.py"),
    "what a deep one within names": ("def run():\n  from .deep.prices import price\n  return price()", "shop/rates.py"),
    "the package within": ("def run():\n  import shop\n  return shop.N", "shop/__init__.py"),
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    yield tmp_path
    _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


def fingerprint(project: Path) -> Fingerprint:
    """As a new process finds it."""
    _forget()
    for cached in project.rglob("__pycache__"):
        shutil.rmtree(cached)
    importlib.invalidate_caches()
    return describe_code(importlib.import_module("shop.etl").run)


@pytest.mark.parametrize(("text", "edited"), EDITS.values(), ids=EDITS)
def test_an_edit_of_what_code_names_in_a_package_changes_the_fingerprint(project: Path, text: str, edited: str):
    (project / "shop/etl.py").write_text(text)
    found = fingerprint(project)

    assert found == fingerprint(project)
    assert not found.gap
    (project / edited).write_text(FILES[edited].replace("1", "2"))
    assert found != fingerprint(project)


@pytest.mark.parametrize(("text", "edited"), EDITS.values(), ids=EDITS)
def test_an_edit_of_what_code_does_not_name_in_it_does_not(project: Path, text: str, edited: str):
    (project / "shop/etl.py").write_text(text)
    found = fingerprint(project)

    (project / edited).write_text(FILES[edited].replace("7", "8") + "\nUNUSED = 3")
    assert found == fingerprint(project)


@pytest.mark.parametrize("text", ["import nowhere.at_all", "from nowhere import n", "from . import nothing"])
def test_a_module_that_is_not_here_counts_by_its_name(project: Path, text: str):
    (project / "shop/etl.py").write_text(f"def run():\n  {text}")
    found = fingerprint(project)

    assert not found.gap
    (project / "shop/etl.py").write_text(f"def run():\n  {text}_2")
    assert found != fingerprint(project)


@pytest.mark.parametrize("text", ["raise ValueError('no')", "import sys; sys.exit(3)", "import nowhere"])
def test_a_module_that_cannot_be_imported_leaves_a_gap(project: Path, text: str):
    (project / "shop/etl.py").write_text("def run():\n  from shop import rates\n  return rates.rate()")
    (project / "shop/rates.py").write_text(text)

    assert fingerprint(project).gap
