"""A real browser for tests of pages: Debian's Chromium, without a window, driven by Playwright."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.needs import miss, program

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

WAIT_MS = 30_000


AXE = Path(__file__).parents[1] / "build" / "node_modules" / "axe-core" / "axe.min.js"


def axe() -> str:
    """The script that looks for what keeps people from using a page; without it the test cannot be."""
    if not AXE.exists():
        miss("axe-core", "npm install --no-save --prefix build axe-core@4")
    return AXE.read_text(encoding="utf-8")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; without one the test cannot be."""
    path = program("chromium")
    if importlib.util.find_spec("playwright") is None:
        miss("playwright", "pip install playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Containers give Chromium neither a sandbox of its own nor much shared memory; the pages are ours.
        options = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=path, args=options)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page, with whatever a page of ours should not do."""

    def __init__(self, browser: Browser, *, width: int = 1400, height: int = 900) -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": height})
        self.page.set_default_timeout(WAIT_MS)
        self.complaints: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("request", self._asked)
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"console {message.type}: {message.text}")

    def _asked(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("file", "data", "blob") and parts.hostname != "127.0.0.1":
            self.complaints.append(f"request: {request.url}")

    def is_hacked(self) -> bool:
        """Whether a script of somebody else's has run."""
        found: bool = self.page.evaluate("() => 'hacked' in window")
        return found
