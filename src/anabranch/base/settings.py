"""Settings, which hold for every run in this process.

They are in ``dask.config`` under ``anabranch``, where Dask users look for them; `config` has them as attributes.
Defaults, units and reasons are in ``anabranch.yaml`` beside this file. From weakest to strongest: defaults, YAML files
(Dask's search path, then ``./anabranch.yaml``), ``DASK_ANABRANCH__…`` and ``ANABRANCH__…`` in the environment,
assignments. What a setting does is decided by the code that reads it.
"""

from __future__ import annotations

import logging
import math
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import dask.config

from anabranch.base import dask_settings, package_files
from anabranch.base.errors import SettingError, listed
from anabranch.base.known_secrets import forget, learn
from anabranch.base.masking import mask
from anabranch.base.retention import RULES, Rule, read_rules
from anabranch.base.texts import password_of, printable_lines

_LOCAL_FILE = "anabranch.yaml"
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_PROGRESS = ("auto", "always", "never")
# Numbers must be more than zero, except where zero makes sense.
_MAY_BE_ZERO = {
    "engine.max_losses",
    "engine.inline_nbytes",
    "engine.rescued_nbytes",
    "engine.inplace_retry_delay_s",
    "engine.max_tracebacks",
    "service.port",
    "service.max_runs",
    "service.drain_s",
    "service.cancel_grace_s",
    "service.late_s",
    "service.silent_s",
    "service.backlog",
}
TASK_FIELDS: dict[str, Any] = {"task_run": "", "task_slug": "", "map_index": "", "attempt": "", "worker": ""}
"""Fields that a format may use as well as those of `logging`; empty in records that are not from a task."""
_MIN_KEY = 16  # characters: a shorter key can be guessed
# Never shown, not even in messages.
_SECRET = {"results.key", "service.key", "service.token", "service.view_token"}


# ---------------------------------------------------------------------------------------------------------------------
# What users see


class Section:
    """Settings with the same prefix, as attributes. Assigning one takes effect at once."""

    _prefix: str

    def __init__(self, prefix: str = "") -> None:
        self.__dict__["_prefix"] = prefix  # past our own __setattr__

    # Hidden from type checkers, so that they know the annotated names only and catch a misspelt one.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):  # copy, pickle and notebooks ask for methods that are not there
                raise AttributeError(name)
            return _read(self._prefix + name)

        def __setattr__(self, name: str, value: object) -> None:
            _Assignment({self._prefix + name: value})

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *_names_in(self._prefix)]

    def __repr__(self) -> str:
        values = (f"{name}={_masked(self._prefix + name, getattr(self, name))}" for name in _names_in(self._prefix))
        return f"{type(self).__name__}({', '.join(values)})"


class LoggingSettings(Section):
    """How the library logs."""

    level: str
    format: str
    directory: str


class EngineSettings(Section):
    """How runs are executed; units and reasons are in ``anabranch.yaml``."""

    max_losses: int
    inline_nbytes: int
    rescued_nbytes: int
    inplace_retry_delay_s: float
    target_chunk_s: float
    probe_elements: int
    chunks_per_slot: int
    concurrency_per_slot: int
    chunk_nbytes: int
    max_width: int
    max_defer_depth: int
    calls_nbytes: int
    max_tracebacks: int
    connect_timeout_s: float
    reconnect_timeout_s: float
    no_workers_timeout_s: float
    watchdog_s: float


class ResultsSettings(Section):
    """How stored values are protected, and where they are in tests."""

    key: str
    only_in: str


class SecretsSettings(Section):
    """Where secrets are looked up."""

    provider: str


class RunsSettings(Section):
    """Where the history of runs is, and how long to wait for it."""

    path: str
    lease_s: float
    patience_s: float


class RetentionSettings(Section):
    """What services, and ``anabranch prune``, keep."""

    runs: str
    logs: str
    results: str
    caches: str


