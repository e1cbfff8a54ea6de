"""Which progress a run shows that was started from a script or a notebook."""

from __future__ import annotations

import os
import sys

from anabranch.base.settings import config
from anabranch.monitoring.terminal import Mode, Progress, can_be_live, observer


def progress_of_settings() -> Progress:
    """What ``config.progress`` wants; ``auto`` shows a live block or table where somebody looks, and else nothing."""
    mode: Mode = config.progress  # type: ignore[assignment]  # settings are checked when they are read
    if mode == "never":
        return Progress()
    if "IPython" in sys.modules:
        from anabranch.monitoring.notebook import NotebookProgress, shell

        show = shell()
        if show is not None:
            return NotebookProgress(show)
    return observer(mode) if mode == "always" or can_be_live(sys.stderr, os.environ) else Progress()
