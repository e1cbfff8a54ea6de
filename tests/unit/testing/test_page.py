"""The page about testing: its code is a test module that passes."""

from __future__ import annotations

import re
from pathlib import Path

from tests.unit.testing.test_plugin import run_pytest

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "testing.md"


def test_the_code_of_the_page_passes(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.+?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "test_page.py").write_text("\n\n".join(blocks), encoding="utf-8")

    outcome = run_pytest(tmp_path)

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert f"{sum(block.count('def test_') for block in blocks)} passed" in outcome.stdout
