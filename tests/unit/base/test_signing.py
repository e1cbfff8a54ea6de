"""Signatures are good for one key, one purpose and one text."""

from __future__ import annotations

import pytest

from anabranch.base.signing import is_signed, sign


def test_a_signature_is_good_for_what_was_signed_and_nothing_else() -> None:
    signature = sign("key", "flows 1", b"data")

    assert is_signed("key", "flows 1", b"data", signature)
    assert not is_signed("another key", "flows 1", b"data", signature)
    assert not is_signed("key", "flows 2", b"data", signature)
    assert not is_signed("key", "results 1", b"data", signature)
    assert not is_signed("key", "flows 1", b"data ", signature)


@pytest.mark.parametrize("signature", ["", "0" * 64, "é", "\udcff", "x" * 10_000])
def test_whatever_somebody_else_makes_up_is_no_signature(signature: str) -> None:
    assert not is_signed("key", "flows 1", b"data", signature)
