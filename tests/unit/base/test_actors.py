"""Who acts is said even where the system knows no name."""

from __future__ import annotations

import getpass
import os

import pytest

from anabranch.base.actors import name_user


@pytest.mark.parametrize("error", [OSError, KeyError, ModuleNotFoundError])
def test_a_user_without_a_name_has_a_number_or_is_somebody(error: type[Exception], monkeypatch: pytest.MonkeyPatch):
    def fails() -> str:
        raise error("pwd")

    monkeypatch.setattr(getpass, "getuser", fails)
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    assert name_user().startswith("1234@")
    monkeypatch.delattr(os, "getuid")
    assert name_user().startswith("somebody@")
