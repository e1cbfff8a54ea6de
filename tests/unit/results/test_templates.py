"""Templates of locations: what they can name, what they refuse, and that nothing leaves its store."""

from __future__ import annotations

import os
import re
from datetime import UTC, date, datetime
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.refusals import refused

from anabranch.errors import LocationError, OptionError
from anabranch.results import LocalResult, Template
from anabranch.results.locations import MAX_NAME, MAX_SLUG, check_location, slug
from anabranch.results.templates import NameTemplate, prefects_fields

NOON = datetime(2026, 11, 20, 12, 30, 5, tzinfo=UTC)
FIELDS: dict[str, Any] = {
    "flow_name": "etl",
    "run_id": "r1",
    "task_name": "parse",
    "map_index": 7,
    "date": NOON,
    "region": "eu",
}


class Colour(Enum):
    RED = "#f00"


# What they give


@pytest.mark.parametrize(
    ("source", "location"),
    [
        ("{flow_name}/{run_id}/{task_name}/{map_index}", "etl/r1/parse/7"),
        ("{date}.json", "2026-11-20.json"),
        ("{date:%Y/%m/%d}/{date:%H-%M-%S}", "2026/11/20/12-30-05"),
        ("{map_index:05d}-{map_index:03}", "00007-007"),
        ("{task_name:.3}", "par"),
        ("{{{region}}}/fixed name", "{eu}/fixed name"),
        ("plain", "plain"),
    ],
)
def test_a_template_gives_a_location(source: str, location: str):
    assert Template(source).render(FIELDS) == location


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b/c", r"a_b_c-[0-9a-f]{16}"),
        ("", r"_-[0-9a-f]{16}"),
        ("..", r"_-[0-9a-f]{16}"),
        (".hidden", r"hidden-[0-9a-f]{16}"),
        ("nul", r"nul-[0-9a-f]{16}"),
        ("x" * 300, r"x{63}-[0-9a-f]{16}"),
        ("\ud800\0\n", r"_-[0-9a-f]{16}"),
        (2.5, "2.5"),
        (-3, "-3"),
        (True, "True"),
        (None, "None"),
        (date(2026, 1, 2), "2026-01-02"),
        (Colour.RED, "RED"),
        (PurePosixPath("data/a.csv"), r"data_a.csv-[0-9a-f]{16}"),
    ],
)
def test_a_value_becomes_one_harmless_name(value: object, text: str):
    assert re.fullmatch(text, Template("{x}").render({"x": value}))


def test_different_values_get_different_names():
    values = ["a b", "a_b", "a/b", "a  b", "a", "A", "x" * 300, "x" * 301, "", "_", ".", "..", "a.", "con", "con.txt"]
    assert len({Template("{x}").render({"x": value}) for value in values}) == len(values)


def test_many_long_values_make_one_name_of_bounded_length():
    location = Template("-".join(["{x}"] * 8)).render({"x": "y" * MAX_SLUG})
    assert len(location) == MAX_NAME
    assert location != Template("-".join(["{x}"] * 9)).render({"x": "y" * MAX_SLUG})


def test_harmless_values_cannot_make_a_device_together():
    assert re.fullmatch(r"[0-9a-f]{16}-CON.json", Template("{a}{b}.json").render({"a": "CO", "b": "N"}))
    assert re.fullmatch(r"a/[0-9a-f]{16}-lpt1/7", Template("a/lpt1/{map_index}").render(FIELDS))


def test_a_function_is_called_with_the_fields_that_it_has_parameters_for():
    assert Template(lambda region, map_index: f"{region}/{map_index}").render(FIELDS) == "eu/7"
    assert Template(lambda **fields: "/".join(sorted(fields))).render({"b": 1, "a": 2}) == "a/b"


@pytest.mark.parametrize("location", ["../x", "/etc/passwd", "", 7, None])
def test_a_function_cannot_leave_the_store(location: Any):
    with pytest.raises(LocationError):
        Template(lambda: location).render({})


def test_a_function_that_fails_is_told_by_its_name():
    def by_region(region: str) -> str:
        raise KeyError(region)

    with refused(LocationError, "the function by_region failed with KeyError: 'eu'", at=""):
        Template(by_region).render(FIELDS)


def test_templates_are_equal_if_they_say_the_same():
    assert Template("{a}") == Template("{a}") != Template("{b}")
    assert len({Template("{a}"), Template("{a}"), NameTemplate("{a}")}) == 2
    assert Template("{a}/{b:.3}{a}").fields == {"a", "b"}


