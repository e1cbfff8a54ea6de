"""Flows in files: pickles, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from anabranch.base import origins
from anabranch.base.errors import FlowLoadError
from anabranch.base.files import write_whole


def save(flow: object, path: str | Path) -> Path:
    """Write an object to a file that is there whole or not at all. Returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, origins.dumps_to_keep(flow))
    return path


def load(path: str | Path, kind: type) -> object:
    """Read what `save` wrote.

    Raises
    ------
    FlowLoadError
        The file does not hold an object of that kind, or holds one that does not load here.
    """
    data = Path(path).read_bytes()
    try:
        found = origins.loads(data)
    except Exception as error:  # a pickle runs code, which may raise anything
        raise FlowLoadError(f"{path} does not hold a flow that loads here: {type(error).__name__}: {error}") from error
    if not isinstance(found, kind):
        raise FlowLoadError(
            f"{path} holds a {type(found).__name__}, not a {kind.__name__.lower()}; name a file that its save() wrote"
        )
    return found
