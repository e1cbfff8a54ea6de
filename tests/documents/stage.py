"""Where the blocks of one page run: a directory, one process for its Python, a shell for each command."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from tests.documents.blocks import Block

_PAGE_PROCESS = Path(__file__).with_name("page_process.py")
# Ports that pages name; the tests take free ones in their place.
_PORTS = re.compile(r"(?<![\w.])(8780|8786|8787|8790)(?!\w)")
# What differs from run to run is written on pages as it was seen once; what stands here is what may be there instead.
_VARYING = {
    r"\d{4}-\d\d-\d\d \d\d:\d\d(?::\d\d)?": r"\d{4}-\d\d-\d\d \d\d:\d\d(?::\d\d)?",
    r"\b\d\d:\d\d:\d\d\b": r"\d\d:\d\d:\d\d",
    r"<?\b\d+(?:\.\d+)? (?:min|s|ms|µs)\b": r"<?[\d.]+ (?:min|s|ms|µs)",
    r"\b\d+(?:\.\d+)? (?:MB|MiB|KB|KiB)\b": r"[\d.]+ (?:MB|MiB|KB|KiB)",
    r"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) [+-]\d{4}\b": r"\w{3} [+-]\d{4}",
    r"\b[0-9a-f]{12,16}\b": r"[0-9a-f]{12,16}",  # the id of a run
    "…": ".*?",
}


# What a command says on a busy machine only.
_PATIENCE = re.compile(r"(?m)^waiting for the cluster at .*\n")


class BlockFailed(AssertionError):
    """A block that did not do what its page says."""


class Stage:
    """A page's directory and processes; a context manager that ends them."""

    def __init__(self, folder: Path, warm: Path) -> None:
        self.folder = folder / "page"
        self._home = folder / "home"
        self._output = folder / "python-output"
        self._address = folder / "socket"
        self._warm = warm
        self._closing = ExitStack()
        self._python: IO[str] | None = None
        self._ports: dict[str, str] = {}
        """Ports on the page, by what they are here."""
        self._runs: dict[str, str] = {}
        """Ids of runs here, by what stands for them on the page."""
        self._unnamed: list[str] = []
        """Ids of runs on the page that have not been met yet: the first time, they mean the newest run."""

    def __enter__(self) -> Stage:
        self.folder.mkdir()
        self._home.mkdir()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closing.close()

    def run(self, block: Block) -> None:
        """Do what a reader would do with the block; raises `BlockFailed`."""
        if stand_in := block.marks.get("run"):
            self._unnamed.append(stand_in)
        if block.file:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._here(block.code), encoding="utf-8")
        elif block.language == "python":
            self._run_python(block)
        elif "until" in block.marks:
            self._start(block)
        else:
            for command, expected in _commands(block):
                self._run_command(block, command, expected)

    # -----------------------------------------------------------------------------------------------------------------

    def _run_python(self, block: Block) -> None:
        before = self._output.stat().st_size if self._output.exists() else 0
        if self._python is None:
            self._python = self._start_python()
        self._python.write(
            json.dumps({"code": self._here(block.code), "line": block.line, "page": str(block.page)}) + "\n"
        )
        self._python.flush()
        reply = self._python.readline()
        with self._output.open(encoding="utf-8", errors="replace") as file:
            file.seek(before)
            printed = file.read()
        if not reply:
            raise BlockFailed(f"{block.where}: the process ended\n{printed}")
        if raised := json.loads(reply):
            raise BlockFailed(f"{block.where}: {raised}\nprinted:\n{printed}")
        if (expected := block.marks.get("prints")) is not None:
            self._compare(block, expected, printed)

    def _start_python(self) -> IO[str]:
        with socket.socket(socket.AF_UNIX) as listener, self._output.open("wb") as output:
            listener.bind(str(self._address))
            listener.listen()
            process = self._popen(["python", str(_PAGE_PROCESS), str(self._address)], stdout=output, stderr=output)
            connection, _ = listener.accept()
        stream = connection.makefile("rw", encoding="utf-8")

        def close() -> None:
            stream.close()
            connection.close()
            process.wait(timeout=30)

        self._closing.callback(close)
        return stream

    def _run_command(self, block: Block, command: str, expected: str | None) -> None:
        outcome = self._popen(
            ["bash", "-euo", "pipefail", "-c", self._here(command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = outcome.communicate(timeout=90)
        text = output.decode(errors="replace")
        if outcome.returncode != int(block.marks.get("exit code", "0")):
            raise BlockFailed(f"{block.where}: {command!r} ended with exit code {outcome.returncode}\n{text}")
        if expected is not None:
            self._compare(block, expected, text)

    def _start(self, block: Block) -> None:
        """Start a server, and wait until it has written what the page waits for."""
        command = "\n".join(command for command, _ in _commands(block))
        process = self._popen(
            ["bash", "-euo", "pipefail", "-c", self._here(command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdout is not None
        output = process.stdout
        # To its end: whoever writes into a pipe that nobody reads stops some day.
        reading = threading.Thread(target=lambda: deque(output, maxlen=0), daemon=True)
        self._closing.callback(_stop, process, reading)
        wanted, seen = self._here(block.marks["until"]), ""
        for raw in output:
            seen += raw.decode(errors="replace")
            if wanted in seen:
                break
        reading.start()
        if wanted not in seen:
            raise BlockFailed(f"{block.where}: {command!r} ended without {wanted!r}\n{seen}")

    def _popen(self, arguments: list[str], **streams: Any) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": f"{self._warm}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self._home),
            "ANABRANCH_HOME": str(self._home / "anabranch"),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "COLUMNS": "110",
            "DOCUMENTS_SERVICE_PORT": self._port("8780"),
            # A nanny's worker is forked from a process that has imported distributed.
            "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "forkserver",
        }
        return subprocess.Popen(
            arguments, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, start_new_session=True, **streams
        )

    def _meet(self, text: str) -> None:
        for name in [each for each in self._unnamed if each in text]:
            self._unnamed.remove(name)
            self._runs[name] = self._newest_run()

    def _newest_run(self) -> str:
        outcome = self._popen(["anabranch", "ls", "--json", "--limit", "1"], stdout=subprocess.PIPE)
        output, _ = outcome.communicate(timeout=30)
        (run,) = json.loads(output)
        return str(run["run_id"])

    # -----------------------------------------------------------------------------------------------------------------

    def _here(self, text: str) -> str:
        """The page's text with the ports and runs that there are here."""
        for name in _PORTS.findall(text):
            self._port(name)
        self._meet(text)
        for here, name in self._ports.items():
            text = re.sub(rf"(?<![\w.]){name}(?!\w)", here, text)
        for name, here in self._runs.items():
            text = re.sub(rf"(?<![\w.]){name}(?!\w)", here, text)
        return text

    def _port(self, name: str) -> str:
        """The port that there is for one that the page names."""
        if name not in self._ports.values():
            self._ports[_free_port()] = name
        return next(here for here, there in self._ports.items() if there == name)

    def _compare(self, block: Block, expected: str, printed: str) -> None:
        self._meet(expected)
        for here, name in self._ports.items():
            printed = re.sub(rf"(?<![\w.]){here}(?!\w)", name, printed)
        printed = _PATIENCE.sub("", printed.replace(str(self.folder), "."))
        if not re.fullmatch(_pattern(expected), " ".join(printed.split())):
            raise BlockFailed(f"{block.where}: the page shows\n{expected}\nand this was seen:\n{printed}")


def _stop(process: subprocess.Popen[bytes], reading: threading.Thread) -> None:
    """End a server, and wait for all that had its output, not just for the shell around it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    reading.join(timeout=60)
    with process:
        process.wait(timeout=30)


def _commands(block: Block) -> list[tuple[str, str | None]]:
    """The commands of a block, each with what the page shows of its output."""
    if block.language != "console":
        return [(block.code, None)]
    commands = []
    for part in re.split(r"(?m)^\$ ", block.code)[1:]:
        command, _, output = re.sub(r"\\\n\s*", " ", part).partition("\n")
        commands.append((command, output if output.strip() else None))
    return commands


def _pattern(expected: str) -> str:
    """A regular expression for an output as a page shows it: any white space is one, and ``…`` stands for anything."""
    text, pattern, end = " ".join(expected.split()), "", 0
    for varying in re.finditer("|".join(f"({seen})" for seen in _VARYING), text):
        pattern += re.escape(text[end : varying.start()]) + list(_VARYING.values())[(varying.lastindex or 1) - 1]
        end = varying.end()
    return pattern + re.escape(text[end:])


def _free_port() -> str:
    """A port that is free, of those that no outgoing connection is given."""
    for port in random.sample(range(20000, 32000), 100):
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return str(port)
    raise RuntimeError("of a hundred ports none was free")