# What they refuse


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{task.__init__.__globals__}", "a field has no attributes and no items; fields are 'flow_name', 'run_id'"),
        ("{a[0]}", "a field has no attributes and no items"),
        ("{a!r}", "there are no conversions"),
        ("{0}", "a field has a name"),
        ("{}", "a field has a name"),
        ("{a b}", "that is not a name"),
        ("{a", "a single '{'; write '{{'"),
        ("a}", "a single '}'; write '}}'"),
        ("{a:{b}}", "a single"),
        ("{map_index:999999999}", "expected 01d to 020d"),
        ("{map_index:>99999999}", "expected 01d to 020d"),
        ("{map_index:0999d}", "expected 01d to 020d"),
        ("{date:%s}", "expected a format such as %Y-%m-%d"),
        ("{date:d}", "expected a format such as %Y-%m-%d"),
        ("{date:%H:%M}", "has the character ':'"),
        ("{date:%Y/../%m}", "has a name that begins with '.'"),
        ("", "expected a template of 1 to 1000 characters"),
        ("x" * 1001, "expected a template of 1 to 1000 characters"),
        ("../{task_name}", "has a name that begins with '.'"),
        ("/{task_name}", "is absolute"),
        ("{task_name}/", "has an empty name"),
        ("a//{task_name}", "has an empty name"),
        ("~/{task_name}", "has a name that begins with '~'"),
        ("C:\\{task_name}", "has the character ':'"),
        ("a\\{task_name}", r"has the character '\\'"),
        ("{task_name}\n", r"has the character '\n'"),
        ("{task_name}\0", r"has the character '\x00'"),
        ("{task_name}.", "with a dot or space at its end"),
    ],
)
def test_a_template_that_cannot_be_is_refused_where_it_is_written(source: str, words: str):
    with refused(OptionError, "location", words, at=""):
        Template(source)


def test_all_problems_are_told_at_once():
    with refused(OptionError, "{a.b}", "{c!r}", "{d:99}", at=""):
        Template("{a.b}/{c!r}/{d:99}")


@pytest.mark.parametrize("source", [None, 3, b"x", ["a"]])
def test_what_is_no_template_is_refused(source: Any):
    with refused(OptionError, "location: expected a template", at=""):
        Template(source)


def test_fields_that_there_will_not_be_are_refused_with_those_that_there_are():
    template = Template("{flow_name}/{path}/{region}/{parameters[zone]}")
    template.check(["path", "region", "zone"])
    with refused(OptionError, "no field 'parameters[zone]', 'region'; there are 'flow_name'", "'path'", at=""):
        template.check(["path"])


@pytest.mark.parametrize(
    ("source", "right"),
    [
        ("{today}", "2026-11-20"),
        ("{yesterday:%d}", "19"),
        ("{tomorrow}", "2026-11-21"),
        ("{tomorrow_nodash}", "20261121"),
        ("{scheduled_start_time:%Y%m%d}", "20261120"),
        ("{task_slug}", "parse"),
        ("{task_full_name}", slug("parse[7]")),
        ("{flow_run_id}", "r1"),
        ("{parameters[region]}-{parameters['region']:.1}", "us-u"),
    ],
)
def test_fields_of_prefect_1_are_there_under_the_names_that_they_have_there(source: str, right: str):
    template = Template(source)
    template.check(["region"])
    fields = {**FIELDS, **prefects_fields(FIELDS, NOON, {"region": "us"}), "date": "a parameter of that name"}
    assert template.render(fields) == right


def test_without_an_index_the_full_name_is_the_name_and_without_a_date_there_is_no_day():
    fields = prefects_fields({**FIELDS, "map_index": None}, None, {})
    assert fields["task_full_name"] == "parse"
    with refused(LocationError, "no field 'today'", at=""):
        Template("{today}").render(fields)


@pytest.mark.parametrize(
    ("source", "fields", "words"),
    [
        ("{a}", {"b": 1}, "no field 'a'; there are 'b'"),
        ("{a}", {"a": [1]}, "field 'a' is a list, and a name takes texts, numbers and dates"),
        ("{a}", {"a": object()}, "field 'a' is a object"),
        ("{map_index}", {"map_index": None}, "there is no map_index, as the task is not mapped"),
        ("{a:03d}", {"a": "x"}, "'03d' is for whole numbers, found 'x'"),
        ("{a:%Y}", {"a": "x"}, "'%Y' is for dates, found 'x'"),
        ("{a:.3}", {"a": NOON}, "expected a format such as %Y-%m-%d, found '.3'"),
        ("/".join(["{a}"] * 10), {"a": "x" * 80}, "has more than 700 bytes"),
    ],
)
def test_fields_that_do_not_fit_are_refused_when_they_are_there(source: str, fields: dict[str, Any], words: str):
    with refused(LocationError, words, at=""):
        Template(source).render(fields)


