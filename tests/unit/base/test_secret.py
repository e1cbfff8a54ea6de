"""Secrets: looked up where they are used, and nowhere to be found afterwards."""

from __future__ import annotations

import base64
import json
import logging
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from anabranch import SKIP, Flow, Parameter, Secret, config, context, executors, task, unmapped
from anabranch.base import known_secrets, masking
from anabranch.base.settings import environment_without_secrets
from anabranch.cli import anabranch
from anabranch.errors import FlowValidationError, OptionError, ParameterError, SecretNotFound
from anabranch.monitoring.failures import failure_lines
from anabranch.results import LocalResult
from anabranch.runs.store.opening import current_store

VALUE = "sw0rdf1sh-and-more-of-it"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("API_TOKEN", VALUE)
    yield
    known_secrets.forget("secrets")


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


class Login(BaseModel):
    """A secret in a model of pydantic's."""

    user: str
    password: str


KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n-----END KEY-----\n"
SECRETS: dict[str, Any] = {
    "text": "Correct-Horse-1",
    "quoted": "Correct\"Horse'2\\tail",
    "accented": "Corréct-Hörse-3",
    "lines": KEY,
    "mapping": {"user": "ann", "password": "Correct-Horse-4", "port": 54321},
    "listing": ["Correct-Horse-5", "Correct-Horse-6"],
    "model": Login(user="ann", password="Correct-Horse-7"),
}
WAYS = ["logs", "raises", "warns", "returns", "skips", "retries", "prints"]


def leak_parts(way: str, secret: Any) -> Any:
    """Lets a secret, or what was made of it, out in one of the ways there are."""
    if isinstance(secret, Login):
        secret = secret.password
    elif isinstance(secret, dict):
        secret = secret["password"]
    elif isinstance(secret, list):
        secret = secret[1]
    made = {
        "url": f"https://host/?key={quote(secret)}",
        "json": json.dumps({"password": secret}),
        "basic": base64.b64encode(f"ann:{secret}".encode()).decode(),
        "line": secret.splitlines()[-1],
        "plain": secret,
    }
    text = f"{'.' * 140} {made}"
    if way == "logs":
        context.logger.warning("%s", text)
        logging.getLogger("some.library").error("with %r", made)
    elif way == "prints":
        print(secret)
        print(text * 20, end="")
    elif way == "warns":
        context.logger.warning("a long line %s %s", "." * 1950, secret)
    elif way == "raises":
        error = ValueError(f"{'.' * 8150} {secret}" if len(secret) > 40 else text)
        error.add_note(text)
        raise error from KeyError(secret)
    elif way == "returns":
        return made
    elif way == "skips":
        raise SKIP(text)
    elif way == "retries" and context.task_run_count == 1:
        raise ConnectionError(text)
    return None


def leaks_of_parts(isolation: str) -> Flow:
    leak = task(leak_parts, name="leak", max_retries=1, log_stdout=True, isolation=isolation)
    with Flow("leaks of parts") as flow:
        given = {kind: Parameter(kind, secret=True) for kind in SECRETS}
        for each in given.values():
            leak.map(WAYS, unmapped(each))
        for way in WAYS:
            leak(way, given["mapping"]["password"])
            leak.map(unmapped(way), given["listing"])
            leak(way, Secret("LINES"))
    return flow


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize("place", ["local", "threads", pytest.param("dask", marks=pytest.mark.cluster)])
def test_no_part_of_a_secret_is_in_a_file_row_report_or_list_of_processes(
    place: str, isolation: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given secrets of all kinds, and a flow that lets out what is made of them
    monkeypatch.setenv("LINES", KEY)
    (tmp_path / "whole").mkdir()

    # when
    with config.set(logging__directory=str(tmp_path / "whole")):
        view = leaks_of_parts(isolation).run(SECRETS, executor=PLACES[place]())
    processes = "".join(" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"]))
    shown = capfd.readouterr()
    told = {
        "processes": processes,
        "terminal": shown.out + shown.err,
        "failures": "\n".join(failure_lines(view, in_full=True)),
        "states": "".join(str(state) + repr(state.failure) for state in view.states().values()),
        "elements": "".join(name + str(state) + repr(state.failure) for name, state in view.failures()),
    }
    for words in (["show"], ["show", "--json"], ["logs"], ["report", "-o", str(tmp_path / "report.html")]):
        told[" ".join(words)] = CliRunner().invoke(anabranch, [words[0], view.run_id, *words[1:]]).output
    for name in ("leak[0]", "leak[1]"):
        told[f"explain {name}"] = CliRunner().invoke(anabranch, ["explain", view.run_id, name]).output
    files = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    # then
    assert "report.html" in files
    assert any("***" in text for text in told.values())
    needles = {each for each in known_secrets.spellings(list(SECRETS.values())) if len(each) >= 8}
    texts = [each for each in needles if isinstance(each, str)]
    data = [each.encode() if isinstance(each, str) else each for each in needles]
    assert {name: each for name, text in told.items() for each in texts if each in text} == {}
    assert {name: each for name, content in files.items() for each in data if each in content} == {}


