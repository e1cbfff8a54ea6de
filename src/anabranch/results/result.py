"""A result: where a task's values are stored, in which format, under which names.

A `Store` moves bytes and knows nothing of values; `Result` is the same over all of them. A value is written once:
whoever comes second with the same ids learns what the first has written. Neither holds anything open when pickled.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Self, TypeAlias, TypeVar

from anabranch.base.errors import (
    AnabranchError,
    ExtraMissing,
    OptionError,
    ResultConflict,
    ResultDamaged,
    ResultError,
    ResultMissing,
    ResultStoreError,
)
from anabranch.base.masking import has_secret
from anabranch.base.names import short
from anabranch.base.prefect1 import refusing
from anabranch.base.settings import config
from anabranch.results.elements import pack_elements, unpack_elements
from anabranch.results.envelope import Header, canonical, head_nbytes, head_of, is_envelope, open_envelope, read_header
from anabranch.results.locations import check_location
from anabranch.results.plain_files import is_plain, place_beside
from anabranch.results.reference import ResultRef
from anabranch.results.serializers import Serializer, by_name, check_serializer
from anabranch.results.store import Store
from anabranch.results.templates import Template

T = TypeVar("T")
Ids: TypeAlias = Mapping[str, Any]
"""Whose value it is, run apart: flow, task, and element, chunk or cache key; texts and numbers by name."""

DEFAULT_LOCATION = "{flow_name}/{run_id}/{task_name}"
SWEEP_S = 3600.0  # no write takes an hour, so a temporary file of that age has lost its writer
MAX_REPR = 200  # characters
_HEAD_NBYTES = 4096  # most headers are shorter, so that one trip gets them

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a stored object is."""

    ids: Ids
    created: datetime
    serializer: str
    """Name of what wrote it."""


