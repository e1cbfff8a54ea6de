"""Results and serializers with the arguments that they have in Prefect 1, and classes of them that users write."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib import import_module
from io import BytesIO
from typing import Any, Self

from anabranch import results

_CODECS = {"zlib": "zlib", "gzip": "zlib", "bz2": "bz2", "lzma": "lzma", "xz": "lzma"}


class Result:
    """Base of results that users write, with `read`, `write` and `exists` as Prefect 1 asks for them.

    Parameters
    ----------
    value
        What a result that was read has.
    location
        Template of the place, or a function that gives one.
    serializer
        For use in ``write`` and ``read``.
    """

    def __init__(self, value: Any = None, location: Any = None, serializer: Any = None, **options: Any) -> None:
        self.value = value
        self.location = location
        self.serializer = serializer if serializer is not None else PickleSerializer()

    def format(self, **fields: Any) -> Self:
        """A copy whose location is filled in."""
        twin = self.copy()
        if callable(self.location):
            twin.location = self.location(**fields)
        return twin

    def copy(self) -> Self:
        """A copy."""
        return copy.copy(self)

    def from_value(self, value: Any) -> Self:
        """A copy with a value."""
        twin = self.copy()
        twin.value = value
        return twin

    def read(self, location: str) -> Any:
        """A result with the value that is there."""
        raise NotImplementedError(f"{type(self).__name__} needs a method read(self, location)")

    def write(self, value_: Any, **kwargs: Any) -> Any:
        """Store a value at the location; a result with it."""
        raise NotImplementedError(f"{type(self).__name__} needs a method write(self, value, **kwargs)")

    def exists(self, location: str, **kwargs: Any) -> bool:
        """Whether there is a value."""
        raise NotImplementedError(f"{type(self).__name__} needs a method exists(self, location, **kwargs)")


class _OfUser:
    """A store of bytes that are values of a user's result."""

    def __init__(self, result: Result) -> None:
        self.result = result

    def __repr__(self) -> str:
        return type(self.result).__name__

    def put(self, location: str, parts: list[bytes], *, replace: bool) -> bool:
        """As `Store.put`; of two writers at once, both may believe to be first."""
        if not replace and self.exists(location):
            return False
        twin = self.result.copy()
        twin.location = location
        twin.write(b"".join(parts))
        return True

    def get(self, location: str, nbytes: int | None = None) -> bytes:
        """As `Store.get`."""
        if not self.exists(location):
            raise FileNotFoundError(location)
        data: bytes = self.result.read(location).value
        return data if nbytes is None else data[:nbytes]

    def get_many(self, locations: Sequence[str]) -> dict[str, bytes]:
        """As `Store.get_many`."""
        return {location: self.get(location) for location in locations if self.exists(location)}

    def exists(self, location: str) -> bool:
        """As `Store.exists`."""
        return bool(self.result.exists(location))

    def delete(self, location: str) -> None:
        """Nothing: such results delete nothing."""

    def sweep(self, older_than_s: float) -> int:
        """Nothing."""
        return 0

    def close(self) -> None:
        """Nothing."""


class _Users(results.Result):
    """A result over such a store. It has values only: who computes a target is not agreed on in it."""

    def put_note(self, location: str, data: bytes, *, replace: bool = False) -> bool:
        """Nothing, with success."""
        return True

    def get_note(self, location: str) -> bytes | None:
        """None."""
        return None


def as_result(value: Any) -> Any:
    """A result of ours, of one that a user has written; anything else as it is."""
    if not isinstance(value, Result):
        return value
    return _Users(_OfUser(value), location=value.location)


def LocalResult(  # noqa: N802  # a class there
    dir: str | None = None, validate_dir: bool = True, location: Any = None, serializer: Any = None, **options: Any
) -> results.Result:
    """As `anabranch.results.LocalResult`; a location may be absolute."""
    if dir is None and isinstance(location, str) and os.path.isabs(location):
        dir, location = "/", location.lstrip("/")
    return results.LocalResult(dir, location=location, serializer=serializer)


