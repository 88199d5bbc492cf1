"""Applying a batch's records to what is held: predictions meet the labels that wait, labels the predictions.

Whichever comes first, the two meet in ``_meet``, in the order of the labels' partition; so the outcomes of an
id are the same for every interleaving of the two topics.
"""

from __future__ import annotations

from itertools import islice

from ..schemas.base import class_name
from ..schemas.errors import DecodeError
from ..schemas.hot import LabelDict, PredictionDict
from .join_batch import Batch, Records
from .join_events import read_label
from .join_records import MAX_PER_ID, Group, Held, KeptLabel, Match, Segments, Track
from .join_rules import ModelRules, Ruling, answer_of, error_value, judge
from .join_state import JoinState, bucket_of
from .join_work import Work
from .outcomes import Statement, outcome_bytes, prediction_head, statement_of
from .vitals_builder import Seen, Tally
from .vitals_sketches import NAME_CHARS

_MAX_SEGMENTS = 32
_MAX_INTERNED = 10_000
# Rulings after which nobody misses the label when its time is over.
_REACHED = frozenset({Ruling.FIRST, Ruling.CORRECTION, Ruling.REPEAT, Ruling.WEAKER, Ruling.UNUSABLE})


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
        self._state.fetch(batch.ids())
        for index, event in enumerate(batch.predictions):
            if event is not None:
                self._take_prediction(work, batch.prediction_records, index, event)
        for index, event in enumerate(batch.labels):
            if event is not None:
                self._take_label(work, batch.label_records, index, event)

    def _take_prediction(self, work: Work, records: Records, index: int, event: PredictionDict) -> None:
        model = event["model"]
        if model not in work.rules.models and not work.replaying:
            reason = f"unknown model {model!r}: publish its spec with `driftloop apply`"
            return work.refuse_prediction(records, index, reason, None)
        tally = work.tally(Track(model, event["version"], event.get("role", "champion")))
        answer = answer_of(event.get("prediction"), tally.rules)
        if tally.rules.regression and isinstance(answer, str):
            reason = f"Prediction: prediction: {model} is a regression: a number is needed (got {answer!r})"
            return work.refuse_prediction(records, index, reason, tally)
        try:
            head = prediction_head(event)
        except DecodeError as error:
            return work.refuse_prediction(records, index, f"Prediction: {error.reason}", tally)
        segments = self._segments.of(event, tally.rules)
        held = Held(tally.track, head, records.append_ms[index], event["ts"], answer, segments, None)
        name = event["prediction_id"]
        group = self._state.get(name)
        if group is not None:
            others = self._beside(work, records, index, group, held, tally)
            if others is None:
                return None
            group = self._meet_waiting(work, name, Group(others, group.labels), held)
        self._state.put(name, group or Group((held,), ()))
        tally.events.append(event)
        tally.answers.append(answer)
        return None

    def _beside(
        self, work: Work, records: Records, index: int, group: Group, held: Held, tally: Tally
    ) -> tuple[Held, ...] | None:
        """The other answers to its id; None where this one is a repeat, dropped or refused."""
        others = group.predictions
        for other in others:
            if other.track != held.track:
                continue
            window = work.rules.join.correction_window
            if other.match is not None and held.append_ms - other.match.matched_ms > window:
                # All that could come of it has come: this is the id used anew.
                return tuple(one for one in others if one is not other)
            if other.head == held.head:
                tally.counts["duplicate"] += 1
                return None
            model, version, role = held.track
            reason = f"came before, by {model} version {version} ({role}), with other content"
            work.refuse_prediction(records, index, f"a prediction of this id {reason}", tally)
            return None
        if len(others) >= MAX_PER_ID:
            work.refuse_prediction(
                records, index, f"more than {MAX_PER_ID} answers to one prediction_id", tally
            )
            return None
        return others

    def _meet_waiting(self, work: Work, name: str, group: Group, held: Held) -> Group:
        """The prediction meets the labels that came before it."""
        labels: list[KeptLabel] = []
        key = name.encode()
        for label in group.labels:
            held, ruling = self._meet(work, key, held, statement_of(read_label(label.value)), label)
            labels.append(label._replace(used=True) if ruling in _REACHED and not label.used else label)
        return Group((*group.predictions, held), tuple(labels))

    def _take_label(self, work: Work, records: Records, index: int, event: LabelDict) -> None:
        value, key, offset = records.values[index] or b"", records.keys[index], records.offsets[index]
        label = KeptLabel(value, key, records.append_ms[index], offset, False)
        try:
            statement = statement_of(event)
        except DecodeError as error:
            return work.refuse_label(label, f"Label: {error.reason}")
        name = event["prediction_id"]
        group = self._state.get(name)
        if group is None:
            work.counts["labels"] += 1
            return self._state.put(name, Group((), (label,)))
        earlier = self._still_useful(work, group.labels) if group.labels else ()
        if len(earlier) >= MAX_PER_ID:
            return work.refuse_label(label, f"more than {MAX_PER_ID} labels of one id in its early horizon")
        predictions: list[Held] = []
        found = used = False
        id_bytes = name.encode()
        for held in group.predictions:
            after, ruling = self._meet(work, id_bytes, held, statement, label)
            predictions.append(after)
            if ruling is Ruling.NOT_ABOUT_IT:
                continue
            found = True
            counts = work.tally(held.track).counts
            counts["labels"] += 1
            if ruling is Ruling.OUT_OF_TIME:
                counts["late"] += 1
            elif not used:
                used = True
                label = KeptLabel(value, key, label.append_ms, offset, True)
        if not found:
            work.counts["labels"] += 1
        return self._state.put(name, Group(tuple(predictions), (*earlier, label)))

    def _still_useful(self, work: Work, labels: tuple[KeptLabel, ...]) -> tuple[KeptLabel, ...]:
        """Without the used ones that no prediction to come can meet."""
        early, until = work.rules.join.early_horizon, self._state.position.evicted_labels
        return tuple(
            label for label in labels if not (label.used and bucket_of(label.append_ms + early) <= until)
        )

    def _meet(
        self, work: Work, key: bytes, held: Held, statement: Statement, label: KeptLabel
    ) -> tuple[Held, Ruling]:
        """Applies one label to one prediction; whichever of them came first."""
        track, truth = held.track, statement.truth
        tally = work.tally(track)
        proven = not work.replaying
        ruling = judge(held, truth, label.append_ms, tally.rules, work.rules.join, proven=proven)
        match = held.match
        if ruling is Ruling.FIRST:
            seq = self._emit_first(work, key, held, statement, label.append_ms, tally)
            matched_ms = max(held.append_ms, label.append_ms)
            match = Match(truth.value, truth.verdict, truth.source, matched_ms, 0, seq)
        elif match is None or ruling is Ruling.NOT_ABOUT_IT or ruling is Ruling.OUT_OF_TIME:
            pass
        elif ruling is Ruling.CORRECTION:
            revision = match.revision + 1
            match = Match(truth.value, truth.verdict, truth.source, match.matched_ms, revision, match.seq)
            tally.counts["corrected"] += 1
            if not work.replaying:
                error = error_value(held.answer, truth, tally.rules)
                revised = outcome_bytes(held, statement, error, revision, match.seq)
                work.effects.outcomes.append((key, revised))
        elif ruling is Ruling.REPEAT:
            tally.counts["duplicate"] += 1
            match = match._replace(source=truth.source)  # at least as strong as the one it had
        elif ruling is Ruling.WEAKER:
            tally.counts["duplicate"] += 1
        if ruling is Ruling.UNUSABLE and not label.used:
            got = f"(got {truth.value!r})"
            work.refuse_label(label, f"Label: label: {track.model} is a regression: a number is needed {got}")
        if match is held.match:
            return held, ruling
        return Held(track, held.head, held.append_ms, held.ts, held.answer, held.segments, match), ruling

    def _emit_first(
        self, work: Work, key: bytes, held: Held, statement: Statement, append_ms: int, tally: Tally
    ) -> int:
        """The revision-0 outcome; gives its seq, or -1 while replaying: the log knows it."""
        if work.replaying:
            return -1
        seq = work.next_seq
        work.next_seq = seq + 1
        truth = statement.truth
        error = error_value(held.answer, truth, tally.rules)
        work.effects.outcomes.append((key, outcome_bytes(held, statement, error, 0, seq)))
        actual = None if truth.verdict else class_name(truth.value)
        tally.seen.append(Seen(seq, error, held.ts, statement.ts - held.ts, actual, held.segments))
        if append_ms < held.append_ms:
            tally.counts["early"] += 1
        return seq
