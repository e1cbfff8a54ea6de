"""Pages in a real browser, of real runs: what they show, what can be done with them, and what they must not do."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.browser import Watched, axe, chromium
from tests.hostile_names import CONTROL, CORPUS

from anabranch import Flow, Parameter, context, task
from anabranch.executors import DaskExecutor, LocalDaskExecutor
from anabranch.flows.loading import load_flow
from anabranch.monitoring.pages import live_page
from anabranch.monitoring.pages.library import Library
from anabranch.monitoring.pages.report import write_report
from anabranch.monitoring.pages.server import Pages
from anabranch.runs.store.opening import current_store, store_to_show
from anabranch.runs.view import FlowRunView
from anabranch.triggers import all_finished

WIDTH = 10_000


@pytest.fixture(autouse=True, scope="module")
def _store_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Other processes write to this store; tests that open one file twice in this process would take its locks away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANABRANCH_HOME", str(tmp_path_factory.mktemp("pages-home")))
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    found = Watched(browser)
    yield found
    found.page.close()
    live_page.stop_serving()


class Background:
    """A run in a thread, as a browser's steps are taken in this one."""

    def __init__(self, flow: Flow, **options: Any) -> None:
        self.address = ""
        self._has_address = threading.Event()
        self._view: FlowRunView | BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(flow, options))
        self._thread.start()
        assert self._has_address.wait(60)

    def _run(self, flow: Flow, options: dict[str, Any]) -> None:
        try:
            self._view = flow.run(dashboard=self._take, **options)
        except BaseException as error:
            self._view = error
        finally:
            self._has_address.set()

    def _take(self, address: str) -> None:
        self.address = address
        self._has_address.set()

    def result(self) -> FlowRunView:
        self._thread.join(90)
        assert isinstance(self._view, FlowRunView), self._view
        return self._view


@task
def numbers(n: int) -> list[int]:
    return list(range(n))


@task
def parse(x: int) -> int:
    if x % 2_500 == 7:
        raise ValueError(f"bad record {x}")
    return x


@task(trigger=all_finished)
def hold(xs: list[int], path: str) -> int:
    import time
    from pathlib import Path

    while not Path(path).exists():  # the test looks at the page meanwhile
        time.sleep(0.02)
    return len(xs)


def chips(page: Any) -> Counter[str]:
    """Task runs by state as the page's head has them."""
    found: Counter[str] = Counter()
    for text in page.locator(".chips").first.locator(".chip").all_inner_texts():
        match = re.fullmatch(r"\S+ (\w+) ([\d,]+)", text)
        assert match is not None, text
        found[match[1]] = int(match[2].replace(",", ""))
    return found


@pytest.mark.cluster
def test_the_page_of_a_run_on_a_cluster_shows_what_the_run_comes_to(watched: Watched, tmp_path: Path):
    # given a run whose last task waits
    with Flow("tiles") as flow:
        hold(parse.map(numbers(Parameter("n"))), Parameter("gate"))
    cluster = DaskExecutor(cluster_kwargs={"n_workers": 2, "threads_per_worker": 1})
    run = Background(flow, n=WIDTH, gate=str(tmp_path / "go"), executor=cluster)
    page = watched.page
    # when its page is opened meanwhile
    page.goto(run.address)
    page.locator(".badge", has_text="Running").wait_for()
    page.locator(".chip", has_text="Failed 4").wait_for()
    assert "token" not in page.url
    meanwhile = chips(page)
    # then it has the elements that have ended, and finds a failure in two clicks: the kind, and that is all
    assert meanwhile["Success"] == WIDTH - 4 + 1
    page.get_by_text(re.compile(r"hold since \d\d:\d\d:\d\d on tcp://127.0.0.1:\d+")).first.wait_for()
    page.locator("summary", has_text="ValueError").click()
    page.get_by_text("bad record 7", exact=False).nth(1).wait_for()
    assert "x = 7" in page.locator("details").first.inner_text()
    # and when the run has ended, its numbers are the run's
    (tmp_path / "go").touch()
    view = run.result()
    page.locator(".badge", has_text="Success").wait_for()
    states = [each.name for each in view.result["parse"].map_states]
    assert chips(page) == Counter([*states, view.result["numbers"].name, view.result["hold"].name])
    page.get_by_text("Workers", exact=True).click()
    page.get_by_text("pieces of work").wait_for()
    assert len(re.findall(r"tcp://", page.locator("table").first.inner_text())) == 2
    assert watched.complaints == []


