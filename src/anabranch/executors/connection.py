"""How a scheduler is reached: addresses, certificates, and what to do when nothing that can be used answers.

Dask's own messages for these name its internals ("TLS expects a `ssl_context`…"), and where something accepts a
connection and then stays silent its client waits for ever. So the first connection is made here, within a limit, and
what is found there decides the sentence that the user reads.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import queue
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Coroutine, Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from anabranch.base.errors import OptionError, SchedulerUnreachable, listed, nearest

if TYPE_CHECKING:
    from distributed import Client, Security

_log = logging.getLogger("anabranch.executors")
_warned = threading.Event()
"""Set once this process has been told about an open scheduler."""

DOCS = "docs/clusters.md"
CONNECT_SHARE = 0.7  # of the limit; the rest is for finding out what is there instead, in three attempts
GREETING_S = 0.5  # at most, for each of them: what a server says first arrives within a round trip
CLOSING_S = 1.0  # on top of the limit, where a thread hangs in a look-up
RETRY_S = 0.05  # between attempts at a port where nothing listens yet
_SCHEMES = ("tcp", "tls", "ws", "wss", "ucx", "inproc")
_PLAIN_SCHEMES = ("tcp", "ws", "ucx")
_FILES = ("tls_ca_file", "tls_client_cert", "tls_client_key")


# ---------------------------------------------------------------------------------------------------------------------
# Certificates


def as_security(value: Security | Mapping[str, Any] | bool | None) -> Security | None:
    """What an executor was given as ``security``, checked as far as this process can check it.

    Parameters
    ----------
    value
        A ``distributed.Security``; a dict of its arguments (``tls_ca_file``, ``tls_client_cert``, …); True for
        certificates that are made now and live in memory, for a cluster made here; None for what ``dask.config`` says.

    Raises
    ------
    OptionError
        An unknown argument, a file that cannot be read, or a certificate without its key.
    """
    from distributed import Security

    if value is None or value is False:
        return None
    if value is True:
        return _temporary()
    if isinstance(value, Mapping):
        known = [name for name in Security.__slots__ if not name.startswith("_")]
        for name in value:
            if name not in known:
                raise OptionError(
                    f"security has no argument {name!r}{nearest(str(name), known)}; it has: {listed(known)}"
                )
        try:
            value = Security(**value)
        except (TypeError, ValueError) as error:
            raise OptionError(f"security: {error}") from error
    if not isinstance(value, Security):
        raise OptionError(
            f"security: expected a distributed.Security, a dict of its arguments or True; found {value!r}"
        )
    try:
        value.get_connection_args("client")
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise OptionError(
            f"security: the client's certificate cannot be used: {_file_trouble(value, error)}"
        ) from error
    return value


def _temporary() -> Security:
    from distributed import Security

    try:
        security: Security = Security.temporary()
    except ImportError as error:
        raise OptionError(
            "security=True makes certificates, which needs the package cryptography: pip install cryptography"
        ) from error
    return security


def _file_trouble(security: Security, error: Exception) -> str:
    """Which file is wrong: the exceptions of `ssl` seldom say."""
    for name in _FILES:
        path = getattr(security, name)
        if isinstance(path, str) and "\n" not in path:
            try:
                with open(path, encoding="ascii", errors="replace") as file:
                    content = file.read()
            except OSError as trouble:
                return f"{name}={path!r}: {trouble.strerror}"
            if "-----BEGIN" not in content:
                return f"{name}={path!r} is not a PEM file"
    if "KEY_VALUES_MISMATCH" in str(error):
        return "tls_client_key is not the key of tls_client_cert"
    return f"{type(error).__name__}: {error}"


# ---------------------------------------------------------------------------------------------------------------------
# Connecting


def connect(
    target: Any, security: Security | None, *, timeout_s: float, client_kwargs: Mapping[str, Any] | None = None
) -> Client:
    """A client of the scheduler at an address, or of a cluster object; never Dask's default client.

    Differences between versions are not warned about here: the preflight speaks of them.

    Raises
    ------
    SchedulerUnreachable
        Nothing that can be used answers within the limit; the message says what was found and what to do.
    """
    from distributed import Client
    from distributed.versions import VersionMismatchWarning

    kwargs: dict[str, Any] = {"set_as_default": False, "timeout": timeout_s, **(client_kwargs or {})}
    if kwargs.get("asynchronous"):
        raise OptionError(
            "client_kwargs: asynchronous=True is for programs that await; a run needs a client that waits"
        )
    if security is not None:
        kwargs["security"] = security
    address = target if isinstance(target, str) else str(target.scheduler_address)
    if isinstance(target, str):
        reach(target, as_security(kwargs.get("security")), timeout_s=timeout_s)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VersionMismatchWarning)
            client = Client(target, **kwargs)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        if not client_kwargs:
            raise unreachable(address, error, security, timeout_s=timeout_s) from error
        raise OptionError(
            f"client_kwargs: Dask's Client cannot be made with {listed(client_kwargs)}: {type(error).__name__}: {error}"
        ) from error
    except (OSError, RuntimeError, ImportError) as error:
        raise unreachable(address, error, security, timeout_s=timeout_s) from error
    warn_if_open(address)
    return client


def reach(address: str, security: Security | None, *, timeout_s: float) -> None:
    """Find out whether a scheduler answers at an address.

    Raises
    ------
    SchedulerUnreachable
        It does not, within the limit.
    """
    host, port = host_and_port(address)
    if not port:  # within this process, or by a protocol that has its own ways to find a scheduler
        return
    try:
        kind = _bounded(_greet(address, security, CONNECT_SHARE * timeout_s), CONNECT_SHARE * timeout_s)
    except Exception as error:  # whatever answers there may send anything: MemoryError and struct.error were seen
        raise unreachable(address, error, security, timeout_s=timeout_s) from error
    if kind != "Scheduler":
        raise SchedulerUnreachable(
            f"what answers at {address} is not a Dask scheduler but a {kind}; give the scheduler's address, which "
            f"`dask scheduler` prints (often tcp://{host}:8786, not port {port})"
        )


async def _greet(address: str, security: Security | None, timeout_s: float) -> str:
    """What kind of Dask server answers at an address."""
    from distributed.core import send_recv

    arguments = security.get_connection_args("client") if security is not None else _configured()
    comm = await _open(address, timeout_s, arguments)
    try:
        # Dask's own `connect` shakes hands too, and leaves the connection open to whatever does not understand it.
        ours = comm.handshake_info()
        await comm.write(ours)
        comm.handshake_options = comm.handshake_configuration(ours, await comm.read())
        identity = await send_recv(comm, op="identity")
    finally:
        comm.abort()
    return str(identity.get("type", "Nanny"))


async def _open(address: str, timeout_s: float, arguments: Mapping[str, Any]) -> Any:
    """A connection to an address, which may begin to listen within the limit."""
    from distributed.comm.addressing import parse_address
    from distributed.comm.core import FatalCommClosedError
    from distributed.comm.registry import get_backend

    scheme, location = parse_address(address)
    connector: Any = get_backend(scheme).get_connector()
    end = time.monotonic() + timeout_s
    while True:
        try:
            return await connector.connect(location, deserialize=True, **arguments)
        except FatalCommClosedError:
            raise
        except OSError:
            if time.monotonic() + RETRY_S > end:
                raise
            await asyncio.sleep(RETRY_S)


def _configured() -> dict[str, Any]:
    """Arguments of a connection as ``dask.config`` has them: Dask's client takes these when it is given none."""
    from distributed import Security

    arguments: dict[str, Any] = Security().get_connection_args("client")
    return arguments