class ServiceSettings(Section):
    """Defaults of the options of ``anabranch serve``."""

    address: str
    port: int
    max_runs: int
    runs_per_process: int
    hosts: str
    proxies: str
    token: str
    view_token: str
    tls_cert: str
    tls_key: str
    pages: bool
    reload: bool
    drain_s: float
    cancel_grace_s: float
    notifiers: str
    notices_per_hour: int
    late_s: float
    silent_s: float
    backlog: int
    url: str
    key: str


class Settings(Section):
    """All settings as attributes. The only instance is `anabranch.config`.

    Raises
    ------
    SettingError
        On reading or assigning an unknown name or a value of the wrong type. The first read reports all mistakes in
        files and in the environment.

    Examples
    --------
    >>> with config.set(engine__max_losses=5):
    ...     config.engine.max_losses
    5
    >>> config.engine.max_losses
    3
    """

    backend: str
    checkpointing: bool
    progress: str
    scheduler_page: bool
    logging: LoggingSettings
    engine: EngineSettings
    results: ResultsSettings
    runs: RunsSettings
    retention: RetentionSettings
    secrets: SecretsSettings
    service: ServiceSettings

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["logging"] = LoggingSettings("logging.")
        self.__dict__["engine"] = EngineSettings("engine.")
        self.__dict__["results"] = ResultsSettings("results.")
        self.__dict__["runs"] = RunsSettings("runs.")
        self.__dict__["retention"] = RetentionSettings("retention.")
        self.__dict__["secrets"] = SecretsSettings("secrets.")
        self.__dict__["service"] = ServiceSettings("service.")

    def set(self, values: Mapping[str, object] | None = None, /, **named: object) -> _Assignment:
        """Assign several settings: all or none of them. As a context manager, it restores the old values at its end.

        Parameters
        ----------
        values
            Values by dotted name (``{"engine.max_losses": 5}``) or nested.
        **named
            Values by name with ``__`` in place of the dot, as in `dask.config.set`.
        """
        by_keyword = {name.replace("__", "."): value for name, value in named.items()}
        return _Assignment({**_flat(values or {}), **_flat(by_keyword)})

    def snapshot(self) -> dict[str, Any]:
        """All settings as a plain nested dict, checked. Later assignments do not change it."""
        _make_sure()
        current = _current()
        found = {name: _checked(name, current[name]) if name in current else _read(name) for name in _DEFAULTS}
        _refuse(_unknown(name) for name in current if name not in _DEFAULTS)
        return _nested(found)

    def refresh(self) -> None:
        """Forget assignments, and read files and the environment again."""
        section: dict[str, Any] = {}
        dask.config.refresh(config=section)
        dask.config.global_config["anabranch"] = section["anabranch"]
        _overlay()
        apply_logging()
        _refuse(_problems)


@contextmanager
def as_by_default() -> Iterator[None]:
    """Within the block, every setting has its default, whatever files, environment and assignments say."""
    problems, _problems[:] = _problems[:], []
    try:
        with _Assignment(_DEFAULTS):
            yield
    finally:
        _problems[:] = problems


# ---------------------------------------------------------------------------------------------------------------------
# Reading and assigning


def _make_sure() -> None:
    if _problems:
        _refuse(_problems)
    if "anabranch" not in dask.config.global_config:  # it went with the end of a block of `dask.config.set`
        config.refresh()


def _read(name: str) -> Any:
    """Value of a setting, checked, because ``dask.config.set`` checks nothing."""
    _make_sure()
    if name not in _DEFAULTS:
        raise SettingError(_unknown(name))
    # If somebody sets all of "anabranch" through dask.config, the settings that are not named keep their defaults.
    return _checked(name, dask.config.get(f"anabranch.{name}", _DEFAULTS[name]))


def _checked(name: str, value: Any) -> Any:
    if complaint := _complaint(name, value):
        raise SettingError(f"{complaint} (from {_source(name, value)})")
    return value