class Result:
    """Stores values of tasks.

    Parameters
    ----------
    store
        Where they are stored.
    serializer
        How values become bytes: an instance, or its name; default: `PickleSerializer`.
    location
        Template of the names of objects, a function that returns one, or None for ``{flow_name}/{run_id}/{task_name}``.

    Raises
    ------
    OptionError
        The serializer or the location cannot be used.
    """

    @refusing("Result")
    def __init__(
        self,
        store: Store,
        *,
        serializer: Serializer | str | None = None,
        location: str | Callable[..., str] | Template | None = None,
    ) -> None:
        self.store = store
        self.serializer = check_serializer(serializer)
        self.template = Template.of(DEFAULT_LOCATION if location is None else location)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r}, serializer={self.serializer!r})"

    # Where

    @property
    def location(self) -> str:
        """The template of locations as it was written, or what `format` has made of it."""
        return self.template.source

    def locate(self, fields: Mapping[str, Any]) -> str:
        """Location of the object of a task run.

        Raises
        ------
        LocationError
            A field is missing, or has a value that is no part of a name.
        """
        return self.template.render(fields)

    def locate_chunk(
        self,
        fields: Mapping[str, Any],
        indices: Sequence[int],
        *,
        template: Template | None = None,
        serial: int | None = None,
    ) -> str:
        """Location of the object of several elements, below that of their task; the same for the same indices.

        With a serial number, what another number has written for these indices is elsewhere. `template`: in place of
        the result's own.
        """
        first, last = min(indices), max(indices)
        name = f"{first}-{last}"
        if last - first + 1 != len(indices):
            digest = hashlib.sha256(",".join(map(str, sorted(indices))).encode()).hexdigest()
            name += f"-{digest[:16]}"
        if serial is not None:
            name += f".{serial}"
        return check_location(f"{(template or self.template).render(fields)}/{name}")

    def format(self, /, **fields: Any) -> Self:
        """A copy with the location filled in, as Prefect 1 has it."""
        filled = copy.copy(self)
        filled.template = Template.of(self.locate(fields).replace("{", "{{").replace("}", "}}"))
        return filled

    # Writing

    def write(self, location: str, value: Any, ids: Ids | None = None, *, overwrite: bool = False) -> ResultRef:
        """Store a value; when this returns, it is there, whole, and stays if the machine fails.

        A value that is there under the same ids stays and is what the reference is about, unless `overwrite` is set.
        What is there but damaged is replaced.

        Parameters
        ----------
        location
            Name of the object, relative to the root of the store.
        value
            Any that the serializer takes, None too.
        ids
            Whose value it is. A reader that gives other ids is refused.
        overwrite
            Replace whatever is there.

        Raises
        ------
        UnstorableValueError
            The serializer cannot take the value.
        ResultConflict
            What is there is somebody else's.
        ResultStoreError
            The store cannot be written to.
        LocationError
            The location is not one.
        """
        return self.commit(location, value, ids, overwrite=overwrite)[0]

    def write_elements(
        self,
        location: str,
        indices: Sequence[int],
        values: Sequence[Any],
        ids: Ids | None = None,
        *,
        overwrite: bool = False,
    ) -> ResultRef:
        """Store elements of a map in one object; as `write` otherwise."""
        return self.commit_elements(location, indices, values, ids, overwrite=overwrite)[0]

    def commit(
        self,
        location: str,
        value: Any,
        ids: Ids | None = None,
        *,
        overwrite: bool = False,
        created: datetime | None = None,
    ) -> tuple[ResultRef, bool]:
        """As `write`; also whether the value that is there is this one, not another that was there under its ids.

        `created` is when it was made, for the age of cached values; default: now.
        """
        check_location(location)
        body = self.serializer.dumps(value)
        return self._commit(location, body, value, ids, width=None, overwrite=overwrite, created=created)

    def commit_elements(
        self,
        location: str,
        indices: Sequence[int],
        values: Sequence[Any],
        ids: Ids | None = None,
        *,
        overwrite: bool = False,
        created: datetime | None = None,
    ) -> tuple[ResultRef, bool]:
        """As `write_elements`; also whether the values that are there are these."""
        check_location(location)
        body = pack_elements(indices, values, self.serializer)
        return self._commit(location, body, values, ids, width=len(indices), overwrite=overwrite, created=created)

    def _commit(
        self,
        location: str,
        body: bytes,
        value: Any,
        ids: Ids | None,
        *,
        width: int | None,
        overwrite: bool,
        created: datetime | None,
    ) -> tuple[ResultRef, bool]:
        example = value if width is None else next(iter(value), None)
        header, head = head_of(
            body,
            serializer=self.serializer.name,
            type_name=_name_type(example),
            shown=_render_value(value if width is None else list(value[:MAX_REPR])),
            ids=canonical(ids or {}),
            width=width,
            created=created or datetime.now(UTC),
            key=_find_key(),
        )
        if has_secret(body):
            own = ids or {}
            _warn_of_secret(own.get("run"), own.get("task") or own.get("target of") or own.get("cache") or location)
        is_file = width is None and is_plain(location, self.serializer)
        parts = [body] if is_file else [head, body]
        with self._using("written", location):
            before = self._head_place(location) if is_file and overwrite else None
            if is_file:
                self._put_beside(location, header, head, replace=overwrite)
            if self.store.put(location, parts, replace=overwrite):
                if before not in (None, place_beside(location, header.sha256)):
                    self.store.delete(before)
                return header.ref(location), True
            data = self._get(location)
        try:
            there, _ = self._unpacked(data, location)
        except ResultDamaged as error:
            if not is_envelope(data):
                raise ResultConflict(f"{error}; remove it, choose another location, or set overwrite=True") from None
            _logger.warning("%s; it is written again", error)
            with self._using("written", location):
                self.store.put(location, parts, replace=True)
            return header.ref(location), True
        if there.ids != header.ids or there.width != width:
            conflict = ResultConflict(
                f"location {location!r} has the result of {_owner(there.ids)}, and {_owner(header.ids)} is to be "
                "written there; give one of them another location, or set overwrite=True"
            )
            conflict.owner = there.ids
            raise conflict
        return there.ref(location), there.sha256 == header.sha256

    # Reading

    def read(self, where: ResultRef | str, ids: Ids | None = None) -> Any:
        """A stored value.

        Parameters
        ----------
        where
            The reference, whose value it must still be, or only the location.
        ids
            Whose value it must be; None: anybody's.

        Raises
        ------
        ResultMissing
            There is none.
        ResultDamaged
            It is not whole, not the one asked for, or cannot be loaded. Never is a wrong value returned.
        ResultStoreError
            The store cannot be read.
        """
        return self._value(where, ids)[0]

    def read_elements(
        self, where: ResultRef | str, wanted: Collection[int] | None = None, ids: Ids | None = None
    ) -> dict[int, Any]:
        """Elements by index: all that an object holds, or those wanted, without loading more than their neighbours.

        Raises
        ------
        ResultMissing
            There is no such object, or one that is wanted is not in it.
        ResultDamaged, ResultStoreError
            As `read`.
        """
        header, body, location = self._opened(where, ids)
        if (width := header.width) is None:
            raise ResultDamaged(f"result {location!r} holds one value, not elements of a map")
        serializer = self._reader(header, location)
        return _load_body(location, header, lambda: unpack_elements(body, serializer, wanted, width=width))

    def read_dated(
        self, location: str, ids: Ids | None = None, *, data: bytes | None = None
    ) -> tuple[Any, ResultRef, datetime]:
        """A stored value, its reference, and when it was written; of an object's bytes, if these are here already.

        Raises
        ------
        ResultMissing, ResultDamaged, ResultStoreError
            As `read`.
        """
        value, header = self._value(location, ids, data)
        return value, header.ref(location), datetime.fromisoformat(header.created)

    def fetch(self, locations: Collection[str]) -> dict[str, bytes]:
        """The bytes of several objects, by location; those that are not there are left out. For `read_dated`.

        Raises
        ------
        ResultStoreError
            The store cannot be read.
        """
        with self._using("read", next(iter(locations), "*")):
            return self.store.get_many([check_location(each) for each in locations])

    def check_owner(self, location: str, ids: Ids, data: bytes) -> None:
        """Make sure that an object, of which these are the bytes, is not somebody else's; it may be damaged.

        Raises
        ------
        ResultConflict
            It is, or it is no result at all.
        """
        try:
            header = self._header(data, location)
        except ResultDamaged as error:
            if not is_envelope(data):
                raise ResultConflict(f"{error}; remove it, or choose another location") from None
            return
        if header.ids != canonical(ids):
            raise ResultConflict(
                f"location {location!r} has the result of {_owner(header.ids)}, and that of {_owner(canonical(ids))} "
                "is to be there; give one of them another location"
            )

    def check(self, ref: ResultRef, *, whole: bool = True) -> None:
        """Make sure that what was recorded is still there, without loading its value; `whole`: its last byte, too.

        Raises
        ------
        ResultMissing, ResultDamaged, ResultStoreError
            As `read`.
        """
        if whole:
            self._opened(ref, None)
            return
        found = self.info(ref.location)
        if found is None:
            raise ResultMissing(f"there is no result {ref.location!r} in {self.store!r}")
        if found.checksum != ref.checksum:
            raise _replaced(ref.location)

    def exists(self, location: str) -> bool:
        """Whether there is an object, be it damaged."""
        check_location(location)
        with self._using("looked for", location):
            return self.store.exists(location)

    def info(self, location: str) -> ResultRef | None:
        """What the header of an object says, without loading its value; None if there is no object.

        Raises
        ------
        ResultDamaged, ResultStoreError
            As `read`; the body is not looked at.
        """
        found = self._found_header(location)
        return None if found is None else found.ref(location)

    def owner(self, location: str) -> Owner | None:
        """Whose an object is; None if there is no object.

        Raises
        ------
        ResultDamaged, ResultStoreError
            As `info`.
        """
        found = self._found_header(location)
        if found is None:
            return None
        return Owner(json.loads(found.ids), datetime.fromisoformat(found.created), found.serializer)

    def delete(self, location: str) -> None:
        """Remove an object, if there is one."""
        check_location(location)
        with self._using("deleted", location):
            beside = self._head_place(location) if is_plain(location, self.serializer) else None
            self.store.delete(location)
            if beside is not None:
                self.store.delete(beside)

    def put_note(self, location: str, data: bytes, *, replace: bool = False) -> bool:
        """Leave bytes that are no value, and need not survive the machine; False if there are some, without `replace`.

        Raises
        ------
        ResultStoreError
            The store cannot be written to.
        """
        with self._using("written", location):
            put = getattr(self.store, "put_quickly", self.store.put)
            return bool(put(check_location(location), [data], replace=replace))

    def get_note(self, location: str) -> bytes | None:
        """Such bytes; None if there are none.

        Raises
        ------
        ResultStoreError
            The store cannot be read.
        """
        try:
            with self._using("read", location):
                return self.store.get(check_location(location))
        except FileNotFoundError:
            return None

    def sweep(self) -> int:
        """Remove temporary files older than an hour, which writers that died have left; how many there were."""
        with self._using("swept", "*"):
            return self.store.sweep(SWEEP_S)

    def close(self) -> None:
        """Close this process's connections to the store; the next call opens them again."""
        self.store.close()

    def _found_header(self, location: str) -> Header | None:
        check_location(location)
        try:
            with self._using("read", location):
                data = self._get(location, _HEAD_NBYTES)
                if len(data) >= _HEAD_NBYTES and not (is_envelope(data) and head_nbytes(data) <= len(data)):
                    data = self._get(location, head_nbytes(data) if is_envelope(data) else None)
        except ResultMissing:
            return None
        return self._header(data, location)

    def _value(self, where: ResultRef | str, ids: Ids | None, data: bytes | None = None) -> tuple[Any, Header]:
        header, body, location = self._opened(where, ids, data)
        if header.width is not None:
            raise ResultDamaged(
                f"result {location!r} holds {header.width:,} elements of a map, not one value; use read_elements()"
            )
        serializer = self._reader(header, location)
        return _load_body(location, header, lambda: serializer.loads(body)), header

    def _opened(
        self, where: ResultRef | str, ids: Ids | None, data: bytes | None = None
    ) -> tuple[Header, memoryview, str]:
        location = check_location(where.location if isinstance(where, ResultRef) else where)
        if data is None:
            with self._using("read", location):
                data = self._get(location)
        header, body = self._unpacked(data, location)
        if isinstance(where, ResultRef) and header.sha256 != where.checksum:
            raise _replaced(location)
        if ids is not None and header.ids != canonical(ids):
            raise ResultDamaged(
                f"result {location!r} is that of {_owner(header.ids)}, not of {_owner(canonical(ids))}: it was moved, "
                "copied, or written by another flow"
            )
        return header, body, location

    def _unpacked(self, data: bytes, location: str) -> tuple[Header, memoryview]:
        """Header and body of a whole object, checked."""
        return open_envelope(self._head_beside(data, location) + data, location, key=_find_key())

    def _header(self, data: bytes, location: str) -> Header:
        """The header of an object, of which this is the beginning; or, of a plain file, the whole."""
        return read_header(self._head_beside(data, location) + data, location, key=_find_key())

    def _put_beside(self, location: str, header: Header, head: bytes, *, replace: bool) -> None:
        """Write the head of a plain file, unless the file is there with the head of somebody else."""
        place = place_beside(location, header.sha256)
        if not self.store.put(place, [head], replace=replace) and not self.store.exists(location):
            self.store.put(place, [head], replace=True)  # it is left of a file that is gone

    def _head_place(self, location: str) -> str | None:
        """Where the head of the plain file is that is there now."""
        try:
            data = self.store.get(location)
        except FileNotFoundError:
            return None
        return None if is_envelope(data) else place_beside(location, hashlib.sha256(data).hexdigest())

    def _head_beside(self, data: bytes, location: str) -> bytes:
        """What is known of a plain file; nothing, if it is none, or not one of ours."""
        if is_envelope(data) or not data:
            return b""
        try:
            with self._using("read", location):
                return self.store.get(place_beside(location, hashlib.sha256(data).hexdigest()))
        except FileNotFoundError:
            return b""

    def _reader(self, header: Header, location: str) -> Serializer:
        """What the object was written with, which may be another serializer than is written with now."""
        if header.serializer == self.serializer.name:
            return self.serializer
        try:
            found = by_name(header.serializer)
        except OptionError as error:
            raise ResultDamaged(f"result {location!r}: {error}") from None
        # Who chose a format that runs no code must not be given a pickle by somebody who can write to the store.
        if found.runs_code and not (self.serializer.runs_code or header.is_signed):
            raise ResultDamaged(
                f"result {location!r} was written as {header.serializer!r}, which can run code when it is read; this "
                f"result is {self.serializer.name!r}"
            )
        return found

    def _get(self, location: str, nbytes: int | None = None) -> bytes:
        try:
            return self.store.get(location, nbytes)
        except FileNotFoundError:
            raise ResultMissing(f"there is no result {location!r} in {self.store!r}") from None

    @contextmanager
    def _using(self, done: str, location: str) -> Iterator[None]:
        """Turns whatever a store raises into the one error that says what could not be done where."""
        try:
            yield
        except (AnabranchError, FileNotFoundError) as error:
            if isinstance(error, FileNotFoundError) and done != "read":
                raise ResultStoreError(
                    f"result {location!r} cannot be {done} in {self.store!r}: {explained(error)}"
                ) from error
            raise
        except ImportError as error:  # on a worker that has less than the machine on which the flow was written
            raise ExtraMissing(
                f"result {location!r} cannot be {done} in {self.store!r}, because this process lacks a package: "
                f"{error}{_install(self.store)}"
            ) from error
        except Exception as error:  # of the operating system, or of any driver's own kind
            raise ResultStoreError(
                f"result {location!r} cannot be {done} in {self.store!r}: {explained(error)}"
            ) from error


