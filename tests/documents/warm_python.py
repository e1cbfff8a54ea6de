"""Python commands without the second that imports take: a process that has imported everything, and forks for each.

``python``, ``anabranch`` and ``dask`` in the folder of a `WarmPython` are small clients of it. Whatever a shell starts
by these names runs in a process of its own, in the shell's directory, with its environment, streams and signals.
"""

from __future__ import annotations

import gc
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import anabranch

# Of the interpreter that is there, without its site-packages: 20 ms, most of them for itself.
_CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
command = os.path.basename(sys.argv[0])
request = {{"command": command, "argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}}
socket.send_fds(server, [b"x"], [0, 1, 2])
server.sendall(json.dumps(request).encode() + b"\\n")
replies = server.makefile()
pid = int(replies.readline())
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
status = replies.readline()
sys.exit(int(status) if status else 70)
"""
_COMMANDS = ("anabranch", "dask", "python")


@contextmanager
def warm_python(folder: Path) -> Iterator[Path]:
    """A folder for the beginning of PATH; the process behind it ends with the block."""
    address = folder / "socket"
    (folder / "bin").mkdir()
    for command in _COMMANDS:
        client = folder / "bin" / command
        client.write_text(_CLIENT.format(python=sys.executable, address=str(address)), encoding="utf-8")
        client.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.documents.warm_python", str(address)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,  # never written to: its end is the sign to leave
        text=True,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n", "it did not start; what it wrote is above"
    try:
        yield folder / "bin"
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait(timeout=10)
        server.stdout.close()


# ---------------------------------------------------------------------------------------------------------------------
# In the process that forks


def _load_everything() -> None:
    """Import what any command may need: each child then has it for nothing."""
    for name in ("bokeh.server.server", "distributed.cli.dask_scheduler", "distributed.cli.dask_worker", "rich.live"):
        import_module(name)
    for module in pkgutil.walk_packages(anabranch.__path__, "anabranch."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):  # of an extra that is not installed here
                import_module(module.name)
    gc.collect()
    gc.freeze()  # a collection in a child would copy all of it


def _serve(address: str) -> NoReturn:
    _load_everything()
    assert threading.active_count() == 1, "a process with threads cannot fork"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests; who forks restores it
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        keepers: list[int] = []
        while True:
            ready, _, _ = select.select([listener, 0], [], [])
            if 0 in ready:  # the tests have ended, however they did
                os._exit(0)
            connection, _ = listener.accept()
            keeper = os.fork()
            if keeper == 0:
                listener.close()
                _keep(connection)
            connection.close()
            keepers.append(keeper)
            keepers = [each for each in keepers if os.waitpid(each, os.WNOHANG) == (0, 0)]


def _keep(connection: socket.socket) -> NoReturn:
    """Fork the command, tell its id and its exit code; kill it if nobody is there any more to be told."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile() as lines:
        request = json.loads(lines.readline())
    child = os.fork()
    if child == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        _become(request)
    for stream in streams:
        os.close(stream)
    connection.sendall(f"{child}\n".encode())
    with open(os.pidfd_open(child), closefd=True) as ended:
        # Where there is something to read on the others, the shell has gone, or the tests have, whose end 0 is.
        ready, _, _ = select.select([ended, connection, 0], [], [])
        if ended not in ready:
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    try:
        connection.sendall(f"{code if code >= 0 else 128 - code}\n".encode())
    finally:
        os._exit(0)


def _become(request: dict[str, Any]) -> NoReturn:
    """Be the command that was asked for."""
    import multiprocessing.process
    import runpy

    import dask.config

    import anabranch.cli

    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115  # the process's
    # What was looked up as these were imported: the home directory, and the one that the process began in.
    dask.config.paths[:] = dask.config._get_paths()
    multiprocessing.process.ORIGINAL_DIR = request["cwd"]
    dask.config.refresh()
    anabranch.config.refresh()
    if port := os.environ.get("DOCUMENTS_SERVICE_PORT"):  # in place of a default that somebody else may listen on
        anabranch.cli.anabranch.context_settings["default_map"] = {"serve": {"port": int(port)}}
    command, argv = request["command"], request["argv"]
    if command == "python" and argv[0] == "-m":
        command, argv = argv[1], argv[2:]
    try:
        if command == "python" and argv[0] == "-c":
            sys.argv = argv
            exec(argv[1], {"__name__": "__main__"})
        elif command == "python":
            sys.argv, sys.path[0] = argv, str(Path(argv[0]).parent.absolute())
            runpy.run_path(argv[0], run_name="__main__")
        else:
            sys.argv, sys.path[0] = [command, *argv], request["cwd"]
            runpy.run_module("anabranch" if command == "anabranch" else command, run_name="__main__", alter_sys=True)
        code: object = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    _finish()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _finish() -> None:
    """What the end of a Python does, and `os._exit` does not: wait for threads, then the functions of `atexit`."""
    import atexit

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()


if __name__ == "__main__":
    _serve(sys.argv[1])