class _Assignment:
    """Settings assigned through `dask.config.set`; as a context manager, it restores the old values at its end."""

    def __init__(self, values: Mapping[str, object]) -> None:
        values = _flat(values)
        _refuse(_unknown(name) if name not in _DEFAULTS else _complaint(name, value) for name, value in values.items())
        self._logs = any(name.startswith("logging.") for name in values)
        self._undo = dask.config.set({f"anabranch.{name}": value for name, value in values.items()})
        _learn()
        if self._logs:
            apply_logging()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._undo.__exit__(*exc_info)
        _learn()
        if self._logs:
            apply_logging()


# ---------------------------------------------------------------------------------------------------------------------
# What is wrong with a name or a value


def _refuse(complaints: Iterable[str | None]) -> None:
    """Raise one error with all complaints, if there are any."""
    if found := [complaint for complaint in complaints if complaint]:
        raise SettingError("\n".join(found))


def _unknown(name: str) -> str:
    if name in _SECTIONS:
        return f"{name!r} is a section, not a setting; it has: {listed(_names_in(f'{name}.'))}"
    # By the last part first: that finds `config.max_losses`, where the section was forgotten.
    by_leaf = {known.rpartition(".")[2]: known for known in (*_DEFAULTS, *_SECTIONS)}
    close = [by_leaf[leaf] for leaf in get_close_matches(name.rpartition(".")[2], by_leaf, n=2)]
    close = close or get_close_matches(name, by_leaf.values(), n=1)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ";"
    section = next((section for section in _SECTIONS if name.startswith(f"{section}.")), "")
    names = _names_in(section and f"{section}.")
    return f"there is no setting {name!r}{hint} {section or 'anabranch'} has: {listed(names)}"


def _complaint(name: str, value: object) -> str | None:
    """What is wrong with the value of a setting that exists; None if nothing is."""
    if type(value) in (bool, int, float, str):  # as nearly all are, each time that a run takes stock of them
        return _complaint_of_plain(name, value)
    return _find_complaint(name, value)


def _find_complaint(name: str, value: object) -> str | None:
    kind = type(_DEFAULTS[name])
    if kind is bool:
        wanted = None if isinstance(value, bool) else "true or false"
    elif kind is str:
        wanted = _TEXTS[name](value)
    else:
        wanted = _number_wanted(value, whole=kind is int, zero=name in _MAY_BE_ZERO)
    return wanted and f"setting {name!r}: expected {wanted}; found {_masked(name, value)} ({type(value).__name__})"


_complaint_of_plain = lru_cache(1000, typed=True)(_find_complaint)


def _masked(name: str, value: object) -> str:
    """A value as it may be shown; secrets are masked."""
    return repr("***") if name in _SECRET and value else repr(value)


def _learn() -> None:
    """Have keys, tokens and the database's password masked wherever they turn up."""
    global _learnt
    values = {name: dask.config.get(f"anabranch.{name}", None) for name in (*_SECRET, "backend")}
    password = password_of(str(values.pop("backend")))
    found = [*values.values(), password, os.environ.get("PGPASSWORD")]
    if found != _learnt:
        _learnt = found
        forget("settings")
        learn("settings", found)


def _number_wanted(value: object, *, whole: bool, zero: bool) -> str | None:
    if isinstance(value, int if whole else (int, float)) and not isinstance(value, bool):
        if (value >= 0 if zero else value > 0) and value < math.inf:
            return None
    return f"{'a whole number' if whole else 'a number'}, {'zero or more' if zero else 'more than zero'}"


def _backend_wanted(value: object) -> str | None:
    is_backend = isinstance(value, str) and (value in ("local", "none") or "://" in value)
    return None if is_backend else "'local', 'none' or a database URL"


def _progress_wanted(value: object) -> str | None:
    return None if value in _PROGRESS else f"one of {listed(_PROGRESS)}"


