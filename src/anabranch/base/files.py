"""Files: what kind of file system one is on, where data is, and writing a file whole."""

from __future__ import annotations

import os
import secrets
import stat
import sys
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


def is_public(path: str | os.PathLike[str]) -> bool:
    """Whether everybody on this machine may read a file; what cannot be told, as on Windows, is not public."""
    try:
        return sys.platform != "win32" and bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return False


def data_directory() -> Path:
    """Where this user's data is: ``$ANABRANCH_HOME``, or else ``anabranch`` in ``$XDG_DATA_HOME``."""
    home = os.environ.get("ANABRANCH_HOME") or Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share", "anabranch")
    return Path(home).expanduser().absolute()


def write_whole(path: str | os.PathLike[str], data: str | bytes, *, mode: int | None = None) -> None:
    """Write a file so that it is there as a whole or not at all.

    What a link leads to is replaced, and the link stays. What is no file, such as a pipe or a device, is written into.

    `mode` are the permissions of the file, whatever the umask; None leaves them to the umask.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        with open(path, "wb") as stream:
            stream.write(data.encode() if isinstance(data, str) else data)
        return
    path = Path(os.path.realpath(path))
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
