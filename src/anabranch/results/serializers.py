"""Values as bytes and back: what a stored result's body is made of.

A serializer gives back an equal value, or refuses. `safe_load` is the one place where stored bytes are unpickled;
whoever calls it has checked the object's envelope.
"""

from __future__ import annotations

import bz2
import importlib.util
import io
import json
import lzma
import pickle
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias

from anabranch.base import origins
from anabranch.base.errors import ExtraMissing, OptionError, UnstorableValueError, listed
from anabranch.base.names import named

Codec: TypeAlias = Literal["zlib", "lzma", "bz2"]
Bytes: TypeAlias = bytes | memoryview

CHECK_NBYTES = 1 << 20  # loading a larger pickle only to see that it loads would cost as much as the work
_ATOMS = frozenset({int, float, bool, str, bytes, complex, type(None)})


class Serializer(Protocol):
    """What a result needs to know of the format of its values. Instances are picklable and safe in threads."""

    @property
    def name(self) -> str:
        """What the object's header calls it."""
        ...

    @property
    def takes_lists(self) -> bool:
        """Whether a list of values that it takes is a value that it takes: elements are then stored in groups."""
        ...

    @property
    def runs_code(self) -> bool:
        """Whether reading may run code that the bytes name, so that their origin must be trusted."""
        ...

    def dumps(self, value: Any) -> bytes:
        """The value as bytes.

        Raises
        ------
        UnstorableValueError
            It would not come back as it is.
        """
        ...

    def loads(self, data: Bytes) -> Any:
        """The value again; any exception means that it cannot be had from these bytes."""
        ...


class Named:
    """Serializers are what their name says: equal if that is, and written as it is made."""

    name: str
    takes_lists = True
    runs_code = False
    extensions: tuple[str, ...] = ()
    """Ends of names of files of the format, as other programs know it."""
    packages: Mapping[str, str] = {}
    """Modules that it needs, each with the extra that brings it."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def safe_load(data: Bytes) -> Any:
    """The value of a pickle that was stored. Nothing else in the library unpickles what comes from a store.

    Call it with what this process has just pickled, or with the body of an envelope that has been checked.
    """
    return pickle.loads(data)


# ---------------------------------------------------------------------------------------------------------------------


class PickleSerializer(Named):
    """Any value that can be pickled, by cloudpickle if necessary."""

    name = "pickle"
    runs_code = True

    def dumps(self, value: Any) -> bytes:
        """Pickle the value with protocol 5. If the pickle is small, it is checked that it loads again.

        Raises
        ------
        UnstorableValueError
            It cannot be pickled, or does not load.
        """
        try:
            if isinstance(value, io.IOBase) and not isinstance(value, (io.BytesIO, io.StringIO)):
                raise TypeError("an open file belongs to its process")  # cloudpickle would silently copy what is in it
            data = _pickle(value)
            # Loading classes and functions that were pickled by value would give their names to copies, here.
            if type(value) not in _ATOMS and len(data) <= CHECK_NBYTES and b"cloudpickle.cloudpickle" not in data:
                safe_load(data)
        except (Exception, SystemExit, GeneratorExit) as error:  # pickling runs the user's code
            raise unstorable(
                value, self, f"{type(error).__name__}: {error}; return plain data, or what it takes to make it again"
            ) from error
        return data

    def loads(self, data: Bytes) -> Any:
        """The value, by `safe_load`."""
        return safe_load(data)


def _pickle(value: Any) -> bytes:
    try:
        data = pickle.dumps(value, protocol=5)
        if b"__main__" not in data:  # what is defined there has no module that others could import
            return data
    except Exception:
        pass
    return origins.dumps(value)


class JSONSerializer(Named):
    """Values of JSON: None, booleans, numbers, texts, lists, and dicts with texts as keys."""

    name = "json"
    extensions = (".json",)

    def dumps(self, value: Any) -> bytes:
        """The value as JSON text.

        Raises
        ------
        UnstorableValueError
            A part of it would change, such as a tuple into a list.
        """
        try:
            text = json.dumps(value, separators=(",", ":"))
            if json.loads(text) != value and (culprit := _not_json(value, "$")):  # NaN differs and is fine
                raise TypeError(culprit)
        except (Exception, SystemExit, GeneratorExit) as error:  # comparing runs the user's code
            raise unstorable(value, self, f"{error}; use PickleSerializer, or return what JSON has") from error
        return text.encode()

    def loads(self, data: Bytes) -> Any:
        """The value."""
        return json.loads(bytes(data))


def _not_json(value: Any, path: str) -> str | None:
    """The first part of a value that JSON would change."""
    kind = type(value)
    if kind is dict:
        for key, part in value.items():
            if type(key) is not str:
                return f"{path} has a key that is not a text, {key!r:.40}"
            if found := _not_json(part, f"{path}.{key:.40}"):
                return found
        return None
    if kind is list:
        return next((found for i, part in enumerate(value) if (found := _not_json(part, f"{path}[{i}]"))), None)
    return None if kind in (int, float, bool, str, type(None)) else f"{path} is of type {named(kind)}"


class BytesSerializer(Named):
    """Bytes as they are."""

    name = "bytes"
    takes_lists = False
    extensions = (".*",)  # whatever they are of: an image, a text

    def dumps(self, value: Any) -> bytes:
        """The value itself.

        Raises
        ------
        UnstorableValueError
            It is not of type bytes.
        """
        if type(value) is not bytes:
            raise unstorable(value, self, "it takes bytes only; return bytes, or use PickleSerializer")
        return value

    def loads(self, data: Bytes) -> Any:
        """The bytes."""
        return bytes(data)


class TextSerializer(Named):
    """A text, as UTF-8."""

    name = "text"
    takes_lists = False
    extensions = (".*",)  # whatever it is: a page, a query, a list

    def dumps(self, value: Any) -> bytes:
        """The text's bytes.

        Raises
        ------
        UnstorableValueError
            It is not of type str, or has surrogates, which UTF-8 has no bytes for.
        """
        if type(value) is not str:
            raise unstorable(value, self, "it takes texts only; return a str, or use PickleSerializer")
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise unstorable(value, self, str(error)) from error

    def loads(self, data: Bytes) -> Any:
        """The text."""
        return str(data, "utf-8")


_CODECS: Mapping[str, tuple[Callable[[bytes], bytes], Callable[[Bytes], bytes]]] = {
    "zlib": (zlib.compress, zlib.decompress),
    "lzma": (lzma.compress, lzma.decompress),
    "bz2": (bz2.compress, bz2.decompress),
}


_EXTENSIONS = {"bz2": ".bz2", "lzma": ".xz"}  # a stream of zlib is no file that programs know


class CompressedSerializer(Named):
    """Another serializer's bytes, compressed.

    Parameters
    ----------
    inner
        The other serializer.
    codec
        ``zlib`` is quick, ``lzma`` is small, ``bz2`` is between.

    Raises
    ------
    OptionError
        There is no such codec, or `inner` is no serializer.
    """

    def __init__(self, inner: Serializer | None = None, codec: Codec = "zlib") -> None:
        self.inner = check_serializer(inner)
        if codec not in _CODECS:
            raise OptionError(f"CompressedSerializer: expected one of the codecs {listed(_CODECS)}, found {codec!r}")
        self.codec = codec
        self.name = f"{self.inner.name}+{codec}"
        known: tuple[str, ...] = getattr(self.inner, "extensions", ())
        self.extensions = tuple(f"{each}{_EXTENSIONS[codec]}" for each in known if codec in _EXTENSIONS)
        self.packages = getattr(self.inner, "packages", {})
        self.takes_lists = self.inner.takes_lists
        self.runs_code = self.inner.runs_code

    def __repr__(self) -> str:
        return f"CompressedSerializer({self.inner!r}, {self.codec!r})"

    def dumps(self, value: Any) -> bytes:
        """The other's bytes, compressed."""
        return _CODECS[self.codec][0](self.inner.dumps(value))

    def loads(self, data: Bytes) -> Any:
        """The value that the other makes of the decompressed bytes."""
        return self.inner.loads(_CODECS[self.codec][1](data))


