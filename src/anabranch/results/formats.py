"""Formats of files that data programs read: tables and arrays, each by its own library's writer."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

from anabranch.results.serializers import Bytes, Named, Serializer, need, unstorable

_KIND = b"anabranch.kind"  # in the metadata of a table: what it was made of


class _ArrowSerializer(Named):
    """Arrow tables, and frames of pandas and polars, each of which comes back as what it was."""

    takes_lists = False
    packages: Mapping[str, str] = {"pyarrow": "arrow"}

    def __init__(self) -> None:
        need("pyarrow", "arrow", type(self).__name__)

    def dumps(self, value: Any) -> bytes:
        """The table as a file.

        Raises
        ------
        UnstorableValueError
            It is no table, or has columns that the format cannot hold.
        """
        need("pyarrow", "arrow", type(self).__name__)  # a worker may have less than the machine it was made on
        try:
            table, kind = _arrow_of(value)
            metadata = {**(table.schema.metadata or {}), _KIND: kind}
            return self._write(table.replace_schema_metadata(metadata))
        except Exception as error:  # conversions run code of the value's own
            raise unstorable(value, self, f"{error}; use PickleSerializer, or return a table") from error

    def loads(self, data: Bytes) -> Any:
        """The table, of the kind that it was."""
        need("pyarrow", "arrow", type(self).__name__)
        import pyarrow

        table = self._read(pyarrow.BufferReader(pyarrow.py_buffer(data)))
        metadata = dict(table.schema.metadata or {})
        kind = metadata.pop(_KIND, None)
        return _value_of(table.replace_schema_metadata(metadata or None), kind)

    def _write(self, table: Any) -> bytes:
        raise NotImplementedError

    def _read(self, source: Any) -> Any:
        raise NotImplementedError


def _arrow_of(value: Any) -> tuple[Any, bytes]:
    """A table, and what it was made of."""
    import pyarrow

    library, name = type(value).__module__.partition(".")[0], type(value).__name__
    if isinstance(value, pyarrow.Table):
        return value, b"arrow"
    if (library, name) == ("polars", "DataFrame"):
        table = value.to_arrow()
        again = _value_of(table, b"polars")
        if again.schema != value.schema or not again.equals(value):
            raise TypeError("it would come back otherwise")
        return table, b"polars"
    if (library, name) == ("pandas", "DataFrame"):
        if value.columns.inferred_type.startswith("mixed"):
            raise TypeError("names of its columns are of several types, and would all become texts")
        table = pyarrow.Table.from_pandas(value)
        check_frame(_value_of(table, b"pandas"), value)
        return table, b"pandas"
    raise TypeError("it takes Arrow tables, and frames of pandas and polars only")


def _value_of(table: Any, kind: bytes | None) -> Any:
    if kind == b"polars":
        import polars

        return polars.from_arrow(table)
    return table.to_pandas() if kind == b"pandas" else table


def check_frame(again: Any, frame: Any) -> None:
    """Refuse a frame of pandas that comes back otherwise: objects are the trouble, which may become numbers or lists.

    Raises
    ------
    TypeError
        Which part of it would change, in the words of pandas.
    """
    from pandas.testing import assert_frame_equal

    try:
        assert_frame_equal(again, frame, check_exact=True, check_freq=False)
    except AssertionError as error:
        raise TypeError(f"it would come back otherwise: {' '.join(str(error).split()):.200}") from None


class ParquetSerializer(_ArrowSerializer):
    """Arrow tables, and frames of pandas and polars, as Parquet files; each comes back as what it was.

    Raises
    ------
    ExtraMissing
        pyarrow is not installed.
    """

    name = "parquet"
    extensions = (".parquet", ".pq")

    def _write(self, table: Any) -> bytes:
        from pyarrow import parquet

        sink = io.BytesIO()
        parquet.write_table(table, sink)
        return sink.getvalue()

    def _read(self, source: Any) -> Any:
        from pyarrow import parquet

        return parquet.read_table(source)


class FeatherSerializer(_ArrowSerializer):
    """Arrow tables, and frames of pandas and polars, as Feather files; each comes back as what it was.

    Raises
    ------
    ExtraMissing
        pyarrow is not installed.
    """

    name = "feather"
    extensions = (".feather", ".arrow")

    def _write(self, table: Any) -> bytes:
        from pyarrow import feather

        sink = io.BytesIO()
        feather.write_feather(table, sink)
        return sink.getvalue()

    def _read(self, source: Any) -> Any:
        from pyarrow import feather

        return feather.read_table(source)


class CSVSerializer(Named):
    """Frames of pandas that a CSV file brings back: numbers, texts and truth values, below an index that counts rows.

    Raises
    ------
    ExtraMissing
        pandas is not installed.
    """

    name = "csv"
    takes_lists = False
    extensions = (".csv",)
    packages: Mapping[str, str] = {"pandas": "pandas"}

    def __init__(self) -> None:
        need("pandas", "pandas", "CSVSerializer")

    def dumps(self, value: Any) -> bytes:
        """The frame as a CSV file.

        Raises
        ------
        UnstorableValueError
            It is no frame, or would come back otherwise: CSV has no types.
        """
        need("pandas", "pandas", "CSVSerializer")
        import pandas

        try:
            if type(value) is not pandas.DataFrame:
                raise TypeError("it takes frames of pandas only")
            data: bytes = value.to_csv(index=False).encode()
            check_frame(self.loads(data), value)
        except Exception as error:  # what reading raises is up to pandas
            raise unstorable(value, self, f"{error}; use ParquetSerializer") from error
        return data

    def loads(self, data: Bytes) -> Any:
        """The frame."""
        import pandas

        return pandas.read_csv(io.BytesIO(data))


class NumpySerializer(Named):
    """Arrays of numpy, of any type but objects."""

    name = "npy"
    takes_lists = False
    extensions = (".npy",)
    packages: Mapping[str, str] = {"numpy": ""}

    def dumps(self, value: Any) -> bytes:
        """The array as a ``.npy`` file.

        Raises
        ------
        UnstorableValueError
            It is no plain array, or has objects in it.
        """
        import numpy

        file = io.BytesIO()
        try:
            if type(value) is not numpy.ndarray:
                raise TypeError("it takes plain arrays of numpy only")
            numpy.save(file, value, allow_pickle=False)
        except Exception as error:
            raise unstorable(value, self, f"{error}; use PickleSerializer") from error
        return file.getvalue()

    def loads(self, data: Bytes) -> Any:
        """The array."""
        import numpy

        return numpy.load(io.BytesIO(data), allow_pickle=False)


_ALL = (ParquetSerializer, FeatherSerializer, CSVSerializer, NumpySerializer)
BY_NAME: Mapping[str, Callable[[], Serializer]] = {each.name: each for each in _ALL}
