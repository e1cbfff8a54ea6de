"""A nightly job that tells people when it fails, and when it does well again.

    python examples/nightly.py
    anabranch schedule examples/nightly.py --next 3
    anabranch run examples/nightly.py --damaged 2026-03-02

At half past two, the tills of all shops are read, and the day's takings are written into a file. In the second of
three nights, one till sends half of its list. A service (`anabranch serve`) runs the nights and tells a chat room of
bad news: which run, which task, which line, and the page to look at. The chat room is a web server of this program's
own; where you work it is Slack, and the address is in SLACK_WEBHOOK_URL. The registry is in a directory that is removed
at the end; your own registry is not touched.
"""

import argparse
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

from anabranch import Flow, Parameter, context, task, unmapped
from anabranch.schedules import CronSchedule

SHOPS = ("Aachen", "Bonn", "Celle", "Dresden", "Essen")
WAIT_S = 120  # for the news; they come within some seconds


@task
def night() -> date:
    """The day on which the run was due."""
    return context.date.date()


@task(max_retries=1, retry_delay=0.1)
def read_till(shop: str, day: date, damaged: str) -> float:
    """The takings of a shop on a day."""
    text = till(shop, day)
    if shop == "Celle" and str(day) == damaged:
        text = text[: len(text) // 2]
    return round(sum(json.loads(text)), 2)


def till(shop: str, day: date) -> str:
    """What the till of a shop sends: a list of amounts."""
    random = Random(f"{shop} {day}")
    return json.dumps([round(random.uniform(1, 50), 2) for _ in range(random.randint(50, 100))])


@task
def write(takings: list[float], day: date, folder: str) -> str:
    """Write the takings of all shops into a file. Returns its path."""
    path = Path(folder) / f"takings-{day}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{shop},{amount:.2f}" for shop, amount in zip(SHOPS, takings, strict=True)]
    path.write_text("\n".join(["shop,takings", *rows, f"all,{sum(takings):.2f}"]) + "\n", encoding="utf-8")
    return str(path)


with Flow("takings", schedule=CronSchedule("30 2 * * *", timezone="Europe/Berlin"), max_runs=1) as flow:
    folder = Parameter("out", default="takings", type=str)
    damaged = Parameter("damaged", default="", type=str)
    day = night()
    path = write(read_till.map(list(SHOPS), unmapped(day), unmapped(damaged)), day, folder)


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Register the flow, ask for three nights, serve until all is told. Returns the problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="takings", help="directory of what is written (default: %(default)s)")
    given = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as home, chat_room() as (url, recovered):
        environment = {
            **os.environ,
            "ANABRANCH_HOME": home,
            "CHAT_URL": url,
            "ANABRANCH__SERVICE__NOTIFIERS": "CHAT_URL",
            "ANABRANCH__SERVICE__URL": "https://flows.example.com",
            "ANABRANCH_SERVICE_TOKEN": secrets.token_urlsafe(),
        }
        times = ["--from", "2026-03-01", "--to", "2026-03-04", "--timezone", "Europe/Berlin"]
        values = ["-p", f"out={given.out}", "-p", "damaged=2026-03-02"]
        try:
            show(environment, "register", os.path.relpath(__file__))
            show(environment, "backfill", flow.name, *times, *values)
            with service(environment):
                is_told = recovered.wait(WAIT_S)
            show(environment, "ls")
        except subprocess.CalledProcessError as error:
            return f"anabranch {error.cmd[3]} ended with exit code {error.returncode}"
    for file in sorted(Path(given.out).iterdir()):
        print(f"{file}: {file.read_text(encoding='utf-8').splitlines()[-1]}")
    return None if is_told else f"nothing was told of a recovery in {WAIT_S} s"


@contextmanager
def chat_room() -> Iterator[tuple[str, threading.Event]]:
    """A web server that prints what it is told: its address, and whether it has been told of a recovery."""
    recovered = threading.Event()

    class Room(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"]
            print("\nchat room:", text.replace("\n", "\n  "), flush=True)
            self.send_response(200)
            self.end_headers()
            if ": Recovered" in text:
                recovered.set()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Room) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/room", recovered
        finally:
            server.shutdown()
            thread.join()


def show(environment: dict[str, str], *words: str) -> None:
    """Run a command of anabranch, and show it."""
    print("\n$ anabranch", shlex.join(words), flush=True)
    subprocess.run([sys.executable, "-m", "anabranch", *words], env=environment, check=True)


@contextmanager
def service(environment: dict[str, str]) -> Iterator[None]:
    """A service on a free port."""
    command = [sys.executable, "-m", "anabranch", "serve", "--port", "0", "--no-pages"]
    print("\n$ anabranch serve", flush=True)
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)  # it ends once its runs have
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)


if __name__ == "__main__":
    raise SystemExit(main())  # a text is printed to standard error, and the exit code is 1
