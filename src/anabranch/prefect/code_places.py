"""Storage classes of Prefect 1: where the code of a registered flow is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from anabranch.base.errors import PrefectNameError
from anabranch.base.prefect1 import row_of
from anabranch.base.where import caller
from anabranch.storage import FlowStorage, LocalStorage, S3Storage


class Storage:
    """Where the code of a flow is, once it is registered.

    Parameters
    ----------
    stored_as_script
        Whether it is the flow's file.
    labels
        For the registry.
    """

    def __init__(self, stored_as_script: bool = False, labels: Iterable[str] | None = None, **options: Any) -> None:
        self.is_script = stored_as_script
        self.labels = sorted(labels or ())
        self.options = options

    def of_ours(self) -> object:
        """What ``flow.register(storage=…)`` takes here.

        Raises
        ------
        PrefectNameError
            There is no such storage here.
        """
        name = type(self).__name__
        raise PrefectNameError(f"{name} storage is used to register a flow ({caller()}); {row_of(f'storage.{name}')}")

    def add_flow(self, flow: Any) -> str:
        """Nothing: `register` stores it."""
        return str(flow.name)

    def build(self) -> Storage:
        """Nothing: there is nothing to build."""
        return self


class Local(Storage):
    """A directory of this machine; or, with a path, the flow's file."""

    def __init__(self, directory: str | None = None, path: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.directory, self.path = directory, path

    def of_ours(self) -> object:
        """The directory."""
        if self.is_script or self.path:
            return "source"
        return LocalStorage(self.directory) if self.directory else LocalStorage()


class S3(Storage):
    """A bucket of S3."""

    def __init__(self, bucket: str, key: str | None = None, client_options: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.bucket, self.key, self.client_options = bucket, key, dict(client_options or {})

    def of_ours(self) -> FlowStorage:
        """The bucket."""
        return S3Storage(self.bucket, **self.client_options)


class GCS(Storage):
    """A bucket of Google's."""

    def __init__(self, bucket: str, key: str | None = None, project: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.bucket, self.key, self.project = bucket, key, project

    def of_ours(self) -> FlowStorage:
        """The bucket."""
        return FlowStorage(f"gcs://{self.bucket}", **({"project": self.project} if self.project else {}))


class Azure(Storage):
    """A container of Azure's."""

    def __init__(self, container: str, connection_string: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.container, self.connection_string = container, connection_string

    def of_ours(self) -> FlowStorage:
        """The container."""
        known = {"connection_string": self.connection_string} if self.connection_string else {}
        return FlowStorage(f"az://{self.container}", **known)


class _Elsewhere(Storage):
    """One that is not here: it can be named, and is refused by `register`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()
        self.args, self.options = args, options


class Module(_Elsewhere):
    """A module that is installed where flows run."""


class Docker(_Elsewhere):
    """An image."""


class Git(_Elsewhere):
    """A repository."""


class GitHub(_Elsewhere):
    """A repository."""


class GitLab(_Elsewhere):
    """A repository."""


class Bitbucket(_Elsewhere):
    """A repository."""


class CodeCommit(_Elsewhere):
    """A repository."""


class Webhook(_Elsewhere):
    """A server of yours."""