def _bounded(work: Coroutine[Any, Any, str], timeout_s: float) -> str:
    """The result of a coroutine, run in a thread of its own: this thread may be one that runs a loop already.

    A look-up of a host name cannot be interrupted. Its thread is left to itself at the limit.
    """
    box: queue.SimpleQueue[str | BaseException] = queue.SimpleQueue()

    async def within() -> str:
        return await asyncio.wait_for(work, timeout_s)

    def run() -> None:
        try:
            box.put(asyncio.run(within()))
        except BaseException as error:  # carried to the thread that waits
            box.put(error)

    thread = threading.Thread(target=run, name="anabranch-reach", daemon=True)
    thread.start()
    try:
        found = box.get(timeout=timeout_s + CLOSING_S)
    except queue.Empty:
        raise TimeoutError(f"no answer within {timeout_s:g} s") from None
    thread.join()  # it holds the connection as long as it lives
    if isinstance(found, BaseException):
        raise found
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Addresses


def host_and_port(address: str) -> tuple[str, int]:
    """Host and port of a scheduler's address.

    Raises
    ------
    SchedulerUnreachable
        The address cannot be one; the message shows one that can.

    Examples
    --------
    >>> host_and_port("tls://[::1]:8786")
    ('::1', 8786)
    """
    scheme, separator, rest = address.partition("://")
    if separator and scheme == "inproc":
        return "127.0.0.1", 0
    expected = "expected one such as 'tcp://host:8786' or 'tls://host:8786'"
    if not separator:
        raise SchedulerUnreachable(f"the scheduler's address {address!r} has no protocol; {expected}")
    if scheme in ("http", "https"):
        raise SchedulerUnreachable(
            f"{address!r} is a web address, perhaps of Dask's dashboard; the scheduler has an address of its own: "
            f"{expected}"
        )
    if scheme not in _SCHEMES and scheme in _registered():
        return "", 0  # as gateway://, whose rest is its own matter
    if scheme not in _SCHEMES:
        raise SchedulerUnreachable(f"the scheduler's address {address!r} has an unknown protocol; {expected}")
    host, _, port = rest.rstrip("/").rpartition(":")
    if not host or "]" in port:  # no colon, or none but those within [::1]
        raise SchedulerUnreachable(f"the scheduler's address {address!r} lacks a host or a port; {expected}")
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        raise SchedulerUnreachable(f"the scheduler's address {address!r} has port {port!r}, not 1 to 65535; {expected}")
    return host.strip("[]"), int(port)