def _key_wanted(value: object) -> str | None:
    is_key = isinstance(value, str) and (not value or len(value) >= _MIN_KEY)
    return None if is_key else f"a secret text of at least {_MIN_KEY} characters, or none"


def _path_wanted(value: object) -> str | None:
    return None if isinstance(value, str) and "\0" not in value else "the path of a file"


def _text_wanted(value: object) -> str | None:
    return None if isinstance(value, str) and value.isprintable() else "a text of one line"


def _url_wanted(value: object) -> str | None:
    is_url = isinstance(value, str) and value.isprintable() and (not value or value.startswith(("http://", "https://")))
    return None if is_url else "a URL that begins with https://, or none"


def _provider_wanted(value: object) -> str | None:
    is_provider = isinstance(value, str) and (value in ("environment", "keyring") or value.count(":") == 1)
    return None if is_provider else "'environment', 'keyring' or 'module:function'"


def _level_wanted(value: object) -> str | None:
    return None if isinstance(value, str) and value.upper() in _LEVELS else f"one of {listed(_LEVELS)}"


def _format_wanted(value: object) -> str | None:
    wanted = "a %-style format of the logging module"
    if not isinstance(value, str):
        return wanted
    try:
        logging.Formatter(value, defaults=TASK_FIELDS).format(logging.makeLogRecord({}))
    except (ValueError, TypeError) as error:
        return f"{wanted} ({error})"
    return None


def _rules_wanted(value: object, *, of_caches: bool = False) -> str | None:
    wanted = "limits such as '90d, 5 GB'" if of_caches else RULES
    if not isinstance(value, str):
        return wanted
    try:
        rules = read_rules(value)
    except ValueError as error:
        return f"{wanted} ({error})"
    is_of_runs = len(rules) > 1 or any(rule != Rule(age=rule.age, nbytes=rule.nbytes) for rule in rules)
    return wanted if of_caches and is_of_runs else None


_TEXTS: dict[str, Callable[[object], str | None]] = {
    "backend": _backend_wanted,
    "progress": _progress_wanted,
    "results.key": _key_wanted,
    "results.only_in": _path_wanted,
    "logging.directory": _path_wanted,
    "retention.runs": _rules_wanted,
    "retention.logs": _rules_wanted,
    "retention.results": _rules_wanted,
    "retention.caches": partial(_rules_wanted, of_caches=True),
    "runs.path": _path_wanted,
    "secrets.provider": _provider_wanted,
    "service.address": _text_wanted,
    "service.hosts": _text_wanted,
    "service.proxies": _text_wanted,
    "service.notifiers": _text_wanted,
    "service.token": _key_wanted,
    "service.view_token": _key_wanted,
    "service.tls_cert": _path_wanted,
    "service.tls_key": _path_wanted,
    "service.key": _key_wanted,
    "service.url": _url_wanted,
    "logging.level": _level_wanted,
    "logging.format": _format_wanted,
}


# ---------------------------------------------------------------------------------------------------------------------
# Where values come from


def _flat(section: object, prefix: str = "") -> dict[str, Any]:
    """Values of a nested mapping by dotted name; ``max-losses``, as Dask allows, becomes ``max_losses``."""
    found: dict[str, Any] = {}
    for key, value in section.items() if isinstance(section, Mapping) else ():
        name = f"{prefix}{key}".replace("-", "_")
        if isinstance(value, (str, int, float)) or not isinstance(value, Mapping):  # the first are told at once
            found[name] = value
        else:
            found.update(_flat(value, f"{name}."))
    return found


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        section, _, leaf = name.rpartition(".")
        (found.setdefault(section, {}) if section else found)[leaf] = value
    return found


def _names_in(prefix: str) -> list[str]:
    """Names directly in the section with that prefix, in the order of ``anabranch.yaml``."""
    return list(dict.fromkeys(name[len(prefix) :].partition(".")[0] for name in _DEFAULTS if name.startswith(prefix)))


