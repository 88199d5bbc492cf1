"""A year of real flights: every departure from New York's three airports in 2013, with weather and aircraft.

Asked at scheduled departure: will this flight arrive late? Answered when it has landed, so labels come hours
later and out of order; cancelled and diverted flights are never answered.

Every feature is known at scheduled departure. The weather is the row of the *last full hour*: a row is an
observation from anywhere in its hour (usually minute 51, with the rain of the whole hour), which a flight
that leaves at a quarter past could not have known.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...schemas.base import FeatureValue
from .flight_files import FlightDataError, flight_files

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
NEVER = -1
"""``label_ms`` of a flight that never landed at its destination."""

CLASSES = ("late", "on_time")
FEATURES = {
    "carrier": "category",
    "origin": "category",
    "dest": "category",
    "weekday": "number",
    "departure_minute": "number",
    "arrival_minute": "number",
    "scheduled_minutes": "number",
    "distance": "number",
    "departures_this_hour": "number",
    "plane_year": "number",
    "plane_seats": "number",
    "temp": "number",
    "dewp": "number",
    "humid": "number",
    "wind_dir": "number",
    "wind_speed": "number",
    "wind_gust": "number",
    "precip": "number",
    "pressure": "number",
    "visib": "number",
}
"""Name → type, in the order of the model's columns."""

SEGMENTS = ("carrier", "origin")
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")

# US daylight saving time of 2013, in standard time. Written out: the data span one year, and a slim system
# may have no time zone database.
_DST_START_MS = int(np.datetime64("2013-03-10T02:00", "ms").astype(np.int64))
_DST_END_MS = int(np.datetime64("2013-11-03T01:00", "ms").astype(np.int64))
# Destinations that airports.csv lacks, all on Atlantic standard time without daylight saving.
_ATLANTIC = {"SJU": (-4, False), "BQN": (-4, False), "PSE": (-4, False), "STT": (-4, False)}

_USED = (
    "time_hour",
    "minute",
    "sched_dep_time",
    "sched_arr_time",
    "arr_delay",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "distance",
)


@dataclass(frozen=True)
class Flights:
    """Rows in order of scheduled departure. Times are Unix milliseconds, UTC."""

    prediction_ids: Sequence[str]
    ts: NDArray[np.int64]
    """Scheduled departure: when the prediction is asked for."""
    label_ms: NDArray[np.int64]
    """Actual arrival: when the truth is known; NEVER for a flight that has none."""
    late: NDArray[np.bool_]
    """The truth; meaningless where ``label_ms`` is NEVER."""
    day: NDArray[np.int32]
    """Day of the year in New York, 0 = 1 January."""
    columns: dict[str, Sequence[FeatureValue]]
    """One sequence per name of FEATURES, null where unknown."""

    def __len__(self) -> int:
        return len(self.prediction_ids)

    def features(self, row: int) -> dict[str, FeatureValue]:
        return {name: column[row] for name, column in self.columns.items()}

    def segments(self, row: int) -> dict[str, FeatureValue]:
        return {name: self.columns[name][row] for name in SEGMENTS}

    def label(self, row: int) -> str | None:
        """``late`` or ``on_time``; None for a flight that never landed at its destination."""
        if self.label_ms[row] == NEVER:
            return None
        return CLASSES[0] if self.late[row] else CLASSES[1]

    def timeline(self) -> Iterator[tuple[int, int, bool]]:
        """(event time, row, is_label) of every prediction and label, in the order in which they happen."""
        landed = np.flatnonzero(self.label_ms != NEVER)
        times = np.concatenate([self.ts, self.label_ms[landed]])
        rows = np.concatenate([np.arange(len(self)), landed])
        order = np.argsort(times, kind="stable")
        is_label = order >= len(self)
        yield from zip(times[order].tolist(), rows[order].tolist(), is_label.tolist(), strict=True)


def load_flights(folder: Path | None = None) -> Flights:
    """Read ``folder`` (by default: found or fetched, see flight_files). Raises FlightDataError."""
    folder = folder or flight_files()
    try:
        return _flights(folder)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, StopIteration) as error:
        raise FlightDataError(
            f"the flight data in {folder} cannot be read ({error!r}): delete that folder and start again"
        ) from error


