"""Applying a batch's records to what is kept: predictions meet buffered labels, labels pending predictions.

Whichever comes first, the outcomes of an id are the same for every interleaving of the two topics: the two
meet as ``rules.classify`` says, in the order of the labels' partition.

Every record passes here, so the two usual cases are written out: a label comes for one pending prediction, or
a prediction comes for one buffered label. Everything else goes through ``by_id``. Tests hold all cases to the
same oracle.
"""

from __future__ import annotations

from itertools import islice

from ....schemas.values.feature_values import value_name
from ..batch_output import BatchContext
from ..reading.batch import Batch, Records
from ..reading.events import ReadLabel, read_label
from ..reading.plain import PredictionEvent
from ..state.join_state import JoinState
from ..vitals.builder import BatchStats
from ..vitals.sketches import NAME_CHARS
from .by_id import add_label, add_prediction, emit_first
from .outcomes import outcome_bytes
from .records import BufferedLabel, JoinedPair, PendingPrediction, Segments, Variant, key_state_of
from .rules import ModelRules, answer_of, error_value, is_usable

_MAX_SEGMENTS = 32
_MAX_CACHED = 10_000
_MAX_CACHED_LABELS = 50_000
_NONE_DECLARED: frozenset[str] = frozenset()
_NO_VARIANT = Variant("", -1, "champion")