def _current() -> dict[str, Any]:
    """What ``dask.config`` holds for us."""
    return _flat(dask.config.get("anabranch", {}))


def _searched() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each file on Dask's search path, with our settings in it."""
    for path, content in dask.config.collect_yaml(dask.config.paths, return_paths=True):
        yield str(path), _flat(content.get("anabranch"))


def _local() -> Iterator[tuple[str, dict[str, Any]]]:
    """``./anabranch.yaml``, if there is one that can be used."""
    if not _local_complaint() and not explain_unread():
        for content in dask.config.collect_yaml([_LOCAL_FILE]):
            yield str(Path(_LOCAL_FILE).absolute()), _flat(content["anabranch"])


def explain_unread() -> str:
    """Why ``./anabranch.yaml`` is there and not read; empty if it is read, or is not there.

    Whoever can write to the current directory could otherwise have somebody else's commands load code.
    """
    try:
        found = os.stat(_LOCAL_FILE)
        is_own = {found.st_uid, os.lstat(_LOCAL_FILE).st_uid} <= {0, os.getuid()}
    except (OSError, AttributeError):  # there is none, or there are no owners on this system
        return ""
    path = Path(_LOCAL_FILE).absolute()
    if not is_own:
        return f"{path} is not read, because it is another user's; chown {os.getuid()} {path}"
    if found.st_mode & stat.S_IWOTH:
        return f"{path} is not read, because others can write to it; chmod o-w {path}"
    return ""


def _local_complaint() -> str | None:
    """Why ``./anabranch.yaml`` cannot be used; None if it can, or if there is none."""
    if explain_unread():
        return None
    try:
        content = next(iter(dask.config.collect_yaml([_LOCAL_FILE])), {"anabranch": None})
    except ValueError as error:
        return str(error)
    if isinstance(content.get("anabranch", ""), Mapping | None):
        return None
    return f"{Path(_LOCAL_FILE).absolute()}: expected settings below the heading 'anabranch:'; found {listed(content)}"


