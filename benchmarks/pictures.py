"""Pictures for README, taken of a real run: ``python -m benchmarks.pictures`` writes docs/images/*.png.

The live page, the report, the lines that a terminal shows meanwhile, and what it says at the end. Needs Debian's
Chromium and the package playwright.
"""

from __future__ import annotations

import io
import linecache
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.text import Text
from tests.browser import Watched, chromium

from anabranch import Flow
from anabranch.executors import DaskExecutor
from anabranch.monitoring.failures import failure_lines, further_lines
from anabranch.monitoring.pages import live_page
from anabranch.monitoring.pages.report import write_report
from anabranch.monitoring.terminal import LiveProgress
from anabranch.runs.store.opening import current_store

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from anabranch.runs.view import FlowRunView

IMAGES = Path(__file__).parents[1] / "docs" / "images"


# Compiled under a name of its own, so that no path of a machine is in the pictures.
FLOW = """
import time
from anabranch import Flow, Parameter, task, unmapped
from anabranch.triggers import all_finished

@task
def load_catalog(bucket: str) -> str:
    time.sleep(0.3)
    return bucket


@task
def get_token(bucket: str) -> str:
    time.sleep(0.15)
    return bucket


@task
def list_tiles(n: int) -> list[int]:
    time.sleep(0.2)
    return list(range(n))


@task(max_retries=1, retry_delay=0.05)
def fetch(tile: int) -> int:
    time.sleep(0.002)
    if tile % 1_499 == 11:
        raise ConnectionError("the store closed the connection")
    return tile


@task
def validate(tile: int, threshold: float) -> int:
    time.sleep(0.0005)
    if tile % 700 == 300:
        raise ValueError(f"tile has {tile % 60 + 37} % nodata")
    return tile


@task
def regrid(tile: int) -> int:
    return tile


@task(trigger=all_finished)
def mosaic(tiles: list[int]) -> int:
    time.sleep(0.5)
    return len(tiles)


@task(trigger=all_finished)
def quality(tiles: list[int]) -> int:
    time.sleep(0.4)
    return len(tiles)


@task
def histogram(tiles: int) -> int:
    time.sleep(0.2)
    return tiles


@task
def publish(*parts: int) -> int:
    return sum(parts)


@task
def notify(parts: int) -> str:
    return f"{parts} parts"


def daily_tiles():
    with Flow("daily-tiles") as flow:
        bucket = Parameter("bucket", default="tiles")
        tiles = list_tiles(Parameter("n", default=10_000), upstream_tasks=[load_catalog(bucket), get_token(bucket)])
        good = validate.map(fetch.map(tiles), unmapped(Parameter("threshold", default=0.35)))
        flags = quality(good)
        whole = mosaic(regrid.map(good))
        with Flow("statistics"):
            parts = [histogram(whole) for _ in range(3)]
        notify(publish(flags, *parts))
    return flow
"""


def daily_tiles() -> Flow:
    names: dict[str, Any] = {"__name__": "__main__"}  # what is of no module travels with the run
    linecache.cache["tiles.py"] = (len(FLOW), None, FLOW.splitlines(keepends=True), "tiles.py")
    exec(compile(FLOW, "tiles.py", "exec"), names)
    flow: Flow = names["daily_tiles"]()
    return flow


# Terminals ------------------------------------------------------------------------------------------------------------

COLUMNS = 96
FRAME = """<svg viewBox="0 0 {width} {height}" width="{width}" xmlns="http://www.w3.org/2000/svg"><style>{styles}
.{unique_id}-matrix {{ font: {char_height}px/{line_height}px 'DejaVu Sans Mono', monospace; }}</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}</defs><rect fill="#292929" width="{width}" height="{height}" rx="8"/>
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g></g></svg>"""
"""A terminal as SVG; rich's own frame names a font of another server."""


def terminal() -> Console:
    """A terminal that nobody sees, and that remembers what was shown on it."""
    return Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False)


def photograph(browser: Browser, console: Console, name: str) -> None:
    """Save what a terminal shows as a picture."""
    page = browser.new_page(viewport={"width": 960, "height": 200})
    svg = console.export_svg(code_format=FRAME, title="", unique_id="t")
    page.set_content(f'<body style="margin:0">{svg.replace("<svg ", "<svg style=width:960px ", 1)}</body>')
    page.locator("svg").screenshot(path=IMAGES / name)
    page.close()


def failure_screen(view: FlowRunView) -> Console:
    """What ``anabranch run`` says at the end of a run that has failed."""
    looks: dict[str, dict[str, Any]] = {"bad": {"fg": "red"}, "strong": {"bold": True}, "faint": {"dim": True}}
    lines = failure_lines(view, paint=lambda text, ink: click.style(text, **looks[ink]), height=30)
    found = terminal()
    for line in [*lines, "", *further_lines(view)]:
        found.print(Text.from_ansi(line))
    return found


# Pages ----------------------------------------------------------------------------------------------------------------


def main() -> None:
    flow, addresses, has_page = daily_tiles(), [""], threading.Event()

    def take(address: str) -> None:
        addresses[0] = address
        has_page.set()

    executor = DaskExecutor(cluster_kwargs={"n_workers": 2, "threads_per_worker": 1})
    views: list[FlowRunView] = []
    screen = terminal()
    progress = LiveProgress(screen)
    observer = progress._model.take  # the block is drawn once, and not four times a second
    run = threading.Thread(
        target=lambda: views.append(flow.run(dashboard=take, executor=executor, observers=[observer]))
    )
    run.start()
    has_page.wait()
    IMAGES.mkdir(exist_ok=True)
    with chromium() as browser:
        watched = Watched(browser, width=1280, height=860)
        page = watched.page
        page.set_default_timeout(120_000)  # on a busy machine a cluster takes its time
        page.goto(addresses[0])
        page.get_by_text("ConnectionError").first.wait_for()
        page.locator(".chip", has_text="Success 1").wait_for()
        while True:  # about half of it
            text = page.locator(".head b").first.inner_text()
            if float(text.rstrip("%") or 0) >= 45:
                break
            page.wait_for_timeout(100)
        screen.print(progress.block())
        page.screenshot(path=IMAGES / "live-page.png", full_page=True)
        photograph(browser, screen, "terminal.png")
        run.join()
        photograph(browser, failure_screen(views[0]), "terminal-failure.png")
        store = current_store()
        assert store is not None
        report = write_report(store, views[0].run_id, IMAGES / "report.html")
        page.goto(report.resolve().as_uri())
        page.locator("summary").first.click()
        page.locator("details pre").first.wait_for()
        page.screenshot(path=IMAGES / "report.png", full_page=True)
        page.close()
        report.unlink()
        for complaint in watched.complaints:
            print(complaint)
    live_page.stop_serving()


if __name__ == "__main__":
    main()
