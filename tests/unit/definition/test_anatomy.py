"""What counts as the code of a function: edits that change its fingerprint, and those that do not."""

from __future__ import annotations

import sys
import textwrap
from types import ModuleType

import pytest

from anabranch.definition.fingerprints import Fingerprint, describe_code

TASKS = "from anabranch import Task, task\n"

# Sources, and what is replaced in them: a 1 by a 2, if nothing else is said.
EDITS: dict[str, str | tuple[str, str, str]] = {
    # The function itself
    "its body": "def run(x): return x + 1",
    "a default": "def run(x, y=1): return y",
    "a default by keyword": "def run(x, *, y=1): return y",
    "a default that is an object": (
        "class P:\n  def __init__(self, n): self.n = n\ndef run(x, p=P(1)): pass",
        "P(1)",
        "P(2)",
    ),
    "an inner function": "def run(x):\n  def inner(): return 1\n  return inner()",
    "a lambda": "def run(x): return (lambda y: y + 1)(x)",
    "what is caught": ("def run(x):\n  try: return x()\n  except KeyError: return 0", "KeyError", "ValueError"),
    "where it is caught": (
        "def run(x):\n  try: x()\n  except KeyError: pass\n  else: x(1)",
        "\n  except KeyError: pass\n  else: x(1)",
        "; x(1)\n  except KeyError: pass",
    ),
    "a text in it": ("def run(x): return 'é'", "é", "e"),
    "the sign of zero": ("def run(x): return 0.0", "0.0", "-0.0"),
    "the type of a number": ("def run(x): return 1", "1", "1.0"),
    "a name for an argument": ("def run(x, y=0): return y", "y", "z"),
    "star arguments": ("def run(*x): return x", "*", ""),
    "a generator": ("def run(x): yield 1", "yield", "return"),
    "one of two functions": (
        "def f(): return 1\ndef g(): return 2\ndef run(x): return f() + g()",
        "return 1",
        "return 3",
    ),
    # What it closes over, and what wraps it
    "a constant in a closure": (
        "def make(n):\n  def run(x): return x + n\n  return run\nrun = make(1)",
        "make(1)",
        "make(2)",
    ),
    "a list in a closure": ("def make(n):\n  def run(x): return n\n  return run\nrun = make([1])", "[1]", "[2]"),
    "a function in a closure": "def make(f):\n  def run(x): return f(x)\n  return run\nrun = make(lambda x: 1)",
    "an object in a closure": (
        "class P:\n  def __init__(self, n): self.n = n\ndef make(p):\n  return lambda x: p.n\nrun = make(P(1))",
        "P(1)",
        "P(2)",
    ),
    "what is wrapped": (
        "import functools\ndef deco(f):\n  @functools.wraps(f)\n  def g(x): return f(x)\n"
        "  return g\n@deco\ndef run(x): return 1",
        "return 1",
        "return 2",
    ),
    "what wraps": (
        "import functools\ndef deco(f):\n  @functools.wraps(f)\n  def g(x): return f(x) + 1\n"
        "  return g\n@deco\ndef run(x): return x",
        "+ 1",
        "+ 2",
    ),
    "lru_cache": "import functools\n@functools.lru_cache\ndef f(): return 1\ndef run(x): return f()",
    "its size": "import functools\n@functools.cache\ndef run(x): return 1",
    "a partial": ("from functools import partial\ndef f(n, x): return n\nrun = partial(f, 1)", ", 1", ", 2"),
    "what a partial calls": (
        "from functools import partial\ndef f(n, x): return 1\nrun = partial(f, 1)",
        "return 1",
        "return 2",
    ),
    "a partial that is named": (
        "from functools import partial\ng = partial(int, base=8)\ndef run(x): return g(x)",
        "8",
        "16",
    ),
    "a context manager": (
        "from contextlib import contextmanager\n@contextmanager\ndef f(): yield 1\n"
        "def run(x):\n  with f() as y: return y",
        "yield 1",
        "yield 2",
    ),
    "singledispatch": (
        "import functools\n@functools.singledispatch\ndef f(x): return 0\n@f.register\n"
        "def _(x: int): return 1\ndef run(x): return f(x)"
    ),
    # Globals
    "a number": "N = 1\ndef run(x): return N",
    "a list": ("N = [1, [2, 3]]\ndef run(x): return N", "3", "4"),
    "a set": ("N = {'a', 'b'}\ndef run(x): return N", "b", "c"),
    "a pattern": ("import re\nN = re.compile('a+')\ndef run(x): return N.match(x)", "a+", "a*"),
    "an array": ("import numpy as np\nN = np.arange(3)\ndef run(x): return N", "arange(3)", "arange(4)"),
    "a frame": ("import pandas as pd\nN = pd.DataFrame({'a': [1, 2]})\ndef run(x): return N", "2]", "3]"),
    "a table of functions": ("def f(): return 1\nN = {'f': [f]}\ndef run(x): return N[x]()", "return 1", "return 2"),
    "an object": ("class P:\n  def __init__(self, n): self.n = n\nN = P(1)\ndef run(x): return N.n", "P(1)", "P(2)"),
    "a callable object": "class P:\n  def __call__(self): return 1\nN = P()\ndef run(x): return N()",
    "a bound method": "class P:\n  def m(self): return 1\nN = P().m\ndef run(x): return N()",
    "the object of a bound method": (
        "class P:\n  def __init__(self, n): self.n = n\n  def m(self): return self.n\n"
        "N = P(1).m\ndef run(x): return N()",
        "P(1)",
        "P(2)",
    ),
    "a global of an inner function": "N = 1\ndef run(x):\n  def inner(): return N\n  return inner()",
    "a global in a comprehension": ("N = 1\ndef run(x): return [y + N for y in x]", "= 1", "= 2"),
    "a helper of a helper": "def g(): return 1\ndef f(): return g()\ndef run(x): return f()",
    "a helper in a ring": "def g(x): return f(x) + 1\ndef f(x): return g(x)\ndef run(x): return f(x)",
    "itself in a ring": "def run(x): return run(x - 1)",
    "a helper ten deep": (
        "\n".join(
            (*(f"def f{i}(): return f{i + 1}()" for i in range(10)), "def f10(): return 1", "def run(x): return f0()")
        ),
        "return 1",
        "return 2",
    ),
    # Classes
    "a method": "class P:\n  def m(self): return 1\ndef run(x): return P().m()",
    "a static method": "class P:\n  @staticmethod\n  def m(): return 1\ndef run(x): return P.m()",
    "a class method": "class P:\n  @classmethod\n  def m(cls): return 1\ndef run(x): return P.m()",
    "a property": "class P:\n  @property\n  def m(self): return 1\ndef run(x): return P().m",
    "a cached property": (
        "import functools\nclass P:\n  @functools.cached_property\n  def m(self): return 1\ndef run(x): return P().m"
    ),
    "an attribute of a class": "class P:\n  n = 1\ndef run(x): return P.n",
    "a method of a base": "class B:\n  def m(self): return 1\nclass P(B): pass\ndef run(x): return P().m()",
    "another base": ("class B: pass\nclass C: pass\nclass P(B): pass\ndef run(x): return P()", "P(B)", "P(C)"),
    "a metaclass": "class M(type):\n  def m(cls): return 1\nclass P(metaclass=M): pass\ndef run(x): return P.m()",
    "a field of a dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n  n: int = 1\ndef run(x): return P()"
    ),
    "a dataclass that is frozen": (
        "from dataclasses import dataclass\n@dataclass(frozen=False)\nclass P:\n  n: int\ndef run(x): return P",
        "=False",
        "=True",
    ),
    "a default of a named tuple": (
        "from typing import NamedTuple\nclass P(NamedTuple):\n  n: int = 1\ndef run(x): return P()"
    ),
    "a member of an enum": "import enum\nclass P(enum.Enum):\n  A = 1\ndef run(x): return P.A.value",
    "a method of an enum": (
        "import enum\nclass P(enum.Enum):\n  A = 0\n  def m(self): return 1\ndef run(x): return P.A.m()"
    ),
    "a validator of a model": (
        "import pydantic\nclass P(pydantic.BaseModel):\n  n: int = 0\n"
        "  @pydantic.field_validator('n')\n  def check(cls, n): return n + 1\n"
        "def run(x): return P(n=x)"
    ),
    "a default of a model": "import pydantic\nclass P(pydantic.BaseModel):\n  n: int = 1\ndef run(x): return P()",
    "a class of attrs": "import attrs\n@attrs.define\nclass P:\n  n: int = 1\ndef run(x): return P()",
    "an error class": ("class E(Exception):\n  def __str__(self): return 'a'\ndef run(x): raise E", "'a'", "'b'"),
    # Tasks
    "run of a task": (TASKS + "@task\ndef f(x): return 1\ndef run(x): return f.run(x)"),
    "a call of a task": (TASKS + "@task\ndef f(x): return 1\ndef run(x): return f(x)"),
    "a map of a task": (TASKS + "@task\ndef f(x): return 1\ndef run(x): return f.map(x)"),
    "arguments of a bound task": (
        TASKS + "@task\ndef f(x, y): return x\ng = f.bind(y=1)\ndef run(x): return g(x)",
        "y=1",
        "y=2",
    ),
    "a method of a task class": (
        TASKS + "class T(Task):\n  def m(self): return 1\n  def run(self, x): return self.m()\n"
        "t = T()\ndef run(x): return t(x)"
    ),
    "an attribute of a task": (
        TASKS + "class T(Task):\n  def __init__(self, n):\n    self.n = n\n    super().__init__()\n"
        "  def run(self, x): return self.n\nt = T(1)\ndef run(x): return t(x)",
        "T(1)",
        "T(2)",
    ),
    "a flow as a task": (
        TASKS + "from anabranch import Flow\n@task\ndef f(): return 1\nwith Flow('f') as flow:\n"
        "  f()\nt = flow.as_task()\ndef run(x): return t.run()"
    ),
}

