"""What a `DaskExecutor` is told of a scheduler and its client, checked before anything hangs for it."""

from __future__ import annotations

import inspect
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anabranch.base.errors import OptionError, SchedulerUnreachable, nearest

_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://.+")
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):\d{1,5}")
LOOK_S = 0.1  # between looks for a file that a scheduler writes as it starts


def as_address(value: object, *, has_certificates: bool = False) -> str:
    """The address of a scheduler; ``host:8786`` is TCP's, or TLS's with certificates.

    Raises
    ------
    OptionError
        It cannot be one.

    Examples
    --------
    >>> as_address("gateway://host/run"), as_address("[::1]:8786"), as_address("host:8786", has_certificates=True)
    ('gateway://host/run', 'tcp://[::1]:8786', 'tls://host:8786')
    """
    if isinstance(value, str) and _ADDRESS.fullmatch(value):
        return value
    if isinstance(value, str) and _HOST_AND_PORT.fullmatch(value):
        return f"{'tls' if has_certificates else 'tcp'}://{value}"
    raise OptionError(f"DaskExecutor: expected an address such as 'tcp://host:8786', found {value!r}")


def address_in_file(path: str | os.PathLike[str], *, timeout_s: float) -> str:
    """The address in a file that ``dask scheduler --scheduler-file`` has written, or writes within the limit.

    Raises
    ------
    SchedulerUnreachable
        There is no such file, or it is another one.
    """
    file, end = Path(path).expanduser(), time.monotonic() + timeout_s
    while True:
        try:
            return as_address(json.loads(file.read_bytes())["address"])
        except (OSError, ValueError, KeyError, TypeError) as error:  # a file may also be half written
            if time.monotonic() >= end:
                raise SchedulerUnreachable(
                    f"scheduler_file={str(path)!r} has no scheduler's address after {timeout_s:g} s "
                    f"({type(error).__name__}: {error}); give the file of `dask scheduler --scheduler-file …`"
                ) from error
        time.sleep(min(LOOK_S, timeout_s))


def checked_client_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a client that it has, with values that it can read.

    Raises
    ------
    OptionError
        It has no such argument, or the value is no time.
    """
    from dask.utils import parse_timedelta
    from distributed import Client

    parameters = inspect.signature(Client.__init__).parameters.values()
    known = {each.name for each in parameters if each.kind is not each.VAR_KEYWORD} - {"self", "address"}
    for name, value in kwargs.items():
        if name not in known:
            raise OptionError(f"client_kwargs: Dask's Client has no argument {name!r} to give{nearest(name, known)}")
        if name in ("timeout", "heartbeat_interval") and value is not None:
            try:
                parse_timedelta(value)
            except Exception as error:
                raise OptionError(
                    f"client_kwargs: expected {name} as seconds, or as a text such as '5s'; found {value!r}"
                ) from error
    return dict(kwargs)
