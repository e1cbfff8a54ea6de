"""Pictures of the pages for README, taken of a real run: ``python -m benchmarks.pictures`` writes docs/images/*.png.

Needs Debian's Chromium and the package playwright.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from tests.browser import Watched, chromium

from anabranch import Flow
from anabranch.dashboard import live
from anabranch.executors import DaskExecutor
from anabranch.history import current_store
from anabranch.report import write_report

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
    exec(compile(FLOW, "tiles.py", "exec"), names)
    flow: Flow = names["daily_tiles"]()
    return flow


def main() -> None:
    flow, addresses, has_page = daily_tiles(), [""], threading.Event()

    def take(address: str) -> None:
        addresses[0] = address
        has_page.set()

    executor = DaskExecutor(cluster_kwargs={"n_workers": 2, "threads_per_worker": 1})
    views = []
    run = threading.Thread(target=lambda: views.append(flow.run(dashboard=take, executor=executor)))
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
        page.screenshot(path=IMAGES / "live-page.png", full_page=True)
        run.join()
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
    live.stop_serving()


if __name__ == "__main__":
    main()