FLOW = """
import time
from pathlib import Path
from anabranch import Flow, Parameter, task

@task
def numbers(n):
    return list(range(n))

@task
def slow(x, gate):
    while x >= 20 and not Path(gate).exists():
        time.sleep(0.02)
    return x

from anabranch import unmapped
with Flow("restarted") as flow:
    slow.map(numbers(Parameter("n", default=60)), unmapped(Parameter("gate")))
"""


def test_a_run_is_cancelled_and_resumed_from_its_page(watched: Watched, tmp_path: Path):
    # given a run that waits at element 20
    (tmp_path / "restarted.py").write_text(FLOW, encoding="utf-8")
    flow = load_flow(str(tmp_path / "restarted.py")).flow
    run = Background(flow, gate=str(tmp_path / "go"), executor=LocalDaskExecutor(num_workers=2))
    page = watched.page
    page.goto(run.address)
    # when it is cancelled, which is asked twice
    page.get_by_role("button", name="Cancel the run").click()
    page.get_by_role("button", name="Click again to cancel").click()
    view = run.result()
    assert view.is_cancelled()
    page.locator(".badge", has_text="Cancelled").wait_for()
    # and resumed, with what it waited for
    (tmp_path / "go").touch()
    page.get_by_role("button", name="Resume").click()
    page.locator(".badge", has_text="Success").wait_for()
    # then it is the same run, whole
    store = current_store()
    assert store is not None
    assert store.get_run(view.run_id).state == "Success"
    assert chips(page) == Counter(Success=61)
    assert watched.complaints == []


@pytest.mark.parametrize("place", ["live", "report"])
def test_names_and_texts_are_nothing_but_text(watched: Watched, tmp_path: Path, place: str):
    # given a flow whose every name, value and message tries to be more
    def failing(text: str) -> Any:
        @task(name=text)
        def fail(value: str) -> str:
            raise ValueError(f"{text} {value}")

        return fail

    with Flow(CORPUS[0]) as flow:
        for number, text in enumerate(CORPUS):
            with Flow(text):
                failing(text)(Parameter(f"p{number}", default=f"{text}{CONTROL[number % len(CONTROL)]}"))
    addresses: list[str] = []
    view = flow.run(dashboard=addresses.append)
    store = current_store()
    assert store is not None
    if place == "report":
        addresses = [write_report(store, view.run_id, tmp_path / "run.html").as_uri()]
    page = watched.page
    # when every part of its page is looked at
    page.goto(addresses[0])
    page.locator(".badge", has_text="Failed").wait_for()
    for summary in page.locator("summary").all():
        summary.click()
    for tab in ("All tasks", "Workers", "Tasks", "Logs", "Parameters", "Overview"):
        page.get_by_text(tab, exact=True).first.click()
    if place == "live":
        for link in ("flow", "all runs"):
            page.get_by_role("link", name=link, exact=True).first.click()
            page.locator("h1").wait_for()
            page.locator("table").first.wait_for()
    else:
        assert CORPUS[0] in page.locator("h1").inner_text()
        assert page.title().startswith(CORPUS[0])
    # then none of it has been anything but text
    assert not watched.is_hacked()
    assert watched.complaints == []


FOCUSED = """() => {
    let found = document.activeElement;
    while (found.shadowRoot?.activeElement) found = found.shadowRoot.activeElement;
    return found.textContent;
}"""