IMPORTS = {
    "a function of a module": ("import helpers\ndef run(x): return helpers.f()", "def f(): return 1"),
    "one by another name": ("import helpers as h\ndef run(x): return h.f()", "def f(): return 1"),
    "a function from a module": ("from helpers import f\ndef run(x): return f()", "def f(): return 1"),
    "a constant": ("import helpers\ndef run(x): return helpers.N", "N = 1"),
    "a class": ("import helpers\ndef run(x): return helpers.P().m()", "class P:\n  def m(self): return 1"),
    "an object": ("import helpers\ndef run(x): return helpers.p.n", "class P: n = 1\np = P()"),
    "a task": ("import helpers\ndef run(x): return helpers.f(x)", TASKS + "@task\ndef f(x): return 1"),
    "what a module's function names": ("import helpers\ndef run(x): return helpers.f()", "N = 1\ndef f(): return N"),
    "an import within": ("def run(x):\n  import helpers\n  return helpers.f()", "def f(): return 1"),
    "one within by another name": ("def run(x):\n  import helpers as h\n  return h.f()", "def f(): return 1"),
    "a name from a module within": ("def run(x):\n  from helpers import f\n  return f()", "def f(): return 1"),
    "a constant within": ("def run(x):\n  from helpers import N\n  return N", "N = 1"),
    "an import in an inner function": (
        "def run(x):\n  def g():\n    import helpers\n    return helpers.N\n  return g()",
        "N = 1",
    ),
    "a module that is handed about": ("import helpers\ndef g(m): return m.N\ndef run(x): return g(helpers)", "N = 1"),
    "a module in a dict": ("import helpers\nMODULES = {'h': helpers}\ndef run(x): return MODULES['h'].N", "N = 1"),
    "a module of a helper": ("import helpers\ndef g(): return helpers.N\ndef run(x): return g()", "N = 1"),
}

