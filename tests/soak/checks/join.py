"""Predictions, labels and the ledger against outcomes and dead letters, partition by partition.

Bounded memory: where a partition holds more than fits, it is read several times, each time for a share of the
ids.
"""

from __future__ import annotations

import json
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
from driftloop.schemas.partition import partition_of
from driftloop.schemas.topics import DEAD_LETTERS, LABELS, OUTCOMES, PREDICTIONS
from driftloop.streams.kafka.connection import Connection

from tests.soak.aborts import ABORTED
from tests.soak.checks.expect import DueOutcome, Expected, LoggedLabel, LoggedPrediction, Windows, expected_of
from tests.soak.checks.findings import Findings
from tests.soak.checks.logs import Line, read
from tests.soak.traffic.ledger import read_ledger
from tests.soak.traffic.story import MODELS, REGRESSION

_IDS_AT_ONCE = 600_000
_REGRESSIONS = frozenset({REGRESSION})

Variant = tuple[str, int, str]


@dataclass(slots=True)
class EmittedCopy:
    """Revision 0 of one partition's outcomes, for the check of vitals."""

    seqs: array[int] = field(default_factory=lambda: array("q"))
    errors: array[float] = field(default_factory=lambda: array("d"))
    variants: list[Variant] = field(default_factory=list[Variant])


