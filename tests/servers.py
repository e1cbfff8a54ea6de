"""An S3 server of the tests' own: loopback, a free port, a process that is gone when they are done."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest
from tests.needs import miss

# moto's server prints nothing when it is ready, so the port is made, and told of, by a program of ours around it.
_SERVER = """
import logging, sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""
_buckets = count()


class S3Server:
    """A server of S3's interface, which takes any credentials."""

    def __init__(self, url: str) -> None:
        self.url = url

    def options(self) -> dict[str, object]:
        """What s3fs needs to reach it."""
        return {
            "endpoint_url": self.url,
            "key": "tester",
            "secret": "secret",
            "client_kwargs": {"region_name": "us-east-1"},
        }

    def fresh_bucket(self) -> str:
        """A bucket in which nothing is yet."""
        name = f"bucket-{next(_buckets)}"
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        with urllib.request.urlopen(request, timeout=10):
            return name


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """A server; where there is none to start the test cannot be."""
    for name, package in {"moto": '"moto[server]"', "flask": '"moto[server]"', "s3fs": "s3fs"}.items():
        if importlib.util.find_spec(name) is None:
            miss(name, f"pip install {package}")
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret"}
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        try:
            port = server.stdout.readline().strip()
            assert port, server.communicate()[1]
            yield S3Server(f"http://127.0.0.1:{json.loads(port)}")
        finally:
            server.kill()
            server.communicate()


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    """A server for the tests of a module."""
    with running_s3() as server:
        yield server
