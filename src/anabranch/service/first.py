"""The first process of a container: it has the service as a child, hands signals on to it, and reaps what others leave.

The system gives each process whose parent is gone to the first one, which alone can take note of its end.
"""

from __future__ import annotations

import os
import signal
from types import FrameType


def leave_first_place(*, is_first: bool | None = None) -> None:
    """Go on in a child if this is the first process; without threads, since a fork copies none.

    Parameters
    ----------
    is_first
        Default: whether its number is 1.
    """
    if not (os.getpid() == 1 if is_first is None else is_first):
        return
    handed_on = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, handed_on)  # or one that comes now would be lost
    service = os.fork()
    if service == 0:
        os.setpgid(0, 0)  # Ctrl-C comes once, from the first process
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return

    def hand_on(number: int, frame: FrameType | None) -> None:
        os.kill(service, number)

    for number in handed_on:
        signal.signal(number, hand_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    while True:
        ended, status = os.wait()
        if ended == service:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