# ---------------------------------------------------------------------------------------------------------------------

_EXPLAINED = {
    errno.ENOSPC: "no space left there; free some, then resume the run",
    errno.EDQUOT: "no space left in the quota; free some, then resume the run",
    errno.EROFS: "it is read-only",
    errno.EACCES: "this user may not do that there",
    errno.EPERM: "this user may not do that there",
    errno.ENOTDIR: "a part of its path is not a directory (symbolic links are not followed)",
    errno.ELOOP: "it is a symbolic link, and these are not followed",
    errno.EISDIR: "it is a directory",
}
_FULL = ("no space left", "disk is full", "disk full")


def explained(error: BaseException) -> str:
    """What an error of a store means, with its own words."""
    text = " ".join(str(error).split())[:500]
    number = getattr(error, "errno", None)
    meaning = _EXPLAINED.get(number) if isinstance(number, int) else None
    if meaning is None and any(words in text.lower() for words in _FULL):
        meaning = _EXPLAINED[errno.ENOSPC]
    name = type(error).__name__
    return f"{meaning} ({name}: {text})" if meaning else f"{name}: {text}"


def _load_body(location: str, header: Header, load: Callable[[], T]) -> T:
    try:
        return load()
    except KeyError as error:
        if header.width is not None and error.args and isinstance(error.args[0], int):
            raise ResultMissing(f"result {location!r} has no element {error.args[0]}") from None
        raise _unloadable(location, header, error) from error
    except (Exception, SystemExit, GeneratorExit) as error:  # loading runs the user's code
        raise _unloadable(location, header, error) from error


def _unloadable(location: str, header: Header, error: BaseException) -> ResultError:
    return ResultDamaged(
        f"result {location!r}, a {header.type_name} written by {header.serializer!r}, cannot be loaded here: "
        f"{type(error).__name__}: {str(error)[:500]}"
    )


def _install(store: Store) -> str:
    extra = next(iter(getattr(store, "packages", {}).values()), "")
    return f'; pip install "anabranch[{extra}]" where tasks run' if extra else ""


def _replaced(location: str) -> ResultDamaged:
    return ResultDamaged(f"result {location!r} is not the one that was recorded: it was written again since")


def _owner(ids: str) -> str:
    return ids if ids != "{}" else "nobody in particular"


def _name_type(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _render_value(value: Any) -> str:
    """One line for people, whatever the value's own repr does."""
    text = short(value, MAX_REPR)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return text if len(text) <= MAX_REPR else f"{text[: MAX_REPR - 1]}…"


@lru_cache(maxsize=1024)  # once for all elements of a map
def _warn_of_secret(run: object, what: object) -> None:
    _logger.warning("the value of %s contains a secret, and is stored as it is", what)


def _find_key() -> str:
    """What objects are signed with here; asked each time, as a result that travels must not carry it along."""
    return config.results.key
