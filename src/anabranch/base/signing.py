"""Signatures of what others could write to: HMAC-SHA256, with a key of its own for each purpose.

What is signed for one purpose, or in one format, is not signed for another, although the same key may be set for both.
"""

from __future__ import annotations

import hmac


def sign(key: str, purpose: str, data: bytes) -> str:
    """The signature of data, as 64 hexadecimal digits; the purpose has the version of its format.

    Examples
    --------
    >>> sign("a key", "results 1", b"data") == sign("a key", "flows 1", b"data")
    False
    """
    own = hmac.digest(key.encode(), f"anabranch {purpose}".encode(), "sha256")
    return hmac.digest(own, data, "sha256").hex()


def is_signed(key: str, purpose: str, data: bytes, signature: str) -> bool:
    """Whether somebody who has the key signed the data for the purpose."""
    return hmac.compare_digest(sign(key, purpose, data).encode(), signature.encode(errors="replace"))
