"""Matching within one id, the general case: any number of predictions and labels, corrections and repeats.

``join.matching`` handles the two usual cases itself and leaves the rest to these functions.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from ..batch_output import BatchContext
from ..reading.batch import Records
from ..reading.events import ReadLabel, read_label
from ..state.position import bucket_of
from ..vitals.builder import BatchStats
from .outcomes import LabelPayload, outcome_bytes
from .records import MAX_PER_ID, BufferedLabel, KeyState, Match, PendingPrediction
from .rules import LabelEffect, classify, error_value, why_unusable

# Effects after which the label has been of use, so that its expiry is not announced. The first of them says
# in which class of the books it is.
_REACHED = frozenset(set(LabelEffect) - {LabelEffect.OUT_OF_TIME, LabelEffect.NOT_APPLICABLE})
_GAVE_AN_OUTCOME = frozenset({LabelEffect.FIRST, LabelEffect.CORRECTION})
_REPEATED = frozenset({LabelEffect.REPEAT, LabelEffect.WEAKER})


class Met(NamedTuple):
    """A prediction after a label was applied to it, and what the label did."""

    pending: PendingPrediction
    effect: LabelEffect


def add_prediction(
    context: BatchContext,
    records: Records,
    index: int,
    name: str,
    kept: KeyState,
    pending: PendingPrediction,
    stats: BatchStats,
) -> KeyState | None:
    """Return the id's state with one more prediction, which has met the labels buffered there.

    None if the prediction is a repeat, which is dropped or refused.
    """
    others = kept.predictions
    for other in others:
        if other.variant != pending.variant:
            continue
        window = context.rules.join.correction_window
        if other.match is not None and pending.append_ms - other.match.matched_ms > window:
            # Nothing more can come of the other one: the id is being used again.
            others = tuple([one for one in others if one is not other])
            break
        if other.prefix == pending.prefix:
            stats.counts["duplicate"] += 1
            context.predictions.repeated += 1
            return None
        model, version, role = pending.variant
        reason = f"came before, by {model} version {version} ({role}), with other content"
        context.refuse_prediction(records, index, f"a prediction of this id {reason}", stats)
        return None
    if len(others) >= MAX_PER_ID:
        context.refuse_prediction(records, index, f"more than {MAX_PER_ID} answers to one id", stats)
        return None
    labels: list[BufferedLabel] = []
    key = name.encode()
    for label in kept.labels:
        pending, effect = meet(context, key, pending, read_label(label.value), label)
        if effect in _REACHED and not label.used:
            label = _reached(context, label, effect)
            context.labels.pending -= 1
        labels.append(label)
    return KeyState((*others, pending), tuple(labels))


def add_label(
    context: BatchContext, key: bytes, kept: KeyState, read: ReadLabel, label: BufferedLabel, expired: int
) -> KeyState | None:
    """Return the id's state with one more label, which has met the predictions there; None if it is refused.

    ``expired``: the bucket up to which labels have expired.
    """
    # Used labels that no later prediction can meet are dropped.
    early = context.rules.join.early_horizon
    earlier = tuple(
        [one for one in kept.labels if not (one.used and bucket_of(one.append_ms + early) <= expired)]
    )
    if len(earlier) >= MAX_PER_ID:
        context.refuse_label(label, f"more than {MAX_PER_ID} labels of one id in its early horizon")
        context.labels.refused += 1
        return None
    predictions: list[PendingPrediction] = []
    found = False
    for pending in kept.predictions:
        after, effect = meet(context, key, pending, read, label)
        predictions.append(after)
        if effect is LabelEffect.NOT_APPLICABLE:
            continue
        found = True
        stats = context.stats_of(pending.variant)
        stats.labels += 1
        if effect is LabelEffect.OUT_OF_TIME:
            stats.counts["late"] += 1
        elif not label.used:
            label = _reached(context, label, effect)
    if not found:
        context.counts["labels"] += 1
    if not label.used:
        context.labels.pending += 1
    return KeyState(tuple(predictions), (*earlier, label))


def _reached(context: BatchContext, label: BufferedLabel, effect: LabelEffect) -> BufferedLabel:
    """Return the label as it is kept once it has reached a prediction, the first one with this effect."""
    if effect in _GAVE_AN_OUTCOME:
        context.labels.outcomes += 1
    elif effect in _REPEATED:
        context.labels.repeated += 1
    else:
        context.labels.refused += 1
    return label.reached()


def meet(
    context: BatchContext, key: bytes, pending: PendingPrediction, read: ReadLabel, label: BufferedLabel
) -> Met:
    """Apply one label to one prediction, whichever of them came first."""
    match, payload, append_ms = pending.match, read.payload, label.append_ms
    stats = context.stats_of(pending.variant)
    effect = classify(pending, payload, append_ms, stats.rules, context.rules.join, not context.replaying)
    if effect is LabelEffect.FIRST:
        seq = -1
        if not context.replaying:
            early = append_ms < pending.append_ms
            seq = emit_first(context, key, pending, payload, read.ts, stats, early=early)
        matched_ms = max(pending.append_ms, append_ms)
        if match is None:
            context.predictions.pending -= 1
        match = Match(payload.value, payload.feedback, payload.source, matched_ms, 0, seq)
    elif effect is LabelEffect.CORRECTION and match is not None:
        revision = match.revision + 1
        stats.counts["corrected"] += 1
        if not context.replaying:
            error = error_value(pending.answer, payload, stats.rules)
            delay_ms = read.ts - pending.ts
            revised = outcome_bytes(pending.prefix, payload, read.ts, delay_ms, error, revision, match.seq)
            context.output.outcomes.append((key, revised))
        match = Match(payload.value, payload.feedback, payload.source, match.matched_ms, revision, match.seq)
    elif effect is LabelEffect.REPEAT and match is not None:
        stats.counts["duplicate"] += 1
        # The source is at least as strong as the one it had.
        match = replace(match, source=payload.source)
    elif effect is LabelEffect.WEAKER:
        stats.counts["duplicate"] += 1
    elif effect is LabelEffect.UNUSABLE and not label.used:
        reason = why_unusable(payload, stats.rules, pending.variant.model)
        context.refuse_label(label, f"Label: label: {reason}")
    elif effect is LabelEffect.NOT_ALLOWED and not label.used:
        allowed = f"labels.allowed_sources of {pending.variant.model}"
        context.refuse_label(label, f"Label: source: {payload.source!r} is not among the {allowed}")
    return Met(pending if match is pending.match else pending.matched(match), effect)


def emit_first(
    context: BatchContext,
    key: bytes,
    pending: PendingPrediction,
    payload: LabelPayload,
    label_ts: int,
    stats: BatchStats,
    *,
    early: bool,
) -> int:
    """Emit the first outcome of a prediction; return its seq."""
    seq = context.next_seq
    context.next_seq = seq + 1
    error = error_value(pending.answer, payload, stats.rules)
    delay_ms = label_ts - pending.ts
    outcome = outcome_bytes(pending.prefix, payload, label_ts, delay_ms, error, 0, seq)
    context.output.outcomes.append((key, outcome))
    stats.seqs.append(seq)
    stats.errors.append(error)
    stats.ts.append(pending.ts)
    stats.delays.append(delay_ms)
    stats.actuals.append(None if payload.feedback else stats.rules.class_of(payload.name))
    if pending.segments:
        stats.segments.append((pending.segments, error))
    if early:
        stats.counts["early"] += 1
    return seq
