"""Names of files, and lines, of code that travels."""

from __future__ import annotations

import inspect
import linecache
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import cloudpickle
import pytest
from tests.cells import run_cell

from anabranch.base import origins
from anabranch.base.where import OURS, is_library, is_users
from anabranch.definition.fingerprints import describe_code

CELL = """
    password = "of nobody else's business"

    def ratio(x):
        return 1 / x  # fails for nothing

    def untouched():
        pass

    def outer(x):
        def inner(y):
            return ratio(y)

        return inner(x)

    class Row:
        def ratio(self, x):
            return 1 / x
"""


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and all that is in it."""
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from codes_in(each)


def place_of(code: CodeType) -> tuple[Any, ...]:
    return code.co_filename, code.co_firstlineno, code.co_name, code.co_qualname, list(code.co_lines())


def traceback_of(function: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(ZeroDivisionError) as raised:
        function(*arguments)
    return "".join(traceback.format_tb(raised.value.__traceback__)[1:])


def as_elsewhere(data: bytes) -> Any:
    """What is loaded in a process that does not know the lines of a cell."""
    for file in [file for file in linecache.cache if "ipykernel" in file]:
        del linecache.cache[file]
    return origins.loads(data)


# Names ----------------------------------------------------------------------------------------------------------------


def test_cloudpickle_makes_code_of_arguments_one_of_which_is_the_file() -> None:
    # What origins._Pickler needs of cloudpickle beyond what that documents: a hook, and a table with one for code.
    code = place_of.__code__
    make, arguments = cloudpickle.Pickler.dispatch_table[CodeType](code)

    assert make is CodeType
    assert isinstance(arguments[origins._FILE], str)
    assert arguments[origins._FILE + 1] == code.co_name
    made = make(*arguments[: origins._FILE], "a.py", *arguments[origins._FILE + 1 :])
    assert (made, made.co_filename) == (code, "a.py")


@pytest.mark.parametrize(
    "function",
    [
        run_cell(CELL)["outer"],
        run_cell(CELL)["Row"].ratio,
        run_cell("value = lambda x: [(lambda y: y)(each) for each in x]")["value"],
        run_cell("async def value(x):\n    async with x:\n        yield x")["value"],
    ],
    ids=["nested", "method", "lambda", "coroutine"],
)
def test_code_keeps_its_place(function: Callable[..., Any]) -> None:
    again = pickle.loads(origins.dumps(function))
    assert again.__code__ is not function.__code__
    assert list(map(place_of, codes_in(again.__code__))) == list(map(place_of, codes_in(function.__code__)))
    assert again.__qualname__ == function.__qualname__


def test_a_pickle_is_cloudpickles_but_for_the_names() -> None:
    values = [run_cell(CELL)["outer"], run_cell(CELL)["Row"](), {"a": [1, 2]}, print]
    data, codes = origins.pickled(values)
    assert {code.co_name for code in codes} >= {"outer", "inner", "ratio"}
    assert pickle.loads(data)[2:] == values[2:]
    assert len({origins.dumps(values[0]) for _ in range(3)}) == 1, "pickled again it is the same"


def test_buffers_stay_beside_the_pickle() -> None:
    buffers: list[pickle.PickleBuffer] = []
    data, _ = origins.pickled([pickle.PickleBuffer(bytearray(b"x" * 1000)), lambda: 1], buffers.append)
    assert len(buffers) == 1
    assert bytes(pickle.loads(data, buffers=buffers)[0]) == b"x" * 1000


def test_our_own_code_is_no_users_wherever_it_arrives() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("def ours(): pass", origins.__file__, "exec"), names)
    again = pickle.loads(origins.dumps(names["ours"]))
    assert again.__code__.co_filename == OURS
    assert is_library(OURS)
    assert is_library("<anabranch 1.2.3 abcdef>/anabranch/flow.py")


def test_what_is_installed_on_another_machine_is_no_users() -> None:
    for file in ("/other/env/lib/python3.12/site-packages/x/y.py", "C:\\env\\Lib\\site-packages\\y.py"):
        assert not is_users(file)
    assert not is_users("/other/lib/python3.12/json/decoder.py")
    assert is_users("/srv/project/steps.py")
    assert is_users("/tmp/ipykernel_77/1.py")


def test_what_the_code_of_a_task_is_does_not_depend_on_its_place() -> None:
    here, there = run_cell(CELL)["outer"], run_cell("\n\n" + CELL)["outer"]
    assert here.__code__.co_filename != there.__code__.co_filename
    assert describe_code(here) == describe_code(there) == describe_code(pickle.loads(origins.dumps(here)))


# Lines ----------------------------------------------------------------------------------------------------------------


def test_lines_travel_with_code_that_is_in_no_file() -> None:
    outer = run_cell(CELL)["outer"]
    text = traceback_of(as_elsewhere(origins.dumps_to_keep(outer)), 0)
    assert text == traceback_of(outer, 0)
    assert text.count(f'File "{outer.__code__.co_filename}", line') == 3
    assert "    return inner(x)\n" in text
    assert "    return ratio(y)\n" in text
    assert "    return 1 / x  # fails for nothing\n" in text


def test_a_method_brings_its_lines() -> None:
    row = run_cell(CELL)["Row"]
    assert "    return 1 / x\n" in traceback_of(as_elsewhere(origins.dumps_to_keep(row))().ratio, 0)


def test_no_other_lines_of_the_file_travel() -> None:
    data = origins.dumps_to_keep(run_cell(CELL)["outer"])
    assert b"fails for nothing" in data
    assert b"password" not in data
    assert b"untouched" not in data


def test_lines_come_from_any_pickle_in_two_parts_and_all_are_shown() -> None:
    names = run_cell(CELL)
    first, second = origins.dumps_to_keep(names["ratio"]), origins.dumps_to_keep(names["untouched"])
    as_elsewhere(first)
    origins.loads(second)
    shown = linecache.getlines(names["__file__"])
    assert inspect.getsource(names["ratio"]) in "".join(shown)
    assert "def untouched():\n    pass\n" in "".join(shown)


def test_code_that_has_its_file_where_it_goes_brings_no_lines() -> None:
    _, codes = origins.pickled(lambda: 1)
    assert origins.lines_of(codes, origins.is_only_here) == b""
    assert origins.lines_of(codes, lambda file: True)


def test_what_runs_is_shown_and_not_what_is_in_a_file_of_that_name(tmp_path: Path) -> None:
    file = tmp_path / "steps.py"
    file.write_text("def ratio(x):\n    return 1 / x  # as it was sent\n", encoding="utf-8")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), names)
    data = origins.dumps_to_keep(names["ratio"])
    file.write_text("# an older version\n", encoding="utf-8")
    assert "    return 1 / x  # as it was sent\n" in traceback_of(origins.loads(data), 0)


def test_code_without_any_lines_travels_all_the_same() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("def ratio(x):\n    return 1 / x", "<nowhere>", "exec"), names)
    assert 'File "<nowhere>", line 2, in ratio' in traceback_of(origins.loads(origins.dumps_to_keep(names["ratio"])), 0)


def test_form_feeds_and_the_like_are_in_lines_and_do_not_end_them() -> None:
    function = run_cell("# a\x0cb\u2028c\ndef ratio(x):\n    return 1 / x")["ratio"]
    file = function.__code__.co_filename
    linecache.cache[file] = 0, None, ["# a\x0cb\u2028c\n", "def ratio(x):\n", "    return 1 / x\n"], file
    assert "    return 1 / x\n" in traceback_of(as_elsewhere(origins.dumps_to_keep(function)), 0)


def test_lines_of_so_many_files_are_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "MAX_FILES", 2)
    cells = [run_cell(CELL)["ratio"] for _ in range(4)]
    files = [cell.__code__.co_filename for cell in cells]
    pickles = [origins.dumps_to_keep(cell) for cell in cells]
    as_elsewhere(pickles[0])
    for data in pickles[1:]:
        origins.loads(data)
    assert [file in linecache.cache for file in files] == [False, False, True, True]


def test_a_pickle_alone_has_no_lines_behind_it() -> None:
    assert origins.loads(pickle.dumps([1])) == [1]
    assert origins.loads(pickle.dumps("lines")) == "lines"


def test_a_pickle_with_lines_is_one_for_those_who_do_not_want_them() -> None:
    assert pickle.loads(origins.dumps_to_keep([run_cell(CELL)["outer"], 7]))[1] == 7
