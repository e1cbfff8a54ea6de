"""Serializers: what each gives back, what each refuses, and elements in groups."""

from __future__ import annotations

import json
import math
import re
import socket
import threading
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.refusals import refused

import anabranch
from anabranch.errors import ExtraMissing, OptionError, UnstorableValueError
from anabranch.results import (
    BytesSerializer,
    CompressedSerializer,
    InMemoryResult,
    JSONSerializer,
    ParquetSerializer,
    PickleSerializer,
    S3Result,
    SQLResult,
    serializers,
)
from anabranch.results.elements import pack_elements, unpack_elements
from anabranch.results.serializers import Serializer, by_name


class Pair(NamedTuple):
    left: int
    right: int


class Level(IntEnum):
    LOW = 1


class Weird:
    """Pickles, and does not load."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


class Fatal:
    def __reduce__(self) -> tuple[Any, ...]:
        raise SystemExit(3)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


# One value


@given(value=JSON_VALUES)
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("name", ["pickle", "json", "json+zlib", "pickle+lzma", "pickle+bz2+zlib"])
def test_what_json_has_comes_back_from_every_format(name: str, value: Any):
    serializer = by_name(name)
    found = serializer.loads(serializer.dumps(value))
    assert found == value
    assert type(found) is type(value)


def test_json_is_json():
    assert json.loads(JSONSerializer().dumps({"a": [1, None]})) == {"a": [1, None]}
    assert math.isnan(JSONSerializer().loads(JSONSerializer().dumps([math.nan]))[0])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"rows": [1, (2, 3)]}, "$.rows[1] is of type tuple"),
        ({1: "a"}, "$ has a key that is not a text, 1"),
        ([Pair(1, 2)], "$[0] is of type Pair"),
        (b"x", "of type bytes is not JSON serializable"),
        ({1, 2}, "of type set is not JSON serializable"),
        (object(), "of type object is not JSON serializable"),
        (nested(100_000), "while encoding a JSON object"),
    ],
    ids=["tuple", "key", "namedtuple", "bytes", "set", "object", "nested"],
)
def test_what_json_would_change_is_refused(value: Any, words: str):
    with refused(UnstorableValueError, "cannot be stored by JSONSerializer", words, "PickleSerializer", at=""):
        JSONSerializer().dumps(value)


def test_bytes_are_stored_as_they_are_and_nothing_else_is():
    assert BytesSerializer().dumps(b"\0x") == b"\0x"
    assert BytesSerializer().loads(memoryview(b"\0x")) == b"\0x"
    for value in ("x", bytearray(b"x"), None):
        with refused(UnstorableValueError, "cannot be stored by BytesSerializer: it takes bytes only", at=""):
            BytesSerializer().dumps(value)


def test_pickle_takes_what_only_cloudpickle_can():
    loads, dumps = PickleSerializer().loads, PickleSerializer().dumps
    assert loads(dumps(lambda x: x + 1))(2) == 3


@pytest.mark.parametrize("depth", [10_000, 100_000])
def test_a_value_nested_too_deeply_is_refused_or_comes_back(depth: int):
    try:
        data = PickleSerializer().dumps(nested(depth))
    except UnstorableValueError:
        return
    found = PickleSerializer().loads(data)
    for _ in range(depth):
        (found,) = found
    assert found == []


@pytest.mark.parametrize(
    "make",
    [threading.Lock, socket.socket, lambda: (i for i in [1]), lambda: Path(__file__).open(), Weird, Fatal],  # noqa: SIM115  # closed below
    ids=["lock", "socket", "generator", "file", "unloadable", "fatal"],
)
def test_pickle_refuses_what_belongs_to_the_process_or_would_not_load(make: Any):
    value = make()
    try:
        with refused(
            UnstorableValueError, f"of type {type(value).__name__} cannot be stored by PickleSerializer", at=""
        ):
            PickleSerializer().dumps(value)
    finally:
        getattr(value, "close", int)()


# Tables


def test_arrow_tables_come_back_as_such():
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"a": [1, None], "b": ["x", "y"]}).replace_schema_metadata({"unit": "m"})
    found = ParquetSerializer().loads(ParquetSerializer().dumps(table))
    assert found.equals(table, check_metadata=True)


def test_pandas_frames_come_back_as_such():
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    numbered = pandas.DataFrame([[1, 2], [3, 4]])
    pandas.testing.assert_frame_equal(ParquetSerializer().loads(ParquetSerializer().dumps(numbered)), numbered)
    index = pandas.date_range("2026-01-01", periods=2, tz="UTC", name="day", unit="ns")
    frame = pandas.DataFrame({"a": [1.5, None], "b": ["x", "y"], "c": [True, False]}, index=index)
    found = ParquetSerializer().loads(ParquetSerializer().dumps(frame))
    pandas.testing.assert_frame_equal(found, frame, check_freq=False)


def test_what_is_no_table_is_refused_by_parquet():
    arrow = pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    mixed = pandas.DataFrame({"a": [1], 7: [2]})
    for value in ([1], None, arrow.array([1]), pandas.Series([1]), pandas.DataFrame({"a": [1, "x", object()]}), mixed):
        with refused(UnstorableValueError, "cannot be stored by ParquetSerializer", "PickleSerializer", at=""):
            ParquetSerializer().dumps(value)


def test_elements_may_be_tables():
    arrow = pytest.importorskip("pyarrow")
    tables = [arrow.table({"a": [n]}) for n in range(3)]
    result = InMemoryResult(serializer="parquet+zlib")
    assert result.read_elements(result.write_elements("m", [4, 5, 9], tables), [5])[5].equals(tables[1])


# By name


@pytest.mark.parametrize(
    "serializer", [PickleSerializer(), JSONSerializer(), CompressedSerializer(BytesSerializer(), "bz2")]
)
def test_a_serializer_is_found_by_its_name(serializer: Serializer):
    assert by_name(serializer.name) == serializer
    assert hash(by_name(serializer.name)) == hash(serializer)
    assert serializer != by_name("json+lzma")


@pytest.mark.parametrize("name", ["yaml", "", "json+", "+zlib", "json+gzip", "os.system+zlib", "zlib"])
def test_a_name_that_is_no_serializer_is_refused(name: str):
    with refused(
        OptionError,
        "there is no serializer",
        "'bytes', 'text', 'parquet', 'feather', 'csv', 'npy'",
        at="",
    ):
        by_name(name)


def test_what_is_no_serializer_is_refused():
    for wrong in (3, json, JSONSerializer, object()):
        with refused(OptionError, "expected a serializer, such as JSONSerializer()", at=""):
            InMemoryResult(serializer=wrong)
    with refused(OptionError, "expected one of the codecs 'zlib', 'lzma', 'bz2', found 'zip'", at=""):
        CompressedSerializer(JSONSerializer(), "zip")  # type: ignore[arg-type]  # as a user may


def test_an_absent_extra_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(serializers.importlib.util, "find_spec", lambda name: None)
    for use, line in [
        (ParquetSerializer, 'needs the package pyarrow: pip install "anabranch[arrow]"'),
        (lambda: S3Result("bucket"), 'needs the package s3fs: pip install "anabranch[s3]"'),
        (lambda: SQLResult("postgresql://host/db"), 'needs the package psycopg: pip install "anabranch[postgres]"'),
    ]:
        with refused(ExtraMissing, line, at=""):
            use()


@pytest.mark.parametrize("url", ["mysql://h/d", "sqlite:results.db", "results.db", "", "sqlite:///a?mode=ro", None])
def test_a_database_that_is_none_of_ours_is_refused(url: Any):
    with refused(OptionError, "SQLResult: expected 'sqlite:///path' or 'postgresql://…'", at=""):
        SQLResult(url)


def test_a_database_in_memory_is_refused():
    for url in ("sqlite:///:memory:", "sqlite:///", "sqlite://"):
        with pytest.raises(OptionError):
            SQLResult(url)


def test_only_one_function_unpickles_what_is_stored():
    package = Path(anabranch.__file__).parent / "results"
    loading = re.compile(r"pickle\.loads?\(|Unpickler|\beval\(|\bexec\(|yaml\.|marshal|shelve|read_pickle")
    found = [
        f"{file.name}: {line.strip()}"
        for file in package.glob("*.py")
        for line in file.read_text().splitlines()
        if loading.search(line)
    ]
    assert found == ["serializers.py: return pickle.loads(data)"]


# Elements


@given(
    elements=st.dictionaries(st.integers(0, 2**40), st.one_of(st.integers(), st.binary(max_size=200_000)), max_size=12),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_elements_come_back_by_their_indices(elements: dict[int, Any], data: st.DataObject):
    body = memoryview(pack_elements(list(elements), list(elements.values()), PickleSerializer()))
    assert unpack_elements(body, PickleSerializer(), width=len(elements)) == elements
    wanted = data.draw(st.lists(st.sampled_from(sorted(elements)), unique=True)) if elements else []
    assert unpack_elements(body, PickleSerializer(), wanted, width=len(elements)) == {i: elements[i] for i in wanted}


def test_many_small_elements_share_few_groups():
    class Counting(PickleSerializer):
        n_dumps = 0

        def dumps(self, value: Any) -> bytes:
            type(self).n_dumps += 1
            return super().dumps(value)

    body = pack_elements(range(100_000), list(range(100_000)), Counting())
    assert Counting.n_dumps < 40
    assert len(body) < 500_000


def test_an_element_that_cannot_be_stored_is_named():
    values: list[Any] = [1] * 100
    values[41] = {1, 2}
    with refused(UnstorableValueError, "element 141: a value of type set cannot be stored by JSONSerializer", at=""):
        pack_elements(range(100, 200), values, JSONSerializer())


@pytest.mark.parametrize(("indices", "values"), [([1], []), ([1, 1], [1, 2]), ([], [1])])
def test_indices_must_fit_the_values(indices: list[int], values: list[int]):
    with pytest.raises(ValueError, match="expected as many different indices as values"):
        pack_elements(indices, values, PickleSerializer())


def test_a_table_that_promises_too_many_elements_is_refused_before_memory_is_taken():
    body = bytearray(pack_elements(range(3), [1, 2, 3], PickleSerializer()))
    body[24:32] = (2**60).to_bytes(8, "little")
    with pytest.raises(ValueError, match="not that of 3 elements"):
        unpack_elements(memoryview(body), PickleSerializer(), width=3)


def test_an_enum_is_its_value_to_json():
    assert JSONSerializer().loads(JSONSerializer().dumps(Level.LOW)) == Level.LOW