@dataclass(slots=True)
class ExpectedBooks:
    """What the joiner's books of one partition must say, by topic and class.

    ``unmet``: pending or expired. ``unclear``: one of its ids is, so that only ``read`` and ``misrouted``
    are sure.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    unclear: bool = False


@dataclass(slots=True)
class Joined:
    """What was seen, for the report and the checks that follow."""

    predictions: int = 0
    labels: int = 0
    outcomes_expected: int = 0
    outcomes_seen: int = 0
    dead_letters: int = 0
    misrouted: int = 0
    unclear_ids: int = 0
    last_outcome_ms: int = 0
    emitted: dict[int, EmittedCopy] = field(default_factory=dict[int, EmittedCopy])
    books: defaultdict[int, ExpectedBooks] = field(default_factory=lambda: defaultdict(ExpectedBooks))
    counts: Counter[tuple[Variant, str]] = field(default_factory=Counter[tuple[Variant, str]])
    served: set[str] = field(default_factory=set[str])


@dataclass(slots=True)
class _Logged:
    """Offsets and checksums of one input partition, to be held against the ledger."""

    offsets: array[int] = field(default_factory=lambda: array("Q"))
    checksums: array[int] = field(default_factory=lambda: array("I"))


class JoinCheck:
    def __init__(
        self, connection: Connection, folder: Path, partitions: int, windows: Windows, findings: Findings
    ) -> None:
        self._connection, self._folder, self._partitions = connection, folder, partitions
        self._windows, self._findings = windows, findings
        self._dead_letters = self._read_dead_letters()
        self._explained: set[tuple[str, int, int]] = set()
        self._misrouted: Counter[str] = Counter()
        self._sent_on: Counter[str] = Counter()
        self._logged: defaultdict[tuple[bool, int], _Logged] = defaultdict(_Logged)
        self.joined = Joined(dead_letters=len(self._dead_letters))

    def run(self) -> Joined:
        load = cast("dict[str, int]", json.loads((self._folder / "load.json").read_text("utf-8")))
        slices = load["predictions"] // self._partitions // _IDS_AT_ONCE + 1
        for partition in range(self._partitions):
            for part in range(slices):
                self._check_partition(partition, part, slices)
        self._check_misrouted()
        self._check_ledger()
        for topic, partition, offset in sorted(self._dead_letters.keys() - self._explained):
            reason = self._dead_letters[topic, partition, offset]
            self._findings.add(
                "dead_letters_unexplained", f"{topic}[{partition}]@{offset} is a dead letter: {reason}"
            )
        return self.joined

    def _read_dead_letters(self) -> dict[tuple[str, int, int], str]:
        """The joiner's, by where the refused record lies; repeats have the same id."""
        found: dict[tuple[str, int, int], str] = {}
        partitions = cast("dict[str, int]", json.loads((self._folder / "run.json").read_text())["partitions"])
        for number in range(partitions[DEAD_LETTERS.name]):
            for line in read(self._connection, DEAD_LETTERS, number):
                letter = orjson.loads(line.value)
                if letter["stage"] == "join":
                    topic = letter["topic"].removeprefix(self._connection.prefix)
                    found[topic, letter["partition"], letter["offset"]] = letter["reason"]
        return found

    # One partition, or a share of its ids

    def _check_partition(self, partition: int, part: int, slices: int) -> None:
        predictions: defaultdict[str, list[LoggedPrediction]] = defaultdict(list)
        labels: defaultdict[str, list[LoggedLabel]] = defaultdict(list)
        newest_ms = 0
        for line in read(self._connection, PREDICTIONS, partition):
            newest_ms = max(newest_ms, line.append_ms)
            event = self._input(line, False, part, slices)
            if event is not None:
                predictions[event["prediction_id"]].append(_prediction(line, event))
        for line in read(self._connection, LABELS, partition):
            event = self._input(line, True, part, slices)
            if event is not None:
                labels[event["prediction_id"]].append(_label(line, event))
        due: dict[tuple[str, Variant, int], DueOutcome] = {}
        unclear: set[str] = set()
        forgotten_ms = newest_ms - self._windows.early_ms - 10_000  # skew and a bucket
        for name in predictions.keys() | labels.keys():
            expected = expected_of(
                predictions.get(name, []), labels.get(name, []), self._windows, _REGRESSIONS
            )
            self.joined.counts.update(expected.counts)
            self._enter(partition, expected)
            self._expect_dead_letters(
                "predictions", partition, expected.refused, "repeated with other content"
            )
            for offset, append_ms in expected.unreached:
                place = "labels", partition, offset
                if place in self._dead_letters:
                    self._explained.add(place)
                elif append_ms < forgotten_ms and not expected.unclear:
                    self._findings.add(
                        "dead_letters_missing", f"labels[{partition}]@{offset} of {name}: met nothing"
                    )
            if expected.unclear:
                unclear.add(name)
                continue
            due.update({(name, one.identity, one.revision): one for one in expected.due})
        self.joined.unclear_ids += len(unclear)
        self.joined.outcomes_expected += len(due)
        self._check_outcomes(partition, part, slices, due, unclear)

    def _enter(self, partition: int, expected: Expected) -> None:
        books = self.joined.books[partition]
        books.unclear |= expected.unclear
        reached = Counter(expected.reached_as.values())
        for topic, name, count in (
            ("predictions", "outcomes", expected.matched),
            ("predictions", "unmet", expected.answers - expected.matched),
            ("predictions", "repeated", expected.repeated),
            ("predictions", "refused", len(expected.refused)),
            ("labels", "outcomes", reached["outcomes"]),
            ("labels", "repeated", reached["repeated"]),
            ("labels", "unmet", len(expected.unreached)),
        ):
            books.counts[topic, name] += count

    def _input(self, line: Line, label: bool, part: int, slices: int) -> dict[str, Any] | None:
        """The event, where it can be joined here; counts and notes the record once over all slices."""
        topic = "labels" if label else "predictions"
        if line.value.startswith(ABORTED):
            if part == 0:
                self._findings.add("aborted_reads", f"{topic}[{line.partition}]@{line.offset}")
            return None
        try:
            event: dict[str, Any] = orjson.loads(line.value)
        except orjson.JSONDecodeError:
            if part == 0:
                self._note(line, label)
                self.joined.books[line.partition].counts[topic, "refused"] += 1
                self._expect_dead_letters(topic, line.partition, [line.offset], "not JSON")
            return None
        name = event["prediction_id"]
        mine = zlib.crc32(name.encode()) % slices == part
        if not mine:
            return None
        self._note(line, label)
        if partition_of(name, self._partitions) != line.partition:
            self._misrouted[f"{topic}/{line.partition}/{line.offset}"] += 1
            self.joined.books[line.partition].counts[topic, "misrouted"] += 1
            return None
        if line.origin:
            self._sent_on[line.origin] += 1
        if not label and event["model"] not in MODELS:
            self.joined.books[line.partition].counts[topic, "refused"] += 1
            self._expect_dead_letters(topic, line.partition, [line.offset], "unknown model")
            return None
        if not label and name.startswith("http-"):
            self.joined.served.add(name)
        return event

    def _note(self, line: Line, label: bool) -> None:
        if label:
            self.joined.labels += 1
        else:
            self.joined.predictions += 1
        self.joined.books[line.partition].counts["labels" if label else "predictions", "read"] += 1
        logged = self._logged[label, line.partition]
        logged.offsets.append(line.offset)
        logged.checksums.append(zlib.crc32(line.value))

    def _expect_dead_letters(self, topic: str, partition: int, offsets: Iterable[int], why: str) -> None:
        for offset in offsets:
            self._explained.add((topic, partition, offset))
            if (topic, partition, offset) not in self._dead_letters:
                self._findings.add(
                    "dead_letters_missing", f"{topic}[{partition}]@{offset}: {why}, no dead letter"
                )

    def _check_outcomes(
        self,
        partition: int,
        part: int,
        slices: int,
        due: dict[tuple[str, Variant, int], DueOutcome],
        unclear: set[str],
    ) -> None:
        emitted = self.joined.emitted.setdefault(partition, EmittedCopy())
        seen: set[tuple[str, Variant, int]] = set()
        for line in read(self._connection, OUTCOMES, partition):
            if line.value.startswith(ABORTED):
                if part == 0:
                    self._findings.add("aborted_reads", f"outcomes[{partition}]@{line.offset}")
                continue
            event = orjson.loads(line.value)
            name = event["prediction_id"]
            if zlib.crc32(name.encode()) % slices != part:
                continue
            self.joined.outcomes_seen += 1
            self.joined.last_outcome_ms = max(self.joined.last_outcome_ms, line.append_ms)
            variant = event["model"], event["version"], event.get("role", "champion")
            if event["revision"] == 0:
                error = event.get("error_value")
                emitted.seqs.append(event["seq"])
                emitted.errors.append(float("nan") if error is None else error)
                emitted.variants.append(variant)
            if name in unclear:
                continue
            key = name, variant, event["revision"]
            where = f"outcomes[{partition}]@{line.offset} {key}"
            if key in seen:
                self._findings.add("duplicated", where)
                continue
            seen.add(key)
            wanted = due.get(key)
            if wanted is None:
                self._findings.add("wrong", f"{where}: nothing asks for it")
            elif (why := _differs(event, wanted)) is not None:
                self._findings.add("wrong", f"{where}: {why}")
        for key in due.keys() - seen:
            self._findings.add("lost", f"partition {partition}: no outcome of {key}")

    # The whole

    def _check_misrouted(self) -> None:
        self.joined.misrouted = sum(self._misrouted.values())
        for origin in self._misrouted.keys() - self._sent_on.keys():
            self._findings.add("misrouted_lost", f"{origin} was not forwarded")
        for origin, times in self._sent_on.items():
            if times > 1 or origin not in self._misrouted:
                self._findings.add("misrouted_duplicated", f"{origin} was forwarded {times} times")

    def _check_ledger(self) -> None:
        acknowledged: defaultdict[tuple[bool, int], _Logged] = defaultdict(_Logged)
        for entry in read_ledger(self._folder / "acknowledged.bin"):
            of_place = acknowledged[entry.label, entry.partition]
            of_place.offsets.append(entry.offset)
            of_place.checksums.append(entry.checksum)
        for place, entries in acknowledged.items():
            logged = self._logged[place]
            wanted = np.array(entries.offsets, dtype=np.int64), np.array(entries.checksums)
            offsets, checksums = np.array(logged.offsets, dtype=np.int64), np.array(logged.checksums)
            order = np.argsort(offsets)
            offsets, checksums = offsets[order], checksums[order]
            at = np.searchsorted(offsets, wanted[0])
            found = at < len(offsets)
            at[~found] = 0
            found &= len(offsets) > 0
            if len(offsets):
                found &= (offsets[at] == wanted[0]) & (checksums[at] == wanted[1])
            topic = "labels" if place[0] else "predictions"
            for offset in wanted[0][~found].tolist():
                self._findings.add("unacknowledged_loss", f"{topic}[{place[1]}]@{offset} was acknowledged")


