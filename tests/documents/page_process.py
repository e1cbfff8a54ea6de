"""The process in which the Python of one page runs: block after block, in one namespace, as a reader would type it.

Asked through a socket, one line of JSON each way. What blocks print goes to the process's own streams.
"""

from __future__ import annotations

import json
import socket
import sys
import traceback
import types
import warnings


def _run(request: dict[str, object]) -> str:
    """Run a block; the traceback of what it raised, or ""."""
    lines_before = "\n" * (int(str(request["line"])) - 1)  # so that tracebacks have the page's own lines
    try:
        exec(
            compile(lines_before + str(request["code"]), str(request["page"]), "exec"), sys.modules["__main__"].__dict__
        )
    except BaseException:
        return traceback.format_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return ""


def main(address: str) -> None:
    """Serve one page."""
    page = types.ModuleType("__main__")  # what is defined in it travels to workers, as from a script
    sys.modules["__main__"] = page
    sys.path.insert(0, "")
    warnings.simplefilter("error")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        with connection.makefile("rw") as stream:
            for line in stream:
                stream.write(json.dumps(_run(json.loads(line))) + "\n")
                stream.flush()


if __name__ == "__main__":
    main(sys.argv[1])