SAME: dict[str, str | tuple[str, str, str]] = {
    "a comment": ("def run(x): return x", "return x", "return x  # and so on"),
    "lines": ("def run(x): return x", "def", "\n\n\ndef"),
    "a docstring": ('def run(x):\n  "One."\n  return x', "One", "Two"),
    "a docstring where there was none": ("def run(x):\n  return x", "  return", "  'Two.'\n  return"),
    "a docstring before a constant": ("def run(x):\n  return x + 2.5", "  return", "  'Two.'\n  return"),
    "a docstring before many constants": (
        "def run(x):\n" + "".join(f"  x += {n}.5\n" for n in range(300)) + "  return x",
        "  x += 0.5",
        "  'Two.'\n  x += 0.5",
    ),
    "a docstring where nothing is returned": ("def run(x):\n  len(x)", "  len", "  'Two.'\n  len"),
    "a docstring of an inner function": (
        "def run(x):\n  def g():\n    return 2.5\n  return g()",
        "    return",
        "    'Two.'\n    return",
    ),
    "a docstring of a helper": ('def f():\n  "One."\n  return 1\ndef run(x): return f()', "One", "Two"),
    "a docstring of a class": ('class P:\n  "One."\n  n = 1\ndef run(x): return P.n', "One", "Two"),
    "a docstring of a method": (
        'class P:\n  def m(self):\n    "One."\n    return 1\ndef run(x): return P().m()',
        "One",
        "Two",
    ),
    "an annotation": ("def run(x: int): return x", "int", "float"),
    "the order of a set": ("N = {'a', 'b'}\ndef run(x): return N", "'a', 'b'", "'b', 'a'"),
    "the order of a dict": ("N = {'a': 1, 'b': [2]}\ndef run(x): return N", "'a': 1, 'b': [2]", "'b': [2], 'a': 1"),
    "a global that it does not name": ("N = 1\nM = 1\ndef run(x): return N", "M = 1", "M = 2"),
    "a function that it does not name": "def f(): return 1\ndef run(x): return x",
    "what was remembered": (
        "import functools\n@functools.cache\ndef f(n): return n\ndef run(x): return f(x)",
        "def run",
        "f(1)\ndef run",
    ),
    "policies of a task": (
        TASKS + "@task(max_retries=1, retry_delay=1)\ndef f(x): return x\ndef run(x): return f(x)",
        "=1",
        "=2",
    ),
    "a lock": ("import threading\nN = threading.Lock()\ndef run(x): return N", "Lock()", "Lock(); N.acquire()"),
    "an event": ("import threading\nN = threading.Event()\ndef run(x): return N", "Event()", "Event(); N.set()"),
    "a logger": (
        "import logging\nN = logging.getLogger('a')\ndef run(x): N.info(x)",
        "('a')",
        "('a'); N.addFilter(print)",
    ),
}