def _prediction(line: Line, event: dict[str, Any]) -> LoggedPrediction:
    answer = event.get("prediction")
    return LoggedPrediction(
        event["model"], event["version"], event.get("role", "champion"), line.append_ms, line.offset,
        None if answer is None else answer, zlib.crc32(line.value), _checksum(event["features"]),
    )  # fmt: skip


def _label(line: Line, event: dict[str, Any]) -> LoggedLabel:
    feedback = "correct" in event
    value = event["correct"] if feedback else event["label"]
    return LoggedLabel(line.append_ms, line.offset, value, feedback, event.get("source", "system"))


def _checksum(features: dict[str, Any]) -> int:
    return zlib.crc32(orjson.dumps(features, option=orjson.OPT_SORT_KEYS))


def _differs(event: dict[str, Any], wanted: DueOutcome) -> str | None:
    """In what an outcome is not what it must be."""
    got = (event.get("correct") if wanted.feedback else event.get("label"), event["source"])
    if got != (wanted.value, wanted.source):
        return f"says {got}, must say {(wanted.value, wanted.source)}"
    if event.get("error_value") != wanted.error:
        return f"error_value {event.get('error_value')}, must be {wanted.error}"
    if _checksum(event["features"]) != wanted.features:
        return "its features are not its prediction's"
    return None
