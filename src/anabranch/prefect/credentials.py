"""Secrets with the names and places that they have in Prefect 1."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, Self

import anabranch


def look_up(name: str) -> str | None:
    """A secret of the environment, under its name or that of Prefect's settings."""
    found = os.environ.get(name)
    return found if found is not None else os.environ.get(f"PREFECT__CONTEXT__SECRETS__{name}")


class Secret(anabranch.Secret):
    """A secret by its name; a text that is JSON is parsed. It is a value, not a task: each use looks it up."""

    __slots__ = ()

    def __init__(self, name: str) -> None:
        super().__init__(name, provider=None if _is_chosen() else look_up)

    def get(self) -> Any:
        """The value."""
        text = super().get()
        try:
            return json.loads(text)
        except ValueError:
            return text

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name,)


class PrefectSecret(Secret):
    """A secret, in place of the task that gives it in Prefect 1."""

    __slots__ = ()

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name)

    def __call__(self, *args: Any, **options: Any) -> Self:
        """Itself: what is called there with a name is made with it."""
        return type(self)(*args) if args else self

    def run(self, name: str | None = None) -> Any:
        """The value."""
        return Secret(name or self.name).get()


SecretBase = PrefectSecret


class EnvVarSecret(PrefectSecret):
    """A secret that is an environment variable of the process that uses it."""

    __slots__ = ("cast", "raise_if_missing")

    def __init__(
        self, name: str, cast: Callable[[Any], Any] | None = None, raise_if_missing: bool = False, **options: Any
    ) -> None:
        super().__init__(name)
        self.cast = cast
        self.raise_if_missing = raise_if_missing

    def get(self) -> Any:
        """The value."""
        if look_up(self.name) is None and not self.raise_if_missing:
            return None
        text = anabranch.Secret.get(self)
        return text if self.cast is None else self.cast(text)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.cast, self.raise_if_missing)


def _is_chosen() -> bool:
    """Whether the settings say where secrets are."""
    return bool(anabranch.config.secrets.provider != "environment")
