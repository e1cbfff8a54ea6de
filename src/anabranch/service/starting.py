"""How a service is to run, from what was asked for and the settings; and `Flow.serve`, which starts one in a script."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from anabranch.base.errors import ServiceError, listed, nearest
from anabranch.base.settings import config
from anabranch.flows.registered import register_flows
from anabranch.runs.registry.registration import registry
from anabranch.service.first import leave_first_place
from anabranch.service.serving import Options, Service
from anabranch.web.guard import LOGIN
from anabranch.web.listening import is_loopback

if TYPE_CHECKING:
    from anabranch.flows.flow import Flow

_SETTINGS = (
    *("address", "port", "token", "view_token", "tls_cert", "tls_key"),
    *("pages", "reload", "drain_s", "runs_per_process"),
)
_LISTS = ("hosts", "proxies")


def choose_options(given: Mapping[str, Any], *, needs_token: bool = True) -> tuple[Options, bool]:
    """The options of a service, and whether its token was made up and has to be shown.

    Parameters
    ----------
    given
        By name; None takes the setting.
    needs_token
        False: without a token whoever reaches the service may do everything, which only loopback allows.

    Raises
    ------
    ServiceError
        There is no such option.
    """
    known = (*_SETTINGS, *_LISTS, "max_runs")
    if unknown := [name for name in given if name not in known]:
        raise ServiceError(
            f"a service has no option {unknown[0]!r}{nearest(unknown[0], known)}; it has: {listed(known)}"
        )
    given = {**_of_the_environment(), **{name: value for name, value in given.items() if value is not None}}
    values = {name: given.get(name, getattr(config.service, name)) for name in _SETTINGS}
    if not needs_token:
        values["token"] = values["view_token"] = ""
    is_made_up = needs_token and not values["token"] and not values["view_token"] and is_loopback(values["address"])
    if is_made_up:
        values["token"] = secrets.token_urlsafe(32)
    for name in _LISTS:  # what is asked for is added
        values[name] = (*getattr(config.service, name).replace(",", " ").split(), *(given.get(name) or ()))
    capacity = given.get("max_runs") or config.service.max_runs
    options = Options(**values)
    return replace(options, capacity=capacity) if capacity else options, is_made_up


def _of_the_environment() -> dict[str, str]:
    """Tokens of variables that are for services alone, and no settings."""
    names = {name: f"ANABRANCH_SERVICE_{name.upper()}" for name in ("token", "view_token")}
    return {name: token for name, variable in names.items() if (token := os.environ.get(variable, "").strip())}


def write_greeting(options: Options, port: int, *, is_made_up: bool) -> Iterable[str]:
    """Lines for whoever has started a service, once it listens; the address to open comes last."""
    shown = f"[{options.address}]" if ":" in options.address else options.address
    url = f"{'https' if options.tls_cert else 'http'}://{shown}:{port}"
    if is_made_up:
        yield f"log in at {url}{LOGIN}?token={options.token}"
        yield "(anybody with this address may start and cancel runs)"
    elif options.token and not options.tls_cert and not is_loopback(options.address):
        yield "warning: tokens cross the network in the clear; use --tls-cert, or a proxy with TLS"
    yield f"serving on {url} (API: /api/openapi.json; end with Ctrl-C)"


def serve_flows(
    flows: Iterable[Flow], *, project: str, labels: Iterable[str], storage: object, options: Mapping[str, Any]
) -> None:
    """Register flows, and be a service until SIGTERM or Ctrl-C.

    Raises
    ------
    ServiceError
        It cannot start like this.
    UnregistrableFlow, RegistryError
        A flow cannot be registered; then none is served.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ServiceError("serve() outside of the main thread, which alone receives Ctrl-C; call it there")
    leave_first_place()
    found, is_made_up = choose_options(options)
    service = Service(registry()[0], found)  # refuses before anything is registered
    register_flows(flows, project=project, labels=labels, storage=storage)
    logger = logging.getLogger("anabranch")
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)

    def tell(started: Service) -> None:
        for line in write_greeting(found, started.port, is_made_up=is_made_up):
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    service.run(tell)