# ---------------------------------------------------------------------------------------------------------------------


def _of_others(name: str) -> Serializer:
    from anabranch.results.formats import BY_NAME

    return BY_NAME[name]()


_BY_NAME: Mapping[str, Callable[[], Serializer]] = {
    "pickle": PickleSerializer,
    "json": JSONSerializer,
    "bytes": BytesSerializer,
    "text": TextSerializer,
    **{name: partial(_of_others, name) for name in ("parquet", "feather", "csv", "npy")},
}


def by_name(name: str) -> Serializer:
    """The serializer of that name.

    Raises
    ------
    OptionError
        There is none.

    Examples
    --------
    >>> by_name("json+zlib")
    CompressedSerializer(JSONSerializer(), 'zlib')
    """
    if name in _BY_NAME:
        return _BY_NAME[name]()
    inner, plus, codec = name.rpartition("+")
    if plus and codec in _CODECS and inner.partition("+")[0] in _BY_NAME:
        return CompressedSerializer(by_name(inner), codec)  # type: ignore[arg-type]  # it is one of the codecs
    raise OptionError(
        f"there is no serializer {name!r:.60}; there are {listed(_BY_NAME)}, and these followed by "
        f"{listed(f'+{each}' for each in _CODECS)}"
    )


def check_serializer(serializer: object) -> Serializer:
    """A serializer: the one given, the one of that name, or by default the one for pickles.

    Raises
    ------
    OptionError
        It is none.
    """
    if serializer is None:
        return PickleSerializer()
    if isinstance(serializer, str):
        return by_name(serializer)
    wanted = ("name", "takes_lists", "runs_code", "dumps", "loads")
    if isinstance(serializer, type) or not all(hasattr(serializer, each) for each in wanted):
        raise OptionError(f"expected a serializer, such as JSONSerializer(), found {serializer!r:.80}")
    return serializer  # type: ignore[return-value]  # it has all that the protocol asks for


def need(module: str, extra: str, what: str) -> None:
    """Refuse, before anything is run, what a package that is not there would have to do.

    Raises
    ------
    ExtraMissing
        With the command that installs it.
    """
    if importlib.util.find_spec(module) is None:
        raise ExtraMissing(f'{what} needs the package {module}: pip install "anabranch[{extra}]"')


def unstorable(value: object, serializer: Serializer, why: str) -> UnstorableValueError:
    """The error for a value that would not come back as it is."""
    return UnstorableValueError(
        f"a value of type {named(type(value))} cannot be stored by {type(serializer).__name__}: {why}"
    )
