"""Secrets: looked up where they are used, and nowhere to be found afterwards."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from anabranch import Flow, Parameter, Secret, config, context, executors, task, unmapped
from anabranch.base import masking
from anabranch.cli import anabranch
from anabranch.errors import OptionError, ParameterError, SecretNotFound
from anabranch.monitoring.failures import failure_lines
from anabranch.runs.store.opening import current_store

VALUE = "sw0rdf1sh-and-more-of-it"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("API_TOKEN", VALUE)
    yield
    masking.forget("secrets")


def from_our_vault(name: str) -> str | None:
    return {"DB": "vault-value"}.get(name)


def fail_to_open(name: str) -> str | None:
    raise PermissionError(f"wrong master password {VALUE}")


# Looking up -----------------------------------------------------------------------------------------------------------


def test_a_task_gets_the_value_and_the_flow_has_the_name_only() -> None:
    got: list[object] = []
    with Flow("secret") as flow:
        task(lambda token, x: got.append((token, x)), name="use")(Secret("API_TOKEN"), 1)
        task(lambda x, token: got.append((token, x)), name="each").map([2, 3], token=unmapped(Secret("API_TOKEN")))

    assert flow.run().is_successful()

    assert sorted(got) == [(VALUE, 1), (VALUE, 2), (VALUE, 3)]
    assert VALUE not in repr(flow.tasks)
    assert VALUE.encode() not in pickle.dumps(Secret("API_TOKEN"))


def test_a_secret_that_is_not_there_fails_the_task_with_its_name() -> None:
    with Flow("secret") as flow:
        node = task(lambda token: token, name="use")(Secret("NO_SUCH"))
        many = task(lambda x, token: token, name="each").map([1, 2], unmapped(Secret("NO_SUCH")))

    view = flow.run()

    assert "secret 'NO_SUCH': the environment of this process does not have it" in view.result[node].message
    assert isinstance(view.result[many].map_states[1].result, SecretNotFound)


def test_providers_are_pluggable() -> None:
    assert Secret("DB", provider=from_our_vault).get() == "vault-value"
    with config.set(secrets__provider=f"{__name__}:from_our_vault"):
        sent = pickle.dumps(Secret("DB"))
        with pytest.raises(SecretNotFound, match=r"provider '.*from_our_vault' of this process does not have it"):
            Secret("API_TOKEN").get()
    assert isinstance(pickle.loads(sent), Secret)
    with pytest.raises(SecretNotFound, match="cannot be loaded here"):
        Secret("DB", provider="no_such_module:get").get()
    with pytest.raises(SecretNotFound, match=r"failed with PermissionError$"):
        Secret("DB", provider=fail_to_open).get()


@pytest.mark.parametrize("name", ["", None, 7, "a\nb"])
def test_names_that_cannot_be_are_refused(name: Any) -> None:
    with pytest.raises(OptionError, match="expected a name such as 'API_TOKEN'"):
        Secret(name)


def test_the_choice_of_a_provider_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    with config.set(secrets__provider="keyring"):
        data = pickle.dumps(Secret("X"))
    assert b"keyring" in data


# Nowhere --------------------------------------------------------------------------------------------------------------


def leaky(kind: str, token: str) -> Any:
    """Lets a secret out in one of the ways there are."""
    log = logging.getLogger("some.library")
    if kind == "logs":
        context.logger.warning("token %s", token)
        log.error("Authorization: Bearer %s", token)
        try:
            raise RuntimeError(f"inner {token}")
        except RuntimeError:
            context.logger.exception("with %r", {"token": token})
        print(f"printed {token}")
    elif kind == "raises":
        raise ValueError(f"cannot log in with {token!r}")
    elif kind == "notes":
        error = ValueError("see note")
        error.add_note(f"token={token}")
        raise error from KeyError(token)
    elif kind == "returns":
        return {"token": token}
    elif kind == "skips":
        from anabranch import SKIP

        raise SKIP(f"no need of {token}")
    elif kind == "retries":
        if context.task_run_count == 1:
            raise ConnectionError(token)
    return None


KINDS = ["logs", "raises", "notes", "returns", "skips", "retries"]


def asking(kind: str) -> Any:
    """Looks the secret up by itself."""
    return leaky(kind, Secret("API_TOKEN").get())


def leaks(isolation: str) -> Flow:
    leak = task(leaky, name="leak", max_retries=1, log_stdout=True, isolation=isolation)
    with Flow("leaks") as flow:
        token = Parameter("key_of_api", secret=True)
        leak.map(KINDS, token=unmapped(Secret("API_TOKEN")))
        task(leaky, name="plain", max_retries=1, log_stdout=True, isolation=isolation).map(KINDS, token=unmapped(token))
        for kind in KINDS:
            leak(kind, Secret("API_TOKEN"))
            task(
                lambda kind: leaky(kind, Secret("API_TOKEN").get()), name="asks", log_stdout=True, isolation=isolation
            )(kind)
    return flow


PLACES: dict[str, Callable[[], Any]] = {
    "local": executors.LocalExecutor,
    "threads": lambda: executors.LocalDaskExecutor(num_workers=2),
    "dask": lambda: executors.DaskExecutor(cluster_kwargs={"n_workers": 1, "dashboard_address": "127.0.0.1:0"}),
}


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize("place", ["local", "threads", pytest.param("dask", marks=pytest.mark.cluster)])
def test_a_secret_is_in_no_file_log_line_message_or_report(
    place: str, isolation: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "whole").mkdir()
    with config.set(logging__directory=str(tmp_path / "whole")):
        view = leaks(isolation).run(key_of_api=VALUE, executor=PLACES[place](), keep="all")

    told = "\n".join(failure_lines(view, in_full=True)) + view.state.message
    told += "".join(str(state) + repr(state.failure) for state in view.states().values())
    told += "".join(str(s) + repr(s.failure) for slug in ("leak", "plain") for s in view[slug].map_states)
    told += "".join(repr(view[slug].map_states[1].result) for slug in ("leak", "plain"))
    shown = capfd.readouterr()
    listed = CliRunner().invoke(anabranch, ["show", view.run_id]).output
    listed += CliRunner().invoke(anabranch, ["show", view.run_id, "--json"]).output
    store = current_store()
    assert store is not None
    rows = store.logs(view.run_id)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]

    assert "cannot log in with '***'" in told
    assert "Bearer ***" in "".join(row.text for row in rows)
    assert any(path.suffix == ".jsonl" and "Bearer ***" in path.read_text() for path in files)
    for text in (told, shown.out, shown.err, listed, repr(rows), caplog.text):
        assert VALUE not in text
    assert [path for path in files if VALUE.encode() in path.read_bytes()] == []


def test_the_value_of_a_secret_parameter_is_in_no_message_and_no_help() -> None:
    with Flow("params") as flow:
        Parameter("pin", type=int, secret=True)
        Parameter("api", default=VALUE, secret=True)

    with pytest.raises(ParameterError) as caught:
        flow.run(pin=VALUE)

    assert "pin: expected int, found a value of type str (not shown)" in str(caught.value)
    assert VALUE not in str(caught.value)


def test_masks_go_where_secrets_would_be() -> None:
    masking.learn("r", ["swordfish", "abc", None, b"bytes-secret"])
    try:
        assert masking.mask("a swordfish, abc and bytes-secret") == "a ***, abc and ***"
        assert masking.without_secrets(pickle.dumps(["swordfish"])) is None
        assert masking.without_secrets(b"fish") == b"fish"
    finally:
        masking.forget("r")
    assert masking.mask("swordfish") == "swordfish"
