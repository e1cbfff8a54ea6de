"""A log file that many processes append to and one of them, the service, begins anew when it is large."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RotatingLog:
    """A file, and when and how it is put aside: as `logging.handlers.RotatingFileHandler` names its files."""

    path: str
    size: int
    """Bytes, after which it is begun anew."""
    count: int
    """So many old ones are kept."""

    def open(self) -> int:
        """A descriptor to append with; made for this user alone."""
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def rotate(self) -> bool:
        """Put the file aside if it is large; whoever has it open goes on with the old one."""
        try:
            if os.stat(self.path).st_size < self.size:
                return False
        except FileNotFoundError:
            return False
        if not self.count:
            os.unlink(self.path)
            return True
        for number in range(self.count - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self.path}.{number}", f"{self.path}.{number + 1}")
        os.replace(self.path, f"{self.path}.1")
        return True