def test_a_page_can_be_used_on_a_narrow_screen_and_by_keyboard(browser: Any, tmp_path: Path):
    # given
    with Flow("narrow") as flow:
        parse.map(numbers(Parameter("n", default=100)))
    view = flow.run()
    store = current_store()
    assert store is not None
    narrow = Watched(browser, width=390, height=800)
    page = narrow.page
    page.goto(write_report(store, view.run_id, tmp_path / "run.html").as_uri())
    page.locator("summary").wait_for()

    def go_to(words: str, key: str) -> None:
        for _ in range(40):
            page.keyboard.press(key)
            if words in page.evaluate(FOCUSED):
                return
        pytest.fail(f"{key} does not come to {words!r}")

    # when the failure is reached by the tabulator key alone
    go_to("ValueError", "Tab")
    page.keyboard.press("Enter")
    # then it is open
    assert page.locator("details").first.get_attribute("open") is not None
    # and when another part is chosen in the same way, that is what is shown
    assert not page.locator("th", has_text="retries").is_visible()
    go_to("Tasks", "Shift+Tab")
    page.keyboard.press("Enter")
    page.locator("th", has_text="retries").wait_for()
    assert not page.locator("summary").is_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    assert narrow.complaints == []
    page.close()


PLACES = ("", "flows", "flow?name=failing", "run?id=axe", "run?id=axe&task=parse", "diff?a=axe&b=axe", "nowhere")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Addresses of all kinds of pages, the first with the token."""
    with Flow("failing") as flow:
        hold(parse.map(numbers(Parameter("n", default=40))), str(tmp_path_factory.mktemp("gate")))
    flow.run(run_id="axe")
    with Pages(Library(store_to_show)) as pages:
        address = pages.address()
        yield [address, *(address.partition("?")[0] + place for place in PLACES)]


def test_no_page_is_wider_than_the_screen_and_a_task_has_an_address(watched: Watched, places: list[str]):
    page = watched.page
    page.goto(places[0])
    for width in (390, 768, 1400, 1920):
        page.set_viewport_size({"width": width, "height": 900})
        for place in places[1:]:
            page.goto(place)
            page.locator("h1").first.wait_for()
            assert page.evaluate("() => document.documentElement.scrollWidth") <= width, place
    # given the page of a run, when a task is clicked
    page.goto(places[4])
    page.locator("a.task", has_text="parse").first.click()
    # then there is all about it, at an address of its own
    page.locator("aside", has_text="bad record 7").wait_for()
    assert page.url.endswith("run?id=axe&task=parse")
    # and it closes with a step back, or by Escape
    page.go_back()
    page.locator("aside").wait_for(state="hidden")
    page.go_forward()
    page.locator("aside").wait_for()
    page.keyboard.press("Escape")
    page.locator("aside").wait_for(state="hidden")
    # and what is looked for stays in the address
    page.goto(places[1])
    page.get_by_label("state").select_option("Success")
    page.get_by_role("button", name="Find").click()
    page.get_by_role("link", name="axe").wait_for()
    assert "state=Success" in page.url
    assert [each for each in watched.complaints if "404" not in each] == []


WIDE = 110


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Addresses of a run of many tasks, one of which fails: of its page, with the token, and of its report."""
    with Flow("wide") as flow:
        for number in range(WIDE):
            parse(number + 2_400)
    flow.run(run_id="wide")
    store = current_store()
    assert store is not None
    report = write_report(store, "wide", tmp_path_factory.mktemp("wide") / "run.html").as_uri()
    with Pages(Library(store_to_show)) as pages:
        yield pages.address("wide"), report


FOCUS = """() => {
    let found = document.activeElement;
    while (found.shadowRoot?.activeElement) found = found.shadowRoot.activeElement;
    return found.title;
}"""
IS_SEEN = """(box) => {
    const at = box.getBoundingClientRect(), picture = box.getRootNode().host.getRootNode().host;
    const frame = picture.getRootNode().host.getBoundingClientRect();
    return at.top >= frame.top && at.bottom <= frame.bottom && at.left >= frame.left && at.right <= frame.right;
}"""


