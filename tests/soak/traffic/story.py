"""What the load generator sends, in which order: a function of the seed alone.

A story is one prediction_id and all that is ever sent for it: answers of champion, shadow and another model,
labels early, late, repeated, corrected, of several sources, feedback, and records that nobody can use. Its
records lie some positions apart, so that stories overlap; time plays no part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

CLASSIFIERS = ("alpha", "beta")
REGRESSION = "gamma"
MODELS = (*CLASSIFIERS, REGRESSION)
CONCEPT_STORIES = 20_000  # so many stories later, what is true of the same features is another thing
RECORDS_PER_STORY = 2.05
_MASK = (1 << 64) - 1


class LoadRecord(NamedTuple):
    """One record to be sent. ``misrouted``: onto a partition where it does not belong."""

    label: bool
    key: str
    value: bytes
    misrouted: bool = False


@dataclass(frozen=True, slots=True)
class LoadProfile:
    """What a run's stories depend on.

    ``rate``: records a second. ``late_after``: stories after which a label is later than the horizon.
    """

    seed: int
    start_ms: int
    rate: float
    late_after: int
    normal_after: int = 2_000


def load_records(profile: LoadProfile) -> Iterator[LoadRecord]:
    """All records, for ever."""
    due: defaultdict[int, list[LoadRecord]] = defaultdict(list)
    position = 0
    while True:
        for record in due.pop(position, ()):
            yield record
        for delay, record in _story(profile, position):
            if delay == 0:
                yield record
            else:
                due[position + delay].append(record)
        position += 1


def _story(profile: LoadProfile, number: int) -> Iterator[tuple[int, LoadRecord]]:
    bits = _mixed(number * 0x9E3779B97F4A7C15 + profile.seed * 0xD1B54A32D192ED03 + 1)
    records = _StoryRecords(profile, number, bits)
    soon, kind = 1 + (bits >> 20) % profile.normal_after, (bits >> 44) % 1000
    if kind < 60:  # a shadow answers too
        yield 0, records.prediction()
        yield 1 + bits % 40, records.prediction(version=2, role="shadow")
        yield soon, records.label()
    elif kind < 80:  # so does another model, to the same id
        yield 0, records.prediction(model=records.classifier)
        yield 3, records.prediction(model=CLASSIFIERS[1 - CLASSIFIERS.index(records.classifier)])
        yield soon, records.label(records.truth)
    elif kind < 140:  # the label comes first
        yield 0, records.label()
        yield soon % 300 + 1, records.prediction()
    elif kind < 160:  # between champion and shadow
        yield 0, records.prediction(version=2, role="shadow")
        yield 5, records.label()
        yield soon % 300 + 6, records.prediction()
    elif kind < 190:  # the same label twice
        yield 0, records.prediction()
        yield soon, records.label()
        yield soon + 50, records.label()
    elif kind < 230:  # corrected, then corrected back
        yield 0, records.prediction()
        yield soon, records.label()
        yield soon + 20, records.label(records.other)
        if kind % 2:
            yield soon + 300, records.label()
    elif kind < 260:  # feedback
        yield 0, records.prediction()
        yield soon, records.feedback(bool(kind % 2))
    elif kind < 270:  # feedback, which says nothing of the shadow
        yield 0, records.prediction()
        yield 1, records.prediction(version=2, role="shadow")
        yield soon, records.feedback(False)
    elif kind < 290:  # sources disagree: an expert is never overridden, a user is
        first, second = ("expert", "user") if kind % 2 else ("user", "expert")
        yield 0, records.prediction()
        yield soon, records.label(source=first)
        yield soon + 7, records.label(records.other, source=second)
    elif kind < 310:  # a prediction sent twice, same bytes
        yield 0, records.prediction()
        yield soon % 100 + 1, records.prediction()
        yield soon + 100, records.label()
    elif kind < 315:  # with other bytes: refused
        yield 0, records.prediction()
        yield soon % 100 + 1, records.prediction(latency=9.5)
        yield soon + 100, records.label()
    elif kind < 325:  # never labelled
        yield 0, records.prediction()
    elif kind < 330:  # never predicted
        yield 0, records.label()
    elif kind < 340:  # the request failed, and its label says what the answer should have been
        yield 0, records.failure()
        yield soon, records.label()
    elif kind < 350:  # sent by a client with another partitioner
        yield 0, records.prediction()._replace(misrouted=kind % 2 == 0)
        yield soon, records.label()._replace(misrouted=kind % 2 == 1)
    elif kind < 352:  # cut off
        record = records.prediction()
        yield 0, record._replace(value=record.value[:-9])
    elif kind < 353:
        yield 0, records.prediction(model="nobody-knows-me")
    elif kind < 356:  # after the horizon
        yield 0, records.prediction()
        yield profile.late_after, records.label()
    else:
        yield 0, records.prediction()
        yield soon, records.label()


class _StoryRecords:
    """Builds the records of one story."""

    def __init__(self, profile: LoadProfile, number: int, bits: int) -> None:
        self._name = f"s{profile.seed}-{number:09d}"
        self._ts = profile.start_ms + int(number * 1000 * RECORDS_PER_STORY / profile.rate)
        self._regression = bits % 5 == 0
        self.classifier = CLASSIFIERS[(bits >> 5) & 1]
        self._model = REGRESSION if self._regression else self.classifier
        amount, hour = (bits >> 8) % 1000, (bits >> 13) % 24
        carrier = ("AA", "B6", "DL", "UA")[(bits >> 18) & 3]
        self._features = f'{{"amount":{amount / 1000},"hour":{hour},"carrier":"{carrier}"}}'
        noise = (bits >> 33) % 100
        flipped = number // CONCEPT_STORIES % 2 == 1
        believed = amount + 10 * hour > 600
        late = (believed != flipped) if noise >= 10 else noise % 2 == 0
        self._answer = ("on_time", "late")[believed]
        self.truth = ("on_time", "late")[late]
        self.other: str | float = ("on_time", "late")[not late]
        self._value = round(amount / 10 + hour + noise / 50 + (20 if flipped else 0), 3)
        self._forecast = round(amount / 10 + hour, 3)
        if self._regression:
            self.other = self._value + 1.25

    def prediction(
        self, *, version: int = 1, role: str = "champion", model: str = "", latency: float = 1.5
    ) -> LoadRecord:
        answer = str(self._forecast) if self._regression and not model else f'"{self._answer}"'
        rest = f'"prediction":{answer},"latency_ms":{latency},"role":"{role}"}}'
        return LoadRecord(False, self._name, (self._head(model, version) + rest).encode())

    def failure(self) -> LoadRecord:
        return LoadRecord(False, self._name, (self._head("", 1) + '"error":"timed out"}').encode())

    def _head(self, model: str, version: int) -> str:
        return (
            f'{{"prediction_id":"{self._name}","model":"{model or self._model}","version":{version},'
            f'"ts":{self._ts},"features":{self._features},'
        )

    def label(self, value: str | float | None = None, *, source: str = "system") -> LoadRecord:
        meant = value if value is not None else self._value if self._regression else self.truth
        written = f'"{meant}"' if isinstance(meant, str) else str(meant)
        return self._label(f'"label":{written},"source":"{source}"')

    def feedback(self, correct: bool) -> LoadRecord:
        return self._label(f'"correct":{"true" if correct else "false"},"source":"user"')

    def _label(self, fields: str) -> LoadRecord:
        value = f'{{"prediction_id":"{self._name}","ts":{self._ts + 1000},{fields}}}'
        return LoadRecord(True, self._name, value.encode())


def _mixed(number: int) -> int:
    """splitmix64's finaliser: every bit of the number moves every bit of the result."""
    number &= _MASK
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31
