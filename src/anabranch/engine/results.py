"""Results, under the path known from Prefect 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anabranch.base.prefect1 import getter
from anabranch.results.local import LocalResult
from anabranch.results.memory import InMemoryResult
from anabranch.results.remote import FileResult, S3Result
from anabranch.results.result import Result
from anabranch.results.sql import SQLResult

__all__ = ["FileResult", "InMemoryResult", "LocalResult", "Result", "S3Result", "SQLResult"]

__path__: list[str] = []

if not TYPE_CHECKING:
    __getattr__ = getter("engine.results")
