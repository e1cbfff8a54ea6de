"""The examples' tasks do what they say, and their pictures show them as they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from docs.images import draw_examples
from examples import collatz, crawl, daylight, nightly, remote, schedule, stations, sweep, tiles
from PIL import Image

from anabranch.cli import anabranch
from anabranch.signals import SKIP

ROOT = Path(__file__).parents[2]
# Small runs, from the shell.
RUNS = {
    "cache": ["--files", "3", "--checkpoint"],
    "climate": [],
    "collatz": ["--limit", "30"],
    "corpus": ["--limit", "5", "--no-report"],
    "crash": ["--limit", "3"],
    "crawl": ["--root", "."],
    "daylight": ["--day", "2026-12-21"],
    "nightly": ["--damaged", "2026-03-02"],
    "orders": ["--days", "3"],
    "remote": ["--limit", "1000", "--parts", "3"],
    "scans": ["--pages", "4"],
    "schedule": [],
    "stations": ["--count", "60", "--port", "{port}"],
    "sweep": ["--enough", "4.4"],
    "team": ["--letters", "3"],
    "tiles": ["--size", "128"],
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of the service of `examples.stations`."""
    with stations.service() as listening:
        yield listening


def test_the_crawler_finds_every_file_of_a_tree(tmp_path: Path) -> None:
    for name, text in {"a/b/c/deep": "1234", "a/x": "12", "top": "1", "a/b/y": ""}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "empty").mkdir()

    state = crawl.flow.run(root=str(tmp_path), raise_on_failure=True)

    assert state.result[crawl.totals].result == {"directories": 4, "files": 4, "bytes": 7}
    assert state["crawl"].result["a"]["b"] == {"c": {"deep": 4}, "y": 0}
    assert len(state["crawl/measure"].map_states) == 1


def test_stations_are_asked_again_when_the_service_says_so_and_one_that_it_lacks_is_left_out() -> None:
    with stations.service() as listening:  # which has not been asked yet
        state = stations.flow.run(count=60, port=listening, raise_on_failure=True)

    assert [(name, each.message) for name, each in state.failures()] == [
        ("measure[13]", "LookupError: station 13: the service answers 404")
    ]
    assert [i for i, each in enumerate(state.result[stations.degrees].map_states) if each.attempt > 1] == [7, 57]
    assert state.result[stations.found].result == (25, 33.75)


def test_each_number_loops_for_as_long_as_it_takes() -> None:
    state = collatz.flow.run(limit=30, raise_on_failure=True)

    assert state.result[collatz.found].result == (27, 111)


def test_every_place_of_the_time_zone_database_has_coordinates() -> None:
    places = {place["zone"]: place for place in daylight.extract.run()}

    assert len(places) > 400
    assert places["Europe/Berlin"]["latitude"] == pytest.approx(52.5)
    assert places["America/New_York"]["longitude"] == pytest.approx(-74.0064, abs=1e-3)  # given with seconds
    assert all(abs(place["latitude"]) <= 90 and abs(place["longitude"]) <= 180 for place in places.values())


@pytest.mark.parametrize(
    ("zone", "day", "sunrise", "sunset"),
    [  # rounded local times, not taken from a table: good to a few minutes
        ("Europe/Berlin", date(2026, 6, 21), "04:43", "21:33"),
        ("Pacific/Auckland", date(2026, 12, 21), "05:58", "20:39"),
        ("Africa/Nairobi", date(2026, 3, 20), "06:36", "18:42"),
    ],
)
def test_the_sun_rises_and_sets_at_about_the_known_times(zone: str, day: date, sunrise: str, sunset: str) -> None:
    (place,) = (each for each in daylight.extract.run() if each["zone"] == zone)

    found = daylight.transform.run(place, day)

    assert minutes(found["sunrise"]) == pytest.approx(minutes(sunrise), abs=5)
    assert minutes(found["sunset"]) == pytest.approx(minutes(sunset), abs=5)


def minutes(time: str) -> int:
    return int(time[:2]) * 60 + int(time[3:])


