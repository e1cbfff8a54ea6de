"""Texts of the command line as values of parameters."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch import Parameter
from anabranch.cli.parameters import Given, options_for, read_file, takes_list, untyped, value_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3.5e2", -350.0),
        ("true", True),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ('{"a": [1]}', {"a": [1]}),
        ('"3"', "3"),
        ("2026-11-20", "2026-11-20"),
        ("True", "True"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("a, b", "a, b"),
        ("", ""),
        ("3 4", "3 4"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_untyped_text_is_json_if_it_parses_and_itself_if_not(text: str, value: object) -> None:
    assert untyped(text) == value
    assert type(untyped(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"a": 1,]', "at column 9"),
        ("[1, 2", "at column 6"),
        ('"open', "at column 1"),
        ('{"a": 1, "a": 2}', "the key 'a' twice"),
        ('{"a": NaN}', "NaN is not JSON"),
        ("[" * 1_000_000, "nested too deeply"),
        ('{"a":' * 1_000_000, "nested too deeply"),
        ("[\n1,\n2}", "at line 3, column 2"),
        ("[" + "9" * 5000 + "]", "an int of 5,000 digits is too large"),
    ],
)
def test_what_begins_as_json_must_be_json_and_the_message_says_where_it_is_not(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        untyped(text)


@given(st.text())
def test_no_text_gives_anything_but_a_value_or_a_short_complaint(text: str) -> None:
    try:
        value = untyped(text)
    except ValueError as error:
        complaint = str(error)
    else:
        complaint = ""
        assert json.loads(json.dumps(value)) == value
    assert len(complaint) < 400


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (list, True),
        (list[int], True),
        (tuple[int, ...], True),
        (set[str], True),
        (frozenset, True),
        (Sequence[str], True),
        (list[int] | None, True),
        (Annotated[list[int], "x"], True),
        (str, False),
        (dict[str, int], False),
        (int | None, False),
        (Literal["a", "b"], False),
        (None, False),
        (Any, False),
    ],
)
def test_lists_tuples_and_sets_may_be_repeated(annotation: Any, expected: bool) -> None:
    assert takes_list(annotation) is expected


@pytest.mark.parametrize(
    ("texts", "annotation", "value"),
    [
        (["1"], list[int], ["1"]),
        (["1", "2"], list[int], ["1", "2"]),
        (["[1, 2]"], list[int], "[1, 2]"),
        (["[draft] a"], list[str], ["[draft] a"]),
        (["{a}"], list, ["{a}"]),
        (["null"], list[int] | None, "null"),
        (["3"], int, "3"),
        (["{"], str, "{"),
        (["[x]"], str | None, "[x]"),
        (["{here}"], Path, "{here}"),
        ([True], bool, True),
    ],
)
def test_typed_text_is_left_to_the_parameter(texts: list[Any], annotation: Any, value: object) -> None:
    assert value_of(texts, annotation) == value


def test_a_list_that_is_no_json_is_refused_if_it_cannot_be_a_text() -> None:
    with pytest.raises(ValueError, match=r"not JSON: .* at column 6"):
        value_of(["[1, 2"], list[int])


def test_typed_json_with_a_key_twice_is_refused_although_a_lenient_reader_would_take_it() -> None:
    with pytest.raises(ValueError, match="the key 'a' twice"):
        value_of(['{"a": 1, "a": 2}'], dict[str, int])


# Options --------------------------------------------------------------------------------------------------------------


def spellings(*parameters: Parameter, taken: Sequence[str] = ()) -> dict[str, list[str]]:
    options = options_for({each.name: each for each in parameters}, taken)
    return {each.parameter.name: [*each.opts, *each.secondary_opts] for each in options}


def test_underscores_become_dashes_and_both_are_understood() -> None:
    assert spellings(Parameter("batch_size")) == {"batch_size": ["--batch-size", "--batch_size"]}


def test_a_bool_is_a_flag_with_its_negation() -> None:
    assert spellings(Parameter("report", type=bool)) == {"report": ["--report", "--no-report"]}


def test_a_name_of_our_own_is_left_to_p() -> None:
    assert spellings(Parameter("executor"), Parameter("date"), taken=["--executor"]) == {"date": ["--date"]}


def test_a_name_that_cannot_be_an_option_is_left_to_p() -> None:
    names = ("station limit", "my-date", "limit%", "--x", "class", "2nd", "größe")
    found = spellings(*map(Parameter, names))
    assert found == {"class": ["--class"], "2nd": ["--2nd"], "größe": ["--größe"]}
    parameters = [Parameter(name, type=int) for name in names]
    assert given_pairs(*(f"{name}=3" for name in names), parameters=parameters) == dict.fromkeys(names, "3")


def test_names_that_would_be_spelt_alike_do_not_both_become_options() -> None:
    found = spellings(Parameter("a_b"), Parameter("_a_b"), Parameter("x", type=bool), Parameter("no_x"))
    assert found == {"a_b": ["--a-b", "--a_b"], "x": ["--x"], "no_x": ["--no-x", "--no_x"]}


# Given ----------------------------------------------------------------------------------------------------------------


def given_pairs(*pairs: str, parameters: Sequence[Parameter] = (), **options: Any) -> dict[str, Any]:
    gathered = Given({each.name: each for each in parameters})
    gathered.take_options({f"flow_parameter_{name}": value for name, value in options.items()})
    gathered.take_pairs(pairs)
    return gathered.values(below={})


def test_pairs_are_split_at_the_first_equals_sign() -> None:
    assert given_pairs("a=b=c", "n= 3") == {"a": "b=c", "n": 3}


@pytest.mark.parametrize(
    ("pair", "complaint"),
    [
        ("a", "expected NAME=VALUE, found 'a'"),
        ("=1", "expected NAME=VALUE, found '=1'"),
        ("=", "expected NAME=VALUE, found '='"),
        ("", "expected NAME=VALUE, found ''"),
        ("a=", "expected a value after 'a='"),
    ],
)
def test_a_pair_that_is_none_is_refused(pair: str, complaint: str) -> None:
    with pytest.raises(click.BadParameter, match=complaint):
        given_pairs(pair)


def test_a_name_given_twice_is_refused_unless_it_is_a_list() -> None:
    with pytest.raises(click.BadParameter, match="'a' is given 2 times: '1', '2'"):
        given_pairs("a=1", "a=2")
    with pytest.raises(click.UsageError, match="'a' is given twice, as --a and as -p"):
        given_pairs("a=2", parameters=[Parameter("a")], a=("1",))
    assert given_pairs("a=1", "a=2", parameters=[Parameter("a", type=list[int])]) == {"a": ["1", "2"]}


def test_what_is_given_on_the_command_line_wins_over_a_file() -> None:
    gathered = Given({})
    gathered.take_pairs(["a=1"])
    assert gathered.values(below={"a": 0, "b": 0}) == {"a": 1, "b": 0}


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a: 1\nb: [x, y]\n", {"a": 1, "b": ["x", "y"]}),
        ('{"a": 1}', {"a": 1}),
        ("", {}),
        ("base: &b {x: 1}\nmore:\n  <<: *b\n  y: 2\n", {"base": {"x": 1}, "more": {"x": 1, "y": 2}}),
    ],
)
def test_a_file_is_yaml_or_json(tmp_path: Path, text: str, values: dict[str, Any]) -> None:
    (tmp_path / "p.yaml").write_text(text)
    assert read_file(str(tmp_path / "p.yaml")) == values


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"a: 1\na: 2\n", "the key 'a' is there twice at line 2, column 1"),
        (b"a: [1\n", "is not YAML: .* at line 2, column 1"),
        (b"- 1\n", "expected parameters as NAME: VALUE, found list"),
        (b"3", "found int"),
        (b"a: !!python/object/apply:os.system [exit]\n", "could not determine a constructor"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"a: 2026-02-30\n", "not usable: day .* range"),
        (b"[" * 20_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_none_of_these_is_refused_with_the_place(tmp_path: Path, data: bytes, complaint: str) -> None:
    (tmp_path / "p.yaml").write_bytes(data)
    with pytest.raises(click.BadParameter, match=complaint):
        read_file(str(tmp_path / "p.yaml"))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(click.BadParameter, match="No such file"):
        read_file(str(tmp_path / "nothing.yaml"))


# Values that are not for the list of processes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "found"),
    [("swordfish\n", "swordfish"), ("two\nlines\r\n", "two\nlines"), ('{"a": 1}\n', {"a": 1}), ("", ""), ("é", "é")],
)
def test_a_value_is_read_from_a_file_or_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, found: object
) -> None:
    file = tmp_path / "secret"
    file.write_text(content, newline="")
    monkeypatch.setattr("sys.stdin", io.StringIO(content, newline=""))
    values = Given({})

    values.take_pairs([f"a=@{file}", "b=-", "c=x@y"])

    assert values.values({}) == {"a": found, "b": found, "c": "x@y"}


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff")
    for name in ("nosuch", "bytes"):
        with pytest.raises(click.BadParameter, match=f"{name} cannot be read: "):
            Given({}).take_pairs([f"a=@{tmp_path / name}"])


def test_nobody_is_asked_without_a_terminal() -> None:
    values = Given({"token": Parameter("token", secret=True)})
    values.ask_for_secrets({})
    assert values.values({}) == {}


def test_who_is_at_a_terminal_is_asked_for_secrets_and_the_answer_is_not_shown(tmp_path: Path) -> None:
    # given
    (tmp_path / "f.py").write_text(
        "from anabranch import *\nshow = task(lambda token, other: len(token), name='show')\nwith Flow('f') as flow:\n"
        "    show(Parameter('token', secret=True), Parameter('other', default='x', secret=True))\n"
    )
    # when
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-m", "anabranch", "run", "f.py", "-q"])
    seen = b""
    with contextlib.suppress(OSError):  # which is how a terminal of Linux ends
        while data := os.read(terminal, 4096):
            seen += data
            if seen.endswith(b"token: "):
                os.write(terminal, b"swordfish\n")
    os.close(terminal)
    # then
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"show = 9" in seen
    assert b"swordfish" not in seen
    assert b"other: " not in seen