@pytest.mark.parametrize("place", ["live", "report"])
def test_a_graph_is_scaled_walked_and_searched_and_stays_as_it_was(watched: Watched, wide: tuple[str, str], place: str):
    # given the graph of many tasks, higher than its frame
    page = watched.page
    page.goto(wide[place == "report"])
    frame, said = page.locator(".frame"), page.locator("graph-tools output")
    failed = page.locator(".b.bad")
    failed.wait_for(state="attached")

    def zoom() -> float:
        found: float = frame.evaluate("(frame) => +frame.style.getPropertyValue('--zoom') || 1")
        return found

    assert not failed.evaluate(IS_SEEN)
    # when what failed is asked for, then it is seen and has the focus
    page.get_by_role("button", name="failed").click()
    assert said.inner_text() == "1 of 1 failed: parse-107"
    assert failed.evaluate(IS_SEEN)
    assert page.evaluate(FOCUS).startswith("parse-107: Failed")
    page.get_by_role("button", name="running").click()
    assert said.inner_text() == "nothing runs now"
    # and arrows go on from there; the view follows
    frame.focus()
    page.keyboard.press("ArrowDown")
    first = page.evaluate(FOCUS)
    page.keyboard.press("ArrowDown")
    assert first != page.evaluate(FOCUS) != ""
    page.keyboard.press("ArrowUp")
    assert page.evaluate(FOCUS) == first
    # and keys and the wheel scale it
    page.keyboard.press("0")
    whole = zoom()
    assert 0.05 <= whole < 1
    assert frame.evaluate("(frame) => frame.scrollHeight <= frame.clientHeight + 1")
    page.keyboard.press("+")
    assert zoom() > whole
    page.keyboard.press("-")
    assert zoom() == pytest.approx(whole)
    frame.hover()
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    frame.evaluate("(frame) => new Promise(requestAnimationFrame)")
    assert zoom() > whole
    # and the small picture and the pointer move it
    for _ in range(8):
        page.keyboard.press("+")
    small = page.locator("graph-tools canvas")
    box = small.bounding_box()
    assert box is not None
    small.click(position={"x": box["width"] / 2, "y": box["height"] - 4})
    top = frame.evaluate("(frame) => frame.scrollTop")
    assert top > 0
    frame.hover()
    page.mouse.down()
    page.mouse.move(300, 700, steps=4)
    page.mouse.up()
    # and it is as it was when the page is left and come back to
    moved = frame.evaluate("(frame) => [frame.scrollLeft, frame.scrollTop]")
    before = zoom()
    page.goto("about:blank")
    page.go_back()
    failed.wait_for(state="attached")
    page.wait_for_function(
        "([frame, zoom]) => Math.abs(frame.style.getPropertyValue('--zoom') - zoom) < 1e-6",
        arg=[frame.element_handle(), before],
    )
    assert frame.evaluate("(frame) => [frame.scrollLeft, frame.scrollTop]") == pytest.approx(moved, abs=2)
    if place == "live":  # where there is more about a task, Enter opens it, and a step back leaves the view
        page.get_by_role("button", name="failed").click()
        page.keyboard.press("Enter")
        page.locator("aside", has_text="bad record 2507").wait_for()
        page.go_back()
        page.locator("aside").wait_for(state="hidden")
        assert zoom() == pytest.approx(before)
    assert watched.complaints == []


