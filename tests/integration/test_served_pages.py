"""Pages that a service serves, in a real browser: runs are started, cancelled, resumed and approved from them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.browser import Watched, chromium
from tests.service_process import ServiceProcess, serving

TOKEN = "a-token-for-operators"
VIEW_TOKEN = "a-token-to-look-with"
FLOWS = """
import time
from pathlib import Path
from anabranch import Flow, Parameter, task, triggers
from anabranch.schedules import CronSchedule

HOME = Path(__file__).parent

@task
def note(n, region):
    return f"{n} {region}"

@task
def hold(x):
    (HOME / "holding").touch()
    while not (HOME / "go").exists():
        time.sleep(0.01)
    return x

@task(trigger=triggers.manual_only)
def deploy(x):
    (HOME / "deployed").touch()

NAME = "<script>window.hacked = 1</script>'\\" x"

with Flow(NAME, schedule=CronSchedule("0 6 * * *")) as quick:
    note(Parameter("n", type=int, default=1), Parameter("region", default="eu", choices=["eu", "<b>us</b>"]))

with Flow("long") as long:
    hold(1)

with Flow("gated") as gated:
    deploy(note(1, "eu"))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("served")
    (found / "flows.py").write_text(FLOWS)
    return found


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[ServiceProcess]:
    with serving(home, "flows.py", token=TOKEN, ANABRANCH_SERVICE_VIEW_TOKEN=VIEW_TOKEN) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


class Visit(Watched):
    """Somebody who looks at the service's pages, beginning with one of them."""

    def __init__(self, browser: Any, service: ServiceProcess, token: str, path: str) -> None:
        super().__init__(browser)
        self.base = f"http://127.0.0.1:{service.port}"
        self.page.goto(f"{self.base}{path}")
        self.complaints.clear()  # that the first answer was 401
        self.page.fill("[name=token]", token)
        self.page.click("button:has-text('Log in')")

    def state(self, word: str) -> None:
        """Wait until the run's page shows a state."""
        self.page.wait_for_selector(f".badge:has-text('{word}')")

    def act(self, verb: str, button: str) -> None:
        """Ask for something to be done to the run, and say that it is meant."""
        self.page.click(f"text={verb}…")
        self.page.click(f"button:has-text('{button}')")

    def leave(self) -> None:
        """Close the page, on which nothing has gone wrong."""
        assert not self.is_hacked()
        assert self.complaints == []
        self.page.close()


def test_a_run_is_started_from_a_form_that_its_parameters_made(browser: Any, service: ServiceProcess):
    # given
    visit = Visit(browser, service, TOKEN, "/flows")
    page = visit.page
    page.click("a:has-text('window.hacked')")
    page.wait_for_selector("td:has-text('At 06:00 every day')")
    page.click("text=run…")
    # when
    page.fill("[name='p:n']", "12")
    page.select_option("[name='p:region']", "<b>us</b>")
    page.click("button:has-text('Start the run')")
    # then
    page.wait_for_selector("text=The run has been asked for.")
    visit.state("Success")
    run_id = re.search(r"id=(\w+)", page.url)[1]  # type: ignore[index]
    assert service.wait_for(run_id, "Success")["parameters"] == {"n": 12, "region": "<b>us</b>"}
    visit.leave()


def test_a_run_is_cancelled_and_resumed_from_its_page(browser: Any, service: ServiceProcess, home: Path):
    # given
    run_id = service.start("long")
    service.wait_for(run_id, "Running")
    visit = Visit(browser, service, TOKEN, f"/run?id={run_id}")
    visit.state("Running")
    # when
    visit.act("cancel", "Cancel the run")
    # then
    visit.state("Cancelled")
    service.wait_for(run_id, "Cancelled")  # its process has let go of it
    # when
    (home / "go").touch()
    visit.act("resume", "Resume the run")
    # then
    visit.state("Success")
    assert service.wait_for(run_id, "Success")["state"] == "Success"
    visit.leave()


def test_a_task_is_approved_from_the_page_of_its_run_by_who_may_do_that(
    browser: Any, service: ServiceProcess, home: Path
):
    # given
    run_id = service.start("gated")
    service.wait_for(run_id, "Paused")
    # when
    viewer = Visit(browser, service, VIEW_TOKEN, f"/run?id={run_id}")
    viewer.state("Paused")
    # then
    assert viewer.page.locator("text=approve…").count() == 0
    # when
    viewer.page.goto(f"{viewer.base}/do/approve?run={run_id}")
    viewer.page.click("button:has-text('Approve')")
    # then
    viewer.page.wait_for_selector("text=viewers' token; changing something requires the operators' token")
    viewer.page.close()
    assert service.call("GET", f"/api/runs/{run_id}")[1]["state"] == "Paused"
    assert not (home / "deployed").exists()
    # when
    visit = Visit(browser, service, TOKEN, f"/run?id={run_id}")
    visit.page.get_by_text("Tasks", exact=True).first.click()
    visit.page.click("button:has-text('Why?')")
    # then
    visit.page.wait_for_selector("b:has-text('deploy'):visible")
    # when
    visit.page.fill("input[placeholder^='task, or an element']", "<script>no")
    visit.page.press("input[placeholder^='task, or an element']", "Enter")
    # then
    visit.page.wait_for_selector("text=has no task '<script>no'")
    # when
    visit.act("approve", "Approve")
    # then
    visit.state("Success")
    assert (home / "deployed").exists()
    visit.leave()
