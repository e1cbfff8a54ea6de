"""How a service is to run: options over environment over settings; flows that scripts serve."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.service_process import environment

from anabranch import Flow, config, task
from anabranch.cli import anabranch
from anabranch.errors import DefinitionError, ServiceError
from anabranch.flows.loading import load_flow
from anabranch.runs.registry.registration import registry
from anabranch.service.serving import Options
from anabranch.service.starting import choose_options, write_greeting

TOKEN = "a-token-of-some-length"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    with config.set({"backend": f"sqlite:///{tmp_path}/runs.db"}):
        yield tmp_path


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(anabranch, list(arguments), prog_name="anabranch")


# Options and settings -------------------------------------------------------------------------------------------------


def test_what_is_not_asked_for_is_as_the_settings_say():
    with config.set(
        {"service": {"port": 9000, "token": TOKEN, "hosts": "a.example, b.example", "max_runs": 7, "proxies": ""}}
    ):
        options, is_made_up = choose_options(
            {"hosts": ("c.example",), "proxies": ("10.0.0.0/8",), "drain_s": 5.0, "port": None}
        )
    assert not is_made_up
    assert options == Options(
        capacity=7,
        port=9000,
        token=TOKEN,
        hosts=("a.example", "b.example", "c.example"),
        proxies=("10.0.0.0/8",),
        drain_s=5.0,
    )


def test_a_token_is_made_up_for_loopback_alone_and_told_once():
    options, is_made_up = choose_options({})
    assert is_made_up
    assert len(options.token) > 40
    assert choose_options({})[0].token != options.token
    told = list(write_greeting(options, 8780, is_made_up=True))
    assert told[0] == f"log in at http://127.0.0.1:8780/login?token={options.token}"
    assert options.token not in "".join(told[1:])
    assert choose_options({}, needs_token=False) == (Options(), False)
    assert choose_options({"address": "0.0.0.0"})[0].token == ""
    told = list(write_greeting(Options(address="0.0.0.0", token=TOKEN), 8780, is_made_up=False))
    assert "tokens cross the network in the clear" in told[0]
    assert TOKEN not in "".join(told)
    assert len(list(write_greeting(Options(address="::1", token=TOKEN, tls_cert="x"), 1, is_made_up=False))) == 1


def test_tokens_of_the_environment_come_before_the_settings_and_after_what_is_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANABRANCH_SERVICE_TOKEN", f"{TOKEN}\n")
    monkeypatch.setenv("ANABRANCH_SERVICE_VIEW_TOKEN", f"{TOKEN}2")
    with config.set({"service": {"token": "of-the-settings-20-chars"}}):
        options, is_made_up = choose_options({"token": None})
        assert (options.token, options.view_token, is_made_up) == (TOKEN, f"{TOKEN}2", False)
        assert choose_options({"token": "given-as-an-option-20-ch"})[0].token == "given-as-an-option-20-ch"
        assert choose_options({}, needs_token=False)[0] == Options()
        monkeypatch.setenv("ANABRANCH_SERVICE_TOKEN", " ")
        assert choose_options({})[0].token == "of-the-settings-20-chars"


def test_an_option_that_there_is_not_is_refused_with_the_nearest():
    with pytest.raises(ServiceError, match=r"a service has no option 'adress'; did you mean 'address'\?"):
        choose_options({"adress": "::1"})


def test_secrets_of_the_settings_are_shown_to_nobody():
    with config.set({"service": {"token": TOKEN, "view_token": f"{TOKEN}2", "key": f"{TOKEN}3"}}):
        assert TOKEN not in repr(config.service)
        assert TOKEN not in repr(choose_options({})[0])


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        (("--token-file", "none"), 2, "--token-file: cannot read none"),
        (("--view-token-file", "empty"), 2, "--view-token-file: empty is empty"),
        (("--no-token", "--token-file", "empty"), 2, "cannot be combined with a token file"),
        (("--no-token", "--address", "0.0.0.0"), 1, "would let anybody who reaches it start runs"),
        (("--tls-cert", "none.pem"), 1, "TLS with the certificate none.pem and the key none.pem"),
        (("--tls-key", "none.pem"), 1, "there is a key for TLS and no certificate"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_registered(
    home: Path, arguments: tuple[str, ...], status: int, problem: str
):
    (home / "empty").touch(mode=0o600)
    done = invoke("serve", "etl.py", "--port", "0", *arguments)
    assert (done.exit_code, problem in done.stderr) == (status, True), done.stderr
    assert registry()[1].names() == set()


# flow.serve() ---------------------------------------------------------------------------------------------------------

SCRIPT = """
from pathlib import Path
from anabranch import Flow, task

@task
def mark():
    (Path(__file__).parent / "marked").touch()

with Flow("scripted") as flow:
    mark()

with Flow("other") as other:
    mark()

flow.serve(other, port=0, pages=False, token="a-token-of-some-length", drain_s=5)
"""


def test_a_script_serves_its_flows_and_a_file_that_does_can_be_loaded(home: Path):
    (home / "script.py").write_text(SCRIPT, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "script.py"], cwd=home, env=environment(home), stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        said = ""
        while "serving on" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        assert TOKEN not in said
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    with config.set({"backend": f"sqlite:///{home}/runs.db"}):
        assert registry()[1].names() == {"scripted", "other"}
        assert load_flow(registry()[1].get("scripted").source).flow.name == "scripted"
    assert not (home / "marked").exists()
    assert os.getpid() != process.pid


@task
def one() -> int:
    return 1


def test_a_flow_is_not_served_where_it_cannot_be():
    with Flow("inner") as flow:
        one()
        with pytest.raises(DefinitionError, match="inside a `with Flow` block"):
            flow.serve()
    errors: list[Exception] = []

    def elsewhere() -> None:
        try:
            flow.serve()
        except ServiceError as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "outside of the main thread" in str(errors[0])
    with pytest.raises(ServiceError, match="the token has 5 characters"):
        flow.serve(token="short")
    assert registry()[1].names() == set()
