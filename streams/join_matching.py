"""Applying a batch's records to what is held: predictions meet the labels that wait, labels the predictions.

Whichever comes first, the two meet in ``_meet``, in the order of the labels' partition; so the outcomes of an
id are the same for every interleaving of the two topics.

This is where every record passes, so named tuples are made by ``_new``: as ``Held(…)`` would, in half the
time.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from ..schemas.base import class_name
from ..schemas.errors import DecodeError
from ..schemas.hot import PredictionDict
from .join_batch import Batch, Records
from .join_events import read_label
from .join_records import MAX_PER_ID, Group, Held, KeptLabel, Match, Segments, Track
from .join_rules import ModelRules, Ruling, answer_of, error_value, judge
from .join_state import JoinState, bucket_of
from .join_work import Work
from .outcomes import Statement, outcome_bytes, prediction_head, statement_of
from .vitals_builder import Seen, Tally
from .vitals_sketches import NAME_CHARS

T = TypeVar("T")

_MAX_SEGMENTS = 32
_MAX_INTERNED = 10_000
# Rulings after which nobody misses the label when its time is over.
_REACHED = frozenset(set(Ruling) - {Ruling.OUT_OF_TIME, Ruling.NOT_ABOUT_IT})

if TYPE_CHECKING:

    def _new(kind: type[T], values: tuple[object, ...]) -> T: ...

else:
    _new = tuple.__new__


class SegmentNames:
    """Segments of predictions, each distinct combination kept once."""

    def __init__(self) -> None:
        self._known: dict[Segments, Segments] = {}

    def of(self, event: PredictionDict, rules: ModelRules) -> Segments:
        """By what errors are told apart: features that the spec names, and what the event itself names."""
        given = event.get("segments")
        if not given and not rules.segments:
            return ()
        features = event["features"]
        values = {name: features.get(name) for name in rules.segments} | (given or {})
        named = (
            (name, class_name(value))
            for name, value in values.items()
            if value is not None and len(name) <= NAME_CHARS
        )
        segments = tuple(islice(named, _MAX_SEGMENTS))
        if len(self._known) > _MAX_INTERNED:
            self._known.clear()
        return self._known.setdefault(segments, segments)


class Matching:
    """Applies batches to a state. On failure: only staged changes were made; roll the state back."""

    def __init__(self, state: JoinState, segments: SegmentNames) -> None:
        self._state = state
        self._segments = segments

    def apply(self, work: Work, batch: Batch) -> None:
        if not self._state.complete:
            self._state.fetch(batch.ids())
        self._take_predictions(work, batch)
        self._take_labels(work, batch)

    def _take_predictions(self, work: Work, batch: Batch) -> None:
        records, append_ms = batch.prediction_records, batch.prediction_records.append_ms
        staged, dirty, recent, old = self._state.layers()
        put, tallies, segments_of = self._state.put, work.tallies, self._segments.of
        for index, event in enumerate(batch.predictions):
            if event is None:
                continue
            track = (event["model"], event["version"], event.get("role", "champion"))
            tally = tallies.get(track)  # pyright: ignore[reportArgumentType]  # a Track is equal to its tuple
            if tally is None:
                if track[0] not in work.rules.models and not work.replaying:
                    reason = f"unknown model {track[0]!r}: publish its spec with `driftloop apply`"
                    work.refuse_prediction(records, index, reason, None)
                    continue
                tally = work.tally(Track(*track))
            rules = tally.rules
            answer = event.get("prediction")
            if type(answer) is not str:
                answer = answer_of(answer, rules)
            if rules.regression and type(answer) is str:
                reason = (
                    f"Prediction: prediction: {track[0]} is a regression: a number is needed (got {answer!r})"
                )
                work.refuse_prediction(records, index, reason, tally)
                continue
            try:
                head = prediction_head(event)
            except DecodeError as error:
                work.refuse_prediction(records, index, f"Prediction: {error.reason}", tally)
                continue
            segments = segments_of(event, rules) if rules.segments or "segments" in event else ()
            held = _new(Held, (tally.track, head, append_ms[index], event["ts"], answer, segments, None))
            name = event["prediction_id"]
            group = staged.get(name) or dirty.get(name) or recent.get(name) or old.get(name)
            if group is None:
                put(name, _new(Group, ((held,), ())))
            elif not self._join_group(work, records, index, name, group, held, tally):
                continue
            tally.events.append(event)
            tally.answers.append(answer)

    def _join_group(
        self, work: Work, records: Records, index: int, name: str, group: Group, held: Held, tally: Tally
    ) -> bool:
        """Puts a prediction beside others of its id, to meet the labels that wait there.

        False where it is a repeat, which is dropped or refused.
        """
        others = group.predictions
        for other in others:
            if other.track != held.track:
                continue
            window = work.rules.join.correction_window
            if other.match is not None and held.append_ms - other.match.matched_ms > window:
                # All that could come of it has come: this is the id used anew.
                others = tuple(one for one in others if one is not other)
                break
            if other.head == held.head:
                tally.counts["duplicate"] += 1
                return False
            model, version, role = held.track
            reason = f"came before, by {model} version {version} ({role}), with other content"
            work.refuse_prediction(records, index, f"a prediction of this id {reason}", tally)
            return False
        if len(others) >= MAX_PER_ID:
            work.refuse_prediction(records, index, f"more than {MAX_PER_ID} answers to one id", tally)
            return False
        labels: list[KeptLabel] = []
        key = name.encode()
        for label in group.labels:
            event = read_label(label.value)
            held, ruling = self._meet(work, key, held, statement_of(event), event["ts"], label)
            labels.append(label._replace(used=True) if ruling in _REACHED and not label.used else label)
        self._state.put(name, Group((*others, held), tuple(labels)))
        return True

    def _take_labels(self, work: Work, batch: Batch) -> None:
        records, append_ms = batch.label_records, batch.label_records.append_ms
        values, keys, offsets, ids = records.values, records.keys, records.offsets, batch.label_ids
        staged, dirty, recent, old = self._state.layers()
        put, meet, counts, tallies = self._state.put, self._meet, work.counts, work.tallies
        for index, event in enumerate(batch.labels):
            if event is None:
                continue
            value = values[index] or b""
            label = _new(KeptLabel, (value, keys[index], append_ms[index], offsets[index], False))
            try:
                statement = statement_of(event)
            except DecodeError as error:
                work.refuse_label(label, f"Label: {error.reason}")
                continue
            name = event["prediction_id"]
            group = staged.get(name) or dirty.get(name) or recent.get(name) or old.get(name)
            if group is None:
                counts["labels"] += 1
                put(name, _new(Group, ((), (label,))))
                continue
            earlier = self._still_useful(work, group.labels) if group.labels else ()
            if len(earlier) >= MAX_PER_ID:
                reason = f"more than {MAX_PER_ID} labels of one id in its early horizon"
                work.refuse_label(label, reason)
                continue
            predictions: list[Held] = []
            found = False
            for held in group.predictions:
                after, ruling = meet(work, ids[index], held, statement, event["ts"], label)
                predictions.append(after)
                if ruling is Ruling.NOT_ABOUT_IT:
                    continue
                found = True
                tally = tallies[held.track]
                tally.labels += 1
                if ruling is Ruling.OUT_OF_TIME:
                    tally.counts["late"] += 1
                elif not label.used:
                    label = _new(KeptLabel, (value, label.key, label.append_ms, label.offset, True))
            if not found:
                counts["labels"] += 1
            put(name, _new(Group, (tuple(predictions), (*earlier, label))))

    def _still_useful(self, work: Work, labels: tuple[KeptLabel, ...]) -> tuple[KeptLabel, ...]:
        """Without the used ones that no prediction to come can meet."""
        early, until = work.rules.join.early_horizon, self._state.position.evicted_labels
        return tuple(
            label for label in labels if not (label.used and bucket_of(label.append_ms + early) <= until)
        )

    def _meet(
        self, work: Work, key: bytes, held: Held, statement: Statement, label_ts: int, label: KeptLabel
    ) -> tuple[Held, Ruling]:
        """Applies one label to one prediction; whichever of them came first."""
        track, head, held_ms, ts, answer, segments, match = held
        truth, append_ms = statement.truth, label.append_ms
        tally = work.tallies.get(track) or work.tally(track)
        ruling = judge(held, truth, append_ms, tally.rules, work.rules.join, not work.replaying)
        if ruling is Ruling.FIRST:
            seq = -1
            if not work.replaying:
                seq = work.next_seq
                work.next_seq = seq + 1
                error = error_value(answer, truth, tally.rules)
                work.effects.outcomes.append((key, outcome_bytes(held, statement, label_ts, error, 0, seq)))
                actual = None if truth.verdict else class_name(truth.value)
                tally.seen.append(_new(Seen, (seq, error, ts, label_ts - ts, actual, segments)))
                if append_ms < held_ms:
                    tally.counts["early"] += 1
            matched_ms = held_ms if held_ms > append_ms else append_ms
            match = _new(Match, (truth.value, truth.verdict, truth.source, matched_ms, 0, seq))
        elif match is None or ruling is Ruling.NOT_ABOUT_IT or ruling is Ruling.OUT_OF_TIME:
            pass
        elif ruling is Ruling.CORRECTION:
            revision = match.revision + 1
            match = Match(truth.value, truth.verdict, truth.source, match.matched_ms, revision, match.seq)
            tally.counts["corrected"] += 1
            if not work.replaying:
                error = error_value(answer, truth, tally.rules)
                revised = outcome_bytes(held, statement, label_ts, error, revision, match.seq)
                work.effects.outcomes.append((key, revised))
        elif ruling is Ruling.REPEAT:
            tally.counts["duplicate"] += 1
            match = match._replace(source=truth.source)  # at least as strong as the one it had
        elif ruling is Ruling.WEAKER:
            tally.counts["duplicate"] += 1
        if ruling is Ruling.UNUSABLE and not label.used:
            got = f"(got {truth.value!r})"
            work.refuse_label(label, f"Label: label: {track.model} is a regression: a number is needed {got}")
        elif ruling is Ruling.NOT_ALLOWED and not label.used:
            reason = f"Label: source: {truth.source!r} is not among the label_sources of {track.model}"
            work.refuse_label(label, reason)
        if match is held.match:
            return held, ruling
        return _new(Held, (track, head, held_ms, ts, answer, segments, match)), ruling
