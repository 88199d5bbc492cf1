"""Expiry of what is kept: when it is due, and doing it exactly once.

A topic's watermark is the append time of the last record read of it, or its idle watermark, less a grace for
clock skew between brokers. A prediction expires once both watermarks have passed its horizon or, once
matched, its correction window: no label can still belong to it, and no repeat of it can come. A label expires
once the predictions' watermark has passed its early horizon; only an unused one is announced, as a dead
letter.

How far expiry has gone, in whole buckets, is the expiry watermark. It is part of the position: after a batch,
nothing that expires at or before it is kept any more, so a restart neither forgets an announcement nor
repeats one.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...schemas.spec.model import Join
from .batch_output import BatchContext
from .matching.records import BufferedLabel, Entry, JoinedPair, KeyState, PendingPrediction, key_state_of
from .state.join_state import LABEL_EXPIRY, PREDICTION_EXPIRY, DeadlineColumns, Deadlines, JoinState
from .state.position import ExpiryWatermark, Position, Watermarks, bucket_of

_MOST_PER_BATCH = 20_000  # keeps a batch well within the transaction's timeout


def all_deadlines(entries: Iterable[Entry], join: Join) -> DeadlineColumns:
    """Return ``deadlines`` of each; the usual kinds are written out, because every flush asks for each id."""
    horizon, window, early = join.horizon, join.correction_window, join.early_horizon
    predictions_ms: list[int | None] = []
    labels_ms: list[int | None] = []
    add_prediction, add_label = predictions_ms.append, labels_ms.append
    for entry in entries:
        if type(entry) is JoinedPair:
            prediction_ms, label_ms = entry.pending.append_ms, entry.label_ms
            add_prediction((prediction_ms if prediction_ms > label_ms else label_ms) + window)
            add_label(None)
        elif type(entry) is PendingPrediction and entry.match is None:
            add_prediction(entry.append_ms + horizon)
            add_label(None)
        elif type(entry) is BufferedLabel:
            add_prediction(None)
            add_label(entry.append_ms + early)
        else:
            due = deadlines(entry, join)
            add_prediction(due.prediction_ms)
            add_label(due.label_ms)
    return DeadlineColumns(predictions_ms, labels_ms)


def deadlines(entry: Entry, join: Join) -> Deadlines:
    """Return when this entry must be looked at next: for its predictions, and for its labels."""
    kept = key_state_of(entry)
    predictions_ms = [_expires_ms(pending, join) for pending in kept.predictions]
    labels_ms = [label.append_ms for label in kept.labels if not label.used or not predictions_ms]
    return Deadlines(
        min(predictions_ms, default=None), min(labels_ms) + join.early_horizon if labels_ms else None
    )


def _expires_ms(pending: PendingPrediction, join: Join) -> int:
    if pending.match is not None:
        return pending.match.matched_ms + join.correction_window
    return pending.append_ms + join.horizon


def _before_first(since_ms: int, join: Join) -> ExpiryWatermark:
    """Return the buckets before the first in which what was appended since then can expire."""
    return ExpiryWatermark(
        bucket_of(since_ms + min(join.horizon, join.correction_window)) - 1,
        bucket_of(since_ms + join.early_horizon) - 1,
    )


class Expiry:
    """Expires what a state keeps. On failure: only staged changes were made; roll the state back."""

    def __init__(self, state: JoinState) -> None:
        self._state = state
        self._unlisted_ms: int | None = None
        # What stayed of ids that expired in part: the store lists it again only with the next flush, and the
        # expiry watermark may pass its deadline before that.
        self._remainders: dict[str, Deadlines] = {}
        self._staged_remainders: dict[str, Deadlines] = {}
        self.wants_flush = False

    def applied(self, oldest_ms: int | None) -> None:
        """Note that a batch was committed whose oldest record was appended at ``oldest_ms``."""
        self._remainders.update(self._staged_remainders)
        self._staged_remainders.clear()
        if oldest_ms is not None:
            self._unlisted_ms = oldest_ms if self._unlisted_ms is None else min(oldest_ms, self._unlisted_ms)

    def flushed(self) -> None:
        """Note that everything kept is listed in the store."""
        self._unlisted_ms = None
        self._remainders.clear()
        self.wants_flush = False

    def run(
        self,
        context: BatchContext,
        position: Position,
        watermarks: Watermarks,
        oldest_ms: int | None,
        most: ExpiryWatermark | None = None,
    ) -> Position:
        """Expire what the watermarks have passed; return the position with its new expiry watermark.

        ``oldest_ms``: append time of the batch's oldest record. ``most``: expire no further than this.
        """
        join = context.rules.join
        self._staged_remainders.clear()  # those of a batch that was aborted
        # A label can still come for a prediction until both topics are past its deadline.
        until = ExpiryWatermark(
            bucket_of(min(watermarks) - join.clock_skew) - 1,
            bucket_of(watermarks.predictions_ms - join.clock_skew) - 1,
        )
        if most is not None:
            until = until.at_most(most)
        # What came since the last flush is not listed yet, so its first expiry must not be passed.
        for since_ms in (self._unlisted_ms, oldest_ms):
            if since_ms is not None and until != (listed := until.at_most(_before_first(since_ms, join))):
                until = listed
                self.wants_flush = True
        position = self.expire_listed(context, position, until.at_least(position.expired))
        if oldest_ms is not None:
            before = _before_first(oldest_ms, join)
            if before != before.at_least(position.expired):
                # Records that came after they had expired: their topic was read much later than the other.
                for name, entry in self._state.staged():
                    self._expire(context, name, key_state_of(entry), position.expired)
        return position

    def expire_listed(self, context: BatchContext, position: Position, until: ExpiryWatermark) -> Position:
        """Expire what is listed up to ``until``, or as much of it as one batch may take."""
        done = position.expired
        predictions = self._state.expiring(
            PREDICTION_EXPIRY, done.predictions, until.predictions, _MOST_PER_BATCH
        )
        labels = self._state.expiring(LABEL_EXPIRY, done.labels, until.labels, _MOST_PER_BATCH)
        reached = ExpiryWatermark(predictions.reached, labels.reached)
        unlisted = [
            name
            for name, due in self._remainders.items()
            if (due.prediction_ms is not None and bucket_of(due.prediction_ms) <= reached.predictions)
            or (due.label_ms is not None and bucket_of(due.label_ms) <= reached.labels)
        ]
        if predictions.names or labels.names or unlisted:
            listed = dict.fromkeys((*predictions.names, *labels.names, *unlisted))
            self._state.fetch(listed)
            for name in listed:
                entry = self._state.get(name)
                if entry is not None:
                    self._expire(context, name, key_state_of(entry), reached)
        return position.with_expired(reached)

    def _expire(self, context: BatchContext, name: str, kept: KeyState, expired: ExpiryWatermark) -> None:
        """Remove what has expired. What stays is staged again, and so listed under its next deadline."""
        join = context.rules.join
        predictions: list[PendingPrediction] = []
        for pending in kept.predictions:
            if bucket_of(_expires_ms(pending, join)) > expired.predictions:
                predictions.append(pending)
            elif pending.match is None:
                context.stats_of(pending.variant).counts["expired"] += 1
                context.predictions.pending -= 1
        labels: list[BufferedLabel] = []
        for label in kept.labels:
            if bucket_of(label.append_ms + join.early_horizon) > expired.labels:
                labels.append(label)
            elif not label.used:
                context.refuse_label(label, "expired: no prediction that it belongs to came in time")
                context.counts["expired"] += 1
                context.labels.pending -= 1
        if not predictions and not labels:
            self._state.put(name, None)
            if name in self._remainders:
                self._staged_remainders[name] = Deadlines(None, None)
            return
        remaining = KeyState(tuple(predictions), tuple(labels))
        self._state.put(name, remaining)
        self._staged_remainders[name] = deadlines(remaining, join)