class Modules:
    """The user's own modules, which are written anew."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def write(self, name: str, text: str) -> ModuleType:
        module = ModuleType(name)
        module.__file__ = f"/project/{name}.py"
        self._monkeypatch.setitem(sys.modules, name, module)
        exec(compile(textwrap.dedent(text), module.__file__, "exec"), vars(module))
        return module

    def fingerprint(self, text: str, **helpers: str) -> Fingerprint:
        for name, each in helpers.items():
            self.write(name, each)
        return describe_code(self.write("etl", text).run)


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Modules:
    return Modules(monkeypatch)


def both(case: str | tuple[str, str, str]) -> tuple[str, str]:
    """The text before an edit and after it."""
    before, old, new = (case, "1", "2") if isinstance(case, str) else case
    assert old in before
    return before, before.replace(old, new)


@pytest.mark.parametrize("case", EDITS.values(), ids=EDITS)
def test_an_edit_changes_the_fingerprint(modules: Modules, case: str | tuple[str, str, str]):
    before, after = both(case)

    found = modules.fingerprint(before)

    assert found == modules.fingerprint(before)
    assert found != modules.fingerprint(after)
    assert not found.gap


@pytest.mark.parametrize(("text", "helpers"), IMPORTS.values(), ids=IMPORTS)
def test_an_edit_of_another_module_changes_the_fingerprint(modules: Modules, text: str, helpers: str):
    found = modules.fingerprint(text, helpers=helpers)

    assert found == modules.fingerprint(text, helpers=helpers)
    assert found != modules.fingerprint(text, helpers=helpers.replace("1", "2"))
    assert not found.gap


@pytest.mark.parametrize("case", SAME.values(), ids=SAME)
def test_what_is_no_code_of_the_function_does_not_count(modules: Modules, case: str | tuple[str, str, str]):
    before, after = both(case)

    found = modules.fingerprint(before)

    assert found == modules.fingerprint(after)
    assert not found.gap
