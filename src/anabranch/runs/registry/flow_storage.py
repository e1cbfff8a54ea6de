"""Flow storage: pickles of registered flows outside of the database."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from anabranch.base.errors import FlowLoadError, OptionError
from anabranch.results.locations import slug
from anabranch.results.remote import FsspecStore
from anabranch.results.store import Store


class FlowStorage:
    """Pickled flows below any URL that fsspec knows. A flow is never overwritten, because its name contains its hash.

    The registry has only the URL: fsspec must find credentials on every machine that runs the flow. Loading a flow
    executes it: anybody who can write there can run code as the service.

    Parameters
    ----------
    url
        Such as ``s3://bucket/flows``; without a protocol, a directory.
    **options
        Options of the file system, used while the flow is stored.
    """

    def __init__(self, url: str | os.PathLike[str], **options: Any) -> None:
        text = os.fspath(url)
        if not text:
            raise OptionError(f"{type(self).__name__}: expected a URL or directory, found {url!r}")
        self.url = text if "://" in text else f"file://{Path(text).expanduser().absolute()}"
        self._store: Store = FsspecStore(self.url, options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def put(self, name: str, pickled: bytes) -> str:
        """Store a pickled flow. Returns what `read_stored` needs to find it."""
        digest = hashlib.sha256(pickled).hexdigest()
        location = f"{slug(name)}-{digest[:16]}.flow"
        self._store.put(location, [pickled], replace=False)
        return json.dumps({"url": self.url, "location": location, "sha256": digest})


class LocalStorage(FlowStorage):
    """Pickled flows in a directory, which every machine that runs them can read."""

    def __init__(self, directory: str | os.PathLike[str] = "~/.local/share/anabranch/flows") -> None:
        super().__init__(directory)


class S3Storage(FlowStorage):
    """Pickled flows in a bucket of S3; ``pip install "anabranch[s3]"``.

    Parameters
    ----------
    bucket
        Name of an existing bucket.
    prefix
        Text before each name.
    **options
        Options of s3fs, used while the flow is stored.
    """

    def __init__(self, bucket: str, prefix: str = "", **options: Any) -> None:
        if not isinstance(bucket, str) or not bucket or "/" in bucket or ":" in bucket:
            raise OptionError(f"S3Storage: expected the name of a bucket, such as 'team-flows', found {bucket!r:.80}")
        super().__init__(f"s3://{bucket}/{prefix.strip('/')}".rstrip("/"), **options)


def read_stored(text: str, options: dict[str, Any] | None = None) -> bytes:
    """The pickled flow at a place that `FlowStorage.put` returned.

    Raises
    ------
    FlowLoadError
        It is missing, or is not what was stored.
    """
    try:
        found = json.loads(text)
        store = FsspecStore(found["url"], options or {})
        data = store.get(found["location"])
    except Exception as error:  # whatever a file system may raise
        raise FlowLoadError(
            f"the stored flow cannot be read: {type(error).__name__}: {error}; register it again, if it is gone"
        ) from error
    if hashlib.sha256(data).hexdigest() != found["sha256"]:
        raise FlowLoadError(f"{found['url']}/{found['location']} is not what was stored there; register the flow again")
    return data