@pytest.mark.parametrize("place", ["live", "report"])
def test_tasks_are_sorted_and_filtered(watched: Watched, wide: tuple[str, str], place: str):
    page = watched.page
    page.goto(wide[place == "report"])
    page.get_by_role("button", name="Tasks", exact=True).click()
    rows, table = page.locator("tasks-table tbody tr"), page.locator("tasks-table")

    def shown() -> list[str]:
        found: list[str] = rows.evaluate_all("(all) => all.filter((r) => !r.hidden).map((r) => r.cells[0].innerText)")
        return found

    # then what failed comes first
    rows.first.wait_for()
    assert shown()[:2] == ["parse-107", "parse"]
    assert len(shown()) == WIDE
    # when it is sorted by keys: names by their numbers
    page.get_by_role("button", name="task", exact=True).focus()
    page.keyboard.press("Enter")
    assert shown()[:3] == ["parse", "parse-1", "parse-2"]
    page.keyboard.press("Enter")
    assert shown()[0] == f"parse-{WIDE - 1}"
    assert table.locator("th[aria-sort]").evaluate_all("(all) => all.map((th) => th.ariaSort)") == ["descending"]
    # and filtered
    page.get_by_label("part of a task's name").fill("ARSE-1")
    assert len(shown()) == 1 + 10 + 10
    page.get_by_label("state", exact=True).select_option("Failed")
    assert shown() == ["parse-107"]
    page.get_by_label("part of a task's name").fill("arse-2")
    assert shown() == []
    page.get_by_label("part of a task's name").fill("")
    assert shown() == ["parse-107"]
    assert page.locator("tasks-fields output").inner_text() == f"1 of {WIDE} tasks"
    # and it stays so when the page is left and come back to
    if place == "live":
        assert "tab=Tasks" in page.url
        page.locator("tasks-table a.task", has_text="parse-107").click()
        page.locator("aside").wait_for()
        page.get_by_role("link", name="flow", exact=True).click()
        page.locator("h1", has_text="wide").wait_for()
        page.go_back()
        page.locator("aside").wait_for()
        page.go_back()
        page.locator("aside").wait_for(state="hidden")
        assert shown() == ["parse-107"]
    assert watched.complaints == []


class Bad:
    """An object that shows notebooks what no page should do."""

    def _repr_html_(self) -> str:
        return (
            "<b>framed</b><script>parent.hacked = top.hacked = 1</script>"
            "<img src='data:,x' onerror='parent.hacked = top.hacked = 1'>"
        )


@task
def show_all(n: int) -> None:
    context.artifact.metric("loss", 1 / (n + 1))
    context.artifact.progress(n, 4)
    context.artifact.table([{"station": "north", "rows": 1_200}], name="stations")
    context.artifact.markdown("# Found\n\n[here](javascript:hacked=1) <script>hacked = 1</script>")
    context.artifact.link("javascript:hacked=1", "to the report")
    context.artifact.image(b"<svg xmlns='http://www.w3.org/2000/svg' width='40' height='30'><script>x</script></svg>")
    context.artifact.image(Bad(), name="a frame")


def test_what_tasks_show_is_readable_and_runs_nothing(watched: Watched, tmp_path: Path):
    # given what is shown by a map, whose page and report are looked at on a small screen
    with Flow("showing") as flow:
        show_all.map([0, 1, 2])
    flow.run(run_id="shown")
    store = current_store()
    assert store is not None
    report = write_report(store, "shown", tmp_path / "report.html")
    page = watched.page
    page.set_viewport_size({"width": 390, "height": 900})
    with Pages(Library(store_to_show)) as pages:
        page.goto(pages.address())
        for address in (f"{pages.address().partition('?')[0]}run?id=shown", report.as_uri()):
            # when
            page.goto(address)
            page.get_by_text("Artifacts", exact=True).click()
            page.get_by_text("of 3 elements").first.wait_for()
            # then
            assert page.get_by_text("progress: 3 of 12 (25%) of 3 elements").count() == 1
            page.locator("iframe").first.scroll_into_view_if_needed()
            page.frame_locator("iframe").first.get_by_text("framed").wait_for()
            assert not watched.is_hacked()
            assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
            page.evaluate(axe())
            found = page.evaluate("() => axe.run()")["violations"]
            assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    assert [each for each in watched.complaints if "Blocked script execution in 'about:srcdoc'" not in each] == []


def test_axe_finds_nothing_in_light_and_in_dark(watched: Watched, places: list[str]):
    script, page = axe(), watched.page
    page.goto(places[0])
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for place in places[1:]:
            page.goto(place)
            page.locator("h1").first.wait_for()
            page.wait_for_timeout(300)  # Bokeh lays out once more
            page.evaluate(script)
            found = page.evaluate("() => axe.run(document, {rules: {'target-size': {enabled: true}}})")["violations"]
            assert [(each["id"], each["nodes"][0]["html"]) for each in found] == [], f"{place}, {scheme}"
