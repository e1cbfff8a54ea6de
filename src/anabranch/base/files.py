"""Files: what kind of file system one is on, writing one whole, and logs that are begun anew when they are large."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

# As the kernel names them, or their beginnings.
_NETWORK = ("9p", "afs", "beegfs", "ceph", "cifs", "gpfs", "lustre", "nfs", "smb", "fuse.sshfs")


def network_filesystem(path: str | os.PathLike[str], *, mounts: str | None = None) -> str:
    """Type of the network file system that a file is on; empty if it is on none, or that cannot be told.

    `mounts` is what the kernel says in ``/proc/self/mountinfo``, which other systems than Linux do not have.
    """
    try:
        device = os.stat(path).st_dev
        if mounts is None:
            with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
                mounts = file.read()
    except OSError:
        return ""
    wanted = f" {os.major(device)}:{os.minor(device)} "
    for line in mounts.splitlines():
        if wanted in line:
            kind = line.partition(" - ")[2].split(" ", 1)[0]
            return kind if kind.startswith(_NETWORK) else ""
    return ""


def write_whole(path: str | os.PathLike[str], data: str | bytes, *, mode: int | None = None) -> None:
    """Write a file so that it is there as a whole or not at all.

    `mode` are its permissions, whatever the umask; None leaves them to the umask.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
    first = 0o666 if mode is None else 0o600
    try:
        with open(draft, "xb", opener=lambda name, flags: os.open(name, flags, first)) as file:
            file.write(data.encode() if isinstance(data, str) else data)
        if mode is not None:
            draft.chmod(mode)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


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
