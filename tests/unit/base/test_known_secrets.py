"""Secrets that are learnt: which texts are theirs, in parts and in every spelling."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from anabranch.base import known_secrets, masking

PASSWORD = "Hush\"Hush'77\\é"
KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\nHushHush77OfALine\n-----END KEY-----\n"


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    known_secrets.forget("run")


class Login(NamedTuple):
    user: str
    password: str


@dataclass
class Connection:
    user: str
    password: str


@dataclass(slots=True)
class Slotted:
    password: str


class Model(BaseModel):
    user: str
    password: SecretStr


class Silent:
    """Shows nothing of itself."""

    def __init__(self) -> None:
        self.password = PASSWORD

    def __repr__(self) -> str:
        raise RuntimeError("no")


HOLDERS: list[Any] = [
    PASSWORD,
    PASSWORD.encode(),
    bytearray(PASSWORD.encode()),
    {"user": "ann", "password": PASSWORD},
    {"a": [{"b": (PASSWORD,)}]},
    [PASSWORD, "another"],
    {PASSWORD},
    Login("ann", PASSWORD),
    Connection("ann", PASSWORD),
    Slotted(PASSWORD),
    Model(user="ann", password=SecretStr(PASSWORD)),
    SecretStr(PASSWORD),
    Silent(),
    np.array([PASSWORD, "another"]),
    np.array([PASSWORD], dtype=object),
]


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: type(holder).__name__)
def test_what_a_secret_is_made_of_is_masked_wherever_it_was(holder: Any) -> None:
    known_secrets.learn("run", [holder])

    assert masking.mask(f"no {PASSWORD}!") == "no ***!"
    assert "Hush" not in masking.mask(json.dumps({"password": PASSWORD}))


SPELLINGS: dict[str, Any] = {
    "plain": str,
    "repr": repr,
    "repr in a repr": lambda text: repr(repr({"x": text})),
    "repr beside a quote": lambda text: repr(text + "\"'"),
    "JSON": json.dumps,
    "JSON with all characters": lambda text: json.dumps({"x": text}, ensure_ascii=False),
    "JSON in JSON": lambda text: json.dumps(json.dumps([text])),
    "URL": quote,
    "part of a URL": lambda text: quote(text, safe=""),
    "form": quote_plus,
    "bytes": lambda text: repr(text.encode()),
    "Base64": lambda text: base64.b64encode(text.encode()).decode(),
    "Base64 of URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@given(
    secret=st.text(st.characters(codec="utf-8", exclude_characters="*"), min_size=6).filter(
        lambda text: len(text.strip()) >= 6
    )
)
def test_a_secret_is_masked_however_it_is_spelt(spelling: str, secret: str) -> None:
    known_secrets.learn("run", [secret])
    try:
        spelt = SPELLINGS[spelling](secret)
        assert masking.mask(spelt) != spelt
        assert len(masking.mask(spelt)) <= len(SPELLINGS[spelling]("")) + len(masking.MASK) + len("====")
    finally:
        known_secrets.forget("run")


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
def test_a_secret_is_masked_in_the_base64_of_a_longer_text(before: str) -> None:
    known_secrets.learn("run", ["ann:swordfish-77"])

    masked = masking.mask(base64.b64encode(f"{before}ann:swordfish-77 and more".encode()).decode())

    assert b"wordfish" not in base64.b64decode(masked.replace("***", "AAAA") + "==")


def test_lines_of_a_key_are_masked_one_by_one() -> None:
    known_secrets.learn("run", [KEY])

    assert [masking.mask(line) for line in KEY.splitlines()] == ["***"] * 4


def test_short_parts_and_names_are_not_searched_for() -> None:
    known_secrets.learn("run", [{"password": "abc", "is_safe": True, "nothing": None}])

    assert masking.mask("password abc is_safe True None") == "password abc is_safe True None"


def test_what_refers_to_itself_or_to_all_there_is_ends() -> None:
    loop: list[Any] = ["swordfish"]
    loop.append(loop)

    known_secrets.learn("run", [loop, pytest, range(10**9), (str(number) for number in range(10**9))])

    assert masking.mask("swordfish") == "***"


def test_bytes_are_searched_for_secrets_in_the_encodings_that_pickles_have() -> None:
    known_secrets.learn("run", [{"password": PASSWORD, "raw": b"\xff\xfe\x00\x01"}])

    for value in ([PASSWORD], np.array([PASSWORD]), {"x": b"..\xff\xfe\x00\x01.."}):
        assert masking.without_secrets(pickle.dumps(value)) is None
    assert masking.without_secrets(pickle.dumps("innocent")) is not None


def test_passwords_in_urls_are_masked_though_nobody_has_learnt_them() -> None:
    text = "from postgresql://ann:p@ss:word@db:5432/runs to http://host:80/a@b and https://u@h/x"

    assert masking.mask(text) == "from postgresql://ann:***@db:5432/runs to http://host:80/a@b and https://u@h/x"


@pytest.mark.parametrize(
    "name",
    ["password", "db_pwd", "Authorization", "auth", "basic_auth", "dsn", "SENTRY_DSN", "access_key", "accessKeyId"],
)
def test_names_that_look_secret(name: str) -> None:
    assert masking.SECRET_NAME.search(name)


@pytest.mark.parametrize("name", ["author", "authority", "key", "keyboard", "access", "path", "date", "compass"])
def test_names_that_do_not_look_secret(name: str) -> None:
    assert not masking.SECRET_NAME.search(name)
