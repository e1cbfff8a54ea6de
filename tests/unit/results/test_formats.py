"""Formats of files: what each gives back and refuses, and other programs as readers of what flows have written."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy
import pandas
import polars
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy
from pyarrow import dataset
from tests.refusals import refused

from anabranch import Flow, task
from anabranch.errors import ResultDamaged, ResultStoreError, UnstorableValueError
from anabranch.results import LocalResult, TextSerializer
from anabranch.results.serializers import by_name

TABLES = ("parquet", "feather")
CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.datetimes(),
    st.dates(),
    st.timedeltas(),
    st.decimals(allow_nan=False, places=2),
    st.tuples(st.integers()),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.just(object()),
)
COLUMNS = st.one_of(
    *(st.lists(each, min_size=2, max_size=2) for each in (CELLS, st.integers(), st.text(), st.floats()))
)
NAMES = st.text(max_size=3) | st.integers(0, 2)
FRAMES = st.builds(
    lambda columns, names, index: pandas.DataFrame(dict(enumerate(columns)), index=index).set_axis(
        names[: len(columns)], axis=1
    ),
    st.lists(COLUMNS, max_size=3),
    st.lists(NAMES, min_size=3, max_size=3),
    st.sampled_from([[0, 1], ["a", "b"], [7, 7]]),
)


@pytest.mark.parametrize("name", [*TABLES, "csv"])
@given(frame=FRAMES)
def test_a_frame_of_pandas_comes_back_equal_or_is_refused(name: str, frame: Any):
    serializer = by_name(name)
    try:
        data = serializer.dumps(frame)
    except UnstorableValueError:
        return
    found = serializer.loads(data)
    pandas.testing.assert_frame_equal(found, frame, check_exact=True)
    for one, other in zip(found.to_numpy(object).ravel(), frame.to_numpy(object).ravel(), strict=True):
        assert isinstance(one, type(other)) or isinstance(other, type(one)) or pandas.isna(one) is True


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    "values",
    [
        [1, None, 3],
        [b"a", None],
        ["", "é\0"],
        [datetime.date(2026, 1, 1)],
        [datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)],
        [datetime.timedelta(days=1)],
        [decimal.Decimal("1.10")],
        [[1], []],
        [{"a": 1}],
        [float("nan"), 1.0],
        [],
    ],
    ids=repr,
)
def test_tables_of_arrow_and_frames_of_polars_come_back_as_such(name: str, values: list[Any]):
    table, serializer = pyarrow.table({"a": pyarrow.array(values)}), by_name(name)
    assert serializer.loads(serializer.dumps(table)).schema == table.schema
    assert str(serializer.loads(serializer.dumps(table)).to_pylist()) == str(table.to_pylist())
    frame = polars.DataFrame({"a": values}, strict=False)
    found = serializer.loads(serializer.dumps(frame))
    assert isinstance(found, polars.DataFrame)
    assert found.schema == frame.schema
    assert found.equals(frame)


@pytest.mark.parametrize("name", TABLES)
def test_objects_that_would_become_something_else_are_refused(name: str):
    for cells in ([(1, 2)], [1, None], [{1, 2}], [1, "a"]):
        frame = pandas.DataFrame({"a": pandas.Series(cells, dtype=object)})
        with refused(UnstorableValueError, "a value of type DataFrame cannot be stored", "use PickleSerializer", at=""):
            by_name(name).dumps(frame)


@pytest.mark.parametrize(
    "frame",
    [
        pandas.DataFrame({"a": ["1", "2"]}),
        pandas.DataFrame({"a": [1]}, index=["x"]),
        pandas.DataFrame({"a": ["NA"]}),
        pandas.DataFrame({"a": pandas.to_datetime(["2026-01-01"])}),
        pandas.DataFrame([[1, 2]], columns=["a", "a"]),
        pandas.DataFrame({1: [1]}),
    ],
    ids=["texts of digits", "index", "no value", "time", "names", "number"],
)
def test_a_frame_that_csv_would_change_is_refused(frame: Any):
    with refused(UnstorableValueError, "it would come back otherwise: ", "use ParquetSerializer", at=""):
        by_name("csv").dumps(frame)


def test_csv_is_of_frames():
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", 'y,"z"\n'], "c": [0.1, float("inf")], "d": [True, False]})
    assert by_name("csv").loads(by_name("csv").dumps(frame)).equals(frame)
    for value in ([1], None, pyarrow.table({"a": [1]}), frame["a"]):
        with refused(UnstorableValueError, "it takes frames of pandas only; use ParquetSerializer", at=""):
            by_name("csv").dumps(value)


@given(of_numpy.arrays(of_numpy.scalar_dtypes(), of_numpy.array_shapes(min_dims=0, min_side=0)))
def test_an_array_comes_back_with_its_type_and_shape(array: Any):
    found = by_name("npy").loads(by_name("npy").dumps(array))
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()


def test_what_is_no_plain_array_is_refused():
    masked = numpy.ma.masked_array([1], mask=[True])
    for value in ([1], numpy.float64(1), masked, numpy.array([object()])):
        with refused(UnstorableValueError, "cannot be stored by NumpySerializer", "use PickleSerializer", at=""):
            by_name("npy").dumps(value)


@given(st.text())
def test_a_text_is_its_bytes(text: str):
    assert TextSerializer().dumps(text) == text.encode()
    assert TextSerializer().loads(memoryview(text.encode())) == text


def test_what_is_no_text_is_refused():
    for value in (b"x", None, ["x"], "\ud800"):
        with refused(UnstorableValueError, "cannot be stored by TextSerializer", at=""):
            TextSerializer().dumps(value)


# Other programs -------------------------------------------------------------------------------------------------------


def test_a_map_writes_a_partitioned_dataset_that_others_read(tmp_path: Path):
    @task(target="sales/month={month}/{map_index}.parquet")
    def sell(month: str, n: int) -> Any:
        return pandas.DataFrame({"n": [n, n + 1]})

    with Flow("sales", result=LocalResult(tmp_path, serializer="parquet")) as flow:
        sold = sell.map(["2026-01", "2026-01", "2026-02"], [1, 3, 5])
    assert flow.run().is_successful()

    root = tmp_path / "sales"
    wanted = [("2026-01", 1), ("2026-01", 2), ("2026-01", 3), ("2026-01", 4), ("2026-02", 5), ("2026-02", 6)]
    read = dataset.dataset(root, partitioning="hive").to_table().sort_by("n")
    assert list(zip(read["month"].to_pylist(), read["n"].to_pylist(), strict=True)) == wanted
    frame = pandas.read_parquet(root).sort_values("n")
    assert list(zip(frame["month"], frame["n"], strict=True)) == wanted
    scanned = polars.scan_parquet(root / "**" / "*.parquet", hive_partitioning=True).sort("n").collect()
    assert list(zip(map(str, scanned["month"]), scanned["n"], strict=True)) == wanted
    query = f"SELECT month, n FROM read_parquet('{root}/**/*.parquet', hive_partitioning=true) ORDER BY n"
    assert [(str(month), n) for month, n in duckdb.sql(query).fetchall()] == wanted
    assert [each.is_cached() for each in flow.run()[sold].map_states] == [True] * 3


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("x.feather", pandas.DataFrame({"a": [1]}), pandas.read_feather),
        ("x.csv", pandas.DataFrame({"a": [1]}), pandas.read_csv),
        ("x.npy", numpy.arange(3), numpy.load),
        ("page.html", "<é>", lambda path: path.read_text("utf-8")),
    ],
)
def test_other_programs_read_each_format_and_we_read_no_other_file(name: str, value: Any, read: Any, tmp_path: Path):
    serializer = {"html": "text"}.get(name.partition(".")[2], name.partition(".")[2])
    result = LocalResult(tmp_path, serializer=serializer)
    ref = result.write(name, value)
    assert str(read(tmp_path / name)) == str(value)
    assert str(result.read(ref)) == str(value)

    data = (tmp_path / name).read_bytes()
    for forged in (data[:-1], data + b"\0", b"", data[:3] + b"?" + data[4:]):
        (tmp_path / name).write_bytes(forged)
        with pytest.raises((ResultDamaged, ResultStoreError)):
            result.read(ref)
        with pytest.raises((ResultDamaged, ResultStoreError)):
            result.read(name)