def S3Result(  # noqa: N802  # a class there
    bucket: str,
    boto3_kwargs: Mapping[str, Any] | None = None,
    upload_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> results.Result:
    """As `anabranch.results.S3Result`."""
    known: dict[str, Any] = {"client_kwargs": dict(boto3_kwargs)} if boto3_kwargs else {}
    if upload_options:
        known["s3_additional_kwargs"] = dict(upload_options)
    return results.S3Result(bucket, **known, **options)


def GCSResult(bucket: str, **options: Any) -> results.Result:  # noqa: N802  # a class there
    """``FileResult("gcs://bucket")``."""
    return results.FileResult(f"gcs://{bucket}", **options)


def AzureResult(  # noqa: N802  # a class there
    container: str, connection_string: str | None = None, connection_string_secret: str | None = None, **options: Any
) -> results.Result:
    """``FileResult("az://container")``."""
    if connection_string_secret is not None:
        from anabranch.prefect.credentials import Secret

        connection_string = Secret(connection_string_secret).get()
    known = {"connection_string": connection_string} if connection_string else {}
    return results.FileResult(f"az://{container}", **known, **options)


def PrefectResult(**options: Any) -> results.Result:  # noqa: N802  # a class there
    """Values as JSON, on this machine."""
    return results.LocalResult(serializer="json")


class Serializer:
    """Base of serializers that users write, with `serialize` and `deserialize`."""

    takes_lists = False
    runs_code = True

    @property
    def name(self) -> str:
        """Name of the class."""
        return type(self).__name__

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def serialize(self, value: Any) -> bytes:
        """The value as bytes."""
        raise NotImplementedError(f"{self.name} needs a method serialize(self, value)")

    def deserialize(self, value: bytes) -> Any:
        """The value again."""
        raise NotImplementedError(f"{self.name} needs a method deserialize(self, value)")

    def dumps(self, value: Any) -> bytes:
        """As `serialize`."""
        return self.serialize(value)

    def loads(self, data: Any) -> Any:
        """As `deserialize`."""
        return self.deserialize(bytes(data))


class PickleSerializer(Serializer):
    """Pickles, for users' own results."""

    def serialize(self, value: Any) -> bytes:
        """The value as bytes."""
        return results.PickleSerializer().dumps(value)

    def deserialize(self, value: bytes) -> Any:
        """The value again."""
        return results.PickleSerializer().loads(value)


class DateTimeSerializer(Serializer):
    """Times as texts."""

    runs_code = False

    def serialize(self, value: datetime) -> bytes:
        """The time as ISO 8601 has it."""
        return value.isoformat().encode()

    def deserialize(self, value: bytes) -> datetime:
        """The time again."""
        return datetime.fromisoformat(value.decode())


class PandasSerializer(Serializer):
    """Data frames in one of the formats of pandas.

    Parameters
    ----------
    file_type
        ``csv`` for ``to_csv`` and ``read_csv``, and so on.
    deserialize_kwargs, serialize_kwargs
        Arguments of these.
    """

    runs_code = False

    def __init__(
        self,
        file_type: str,
        deserialize_kwargs: Mapping[str, Any] | None = None,
        serialize_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.file_type = file_type
        self.deserialize_kwargs = dict(deserialize_kwargs or {})
        self.serialize_kwargs = dict(serialize_kwargs or {})
        self.runs_code = file_type == "pickle"
        self.extensions = () if self.runs_code else (f".{file_type}",)

    def serialize(self, value: Any) -> bytes:
        """The frame as bytes."""
        buffer = BytesIO()
        getattr(value, f"to_{self.file_type}")(buffer, **self.serialize_kwargs)
        return buffer.getvalue()

    def deserialize(self, value: bytes) -> Any:
        """The frame again."""
        read: Callable[..., Any] = getattr(import_module("pandas"), f"read_{self.file_type}")
        return read(BytesIO(value), **self.deserialize_kwargs)


def CompressedSerializer(  # noqa: N802  # a class there
    serializer: Any, format: str = "zlib", **options: Any
) -> results.CompressedSerializer:
    """As `anabranch.results.CompressedSerializer`; gzip is read and written as zlib."""
    return results.CompressedSerializer(serializer, _CODECS.get(format, format))  # type: ignore[arg-type]  # checked
