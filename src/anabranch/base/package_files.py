"""What is in the files of this package, wherever it was imported from: a directory, a zip file, or memory on a worker.

Loaders are not asked for a module's source. Whoever stands between may have another loader than Python's own, as pytest
does for distributions that have a plugin, and need not know it.
"""

from __future__ import annotations

import os
import pkgutil


def read(path: str) -> bytes:
    """Content of a file, by its path below the package: ``executors/entry.py``.

    Raises
    ------
    OSError
        There is no such file.
    """
    try:
        with open(os.path.join(os.path.dirname(os.path.dirname(__file__)), path), "rb") as file:
            return file.read()
    except OSError:  # it is in no directory
        data = pkgutil.get_data("anabranch", path)
    if data is None:
        raise FileNotFoundError(path)
    return data
