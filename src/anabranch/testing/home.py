"""A home for tests, with its own history, results and settings."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from anabranch.base.settings import as_by_default, config
from anabranch.runs.store.opening import close_store

_PREFIXES = ("ANABRANCH__", "DASK_ANABRANCH__")


@contextmanager
def isolated_home(path: str | Path | None = None) -> Iterator[Path]:
    """Within the block, runs are recorded in a separate directory, and every setting has its default.

    Values, targets and caches are in that directory as well, whatever results flows name (``results.only_in``); what is
    in memory, or below the system's temporary directory, stays there. All this holds for processes that are started in
    the block, too: ``ANABRANCH_HOME`` names the directory, and other settings are removed from the environment.

    Parameters
    ----------
    path
        The directory, which is created if it does not exist; default: a temporary one.

    Examples
    --------
    >>> from anabranch.runs import default_path
    >>> with isolated_home() as home:
    ...     default_path() == home / "runs.db"
    True
    """
    with ExitStack() as stack:
        if path is None:
            path = stack.enter_context(tempfile.TemporaryDirectory(prefix="anabranch-"))
        home = Path(path).absolute()
        home.mkdir(parents=True, exist_ok=True)
        values = str(home / "results")
        changed: dict[str, str | None] = {name: None for name in os.environ if name.startswith(_PREFIXES)}
        changed |= {"ANABRANCH_HOME": str(home), "ANABRANCH__RESULTS__ONLY_IN": values}
        before = {name: os.environ.get(name) for name in changed}
        stack.callback(_set_environment, before)
        _set_environment(changed)
        stack.callback(close_store, home / "runs.db")
        stack.enter_context(as_by_default())
        config.results.only_in = values
        yield home


def _set_environment(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
