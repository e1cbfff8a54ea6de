"""What kind of file system a file is on: those of a network promise less than those of a disk."""

from __future__ import annotations

import os

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