def _flights(folder: Path) -> Flights:
    raw = _read_flights(folder / "flights.csv.zip")
    hour_ms, minute = _hours(raw["time_hour"]), _ints(raw["minute"])
    departure = hour_ms + minute * MINUTE_MS
    order = np.lexsort((_ints(raw["flight"]), np.array(raw["carrier"]), departure))
    raw = {name: _take(column, order) for name, column in raw.items()}
    departure, hour_ms = departure[order], hour_ms[order]

    arrival_minute = _minute_of_day(raw["sched_arr_time"])
    offsets = _arrival_offsets(folder / "airports.csv", raw["dest"], departure)
    local_departure_minute = (departure + offsets) // MINUTE_MS % 1440
    # The next time that the destination's clocks show it: no flight here takes more than half a day.
    scheduled_minutes = (arrival_minute - local_departure_minute) % 1440
    delay = _floats(raw["arr_delay"])
    landed = ~np.isnan(delay)
    arrival = departure + (scheduled_minutes + np.where(landed, delay, 0).astype(np.int64)) * MINUTE_MS

    columns: dict[str, Sequence[FeatureValue]] = {
        "carrier": raw["carrier"],
        "origin": raw["origin"],
        "dest": raw["dest"],
        "weekday": ((_new_york(departure) // DAY_MS + 3) % 7).tolist(),  # 1970-01-01 was a Thursday
        "departure_minute": _minute_of_day(raw["sched_dep_time"]).tolist(),
        "arrival_minute": arrival_minute.tolist(),
        "scheduled_minutes": scheduled_minutes.tolist(),
        "distance": _ints(raw["distance"]).tolist(),
        "departures_this_hour": _departures_this_hour(raw["origin"], hour_ms),
        **_planes(folder / "planes.csv", raw["tailnum"]),
        **_weather(folder / "weather.csv", raw["origin"], hour_ms - HOUR_MS),
    }
    first_day = int(np.datetime64("2013-01-01", "D").astype(np.int64))
    return Flights(
        prediction_ids=[
            f"{stamp[:10]}T{stamp[11:13]}{int(minute):02d}Z-{carrier}{flight}-{origin}-{dest}"
            for stamp, minute, carrier, flight, origin, dest in zip(
                *(raw[name] for name in ("time_hour", "minute", "carrier", "flight", "origin", "dest")),
                strict=True,
            )
        ],
        ts=departure,
        label_ms=np.where(landed, arrival, NEVER),
        late=landed & (delay > 0),
        day=(_new_york(departure) // DAY_MS - first_day).astype(np.int32),
        columns={name: columns[name] for name in FEATURES},
    )


def _read_flights(path: Path) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {name: [] for name in _USED}
    with zipfile.ZipFile(path) as archive, archive.open("flights.csv") as member:
        reader = csv.reader(io.TextIOWrapper(member, encoding="utf-8", newline=""))
        header = next(reader)
        pick: Callable[[list[str]], tuple[str, ...]] = itemgetter(*(header.index(name) for name in _USED))
        # Transposed once: a few long lists hold the year in less memory than 336,776 short ones.
        for name, values in zip(_USED, zip(*map(pick, reader), strict=True), strict=True):
            columns[name] = list(values)
    return columns


def _read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _take(column: list[str], order: NDArray[np.int64]) -> list[str]:
    return [column[row] for row in order.tolist()]


def _ints(values: Sequence[str]) -> NDArray[np.int64]:
    return np.fromiter(map(int, values), np.int64, len(values))


def _floats(values: Sequence[str]) -> NDArray[np.float64]:
    return np.fromiter((float("nan") if v == "NA" else float(v) for v in values), np.float64, len(values))


def _number(text: str) -> float | None:
    return None if text in ("NA", "") else float(text)


def _whole(text: str) -> int | None:
    return None if text in ("NA", "") else int(text)


def _minute_of_day(hhmm: Sequence[str]) -> NDArray[np.int64]:
    values = _ints(hhmm)
    return values // 100 * 60 + values % 100


def _hours(stamps: Sequence[str]) -> NDArray[np.int64]:
    """``2013-01-01T10:00:00Z`` → milliseconds; each distinct one is parsed once."""
    known = {stamp: _hour(stamp) for stamp in set(stamps)}
    return np.fromiter((known[stamp] for stamp in stamps), np.int64, len(stamps))


def _hour(stamp: str) -> int:
    return int(np.datetime64(stamp.removesuffix("Z"), "ms").astype(np.int64))


def _new_york(utc_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Wall clock time in New York."""
    return utc_ms + _offset_ms(utc_ms, np.int64(-5), np.True_)


def _offset_ms(
    utc_ms: NDArray[np.int64],
    standard_hours: NDArray[np.int64] | np.int64,
    saves: NDArray[np.bool_] | np.bool_,
) -> NDArray[np.int64]:
    standard = utc_ms + standard_hours * HOUR_MS
    saving = saves & (standard >= _DST_START_MS) & (standard < _DST_END_MS)
    return standard_hours * HOUR_MS + np.where(saving, HOUR_MS, 0)


def _arrival_offsets(path: Path, dest: Sequence[str], utc_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Offset of the destination's clocks from UTC at departure."""
    zones = {row["faa"]: (int(row["tz"]), row["dst"] == "A") for row in _read_table(path)} | _ATLANTIC
    hours = np.fromiter((zones[code][0] for code in dest), np.int64, len(dest))
    saves = np.fromiter((zones[code][1] for code in dest), np.bool_, len(dest))
    return _offset_ms(utc_ms, hours, saves)


def _departures_this_hour(origin: Sequence[str], hour_ms: NDArray[np.int64]) -> list[int]:
    """How many departures the airport has scheduled in the same hour: the schedule is public."""
    slots = list(zip(origin, hour_ms.tolist(), strict=True))
    planned: dict[tuple[str, int], int] = {}
    for slot in slots:
        planned[slot] = planned.get(slot, 0) + 1
    return [planned[slot] for slot in slots]


def _planes(path: Path, tailnum: Sequence[str]) -> dict[str, list[FeatureValue]]:
    rows = {row["tailnum"]: (_whole(row["year"]), _whole(row["seats"])) for row in _read_table(path)}
    found = [rows.get(number, (None, None)) for number in tailnum]
    return {"plane_year": [year for year, _ in found], "plane_seats": [seats for _, seats in found]}


def _weather(path: Path, origin: Sequence[str], hour_ms: NDArray[np.int64]) -> dict[str, list[FeatureValue]]:
    rows: dict[tuple[str, int], tuple[float | None, ...]] = {
        (row["origin"], _hour(row["time_hour"])): tuple(_number(row[name]) for name in WEATHER)
        for row in _read_table(path)
    }
    unknown: tuple[float | None, ...] = (None,) * len(WEATHER)
    found = [rows.get(slot, unknown) for slot in zip(origin, hour_ms.tolist(), strict=True)]
    return {name: [row[place] for row in found] for place, name in enumerate(WEATHER)}
