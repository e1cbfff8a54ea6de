"""Secrets by name: only the name travels and is recorded; the value is looked up where it is used."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeAlias

from anabranch.base import known_secrets
from anabranch.base.errors import OptionError, SecretNotFound
from anabranch.base.settings import config

Provider: TypeAlias = Callable[[str], str | None]
"""Gives the value of a secret by its name, None if it has none of that name."""

SERVICE = "anabranch"
"""Under which the keyring has them."""
_OWNER = "secrets"


class Secret:
    """A secret by its name. A task gets its value if it is an argument; elsewhere, call `get`.

    The process that uses the value looks it up each time; the value is neither stored nor sent. In texts of that
    process's tasks (log lines, failures) it is replaced by ``***``.

    Parameters
    ----------
    name
        Name of an environment variable, or any name that the provider knows.
    provider
        ``"environment"``, ``"keyring"`` (the package of that name), ``"module:function"`` or a function of the name.
        Default: ``config.secrets.provider`` of the process that sends the run.

    Raises
    ------
    OptionError
        The name or the provider is not valid.

    Examples
    --------
    >>> Secret("API_TOKEN")
    Secret('API_TOKEN')
    """

    __slots__ = ("_provider", "name")

    def __init__(self, name: str, *, provider: str | Provider | None = None) -> None:
        if not isinstance(name, str) or not name or not name.isprintable():
            raise OptionError(f"Secret: expected a name such as 'API_TOKEN', found {type(name).__name__}")
        if provider is not None and not callable(provider) and not isinstance(provider, str):
            raise OptionError(f"Secret({name!r}): expected a provider's name or function, found {provider!r}")
        self.name: str = name
        self._provider = provider

    def get(self) -> str:
        """The value.

        Raises
        ------
        SecretNotFound
            This process has no such secret.
        """
        provider = self._provider if self._provider is not None else config.secrets.provider
        try:
            value = _provider_of(provider)(self.name)
        except SecretNotFound:
            raise
        except Exception as error:  # a keyring that is locked, say; its message is its own
            raise SecretNotFound(
                f"secret {self.name!r}: {_told(provider)} failed with {type(error).__name__}"
            ) from None
        if value is None:
            raise SecretNotFound(f"secret {self.name!r}: {_told(provider)} of this process does not have it")
        text = value if isinstance(value, str) else str(value)
        known_secrets.learn(_OWNER, [text])
        return text

    def __repr__(self) -> str:
        return f"Secret({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self.name, self._provider) == (other.name, other._provider)

    def __hash__(self) -> int:
        return hash(self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        # The choice of whoever sends it goes along: workers have settings of their own.
        provider = self._provider if self._provider is not None else config.secrets.provider
        return _made, (self.name, provider)


def _made(name: str, provider: str | Provider) -> Secret:
    return Secret(name, provider=provider)


def revealed(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of a call, with the values of those that are secrets.

    Raises
    ------
    SecretNotFound
        One of them is missing in this process.
    """
    return (
        [each.get() if isinstance(each, Secret) else each for each in args],
        {name: each.get() if isinstance(each, Secret) else each for name, each in kwargs.items()},
    )


def _provider_of(provider: str | Provider) -> Provider:
    if not isinstance(provider, str):
        return provider
    if provider == "environment":
        return os.environ.get
    if provider == "keyring":
        return _from_keyring
    module, _, name = provider.partition(":")
    try:
        found: Provider = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SecretNotFound(f"secrets.provider {provider!r} cannot be loaded here: {error}") from None
    return found


def _from_keyring(name: str) -> str | None:
    try:
        keyring = import_module("keyring")
    except ImportError:
        raise SecretNotFound(
            f"secret {name!r}: provider 'keyring' needs the package keyring here: pip install keyring"
        ) from None
    found: str | None = keyring.get_password(SERVICE, name)
    return found


def _told(provider: str | Provider) -> str:
    if provider == "environment":
        return "the environment"
    return f"provider {provider!r}" if isinstance(provider, str) else "its provider"
