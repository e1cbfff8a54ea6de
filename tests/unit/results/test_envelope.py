"""The format of stored objects, the key that signs them, and what is told of them."""

from __future__ import annotations

import hashlib
import json
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.refusals import refused

from anabranch.base.settings import config
from anabranch.errors import OptionError, ResultDamaged, ResultStoreError, SettingError
from anabranch.results import InMemoryResult, LocalResult, Result, ResultRef, S3Result, SQLResult
from anabranch.results.envelope import (
    MAGIC,
    PREAMBLE_NBYTES,
    canonical,
    head_nbytes,
    head_of,
    open_envelope,
    read_header,
)
from anabranch.results.result import explained

KEY = "correct horse battery staple"
WHEN = datetime(2026, 11, 20, tzinfo=UTC)


def sealed(body: bytes = b"body", *, key: str = "", ids: str = '{"task":"parse"}') -> bytes:
    _, head = head_of(
        body, serializer="bytes", type_name="bytes", shown="b'body'", ids=ids, width=None, created=WHEN, key=key
    )
    return head + body


def with_header(**changes: Any) -> bytes:
    """An object whose header somebody made, with a digest that fits."""
    whole = sealed()
    start = PREAMBLE_NBYTES
    header = json.loads(whole[start : start + int.from_bytes(whole[10:14], "big")])
    text = json.dumps({name: value for name, value in {**header, **changes}.items() if value != "gone"}).encode()
    first = whole[:10] + len(text).to_bytes(4, "big")
    return first + hashlib.sha256(first + text).digest() + bytes(32) + text + b"body"


def test_an_object_is_what_the_format_says():
    whole = sealed(key=KEY)
    assert whole.startswith(MAGIC + b"\x00\x01")
    length = int.from_bytes(whole[10:14], "big")
    header = json.loads(whole[PREAMBLE_NBYTES : PREAMBLE_NBYTES + length])
    assert header["ids"] == '{"task":"parse"}'
    assert header["sha256"] == hashlib.sha256(b"body").hexdigest()
    assert header["created"] == "2026-11-20T00:00:00+00:00"
    assert header["is_signed"] is True
    assert whole[PREAMBLE_NBYTES + length :] == b"body"
    assert head_nbytes(whole) == PREAMBLE_NBYTES + length


@pytest.mark.parametrize("key", ["", KEY])
def test_a_whole_object_is_opened(key: str):
    header, body = open_envelope(sealed(key=key), "x", key=key)
    assert body == b"body"
    assert header.ref("x") == ResultRef("x", 4, hashlib.sha256(b"body").hexdigest(), "bytes", "bytes", "b'body'")


@given(data=st.data(), key=st.sampled_from(["", KEY]))
@settings(max_examples=300, deadline=None)
def test_nothing_but_the_object_itself_is_opened(data: st.DataObject, key: str):
    whole = sealed(key=key)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    changed = whole[:start] + data.draw(st.binary(max_size=40)) + whole[end:]
    if changed != whole:
        with pytest.raises(ResultDamaged, match="'x'"):
            open_envelope(changed, "x", key=key)


@given(data=st.binary(max_size=300), is_ours=st.booleans())
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_it_raise_anything_else(data: bytes, is_ours: bool):
    with pytest.raises(ResultDamaged):
        open_envelope((MAGIC + b"\x00\x01" if is_ours else b"") + data, "x", key="")


@pytest.mark.parametrize(
    "changes",
    [
        {"nbytes": "4"},
        {"nbytes": "gone"},
        {"more": 1},
        {"sha256": 7},
        {"width": "7"},
        {"serializer": None},
        {"ids": {}},
    ],
)
def test_a_header_of_another_shape_is_damage(changes: dict[str, Any]):
    with refused(ResultDamaged, "result 'x' is damaged: its header", at=""):
        open_envelope(with_header(**changes), "x", key="")


