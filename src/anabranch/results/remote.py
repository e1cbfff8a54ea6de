"""Results behind a URL that fsspec knows, such as ``s3://bucket/results``.

Object stores make an object visible whole, and some of them only if there is none: then that is used. Elsewhere an
object is written under a temporary name and moved.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import uuid4

from anabranch.base.errors import OptionError, listed
from anabranch.base.prefect1 import refusing
from anabranch.results.local import LocalStore
from anabranch.results.result import Result
from anabranch.results.serializers import need
from anabranch.results.store import Store

_LOCAL = ("file", "local")
_ATOMIC = frozenset({"abfs", "abfss", "adl", "az", "gcs", "gs", "memory", "s3", "s3a"})
"""Protocols whose objects appear when they are complete."""
_CONDITIONAL = frozenset({"gcs", "gs", "memory", "s3", "s3a"})
"""Those that can put an object on condition that there is none."""
_EXTRAS = {
    "abfs": ("adlfs", "azure"),
    "abfss": ("adlfs", "azure"),
    "az": ("adlfs", "azure"),
    "gcs": ("gcsfs", "gcs"),
    "gs": ("gcsfs", "gcs"),
    "s3": ("s3fs", "s3"),
    "s3a": ("s3fs", "s3"),
}
_TEMPORARY = ".anabranch-tmp-"  # no location has a name that begins with a dot
_MEMORY = threading.Lock()
"""fsspec's own memory is one dict for the process, and looks before it writes."""


class FsspecStore:
    """Objects below a URL, by the fsspec file system of its protocol."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.url = url.rstrip("/")
        self.options = dict(options or {})
        self.protocol = url.partition(":")[0]
        """The first of a chain, which is what visible and complete mean here."""
        self._lock = threading.Lock()
        self._opened: tuple[int, Any, str] | None = None

    def __repr__(self) -> str:
        return repr(self.url)  # options may have secrets

    def __reduce__(self) -> tuple[Any, ...]:
        return FsspecStore, (self.url, self.options)

    def put(self, location: str, parts: list[bytes], *, replace: bool) -> bool:
        """As `Store.put`. Where the store cannot put on condition, two writers at once may both believe to be first."""
        files, path = self._at(location)
        data = b"".join(parts)
        if self.protocol == "memory":
            with _MEMORY:
                return self._put_whole(files, path, data, replace=replace)
        if self.protocol in _ATOMIC:
            return self._put_whole(files, path, data, replace=replace)
        if not replace and files.exists(path):
            return False
        folder, _, _ = path.rpartition("/")
        temporary = f"{folder}/{_TEMPORARY}{uuid4().hex}"
        files.makedirs(folder, exist_ok=True)
        try:
            files.pipe_file(temporary, data)
            files.mv(temporary, path)
        except Exception:
            if files.exists(temporary):
                files.rm_file(temporary)
            raise
        return True

    def _put_whole(self, files: Any, path: str, data: bytes, *, replace: bool) -> bool:
        if not replace and self.protocol in _CONDITIONAL:
            try:
                files.pipe_file(path, data, mode="create")
                return True
            except FileExistsError:
                return False
            except Exception as error:
                if not _is_unconditional(error):
                    raise
        if not replace and files.exists(path):
            return False
        files.pipe_file(path, data)
        return True

    def get(self, location: str, nbytes: int | None = None) -> bytes:
        """As `Store.get`."""
        files, path = self._at(location)
        if nbytes is not None:
            try:
                return bytes(files.cat_file(path, start=0, end=nbytes))
            except FileNotFoundError:
                raise
            except OSError as error:
                if error.errno != errno.EINVAL:  # S3's answer to asking for a part of nothing
                    raise
        return bytes(files.cat_file(path))[:nbytes]

    def get_many(self, locations: Sequence[str]) -> dict[str, bytes]:
        """As `Store.get_many`: at the same time, where the file system can do that."""
        if not locations:
            return {}
        paths = {self._at(location)[1]: location for location in locations}
        found = self._at("")[0].cat(list(paths), on_error="return")
        objects = {}
        for path, data in found.items():
            if isinstance(data, FileNotFoundError):
                continue
            if isinstance(data, BaseException):
                raise data
            objects[paths[path]] = bytes(data)
        return objects

    @property
    def packages(self) -> Mapping[str, str]:
        """Modules that the protocol needs, each with the extra that brings it."""
        return dict([_EXTRAS[self.protocol]]) if self.protocol in _EXTRAS else {}

    def exists(self, location: str) -> bool:
        """As `Store.exists`."""
        files, path = self._at(location)
        return bool(files.exists(path))

    def delete(self, location: str) -> None:
        """As `Store.delete`."""
        files, path = self._at(location)
        with suppress(FileNotFoundError):
            files.rm_file(path)

    def sweep(self, older_than_s: float) -> int:
        """As `Store.sweep`; object stores keep nothing that is not complete."""
        if self.protocol in _ATOMIC:
            return 0
        files, root = self._at("")
        limit, n = time.time() - older_than_s, 0
        for path, about in files.find(root, detail=True).items():
            if path.rpartition("/")[2].startswith(_TEMPORARY) and _find_age(about) < limit:
                files.rm_file(path)
                n += 1
        return n

    def close(self) -> None:
        """Forget the file system; fsspec closes what it has opened by itself."""
        self._opened = None

    def _at(self, location: str) -> tuple[Any, str]:
        """The file system in this process, and an object's path in it."""
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                from fsspec.core import url_to_fs

                # A listing that was kept would hide what other processes write.
                files, root = url_to_fs(self.url, **{"use_listings_cache": False, **self.options})
                self._opened = (os.getpid(), files, str(root).rstrip("/"))
            _, files, root = self._opened
        return files, f"{root}/{location}" if location else root


