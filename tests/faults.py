"""Things that break at the k-th touch: a run store, the database below it, and the connection to a server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from anabranch.errors import RunStoreUnavailable
from anabranch.runs.store.database import Database, Transaction
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.rows import Row

T = TypeVar("T")


class Fault:
    """Raises at the k-th touch, or waits there for an event; counts all of them."""

    def __init__(self, at: int | None = None, *, until: threading.Event | None = None) -> None:
        self.at = at
        self.touches = 0
        self.reached = threading.Event()
        self._until = until

    def touch(self) -> None:
        """The next of the k."""
        touch, self.touches = self.touches, self.touches + 1
        if touch != self.at:
            return
        self.reached.set()
        if self._until is None:
            raise RunStoreUnavailable(f"fault at touch {touch}")
        assert self._until.wait(30), "nobody let the fault pass"


class FaultyStore:
    """A run store whose k-th call fails: before it does anything, or (`after`) when its answer is lost."""

    def __init__(self, store: RelationalRunStore, fault: Fault, *, after: bool = False) -> None:
        self._store = store
        self._fault = fault
        self._after = after

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._store, name)
        if not callable(attribute):
            return attribute

        def call(*args: Any, **kwargs: Any) -> Any:
            if not self._after:
                self._fault.touch()
            value = attribute(*args, **kwargs)
            if self._after:
                self._fault.touch()
            return value

        return call


class FaultyDatabase:
    """A database whose k-th statement or commit fails; what its transaction did before must be undone."""

    def __init__(self, database: Database, fault: Fault) -> None:
        self._database = database
        self._fault = fault
        self.lock_clause = database.lock_clause

    def write(self, act: Callable[[Transaction], T], *, durable: bool = False) -> T:
        def faulty(transaction: Transaction) -> T:
            value = act(_FaultyTransaction(transaction, self._fault))
            self._fault.touch()  # in place of the commit
            return value

        return self._database.write(faulty, durable=durable)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


class _FaultyTransaction:
    def __init__(self, transaction: Transaction, fault: Fault) -> None:
        self._transaction = transaction
        self._fault = fault

    def execute(self, statement: str, parameters: Row = ()) -> int:
        self._fault.touch()
        return self._transaction.execute(statement, parameters)

    def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        for row in rows:
            self._fault.touch()
            self._transaction.execute_many(statement, [row])

    def fetch(self, statement: str, parameters: Row = ()) -> list[Any]:
        self._fault.touch()
        return self._transaction.fetch(statement, parameters)


class CuttingProxy:
    """Passes bytes to a server on loopback; told to, cuts the connection once a COMMIT was carried out unanswered."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut_next_commit = threading.Event()
        self.cuts = 0
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            _cut(each)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            self._sockets += [client, server]
            doomed = threading.Event()
            for source, target, is_request in ((client, server, True), (server, client, False)):
                thread = threading.Thread(target=self._pass, args=(source, target, is_request, doomed), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass(self, source: socket.socket, target: socket.socket, is_request: bool, doomed: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if is_request and b"COMMIT" in data and self.cut_next_commit.is_set():
                    self.cut_next_commit.clear()
                    doomed.set()
                elif not is_request and doomed.is_set():  # the server has done it, and this says so
                    self.cuts += 1
                    break
                target.sendall(data)
        _cut(source)
        _cut(target)


def _cut(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
