"""The first process of a container: what it hands on, what it reaps, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, os, signal, subprocess, sys
from anabranch.service.first import leave_first_place
ctypes.CDLL(None).prctl(36, 1)  # as the first process is: the parent of what has lost its own
leave_first_place(is_first=True)
first = os.getppid()
subprocess.run("sleep 0.01 & sleep 0.01 &", shell=True)
def ended(number, frame):
    import psutil
    left = [each for each in psutil.Process(first).children() if each.pid != os.getpid()]
    print("left behind:", left, flush=True)
    {end}
signal.signal(signal.SIGTERM, ended)
import psutil
while len(psutil.Process(first).children()) > 1:
    pass
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system's call is Linux's")
@pytest.mark.parametrize(
    ("end", "code"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL)]
)
def test_it_reaps_what_others_leave_hands_on_signals_and_ends_as_the_service_does(end: str, code: int):
    command = [sys.executable, "-c", SCRIPT.format(end=end)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "left behind: []\n"
        assert process.wait(30) == code
