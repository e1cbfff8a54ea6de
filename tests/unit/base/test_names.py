"""Names that are checked, texts that are bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.base.names import check_name, short
from anabranch.errors import OptionError


@given(st.text())
def test_a_name_is_given_back_or_refused_and_can_always_be_shown(name):
    try:
        assert check_name(name, "name") == name
    except OptionError as error:
        str(error).encode("utf-8")
    else:
        assert name.isprintable()
        assert 1 <= len(name) <= 200


class Broken:
    def __repr__(self):
        raise RuntimeError("no")


class Long:
    def __repr__(self):
        return "line one\nline two " + "x" * 1000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, "5"),
        ("a" * 30, repr("a" * 30)),
        (list(range(10**6)), "[0, 1, 2, 3, 4, 5, ...]"),
        ({"k": [1]}, "{'k': [1]}"),
        (len, "len"),
        (Broken(), "<Broken instance at"),
        (Long(), "line one line two xxx"),
        (10**5000, ("int", "<int instance with")),  # CPython refuses to show it; from 3.14 on reprlib says so
    ],
    ids=["int", "str", "list", "dict", "function", "broken", "long", "digits"],
)
def test_any_value_has_a_short_text_on_one_line(value, expected):
    assert short(value).startswith(expected)
    assert len(short(value)) <= 40
    assert "\n" not in short(value)