def test_a_value_s_own_formatting_is_not_run():
    class Text(str):
        def __str__(self) -> str:
            raise AssertionError("called")

        def __format__(self, spec: str) -> str:
            raise AssertionError("called")

    assert Template("{x}-{x:.2}").render({"x": Text("abc")}) == "abc-ab"


# Names for people


def test_a_name_for_people_may_have_any_text_that_can_be_shown():
    assert NameTemplate("parse {path}: {date:%H:%M}").render({"path": "a/b c", "date": NOON}) == "parse a/b c: 12:30"
    assert NameTemplate("{x}").render({"x": "a\x1b[2J\nb"}) == "a [2J b"
    assert len(NameTemplate("{x}").render({"x": "y" * 1000})) == 200
    assert NameTemplate(lambda path: f"at {path}").render({"path": "/x"}) == "at /x"


# Nothing leaves its store

HOSTILE = st.sampled_from(
    [
        "..",
        ".",
        "/",
        "\\",
        "~",
        "~root",
        "C:",
        "C:\\x",
        "//host/share",
        "\0",
        "\n",
        "NUL",
        "con.txt",
        "a" * 300,
        "%2e%2e",
    ]
)
VALUES = st.one_of(
    st.text(max_size=400),
    st.lists(HOSTILE, max_size=6).map("".join),
    st.integers(),
    st.floats(),
    st.none(),
    st.dates(),
    st.datetimes(),
)
SOURCES = st.lists(st.sampled_from(["{a}", "{b}", "/", "-", ".", "x", "{a:.4}", "CO", " ", "{date:%Y/%m}"]), max_size=9)


@given(source=SOURCES.map("".join), a=VALUES, b=VALUES)
@settings(max_examples=400, deadline=None)
def test_no_rendering_leaves_the_store(source: str, a: object, b: object):
    root = os.path.abspath("root")
    try:
        location = Template(source).render({"a": a, "b": b, "date": NOON})
    except (OptionError, LocationError):
        return
    assert os.path.normpath(os.path.join(root, location)) == os.path.join(root, location)
    assert all(
        name and name[0] not in ".~" and name[-1] not in ". " and len(name.encode()) <= 255
        for name in location.split("/")
    )
    assert location.isprintable()
    assert not set(location) & set('\\:*?"<>|')
    assert not re.search(r"(?i)(^|/)(con|prn|aux|nul|com\d|lpt\d)(\.|/|$)", location)
    assert location.count("/") == source.count("/")


@given(text=st.one_of(st.text(), HOSTILE))
@settings(max_examples=300, deadline=None)
def test_a_slug_is_a_location_by_itself(text: str):
    found = slug(text)
    assert check_location(found) == found
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,80}", found)
    assert slug(found) == found


@given(location=st.one_of(st.text(max_size=40), st.lists(HOSTILE, max_size=4).map("/".join)))
@settings(max_examples=400, deadline=None)
def test_what_is_no_location_never_reaches_the_disk(location: str, tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.getbasetemp() / "locations"
    result = LocalResult(home / "results")
    try:
        result.write(location, 1, overwrite=True)
    except LocationError:
        return
    (written,) = [file for file in home.rglob("*") if file.is_file()]
    assert written.is_relative_to(home / "results")
    result.delete(location)
    for folder in sorted((home / "results").rglob("*"), reverse=True):
        folder.rmdir()


# Through a result


def test_a_result_locates_task_runs_and_chunks(tmp_path: Path):
    result = LocalResult(tmp_path)
    assert result.location == "{flow_name}/{run_id}/{task_name}"
    assert result.locate(FIELDS) == "etl/r1/parse"
    assert result.locate_chunk(FIELDS, range(100, 164)) == "etl/r1/parse/100-163"
    assert result.locate_chunk(FIELDS, [7]) == "etl/r1/parse/7-7"
    holed = result.locate_chunk(FIELDS, [1, 2, 9])
    assert re.fullmatch(r"etl/r1/parse/1-9-[0-9a-f]{16}", holed)
    assert holed == result.locate_chunk(FIELDS, [9, 1, 2]) != result.locate_chunk(FIELDS, [1, 3, 9])


def test_a_location_is_filled_in_as_in_prefect_1(tmp_path: Path):
    result = LocalResult(dir=tmp_path, location="{{{region}}}/{map_index}.json", serializer="json")
    filled = result.format(**FIELDS)
    assert filled.location == "{{eu}}/7.json"
    assert filled.locate({}) == "{eu}/7.json"
    assert filled.store == result.store
    assert result.location == "{{{region}}}/{map_index}.json"