def _is_unconditional(error: BaseException) -> bool:
    """Whether a store refused a condition because it knows none."""
    if isinstance(error, NotImplementedError) or getattr(error, "errno", None) in (errno.ENOSYS, errno.ENOTSUP):
        return True
    return "notimplemented" in str(error).replace(" ", "").lower()  # the code and the words of S3's own answer


def _find_age(about: Mapping[str, Any]) -> float:
    """When a file was written, by whichever name the file system has for it; now, if it has none."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        found = about.get(name)
        if isinstance(found, datetime):
            return found.timestamp()
        if isinstance(found, (int, float)):
            return float(found)
    return time.time()


# ---------------------------------------------------------------------------------------------------------------------


class FileResult(Result):
    """Results below a URL.

    Parameters
    ----------
    url
        Any URL that fsspec knows: ``s3://bucket/path``, ``gcs://``, ``az://``, ``sftp://``, ``memory://``. A path or a
        ``file://`` URL is the same as `LocalResult`.
    serializer, location
        As for `Result`.
    **storage_options
        Options of the file system, such as credentials. They travel to the workers with the result; leave them out if
        the machines have credentials of their own.

    Raises
    ------
    ExtraMissing
        A package for the protocol is not installed; the message has the command that installs it.
    OptionError
        fsspec does not know the URL.
    """

    def __init__(self, url: str, *, serializer: Any = None, location: Any = None, **storage_options: Any) -> None:
        super().__init__(_store(url, storage_options), serializer=serializer, location=location)


class S3Result(FileResult):
    """Results in a bucket of S3 or of a compatible store.

    Parameters
    ----------
    bucket
        Name of an existing bucket.
    prefix
        Text before each location.
    serializer, location
        As for `Result`.
    **options
        Options of s3fs, such as ``endpoint_url``, ``key``, ``secret`` and ``anon``. See `FileResult`.
    """

    @refusing("S3Result")
    def __init__(
        self, bucket: str, prefix: str = "", *, serializer: Any = None, location: Any = None, **options: Any
    ) -> None:
        if not isinstance(bucket, str) or not bucket or "/" in bucket or ":" in bucket:
            raise OptionError(f"S3Result: expected the name of a bucket, such as 'team-results', found {bucket!r:.80}")
        url = f"s3://{bucket}/{prefix.strip('/')}".rstrip("/")
        super().__init__(url, serializer=serializer, location=location, **options)


def _store(url: str, options: Mapping[str, Any]) -> Store:
    from fsspec.registry import known_implementations, registry

    if not isinstance(url, str) or not url or "\0" in url:
        raise OptionError(f"FileResult: expected a URL such as 's3://bucket/results', found {url!r:.80}")
    protocol = url.partition("://")[0].rpartition("::")[2] if "://" in url else "file"
    if protocol in _LOCAL and "::" not in url:
        return LocalStore(url.partition("://")[2] if "://" in url else url)
    if protocol not in known_implementations and protocol not in registry:
        common = ("file", *sorted(_EXTRAS), "memory", "sftp")
        raise OptionError(f"FileResult: fsspec knows no {protocol!r}; it knows {listed(common)} and others")
    if protocol in _EXTRAS:
        need(*_EXTRAS[protocol], f"FileResult({protocol}://…)")
    return FsspecStore(url, options)
