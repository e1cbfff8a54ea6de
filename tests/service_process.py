"""A service in a process of its own, on loopback and a free port; gone when the test is done."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class ServiceProcess:
    """``anabranch serve``, and requests to it."""

    def __init__(self, process: subprocess.Popen[str], port: int, token: str) -> None:
        self.process = process
        self.port = port
        self._token = token

    def call(
        self, method: str, path: str, body: object = None, *, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and answer of a request."""
        data = json.dumps(body if body is not None else {}).encode() if method == "POST" else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data, method=method)
        sent = {"Content-Type": "application/json"} if method == "POST" else {}
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        for name, value in {**sent, **(headers or {})}.items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def scrape(self) -> str:
        """Metrics, as Prometheus gets them."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/metrics")
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return str(answer.read().decode())

    def start(self, flow: str, **parameters: object) -> str:
        """Start a run; its id."""
        status, answer = self.call("POST", f"/api/flows/{flow}/runs", {"parameters": parameters})
        assert status == 202, answer
        return str(answer["run_id"])

    def wait_for(self, run_id: str, *states: str, timeout_s: float = 90.0) -> dict[str, Any]:
        """The run, once its slot is in one of these states."""
        deadline = time.monotonic() + timeout_s
        while True:
            status, answer = self.call("GET", f"/api/runs/{run_id}")
            if status == 200 and answer["slot"]["state"] in states:
                return dict(answer)
            assert time.monotonic() < deadline, f"waiting for {states}, found {answer}"
            time.sleep(0.05)

    def end(self) -> str:
        """Ask it to end; what it has said."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=60)[1]


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Of a process whose run store is below a directory."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("ANABRANCH")}
    return {**known, "ANABRANCH_HOME": str(home), "PYTHONUNBUFFERED": "1", **variables}


@contextmanager
def serving(
    home: Path, *arguments: str, token: str = "", files: int | None = None, **variables: str
) -> Iterator[ServiceProcess]:
    """A service that listens, and may open so many files; it is killed at the end, if it is still there."""
    if token:
        variables["ANABRANCH_SERVICE_TOKEN"] = token
    else:
        arguments = ("--no-token", *arguments)
    limited = ["bash", "-c", 'ulimit -Sn "$0" && exec "$@"', str(files)] if files is not None else []
    with (home / "serve.out").open("a+") as log:
        process = subprocess.Popen(
            [*limited, sys.executable, "-m", "anabranch", "serve", "--port", "0", *arguments],
            cwd=home,
            env=environment(home, **variables),
            stderr=subprocess.PIPE,
            stdout=log,
            text=True,
        )
        try:
            assert process.stderr is not None
            said = ""
            while (found := re.search(r"serving on https?://[^ ]+:(\d+)", said)) is None:
                line = process.stderr.readline()
                assert line, f"the service ended: {said}"
                said += line
            yield ServiceProcess(process, int(found[1]), token)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(timeout=30)
            if process.stderr is not None:
                process.stderr.close()