def test_a_signature_that_was_cut_off_is_seen():
    signed = sealed(key=KEY)
    stripped = signed[:46] + bytes(32) + signed[78:]
    with refused(ResultDamaged, "'x' is not signed", at=""):
        read_header(stripped, "x", key=KEY)
    with refused(ResultStoreError, "'x' is signed", at=""):
        read_header(stripped, "x", key="")
    whole = sealed()
    with refused(ResultDamaged, "a signature that it should not have", at=""):
        read_header(whole[:46] + b"\x01" * 32 + whole[78:], "x", key="")


def test_ids_are_part_of_what_is_signed():
    one, other = sealed(key=KEY, ids='{"task":"parse"}'), sealed(key=KEY, ids='{"task":"total"}')
    moved = one.replace(b"parse", b"total")
    assert len(moved) == len(other)
    with refused(ResultDamaged, "its header was changed", at=""):
        read_header(moved, "x", key=KEY)


def test_ids_are_the_same_in_any_order():
    assert canonical({"a": 1, "b": "x"}) == canonical({"b": "x", "a": 1})
    for ids in ({"a": object()}, {"a": b"x"}):
        with refused(OptionError, "ids: expected names with texts and numbers", at=""):
            canonical(ids)
    with refused(OptionError, "ids: expected a few names", at=""):
        InMemoryResult().write("x", 1, {"a": "x" * 70_000})


# The key


def test_a_key_is_long_and_shown_nowhere():
    with config.set(results__key=KEY):
        assert KEY not in repr(config.results) + repr(config)
        assert "'***'" in repr(config.results)
    assert repr(config.results) == "ResultsSettings(key='', only_in='')"
    for wrong in ("secretsecret123", 1234567890123456, None):
        with refused(
            SettingError, "setting 'results.key': expected a secret text of at least 16 characters", at=""
        ) as info:
            config.results.key = wrong  # type: ignore[assignment]  # as a user may
        assert str(wrong) not in str(info.value) or not wrong


def test_a_key_does_not_travel_with_a_result():
    with config.set(results__key=KEY):
        result = InMemoryResult()
        result.write("x", 1)
        assert KEY.encode() not in pickle.dumps(result)


# What is told


class Loud:
    def __repr__(self) -> str:
        return "\x1b[2Jloud\n" * 1000


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Loud(), "\\x1b[2Jloud \\x1b[2Jloud"),
        (Broken(), "<Broken instance"),
        ("a" * 9999, "'aaaa"),
        ([1] * 999, "[1, 1"),
    ],
)
def test_a_value_is_shown_in_one_bounded_line(value: object, text: str):
    shown = InMemoryResult().write("x", value).repr
    assert shown.startswith(text)
    assert len(shown) <= 200
    assert shown.isprintable()


def test_elements_are_shown_by_the_first_of_them():
    ref = InMemoryResult().write_elements("x", range(1000), [{"n": n} for n in range(1000)])
    assert ref.repr.startswith("[{'n': 0}, {'n': 1}")
    assert ref.type_name == "dict"


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("database or disk is full"), OSError(122, "Quota exceeded")],
)
def test_no_space_is_told_in_the_same_words_whoever_says_it(error: Exception):
    assert explained(error).startswith("no space left")


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (S3Result, "S3Result('s3://bucket/a', serializer=PickleSerializer())"),
        (SQLResult, "SQLResult('postgresql://ann:***@db/results', serializer=PickleSerializer())"),
        (LocalResult, "LocalResult('/srv/results', serializer=CompressedSerializer(JSONSerializer(), 'zlib'))"),
    ],
)
def test_a_result_is_shown_without_its_secrets(result: type[Result], text: str):
    if result is S3Result:
        pytest.importorskip("s3fs")
        shown = S3Result("bucket", "a/", key="AKIA", secret="hush")
    elif result is SQLResult:
        pytest.importorskip("psycopg")
        shown = SQLResult("postgresql://ann:hush@db/results")
    else:
        shown = LocalResult("/srv/results", serializer="json+zlib")
    assert repr(shown) == text