def test_a_place_without_a_sunset_is_skipped() -> None:
    (place,) = (each for each in daylight.extract.run() if each["zone"] == "Arctic/Longyearbyen")

    with pytest.raises(SKIP, match="Arctic/Longyearbyen: the sun does not set on 2026-06-21"):
        daylight.transform.run(place, date(2026, 6, 21))


def test_the_parts_of_the_numbers_have_all_their_primes() -> None:
    for parts in (1, 7, 100):
        counts = map(remote.count_primes.run, remote.ranges.run(1000, parts))
        assert sum(number for number, _ in counts) == 168


def test_the_clocks_that_change_in_a_week_are_found() -> None:
    assert schedule.change.run("Europe/Berlin", date(2026, 3, 23)) == ("Europe/Berlin", "Sun 2026-03-29 01:00 UTC", 60)
    assert schedule.change.run("Europe/Berlin", date(2026, 10, 19)) == (
        "Europe/Berlin",
        "Sun 2026-10-25 01:00 UTC",
        -60,
    )
    assert schedule.change.run("Europe/Berlin", date(2026, 3, 16)) is None


def test_half_a_list_of_a_till_is_no_list() -> None:
    day = date(2026, 3, 2)
    assert nightly.read_till.run("Celle", day, "2026-03-01") == round(sum(json.loads(nightly.till("Celle", day))), 2)
    with pytest.raises(json.JSONDecodeError):
        nightly.read_till.run("Celle", day, "2026-03-02")


def test_the_grid_is_whole_and_its_order_follows_from_the_seed() -> None:
    settings = [tuple(each.values()) for each in sweep.grid.run(1)]

    assert len(settings) == len(set(settings)) == 72
    assert sweep.grid.run(1) == sweep.grid.run(1) != sweep.grid.run(2)


def test_a_model_that_knows_the_text_needs_few_bits() -> None:
    setting = {"order": 2, "weight": 0.001, "read": 1_000}

    known = sweep.attempt.run(setting, ("abc" * 100, "abc" * 10), 1.0)
    strange = sweep.attempt.run(setting, ("abc" * 100, "xyz" * 10), 1.0)

    assert known["bits"] < 0.1
    assert strange["bits"] == pytest.approx(np.log2(sweep.ALPHABET), abs=1e-3)  # any character is as likely as another


def test_tiles_put_together_are_the_picture_that_one_tile_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 32)
    parts = [tiles.draw.run(corner, 64) for corner in tiles.corners.run(64)]
    monkeypatch.setattr(tiles, "TILE", 64)
    whole = tiles.draw.run((0, 0), 64)

    assert np.array_equal(tiles.put_together.run(parts), whole)
    assert not np.array_equal(parts[0], parts[1])


def test_a_picture_is_written_as_other_programs_read_it(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)

    path = tiles.write.run(picture, str(tmp_path))

    with Image.open(path) as found:
        assert np.array_equal(np.asarray(found), picture)


@pytest.mark.parametrize("name", sorted(RUNS))
def test_an_example_runs_from_the_shell(name: str, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = ROOT / "examples" / f"{name}.py"

    given = [each.format(port=port) for each in RUNS[name]]
    done = CliRunner().invoke(anabranch, ["run", str(file), *given, "--executor", "local", "--json"])

    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["state"] == "Success"


def test_every_example_is_run_here_and_has_a_place_in_the_documentation() -> None:
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")

    assert draw_examples.names() == sorted(RUNS)
    assert all(f"(images/examples/{name}.svg)" in page and f"examples/{name}.py" in page for name in RUNS)


@pytest.mark.parametrize("name", sorted(RUNS))
def test_the_picture_of_an_example_shows_it_as_it_is(name: str) -> None:
    svg = (draw_examples.FOLDER / f"{name}.svg").read_text(encoding="utf-8")

    assert svg.splitlines()[-1] == draw_examples.digest(name), "run docs/images/draw_examples.py"
    assert all(node.name in svg for node in draw_examples.flow_of(name).sorted_tasks())