def _registered() -> set[str]:
    """Protocols that packages have brought to Dask."""
    from distributed.comm.registry import backends

    return {*backends, *(each.name for each in entry_points(group="distributed.comm.backends"))}


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a host.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("192.0.2.1")
    (True, True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False  # a name, which may lead anywhere


def warn_if_open(address: str) -> None:
    """Warn, once in this process, of a scheduler that others can reach and that asks for no certificate."""
    scheme = address.partition("://")[0]
    if scheme in _PLAIN_SCHEMES and not is_loopback(host_and_port(address)[0]) and not _warned.is_set():
        _warned.set()
        _log.warning(
            "the Dask scheduler at %s asks for no certificate: whoever can connect to it can run code on its workers "
            "and read what they hold; use TLS, or a network that you trust (%s, 'TLS')",
            address,
            DOCS,
        )


# ---------------------------------------------------------------------------------------------------------------------
# What went wrong


def unreachable(
    address: str, error: BaseException, security: Security | None, *, timeout_s: float
) -> SchedulerUnreachable:
    """The error to raise when Dask could not connect, with what was found at the address and what to do."""
    patience_s = min(GREETING_S, (1 - CONNECT_SHARE) / 3 * timeout_s)
    try:
        advice = _advice(address, error, security, patience_s)
    except SchedulerUnreachable as about_address:
        return about_address
    return SchedulerUnreachable(f"no Dask scheduler could be reached at {address}: {advice}")


def _advice(address: str, error: BaseException, security: Security | None, patience_s: float) -> str:
    told = "; ".join(_texts(error))
    is_tls = address.startswith(("tls://", "wss://"))
    if "ssl_context" in told:
        return (
            "tls:// needs certificates; give security=Security(tls_ca_file=…, tls_client_cert=…, tls_client_key=…), "
            f"or the settings distributed.comm.tls of Dask ({DOCS})"
        )
    if "encryption required" in told:
        return f"the security given demands encryption; connect to tls{address[address.index('://') :]}, or give none"
    if "certificate has expired" in told:
        return "its certificate has expired; renew it on the scheduler"
    if "CERTIFICATE_EXPIRED" in told:
        return "the client's certificate has expired; renew it"
    if "CERTIFICATE_VERIFY_FAILED" in told or "certificate does not match" in told:
        return (
            "its certificate is not signed by the authority in tls_ca_file; give the ca-file that the scheduler was "
            f"started with ({told})"
        )
    if "unexpected keyword argument 'n_workers'" in told:
        return "it runs an older Dask than this process; install the same version of dask and distributed on both"
    host, port = host_and_port(address)
    if not port:
        return told
    found = speaks(host, port, timeout_s=patience_s)
    if found == "name":
        return f"the host name {host!r} is not known; check its spelling, or give an IP address"
    if found == "nothing":
        return (
            f"nothing listens on port {port} of {host}; start one there with `dask scheduler --port {port}`, or check "
            "the address"
        )
    if found == "timeout":
        return (
            f"{host} does not answer on port {port}; check the address, and firewalls on the way (if it is only slow, "
            "raise the setting engine.connect_timeout_s)"
        )
    if found == "tls" and not is_tls:
        return (
            f"that port speaks TLS; connect to tls{address[address.index('://') :]} with security=Security(…), "
            f"its certificates ({DOCS})"
        )
    if found == "tls" and security is not None:
        return f"it refuses the client's certificate; give one that its own tls_ca_file has signed ({told})"
    if found == "dask" and is_tls:
        return f"it speaks plain Dask, without TLS; connect to tcp{address[address.index('://') :]}"
    if found == "dask":
        return f"a Dask server is there, but it does not speak as this version does ({told}); compare versions"
    what = {"http": "a web server, perhaps Dask's dashboard,", "ssh": "an SSH server"}.get(found, "something else")
    return f"{what} answers on port {port}; give the scheduler's port, which `dask scheduler` prints (often 8786)"


def _texts(error: BaseException | None) -> list[str]:
    """An exception and its causes, one text each."""
    texts = []
    while error is not None:
        text = f"{type(error).__name__}: {error}".rstrip(": ")
        if text not in texts:
            texts.append(text)
        error = error.__cause__
    return texts


def speaks(host: str, port: int, *, timeout_s: float = GREETING_S) -> str:
    """What answers on a port, as far as a few bytes tell.

    Returns
    -------
    str
        ``dask``, ``tls``, ``http``, ``ssh``, ``other``; ``nothing`` if the connection is refused, ``timeout`` if
        nobody answers, ``name`` if there is no such host.
    """
    try:
        greeting = _exchange(host, port, b"", timeout_s)
        if not greeting and _shakes_hands(host, port, timeout_s):
            return "tls"
        if not greeting:
            greeting = _exchange(host, port, b"GET / HTTP/1.0\r\n\r\n", timeout_s)
    except socket.gaierror:
        return "name"
    except ConnectionRefusedError:
        return "nothing"
    except OSError:
        return "timeout"
    if greeting.startswith(b"SSH-"):
        return "ssh"
    if greeting.startswith(b"HTTP/"):
        return "http"
    # Dask greets with a handshake in msgpack, which names its own keys.
    return "dask" if b"pickle-protocol" in greeting else "other"


def _exchange(host: str, port: int, said: bytes, timeout_s: float) -> bytes:
    """The first bytes a server sends; none if it stays silent."""
    with socket.create_connection((host, port), timeout=timeout_s) as connection:
        try:
            connection.sendall(said)
            return connection.recv(512)
        except (TimeoutError, ConnectionError):
            return b""


def _shakes_hands(host: str, port: int, timeout_s: float) -> bool:
    """Whether a server answers the first message of TLS, whatever its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent, and nothing that is said is believed
    with socket.create_connection((host, port), timeout=timeout_s) as connection:
        try:
            with context.wrap_socket(connection):
                return True
        except ssl.SSLError as error:
            # A server may end the handshake for want of our certificate; that is TLS too.
            return "ALERT" in str(error).upper()
        except OSError:
            return False