class Matching:
    """Applies batches to a state. On failure: only staged changes were made; roll the state back."""

    def __init__(self, state: JoinState) -> None:
        self._state = state
        # Equal variants and equal segments are one object each.
        self._variants: dict[Variant, Variant] = {}
        self._segments: dict[Segments, Segments] = {}
        self._read: dict[int, ReadLabel] = {}  # by offset: buffered labels, so that they are read only once

    def apply(self, context: BatchContext, batch: Batch) -> None:
        if not self._state.complete:
            self._state.fetch(batch.ids())
        self._take_predictions(context, batch)
        self._take_labels(context, batch)

    def _take_predictions(self, context: BatchContext, batch: Batch) -> None:
        records, prefixes = batch.prediction_records, batch.prefixes
        all_append_ms = records.append_ms
        layers = self._state.layers()
        staged = layers.staged
        in_staged, in_recent, in_old = staged.get, layers.recent.get, layers.old.get
        stats = BatchStats(_NO_VARIANT, ModelRules())
        model, version, given_role = "", -1, None
        variant, rules, add_event = stats.variant, stats.rules, stats.events.append
        joined = 0
        for index, event in enumerate(batch.predictions):
            if event is None:
                continue
            if event.version != version or event.model != model or event.role != given_role:
                found = self._stats_of(context, records, index, event)
                if found is None:
                    continue
                model, version, given_role, stats = event.model, event.version, event.role, found
                variant, rules, add_event = stats.variant, stats.rules, stats.events.append
            answer = event.prediction
            if type(answer) is not str:
                answer = answer_of(answer, rules)
            if rules.regression and type(answer) is str:
                reason = f"{model} is a regression: a number is needed (got {answer!r})"
                context.refuse_prediction(records, index, f"Prediction: prediction: {reason}", stats)
                continue
            segments = (
                () if not rules.segments and event.segments is None else self._segments_of(event, rules)
            )
            pending = PendingPrediction(
                variant, prefixes[index], all_append_ms[index], event.ts, answer, segments, None
            )
            name = event.prediction_id
            entry = in_staged(name) or in_recent(name) or in_old(name)
            if entry is None:
                staged[name] = pending
            else:
                pair = (
                    self._met_buffered(context, name, pending, entry, stats)
                    if type(entry) is BufferedLabel
                    else None
                )
                if pair is not None:
                    joined += 1
                    staged[name] = pair
                else:
                    after = add_prediction(context, records, index, name, key_state_of(entry), pending, stats)
                    if after is None:
                        continue
                    staged[name] = after
            add_event(event)
        context.predictions.pending += sum(len(one.events) for one in context.stats.values()) - joined
        context.labels.pending -= joined
        context.labels.outcomes += joined

    def _stats_of(
        self, context: BatchContext, records: Records, index: int, event: PredictionEvent
    ) -> BatchStats | None:
        """Return the stats of the prediction's variant; None if its model is unknown, which refuses it."""
        variant = Variant(event.model, event.version, event.role or "champion")
        if len(self._variants) > _MAX_CACHED:
            self._variants.clear()
        variant = self._variants.setdefault(variant, variant)
        known = variant in context.stats or variant.model in context.rules.models
        if not known and not context.replaying:
            reason = f"unknown model {variant.model!r}: publish its spec with `driftloop apply`"
            context.refuse_prediction(records, index, reason, None)
            return None
        return context.stats_of(variant)

    def _segments_of(self, event: PredictionEvent, rules: ModelRules) -> Segments:
        """Return the segments that its error counts in: features that the spec names, and the event's own."""
        features, types = event.features, rules.feature_types
        values = {name: features.get(name) for name in rules.segments} | (event.segments or {})
        named = (
            (name, value_name(value, types.get(name)))
            for name, value in values.items()
            if value is not None and len(name) <= NAME_CHARS
        )
        segments = tuple(islice(named, _MAX_SEGMENTS))
        if len(self._segments) > _MAX_CACHED:
            self._segments.clear()
        return self._segments.setdefault(segments, segments)

    def _met_buffered(
        self,
        context: BatchContext,
        name: str,
        pending: PendingPrediction,
        label: BufferedLabel,
        stats: BatchStats,
    ) -> JoinedPair | None:
        """Join a prediction with the one label buffered for it; None if this is not the usual case."""
        read = self._read.pop(label.offset, None) or read_label(label.value)
        payload, rules, join = read.payload, stats.rules, context.rules.join
        delay = label.append_ms - pending.append_ms
        if payload.feedback or delay > join.horizon or -delay > join.early_horizon:
            return None
        if not is_usable(payload, rules) or not (rules.takes_any_class or rules.allows(payload.source)):
            return None
        seq = -1
        if not context.replaying:
            seq = emit_first(context, name.encode(), pending, payload, read.ts, stats, early=delay < 0)
        return JoinedPair(
            pending, payload.value, payload.source, seq, label.value, label.append_ms, label.offset
        )

    def _take_labels(self, context: BatchContext, batch: Batch) -> None:
        records, ids = batch.label_records, batch.label_ids
        values, keys, offsets, all_append_ms = (
            records.values,
            records.keys,
            records.offsets,
            records.append_ms,
        )
        layers = self._state.layers()
        staged = layers.staged
        in_staged, in_recent, in_old = staged.get, layers.recent.get, layers.old.get
        add_outcome, replaying = context.output.outcomes.append, context.replaying
        join = context.rules.join
        horizon, early_horizon = join.horizon, join.early_horizon
        stats = BatchStats(_NO_VARIANT, ModelRules())
        variant, rules, takes_any_class = stats.variant, stats.rules, True
        classes, declared = None, _NONE_DECLARED
        unmatched = others = 0
        outcomes = context.output.outcomes
        emitted = len(outcomes)
        buffered = self._read
        if len(buffered) >= _MAX_CACHED_LABELS:
            buffered.clear()
        for index, read in enumerate(batch.labels):
            if read is None:
                continue
            name, label_ts, payload = read.prediction_id, read.ts, read.payload
            append_ms = all_append_ms[index]
            entry = in_staged(name) or in_recent(name) or in_old(name)
            if type(entry) is PendingPrediction:
                if entry.variant is not variant:
                    variant = entry.variant
                    stats = context.stats_of(variant)
                    rules, takes_any_class = stats.rules, stats.rules.takes_any_class
                    classes = rules.classes
                    declared = _NONE_DECLARED if classes is None else classes.declared
                label_class = payload.name
                if classes is not None and label_class not in declared:
                    label_class = classes.of_name[label_class]
                delay = append_ms - entry.append_ms
                if (
                    delay <= horizon
                    and -delay <= early_horizon
                    and not payload.feedback
                    and label_class is not None
                    and (takes_any_class or (is_usable(payload, rules) and rules.allows(payload.source)))
                ):
                    seq = -1
                    stats.labels += 1
                    if not replaying:
                        seq = context.next_seq
                        context.next_seq = seq + 1
                        ts = entry.ts
                        label_delay_ms = label_ts - ts
                        answer = entry.answer
                        if rules.regression or answer is None:
                            error = error_value(answer, payload, rules)
                            value = outcome_bytes(
                                entry.prefix, payload, label_ts, label_delay_ms, error, 0, seq
                            )
                        else:
                            if label_class == answer:
                                error = 0.0
                            elif answer in declared:
                                error = 1.0
                            else:
                                error = error_value(answer, payload, rules)  # is it spelled otherwise?
                            value = b'%b%b%d,"label_delay_ms":%d%b%d}' % (
                                entry.prefix, payload.wrong if error else payload.right, label_ts,
                                label_delay_ms, payload.first, seq,
                            )  # fmt: skip
                        add_outcome((ids[index], value))
                        stats.seqs.append(seq)
                        stats.errors.append(error)
                        stats.ts.append(ts)
                        stats.delays.append(label_delay_ms)
                        stats.actuals.append(label_class)
                        if entry.segments:
                            stats.segments.append((entry.segments, error))
                        if delay < 0:
                            stats.counts["early"] += 1
                    staged[name] = JoinedPair(
                        entry, payload.value, payload.source, seq, values[index] or b"", append_ms,
                        offsets[index]
                    )  # fmt: skip
                    continue
            elif entry is None:
                unmatched += 1
                offset = offsets[index]
                buffered[offset] = read
                staged[name] = BufferedLabel(values[index] or b"", keys[index], append_ms, offset, False)
                continue
            label = BufferedLabel(values[index] or b"", keys[index], append_ms, offsets[index], False)
            expired = self._state.position.expired_labels
            others += 1
            before = len(outcomes)
            after = add_label(context, ids[index], key_state_of(entry), read, label, expired)
            emitted += len(outcomes) - before
            if after is not None:
                staged[name] = after
        context.counts["labels"] += unmatched
        # The usual cases are counted by what is left: each label there met one prediction or none.
        context.predictions.pending -= len(batch.labels) - batch.labels.count(None) - unmatched - others
        context.labels.pending += unmatched
        context.labels.outcomes += len(outcomes) - emitted