def _environment(prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each variable with the prefix, and its setting."""
    for variable, text in sorted(os.environ.items()):
        if variable.startswith(prefix):
            name = variable.removeprefix(prefix).lower().replace("__", ".")
            value = dask.config.interpret_value(text)
            if isinstance(_DEFAULTS.get(name), str) and not isinstance(value, str):
                value = text  # a text that happens to look like a number
            yield variable, {name: value}


def _sources() -> Iterator[tuple[str, dict[str, Any]]]:
    """Sources after Dask's search path, from weakest to strongest."""
    yield from _local()
    yield from _environment("DASK_ANABRANCH__")
    yield from _environment("ANABRANCH__")


def environment_without_secrets() -> dict[str, str]:
    """The environment without what it says of keys, tokens and databases with passwords."""
    secret = {"SERVICE_TOKEN", "SERVICE_VIEW_TOKEN", *(name.upper().replace(".", "__") for name in _SECRET)}
    hidden = {f"{prefix}{name}" for prefix in ("ANABRANCH_", "ANABRANCH__", "DASK_ANABRANCH__") for name in secret}
    return {
        name: text
        for name, text in os.environ.items()
        if name not in hidden and not (name.endswith("ANABRANCH__BACKEND") and password_of(text))
    }


def _source(name: str, value: object) -> str:
    """Where a value was written. Reads all files again, so it is for messages only."""
    written: list[tuple[str, dict[str, Any]]] = [*_searched(), *_sources()]
    for origin, values in written[::-1]:
        if name in values and values[name] == value:
            return origin
    return "dask.config"


def is_chosen(name: str) -> bool:
    """Whether somebody has set a setting, even to its default."""
    written = [*_searched(), *_sources()]
    return any(name in values for _, values in written) or _read(name) != _DEFAULTS[name]


def chosen() -> dict[str, str]:
    """Settings that differ from their defaults, each with its value as it may be shown, and its source."""
    values = {name: _read(name) for name in _DEFAULTS}
    return {
        name: f"{_masked(name, value)} (from {_source(name, value)})"
        for name, value in values.items()
        if value != _DEFAULTS[name]
    }


def _assigned() -> dict[str, Any]:
    """What was assigned through ``dask.config`` before this module was imported, or came from a parent process."""
    found = _current()
    if found:
        written = [*_searched(), *_environment("DASK_ANABRANCH__")]
        for name, value in {name: value for _, values in written for name, value in values.items()}.items():
            if found.get(name) == value:
                del found[name]
    return found


def _overlay(assigned: Mapping[str, object] | None = None) -> None:
    """Put our own file and variables over what Dask has read, and collect all problems.

    Nothing is raised here: a misspelt variable must not make an import fail.
    """
    problems = [_local_complaint()]
    values: dict[str, Any] = {}
    for origin, given in _sources():
        for name, value in given.items():
            if name in _DEFAULTS:
                values[name] = value
            elif name not in _SECTIONS or value is not None:  # a heading with nothing below it says nothing
                problems.append(f"{_unknown(name)} (from {origin})")
    dask.config.set({f"anabranch.{name}": value for name, value in {**values, **(assigned or {})}.items()})
    _learn()
    for name, value in _current().items():
        complaint = _complaint(name, value) if name in _DEFAULTS else _unknown(name)
        if complaint:
            problems.append(f"{complaint} (from {_source(name, value)})")
    _problems[:] = dict.fromkeys(filter(None, problems))


# ---------------------------------------------------------------------------------------------------------------------
# Logging, which must follow its settings at once


def is_never_taken(record: logging.LogRecord) -> bool:
    """The default hook: no record is handled by anything else, while no run is active here."""
    return False


class Terminal(logging.Handler):
    """Writes records to standard error while the application has no handler of its own for them."""

    is_ours = True
    is_taken: Callable[[logging.LogRecord], bool] = staticmethod(is_never_taken)
    """Hook: whether something else handles a record, and shows it here or elsewhere."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless something else does."""
        if not self.is_taken(record) and not has_handlers():
            self.write(record)

    def write(self, record: logging.LogRecord) -> None:
        """Write a record: further lines are indented, and control characters escaped."""
        try:
            first, *rest = printable_lines(mask(self.format(record)))
            sys.stderr.write("".join([f"{first}\n", *(f"    {line}\n" for line in rest)]))
        except Exception:  # a closed terminal must not fail a run; `logging` decides what to tell
            self.handleError(record)


def has_handlers() -> bool:
    """Whether the application has handlers of its own for our records."""
    return any(not getattr(each, "is_ours", False) for each in (*logging.root.handlers, *_logger.handlers))


def apply_logging() -> None:
    """Give the logger ``anabranch`` the level and format of the settings.

    Assignments do this by themselves; call it where ``dask.config.set`` may have changed them.
    """
    if not _problems:
        _logger.setLevel(config.logging.level.upper())
        terminal.setFormatter(logging.Formatter(config.logging.format, defaults=TASK_FIELDS))


# ---------------------------------------------------------------------------------------------------------------------

_defaults = dask_settings.read(package_files.read("base/anabranch.yaml"))
_DEFAULTS: dict[str, Any] = _flat(_defaults["anabranch"])
_SECTIONS = tuple(dict.fromkeys(name.rpartition(".")[0] for name in _DEFAULTS if "." in name))
_problems: list[str] = []
_learnt: list[Any] = []
_logger = logging.getLogger("anabranch")
terminal = Terminal()

config = Settings()

_before = _assigned()
dask_settings.load_early()
dask.config.update_defaults(_defaults)
_overlay(_before)
_logger.addHandler(terminal)
apply_logging()
if unread := explain_unread():
    _logger.warning("%s", unread)
