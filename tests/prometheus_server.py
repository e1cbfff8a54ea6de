"""A Prometheus server of the tests' own: Debian's, on loopback and a free port, gone when they are done."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.needs import program

SCRAPE_S = 0.25


class PrometheusServer:
    """A server, and what can be asked of it."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def get(self, path: str, **query: str) -> Any:
        """Data of an answer; one that is an error fails the test with what the server says."""
        url = f"{self._url}/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.loads(answer.read())["data"]
        except urllib.error.HTTPError as error:
            with error:
                pytest.fail(f"{query}: {error.read().decode()}")

    def query(self, expression: str) -> list[Any]:
        """Series that an expression gives now."""
        return list(self.get("query", query=expression)["result"])

    def value(self, expression: str) -> float | None:
        """Value of the first series that an expression gives, if there is one."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None

    def wait_for(self, expression: str, seconds: float = 60.0) -> None:
        """Wait until an expression gives something."""
        deadline = time.monotonic() + seconds
        while not self.query(expression):
            assert time.monotonic() < deadline, f"{expression} gives nothing: {self.get('targets')['activeTargets']}"
            time.sleep(SCRAPE_S / 2)


@contextmanager
def prometheus(
    folder: Path, targets: Mapping[str, int], *, token_file: Path, rules: Path
) -> Iterator[PrometheusServer]:
    """A server that scrapes these ports, by job, four times a second."""
    command = [program("prometheus"), f"--config.file={folder / 'prometheus.yml'}"]
    jobs = [
        {
            "job_name": job,
            "authorization": {"credentials_file": str(token_file)},
            "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
        }
        for job, port in targets.items()
    ]
    often = f"{round(SCRAPE_S * 1000)}ms"
    times = {"scrape_interval": often, "scrape_timeout": often, "evaluation_interval": often}
    config = {"global": times, "rule_files": [str(rules)], "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    options = [f"--storage.tsdb.path={folder / 'data'}", "--web.listen-address=127.0.0.1:0", "--log.level=info"]
    with subprocess.Popen(
        [*command, *options], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield PrometheusServer(_port_of(process))
        finally:
            process.terminate()
            process.communicate(timeout=30)


def _port_of(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    said = ""
    while 'msg="Server is ready' not in said:
        line = process.stderr.readline()
        assert line, f"prometheus ended: {said}"
        said += line
    found = re.search(r'msg="Listening on" address=127\.0\.0\.1:(\d+)', said)
    assert found is not None, said
    return int(found[1])
