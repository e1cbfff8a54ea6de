"""Objects that are files of a known format from their first byte, so that other programs can read them.

What is known of them is in a second object beside them, whose name has the checksum of the first: whoever writes when,
a file is never taken for that of another. Such objects hold one value, and their names end as those of the format do.
"""

from __future__ import annotations

from anabranch.results.serializers import Serializer

ANY = ".*"
"""For a serializer whose bytes are a file of whatever the name says."""


def is_plain(location: str, serializer: Serializer) -> bool:
    """Whether an object of that name, written by that serializer, is such a file."""
    extensions: tuple[str, ...] = getattr(serializer, "extensions", ())
    name = location.rpartition("/")[2].lower()
    return name.endswith(extensions) or (ANY in extensions and "." in name)


def place_beside(location: str, sha256: str) -> str:
    """Where the head of such an object is. Readers of whole directories leave out names with such a beginning."""
    folder, slash, name = location.rpartition("/")
    return f"{folder}{slash}_{name[:80]}.{sha256[:32]}.anabranch"