def test_the_value_of_a_secret_parameter_is_in_no_message_and_no_help() -> None:
    with Flow("params") as flow:
        Parameter("pin", type=int, secret=True)
        Parameter("api", default=VALUE, secret=True)

    with pytest.raises(ParameterError) as caught:
        flow.run(pin=VALUE)

    assert "pin: expected int, found a value of type str (not shown)" in str(caught.value)
    assert VALUE not in str(caught.value)


def test_masks_go_where_secrets_would_be() -> None:
    known_secrets.learn("r", ["swordfish", "abc", None, b"bytes-secret"])
    try:
        assert masking.mask("a swordfish, abc and bytes-secret") == "a ***, abc and ***"
        assert masking.without_secrets(pickle.dumps(["swordfish"])) is None
        assert masking.without_secrets(b"fish") == b"fish"
    finally:
        known_secrets.forget("r")
    assert masking.mask("swordfish") == "swordfish"


# What is made of secrets ----------------------------------------------------------------------------------------------


def test_a_secret_cannot_be_in_the_name_of_a_file() -> None:
    store = task(lambda token, where: None, name="store", target="{token}/{where}/{city}.txt")
    with Flow("names") as flow:
        Parameter("city", secret=True)
        store(Secret("API_TOKEN"), Parameter("where", secret=True))

    with pytest.raises(FlowValidationError) as caught:
        flow.validate()

    assert "everybody sees names of files, and these fields are secret: 'city', 'token', 'where'" in str(caught.value)


def test_a_stored_value_with_a_secret_is_stored_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = task(lambda x, token: f"{x} {token}", name="kept", result=LocalResult(tmp_path / "kept"))
    with Flow("stores") as flow:
        node = kept.map([1, 2], unmapped(Secret("API_TOKEN")))
        single = kept(3, Secret("API_TOKEN"))

    view = flow.run()

    assert view.result[node].result == [f"1 {VALUE}", f"2 {VALUE}"]
    assert caplog.text.count("the value of kept contains a secret, and is stored as it is") == 1
    assert caplog.text.count("the value of kept-1 contains a secret, and is stored as it is") == 1
    assert view.result[single].result == f"3 {VALUE}"
    whole = b"".join(path.read_bytes() for path in (tmp_path / "kept").rglob("*") if path.is_file())
    assert whole.count(VALUE.encode()) == 3  # the values, and nothing that is said of them
    rows = b"".join(path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file())
    assert VALUE.encode() not in rows


def test_a_word_of_the_records_format_that_is_part_of_a_secret_does_no_harm(tmp_path: Path) -> None:
    calls: list[int] = []
    kept = task(lambda x: calls.append(x) or x, name="kept", result=LocalResult(tmp_path))
    with Flow("stores") as flow:
        kept.map([1, 2])
        fail = task(lambda given: None if calls.count(0) else calls.append(0) or 1 / 0, name="fail")
        fail(Parameter("given", secret=True), upstream_tasks=[kept(3)])
    given = {"format": "pickle", "what": ["null", "true", "refs", "Success"]}

    with config.set(checkpointing=True):
        first = flow.run(given=given)
        again = flow.run(given=given, resume=first.run_id)

    assert first.is_failed()
    assert again.is_successful()
    assert sorted(calls) == [0, 1, 2, 3]


def test_keys_tokens_and_passwords_of_the_settings_are_masked_and_do_not_go_to_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token, key, url = "service-token-0123456789", "results-key-0123456789", "postgresql://ann:s3cr3t-db@db/runs"
    monkeypatch.setenv("ANABRANCH_SERVICE_TOKEN", token)
    monkeypatch.setenv("ANABRANCH__SERVICE__VIEW_TOKEN", token)
    monkeypatch.setenv("DASK_ANABRANCH__RESULTS__KEY", key)
    monkeypatch.setenv("ANABRANCH__BACKEND", url)
    monkeypatch.setenv("ANABRANCH__PROGRESS", "never")

    with config.set(service__token=token, results__key=key, backend=url):
        text = masking.mask(f"{token} {key} s3cr3t-db")
    found = environment_without_secrets()

    assert text == "*** *** ***"
    assert found["ANABRANCH__PROGRESS"] == "never"
    assert [name for name, value in found.items() if value in (token, key, url)] == []
    assert masking.mask(token) == token  # which is in use no more
