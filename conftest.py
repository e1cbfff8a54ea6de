"""What holds for every test, doctests in ``src`` among them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _home_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs are recorded, by child processes too, in a store of these tests and never in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANABRANCH_HOME", str(tmp_path_factory.mktemp("anabranch-home")))
        yield
