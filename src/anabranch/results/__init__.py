"""Where values of tasks are stored, and in which format.

A `Result` is a store, a serializer and a template of names; see `anabranch.results.result`. Stores and what they need
load when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anabranch.results.formats import CSVSerializer as CSVSerializer
    from anabranch.results.formats import FeatherSerializer as FeatherSerializer
    from anabranch.results.formats import NumpySerializer as NumpySerializer
    from anabranch.results.formats import ParquetSerializer as ParquetSerializer
    from anabranch.results.local import LocalResult as LocalResult
    from anabranch.results.memory import InMemoryResult as InMemoryResult
    from anabranch.results.reference import ResultRef as ResultRef
    from anabranch.results.remote import FileResult as FileResult
    from anabranch.results.remote import S3Result as S3Result
    from anabranch.results.result import Result as Result
    from anabranch.results.serializers import BytesSerializer as BytesSerializer
    from anabranch.results.serializers import CompressedSerializer as CompressedSerializer
    from anabranch.results.serializers import JSONSerializer as JSONSerializer
    from anabranch.results.serializers import PickleSerializer as PickleSerializer
    from anabranch.results.serializers import TextSerializer as TextSerializer
    from anabranch.results.sql import SQLResult as SQLResult
    from anabranch.results.templates import Template as Template

_HOMES = {
    "Result": "result",
    "LocalResult": "local",
    "InMemoryResult": "memory",
    "ResultRef": "reference",
    "FileResult": "remote",
    "S3Result": "remote",
    "BytesSerializer": "serializers",
    "CompressedSerializer": "serializers",
    "JSONSerializer": "serializers",
    "CSVSerializer": "formats",
    "FeatherSerializer": "formats",
    "NumpySerializer": "formats",
    "ParquetSerializer": "formats",
    "PickleSerializer": "serializers",
    "TextSerializer": "serializers",
    "SQLResult": "sql",
    "Template": "templates",
}

__all__ = [  # noqa: RUF022  # results, what they give, and what they are made of
    "FileResult",
    "InMemoryResult",
    "LocalResult",
    "Result",
    "S3Result",
    "SQLResult",
    "ResultRef",
    "BytesSerializer",
    "CSVSerializer",
    "CompressedSerializer",
    "FeatherSerializer",
    "JSONSerializer",
    "NumpySerializer",
    "ParquetSerializer",
    "PickleSerializer",
    "TextSerializer",
    "Template",
]


def __getattr__(name: str) -> Any:
    """Load a part when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'anabranch.results' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"anabranch.results.{_HOMES[name]}"), name)
