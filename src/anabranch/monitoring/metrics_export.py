"""Ways to hand metrics over: a file, a Pushgateway, or an HTTP server that Prometheus asks."""

from __future__ import annotations

import base64
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, urlsplit

from anabranch.base.errors import MetricsError
from anabranch.base.files import write_whole

if TYPE_CHECKING:
    from anabranch.web.handlers import Route

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HOST = "127.0.0.1"
PUSH_S = 5.0  # for a gateway to answer: it is on the way out of a short run


class HasText(Protocol):
    """Metrics of any kind."""

    def text(self) -> str:
        """All of them, in Prometheus's text format."""


def write_textfile(metrics: HasText, path: str | os.PathLike[str]) -> None:
    """Write the metrics to a file for node_exporter's textfile collector; it is there as a whole or not at all.

    Raises
    ------
    MetricsError
        It cannot be written.
    """
    try:
        write_whole(path, metrics.text(), mode=0o644)  # the collector is another user
    except OSError as error:
        raise MetricsError(f"metrics cannot be written to {str(path)!r}: {error.strerror or error}") from error


def push(metrics: HasText, gateway: str, flow_name: str, *, timeout_s: float = PUSH_S) -> None:
    """Send the metrics to a Pushgateway, in the place of what it has of the flow.

    Parameters
    ----------
    gateway
        ``host:port``, or an address with ``http://`` or ``https://``.

    Raises
    ------
    MetricsError
        It does not take them.
    """
    base = gateway if "://" in gateway else f"http://{gateway}"
    if not _is_address(base):
        raise MetricsError(f"pushgateway: expected host:port or an http address, found {gateway!r}")
    url = f"{base.rstrip('/')}/metrics/job/anabranch/{_group(flow_name)}"
    request = urllib.request.Request(
        url, data=metrics.text().encode(), method="POST", headers={"Content-Type": CONTENT_TYPE}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s):
            pass
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise MetricsError(f"the pushgateway at {gateway} did not take the metrics: {error}") from error


class MetricsServer:
    r"""Serves metrics as ``/metrics`` on loopback, from a thread of its own, until it is closed.

    Parameters
    ----------
    port
        0 for any free port; `port` is the actual one.

    Raises
    ------
    MetricsError
        The port cannot be had.

    Examples
    --------
    >>> class Nothing:
    ...     def text(self) -> str:
    ...         return "# nothing\n"
    >>> with MetricsServer(Nothing()) as server, urllib.request.urlopen(server.address) as answer:
    ...     answer.read()
    b'# nothing\n'
    """

    def __init__(self, metrics: HasText, *, port: int = 0) -> None:
        from anabranch.web.guard import Guard  # a short run that writes a file needs no server
        from anabranch.web.listening import open_sockets
        from anabranch.web.server import Server
        from anabranch.web.thread import ServerThread

        server = Server(Guard(), [metrics_route(metrics.text)])
        try:
            self._thread = ServerThread(server, open_sockets(HOST, port), name="anabranch-metrics")
        except OSError as error:
            raise MetricsError(f"metrics on port {port}: {error}; name another port, or 0 for any free port") from error
        self.port: int = server.port

    @property
    def address(self) -> str:
        """What Prometheus is to scrape."""
        return f"http://{HOST}:{self.port}/metrics"

    def close(self) -> None:
        """Serve no more."""
        self._thread.close()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def metrics_route(text: Callable[[], str]) -> Route:
    """Route of ``/metrics``, of what makes the text: it is called in a thread."""
    from anabranch.web.handlers import TextHandler

    return "/metrics", TextHandler, {"text": text, "kind": CONTENT_TYPE}


def _group(flow_name: str) -> str:
    """Path that tells a gateway the flow; it takes slashes and dots for parts of the path, however they are written."""
    name = flow_name.encode(errors="replace")
    if "/" not in flow_name and flow_name.strip("."):
        return f"flow/{quote(name, safe='')}"
    return f"flow@base64/{base64.urlsafe_b64encode(name).decode()}"


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
