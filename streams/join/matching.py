"""Applying a batch's records to what is held: predictions meet the labels that wait, labels the predictions.

Whichever comes first, the outcomes of an id are the same for every interleaving of the two topics: the two
meet as ``join.rules.judge`` says, in the order of the labels' partition.

This is where every record passes, so the two usual meetings are written out: one prediction waits and its
label comes, or one label waits and its prediction comes. Everything else goes through ``_meet``; tests hold
all to the same oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TypeVar

from ...schemas.base import class_name
from .batch_output import Work
from .outcomes import Statement, outcome_bytes
from .reading.batch import Batch, Records
from .reading.events import PredictionEvent, ReadLabel, read_label
from .records import MAX_PER_ID, Entry, Group, Held, KeptLabel, Match, Pair, Segments, Track, group_of
from .rules import ModelRules, Ruling, answer_of, error_value, is_usable, judge
from .state.position import bucket_of
from .state.state import JoinState
from .vitals.builder import Tally
from .vitals.sketches import NAME_CHARS

T = TypeVar("T")
Append = Callable[[T], None]

_MAX_SEGMENTS = 32
_MOST_REMEMBERED = 10_000
_MOST_WAITING = 50_000
_NOBODY = Track("", -1, "champion")
# Rulings after which nobody misses the label when its time is over.
_REACHED = frozenset(set(Ruling) - {Ruling.OUT_OF_TIME, Ruling.NOT_ABOUT_IT})


class Matching:
    """Applies batches to a state. On failure: only staged changes were made; roll the state back."""

    def __init__(self, state: JoinState) -> None:
        self._state = state
        self._segments: dict[Segments, Segments] = {}  # each distinct combination is kept once
        self._tracks: dict[tuple[str, int, str], Track] = {}
        self._read: dict[int, ReadLabel] = {}  # by offset: labels that wait, to be read only once

    def apply(self, work: Work, batch: Batch) -> None:
        if not self._state.complete:
            self._state.fetch(batch.ids())
        self._take_predictions(work, batch)
        self._take_labels(work, batch)

    def _take_predictions(self, work: Work, batch: Batch) -> None:
        records, all_append_ms, heads = (
            batch.prediction_records,
            batch.prediction_records.append_ms,
            batch.heads,
        )
        staged, recent, old = self._state.layers()
        in_staged, in_recent, in_old = staged.get, recent.get, old.get
        tally = Tally(_NOBODY, ModelRules())
        model, version, given_role = "", -1, None
        track, rules, add_event = tally.track, tally.rules, tally.events.append
        for index, event in enumerate(batch.predictions):
            if event is None:
                continue
            if event.version != version or event.model != model or event.role != given_role:
                found = self._tally_of(work, records, index, event)
                if found is None:
                    continue
                model, version, given_role, tally = event.model, event.version, event.role, found
                track, rules, add_event = tally.track, tally.rules, tally.events.append
            answer = event.prediction
            if type(answer) is not str:
                answer = answer_of(answer, rules)
            if rules.regression and type(answer) is str:
                reason = (
                    f"Prediction: prediction: {model} is a regression: a number is needed (got {answer!r})"
                )
                work.refuse_prediction(records, index, reason, tally)
                continue
            segments = (
                () if not rules.segments and event.segments is None else self._segments_of(event, rules)
            )
            held = Held(track, heads[index], all_append_ms[index], event.ts, answer, segments, None)
            name = event.prediction_id
            entry = in_staged(name) or in_recent(name) or in_old(name)
            if entry is None:
                staged[name] = held
            elif not (
                (type(entry) is KeptLabel and self._meet_first(work, name, held, entry, tally, staged))
                or self._join_group(work, records, index, name, group_of(entry), held, tally)
            ):
                continue
            add_event(event)

    def _tally_of(self, work: Work, records: Records, index: int, event: PredictionEvent) -> Tally | None:
        key = event.model, event.version, event.role or "champion"
        track = self._tracks.get(key)
        if track is None:
            if len(self._tracks) >= _MOST_REMEMBERED:
                self._tracks.clear()
            track = self._tracks[key] = Track(*key)
        if track not in work.tallies and track.model not in work.rules.models and not work.replaying:
            reason = f"unknown model {track.model!r}: publish its spec with `driftloop apply`"
            work.refuse_prediction(records, index, reason, None)
            return None
        return work.tally(track)

    def _segments_of(self, event: PredictionEvent, rules: ModelRules) -> Segments:
        """By what errors are told apart: features that the spec names, and what the event itself names."""
        features = event.features
        values = {name: features.get(name) for name in rules.segments} | (event.segments or {})
        named = (
            (name, class_name(value))
            for name, value in values.items()
            if value is not None and len(name) <= NAME_CHARS
        )
        segments = tuple(islice(named, _MAX_SEGMENTS))
        if len(self._segments) > _MOST_REMEMBERED:
            self._segments.clear()
        return self._segments.setdefault(segments, segments)

    def _meet_first(
        self,
        work: Work,
        name: str,
        held: Held,
        label: KeptLabel,
        tally: Tally,
        staged: dict[str, Entry | None],
    ) -> bool:
        """The usual meeting with a label that waits; False where it is not that, and nothing was done."""
        read = self._read.pop(label.offset, None) or read_label(label.value)
        said, rules, join = read.statement, tally.rules, work.rules.join
        delay = label.append_ms - held.append_ms
        if said.verdict or delay > join.horizon or -delay > join.early_horizon:
            return False
        if not (rules.takes_any_class or (is_usable(said, rules) and rules.allows(said.source))):
            return False
        seq = -1
        if not work.replaying:
            seq = work.next_seq
            work.next_seq = seq + 1
            error = error_value(held.answer, said, rules)
            self._emit_first(work, name.encode(), held, said, read.ts, error, seq, tally)
            if delay < 0:
                tally.counts["early"] += 1
        staged[name] = Pair(held, said.value, said.source, seq, label.value, label.append_ms, label.offset)
        return True

    def _emit_first(
        self,
        work: Work,
        key: bytes,
        held: Held,
        said: Statement,
        label_ts: int,
        error: float | None,
        seq: int,
        tally: Tally,
    ) -> None:
        delay_ms = label_ts - held.ts
        work.effects.outcomes.append((key, outcome_bytes(held.head, said, label_ts, delay_ms, error, 0, seq)))
        tally.seqs.append(seq)
        tally.errors.append(error)
        tally.ts.append(held.ts)
        tally.delays.append(delay_ms)
        tally.actuals.append(None if said.verdict else said.name)
        if held.segments:
            tally.segments.append((held.segments, error))

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
                others = tuple([one for one in others if one is not other])
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
            held, ruling = self._meet(work, key, held, read_label(label.value), label)
            labels.append(label.reached() if ruling in _REACHED and not label.used else label)
        self._state.put(name, Group((*others, held), tuple(labels)))
        return True

    def _take_labels(self, work: Work, batch: Batch) -> None:
        records, all_append_ms, ids = batch.label_records, batch.label_records.append_ms, batch.label_ids
        values, keys, offsets = records.values, records.keys, records.offsets
        staged, recent, old = self._state.layers()
        in_staged, in_recent, in_old = staged.get, recent.get, old.get
        add_outcome, tallies, replaying = work.effects.outcomes.append, work.tallies, work.replaying
        join = work.rules.join
        horizon, early_horizon = join.horizon, join.early_horizon
        tally = Tally(_NOBODY, ModelRules())
        track, rules, plain = tally.track, tally.rules, True
        first = self._columns_of(tally)
        alone = 0
        waiting = self._read
        if len(waiting) >= _MOST_WAITING:
            waiting.clear()
        for index, read in enumerate(batch.labels):
            if read is None:
                continue
            name, label_ts, said = read.prediction_id, read.ts, read.statement
            append_ms = all_append_ms[index]
            entry = in_staged(name) or in_recent(name) or in_old(name)
            if type(entry) is Held:
                if entry.track is not track:
                    track = entry.track
                    tally = tallies.get(track) or work.tally(track)
                    rules, plain = tally.rules, tally.rules.takes_any_class
                    first = self._columns_of(tally)
                delay = append_ms - entry.append_ms
                if (
                    delay <= horizon
                    and -delay <= early_horizon
                    and not said.verdict
                    and (plain or (is_usable(said, rules) and rules.allows(said.source)))
                ):
                    seq = -1
                    tally.labels += 1
                    if not replaying:
                        seq = work.next_seq
                        work.next_seq = seq + 1
                        ts = entry.ts
                        label_delay_ms = label_ts - ts
                        if rules.regression or entry.answer is None:
                            error = error_value(entry.answer, said, rules)
                            value = outcome_bytes(entry.head, said, label_ts, label_delay_ms, error, 0, seq)
                        else:
                            error = 0.0 if said.name == entry.answer else 1.0
                            value = b'%b%b%d,"label_delay_ms":%d%b%d}' % (
                                entry.head, said.wrong if error else said.right, label_ts, label_delay_ms,
                                said.first, seq,
                            )  # fmt: skip
                        add_outcome((ids[index], value))
                        add_seq, add_error, add_ts, add_delay, add_actual = first
                        add_seq(seq)
                        add_error(error)
                        add_ts(ts)
                        add_delay(label_delay_ms)
                        add_actual(said.name)
                        if entry.segments:
                            tally.segments.append((entry.segments, error))
                        if delay < 0:
                            tally.counts["early"] += 1
                    staged[name] = Pair(
                        entry, said.value, said.source, seq, values[index] or b"", append_ms, offsets[index]
                    )
                    continue
            elif entry is None:
                alone += 1
                offset = offsets[index]
                waiting[offset] = read
                staged[name] = KeptLabel(values[index] or b"", keys[index], append_ms, offset, False)
                continue
            label = KeptLabel(values[index] or b"", keys[index], append_ms, offsets[index], False)
            self._join_labels(work, ids[index], name, group_of(entry), read, label)
        work.counts["labels"] += alone

    @staticmethod
    def _columns_of(
        tally: Tally,
    ) -> tuple[Append[int], Append[float | None], Append[int], Append[int], Append[str | None]]:
        return (
            tally.seqs.append,
            tally.errors.append,
            tally.ts.append,
            tally.delays.append,
            tally.actuals.append,
        )

    def _join_labels(
        self, work: Work, key: bytes, name: str, group: Group, read: ReadLabel, label: KeptLabel
    ) -> None:
        """Puts a label beside what else is held of its id, to meet the predictions there."""
        earlier = self._still_useful(work, group.labels) if group.labels else ()
        if len(earlier) >= MAX_PER_ID:
            return work.refuse_label(label, f"more than {MAX_PER_ID} labels of one id in its early horizon")
        predictions: list[Held] = []
        found = False
        for held in group.predictions:
            after, ruling = self._meet(work, key, held, read, label)
            predictions.append(after)
            if ruling is Ruling.NOT_ABOUT_IT:
                continue
            found = True
            tally = work.tally(held.track)
            tally.labels += 1
            if ruling is Ruling.OUT_OF_TIME:
                tally.counts["late"] += 1
            elif not label.used:
                label = label.reached()
        if not found:
            work.counts["labels"] += 1
        self._state.put(name, Group(tuple(predictions), (*earlier, label)))
        return None

    def _still_useful(self, work: Work, labels: tuple[KeptLabel, ...]) -> tuple[KeptLabel, ...]:
        """Without the used ones that no prediction to come can meet."""
        early, until = work.rules.join.early_horizon, self._state.position.expired_labels
        return tuple(
            [label for label in labels if not (label.used and bucket_of(label.append_ms + early) <= until)]
        )

    def _meet(
        self, work: Work, key: bytes, held: Held, read: ReadLabel, label: KeptLabel
    ) -> tuple[Held, Ruling]:
        """Applies one label to one prediction; whichever of them came first."""
        match, said, append_ms = held.match, read.statement, label.append_ms
        tally = work.tally(held.track)
        ruling = judge(held, said, append_ms, tally.rules, work.rules.join, not work.replaying)
        if ruling is Ruling.FIRST:
            seq = -1
            if not work.replaying:
                seq = work.next_seq
                work.next_seq = seq + 1
                error = error_value(held.answer, said, tally.rules)
                self._emit_first(work, key, held, said, read.ts, error, seq, tally)
                if append_ms < held.append_ms:
                    tally.counts["early"] += 1
            matched_ms = max(held.append_ms, append_ms)
            match = Match(said.value, said.verdict, said.source, matched_ms, 0, seq)
        elif match is None or ruling is Ruling.NOT_ABOUT_IT or ruling is Ruling.OUT_OF_TIME:
            pass
        elif ruling is Ruling.CORRECTION:
            revision = match.revision + 1
            match = Match(said.value, said.verdict, said.source, match.matched_ms, revision, match.seq)
            tally.counts["corrected"] += 1
            if not work.replaying:
                error = error_value(held.answer, said, tally.rules)
                delay_ms = read.ts - held.ts
                revised = outcome_bytes(held.head, said, read.ts, delay_ms, error, revision, match.seq)
                work.effects.outcomes.append((key, revised))
        elif ruling is Ruling.REPEAT:
            tally.counts["duplicate"] += 1
            # The source is at least as strong as the one it had.
            match = Match(
                match.value, match.verdict, said.source, match.matched_ms, match.revision, match.seq
            )
        elif ruling is Ruling.WEAKER:
            tally.counts["duplicate"] += 1
        if ruling is Ruling.UNUSABLE and not label.used:
            got = f"(got {said.value!r})"
            reason = f"Label: label: {held.track.model} is a regression: a number is needed {got}"
            work.refuse_label(label, reason)
        elif ruling is Ruling.NOT_ALLOWED and not label.used:
            allowed = f"labels.allowed_sources of {held.track.model}"
            work.refuse_label(label, f"Label: source: {said.source!r} is not among the {allowed}")
        return (held if match is held.match else held.matched(match)), ruling
