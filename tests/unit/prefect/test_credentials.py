"""Secrets of Prefect 1."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from anabranch.errors import SecretNotFound
from anabranch.prefect import Flow, task
from anabranch.prefect.credentials import EnvVarSecret, PrefectSecret, Secret


@task
def use(secret: Any) -> Any:
    return secret


def used(secret: Any) -> Any:
    with Flow("f") as flow:
        node = use(secret)
    state = flow.run()
    return state.result[node].result if state.is_successful() else state.message


def test_a_secret_is_found_under_its_name_or_that_of_prefects_settings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFECT__CONTEXT__SECRETS__TEA", "green")
    assert Secret("TEA").get() == "green"
    monkeypatch.setenv("TEA", "black")
    assert Secret("TEA").get() == PrefectSecret("TEA").run() == "black"
    with pytest.raises(SecretNotFound):
        Secret("NOTHING_OF_THE_KIND").get()


def test_json_is_parsed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACCOUNT", '{"user": "me"}')
    assert used(PrefectSecret("ACCOUNT")) == {"user": "me"}
    assert pickle.loads(pickle.dumps(Secret("ACCOUNT"))).get() == {"user": "me"}


def test_secrets_may_be_called_as_the_tasks_that_they_are_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("A", "a")
    assert used(PrefectSecret("A")()) == "a"
    assert PrefectSecret("B", max_retries=1)("A").get() == "a"
    assert PrefectSecret("B").run("A") == "a"


def test_variables_may_be_missing_and_cast(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("N", "3")
    monkeypatch.delenv("NO_SUCH", raising=False)
    assert used(EnvVarSecret("N", cast=int)) == 3
    assert used(EnvVarSecret("NO_SUCH")) is None
    assert "NO_SUCH" in used(EnvVarSecret("NO_SUCH", raise_if_missing=True))
    assert pickle.loads(pickle.dumps(EnvVarSecret("N", cast=int))).get() == 3


def test_where_secrets_are_may_be_chosen(monkeypatch: pytest.MonkeyPatch):
    import anabranch

    with anabranch.config.set({"secrets.provider": "tests.unit.prefect.test_credentials:known"}):
        assert Secret("X").get() == "known X"


def known(name: str) -> str:
    return f"known {name}"
