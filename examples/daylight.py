"""Sunrise, sunset and length of the day all over the world: extract, transform, load, with elements that are skipped.

    python examples/daylight.py                       # today
    python examples/daylight.py --day 2026-12-21 --out december
    anabranch run examples/daylight.py --day 2026-06-21

The places are those of the time-zone database, which every machine with Python's `tzdata` has: some 420 of them, with
their coordinates. Where the sun does not rise or set that day, the element is skipped with `SKIP`, and the table is
loaded without it. Loading replaces the day's rows in one transaction, so a second run does no harm.
"""

import argparse
import contextlib
import csv
import math
import re
import sqlite3
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from zoneinfo import ZoneInfo

from anabranch import Flow, Parameter, task, unmapped
from anabranch.executors import DaskExecutor
from anabranch.signals import SKIP

HORIZON = -0.833  # degrees of the sun's centre when its upper edge rises: refraction, and half its width


@task
def extract() -> list[dict]:
    """Every place of the time-zone database: zone, country, latitude and longitude in degrees."""
    text = (files("tzdata") / "zoneinfo" / "zone.tab").read_text(encoding="utf-8")
    rows = csv.reader((line for line in text.splitlines() if not line.startswith("#")), delimiter="\t")
    places = []
    for country, coordinates, zone, *_ in rows:
        latitude, longitude = re.findall(r"[+-]\d+", coordinates)
        places.append(
            {"zone": zone, "country": country, "latitude": degrees(latitude, 3), "longitude": degrees(longitude, 4)}
        )
    return places


def degrees(text: str, width: int) -> float:
    """Degrees of ``±DDMM[SS]`` (`width` 3) or ``±DDDMM[SS]`` (4)."""
    whole, minutes, seconds = text[1:width], text[width : width + 2], text[width + 2 :] or "0"
    return float(text[0] + "1") * (int(whole) + int(minutes) / 60 + int(seconds) / 3600)


@task
def transform(place: dict, day: date) -> dict:
    """The place with its sunrise and sunset in local time, and the length of its day in hours."""
    # The sunrise equation, good to some minutes. Days are counted from noon of 2000-01-01; angles are in degrees.
    days = (day - date(2000, 1, 1)).days + 0.0008 - place["longitude"] / 360
    anomaly = math.radians((357.5291 + 0.98560028 * days) % 360)
    centre = 1.9148 * math.sin(anomaly) + 0.02 * math.sin(2 * anomaly) + 0.0003 * math.sin(3 * anomaly)
    ecliptic = math.radians((math.degrees(anomaly) + centre + 180 + 102.9372) % 360)
    noon = days + 0.0053 * math.sin(anomaly) - 0.0069 * math.sin(2 * ecliptic)
    declination = math.asin(math.sin(ecliptic) * math.sin(math.radians(23.44)))
    latitude = math.radians(place["latitude"])
    cosine = (math.sin(math.radians(HORIZON)) - math.sin(latitude) * math.sin(declination)) / (
        math.cos(latitude) * math.cos(declination)
    )
    if abs(cosine) > 1:
        raise SKIP(f"{place['zone']}: the sun does not {'set' if cosine < -1 else 'rise'} on {day}")

    half = math.degrees(math.acos(cosine)) / 360
    epoch, zone = datetime(2000, 1, 1, 12, tzinfo=UTC), ZoneInfo(place["zone"])
    sunrise, sunset = ((epoch + timedelta(days=noon + part)).astimezone(zone) for part in (-half, half))
    return {**place, "sunrise": f"{sunrise:%H:%M}", "sunset": f"{sunset:%H:%M}", "hours": round(48 * half, 2)}


@task
def as_csv(rows: list[dict | None], day: date, folder: str) -> str:
    """Write the table to a file of comma-separated values. Returns the path."""
    path = Path(folder) / f"daylight-{day}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = [row for row in rows if row is not None]  # None stands for a place that was skipped
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, found[0])
        writer.writeheader()
        writer.writerows(found)
    return str(path)


@task(max_retries=3, retry_delay=0.2, retry_on=sqlite3.OperationalError)
def load(rows: list[dict | None], day: date, folder: str) -> str:
    """Write the table to a SQLite file, where it replaces rows of this day. Returns the path."""
    path = Path(folder) / "daylight.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS daylight (day, zone, country, sunrise, sunset, hours)")
        database.execute("DELETE FROM daylight WHERE day = ?", [str(day)])
        database.executemany(
            "INSERT INTO daylight VALUES (:day, :zone, :country, :sunrise, :sunset, :hours)",
            [{**row, "day": str(day)} for row in rows if row is not None],
        )
    return str(path)


@task
def extremes(rows: list[dict | None]) -> list[dict]:
    """Every place, those with the longest day first."""
    return sorted((row for row in rows if row is not None), key=lambda row: row["hours"], reverse=True)


with Flow("daylight") as flow:
    day = Parameter("day", default=date(2026, 6, 21), type=date)
    folder = Parameter("out", default="daylight", type=str)
    rows = transform.map(extract(), unmapped(day))
    table = as_csv(rows, day, folder)
    database = load(rows, day, folder)
    ranking = extremes(rows)


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Run the flow, and show the ends of its table. Returns the problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    today = datetime.now().astimezone().date()
    parser.add_argument("--day", type=date.fromisoformat, default=today, help="such as 2026-12-21 (default: today)")
    parser.add_argument("--out", default="daylight", help="directory of what is written (default: %(default)s)")
    parser.add_argument("--address", help="of a Dask scheduler; default: a cluster of this machine's cores")
    given = parser.parse_args(arguments)

    state = flow.run(executor=DaskExecutor(given.address), day=given.day, out=given.out)
    if not state.is_successful():
        return state.message
    found = state.result[ranking].result
    print(f"{'':32} sunrise  sunset   hours")
    for row in [*found[:5], None, *found[-5:]]:
        print(f"{row['zone']:32} {row['sunrise']:>7} {row['sunset']:>7} {row['hours']:7.2f}" if row else "…")
    skipped = [each.message for each in state.result[rows].map_states if each.is_skipped()]
    print(f"\n{len(found)} places, and {len(skipped)} without a sunrise or without a sunset:")
    for message in skipped[:3]:
        print(f"  {message}")
    print(f"\nSee {state.result[table].result} and {state.result[database].result}")
    return None


if __name__ == "__main__":  # worker processes import this file; they must not run it
    raise SystemExit(main())  # a text is printed to standard error, and the exit code is 1
