"""When what is held ends, and ending it: exactly once, as far as the position says.

A topic's clock shows the append time of its last record read, less a grace for skew between brokers. A
prediction ends once both clocks have passed its horizon or, once matched, its correction window: no label can
still belong to it, and no repeat of it can come. A label ends once the predictions' clock has passed its
early horizon; only an unused one is announced, as a dead letter. How far both have gone is counted in whole
buckets and is part of the position: after a batch, nothing that ends at or before them is held any more, so a
restart neither forgets to announce an end nor announces one twice.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...schemas.spec.model import Join
from .batch_output import Work
from .records import Entry, Group, Held, KeptLabel, Pair, group_of
from .state.position import ExpiryWatermark, Position, Watermarks, bucket_of
from .state.state import LABEL_ENDS, PREDICTION_ENDS, Deadlines, JoinState

_EVICTIONS_PER_BATCH = 20_000  # keeps a batch well within the transaction's timeout


def all_deadlines(entries: Iterable[Entry], join: Join) -> list[Deadlines]:
    """``deadlines`` of each; the usual kinds are written out, because each id is asked at every flush."""
    horizon, window = join.horizon, join.correction_window
    found: list[Deadlines] = []
    add = found.append
    for entry in entries:
        if type(entry) is Pair:
            held_ms, label_ms = entry.held.append_ms, entry.label_ms
            add(((held_ms if held_ms > label_ms else label_ms) + window, None))
        elif type(entry) is Held and entry.match is None:
            add((entry.append_ms + horizon, None))
        else:
            add(deadlines(entry, join))
    return found


def deadlines(entry: Entry, join: Join) -> Deadlines:
    """When this entry must be looked at next: for its predictions, and for its labels."""
    if isinstance(entry, KeptLabel):
        return None, entry.append_ms + join.early_horizon
    group = group_of(entry)
    ends = [_end_of(held, join) for held in group.predictions]
    waiting = [label.append_ms for label in group.labels if not label.used or not ends]
    return min(ends) if ends else None, min(waiting) + join.early_horizon if waiting else None


def _end_of(held: Held, join: Join) -> int:
    if held.match is not None:
        return held.match.matched_ms + join.correction_window
    return held.append_ms + join.horizon


def _before_first(since_ms: int, join: Join) -> ExpiryWatermark:
    """Return the buckets before the first in which what was appended since then can expire."""
    return ExpiryWatermark(
        bucket_of(since_ms + min(join.horizon, join.correction_window)) - 1,
        bucket_of(since_ms + join.early_horizon) - 1,
    )


class Eviction:
    """Ends what a state holds. On failure: only staged changes were made; roll the state back."""

    def __init__(self, state: JoinState) -> None:
        self._state = state
        self._unlisted_ms: int | None = None
        # What stayed of ids that ended in part: the store lists it again only with the next flush, and the
        # hands may pass its end before that.
        self._remainders: dict[str, Deadlines] = {}
        self._staged_remainders: dict[str, Deadlines] = {}
        self.wants_flush = False

    def applied(self, oldest_ms: int | None) -> None:
        """A batch was committed whose oldest record was appended at ``oldest_ms``."""
        self._remainders.update(self._staged_remainders)
        self._staged_remainders.clear()
        if oldest_ms is not None:
            self._unlisted_ms = oldest_ms if self._unlisted_ms is None else min(oldest_ms, self._unlisted_ms)

    def flushed(self) -> None:
        """Everything held is listed in the store."""
        self._unlisted_ms = None
        self._remainders.clear()
        self.wants_flush = False

    def run(
        self,
        work: Work,
        position: Position,
        watermarks: Watermarks,
        oldest_ms: int | None,
        most: ExpiryWatermark | None = None,
    ) -> Position:
        """Expire what the watermarks have passed; return the position with its new expiry watermark.

        ``oldest_ms``: append time of the batch's oldest record. ``most``: expire no further than this.
        """
        join = work.rules.join
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
        position = self.expire_listed(work, position, until.at_least(position.expired))
        if oldest_ms is not None:
            before = _before_first(oldest_ms, join)
            if before != before.at_least(position.expired):
                # Records that came after they had expired: their topic was read much later than the other.
                for name, entry in self._state.staged():
                    self._expire(work, name, group_of(entry), position.expired)
        return position

    def expire_listed(self, work: Work, position: Position, until: ExpiryWatermark) -> Position:
        """Expire what is listed up to ``until``, or as much of it as one batch may take."""
        done = position.expired
        names, predictions = self._state.ending(
            PREDICTION_ENDS, done.predictions, until.predictions, _EVICTIONS_PER_BATCH
        )
        more, labels = self._state.ending(LABEL_ENDS, done.labels, until.labels, _EVICTIONS_PER_BATCH)
        reached = ExpiryWatermark(predictions, labels)
        unlisted = [
            name
            for name, (prediction_ms, label_ms) in self._remainders.items()
            if (prediction_ms is not None and bucket_of(prediction_ms) <= predictions)
            or (label_ms is not None and bucket_of(label_ms) <= labels)
        ]
        if names or more or unlisted:
            listed = dict.fromkeys((*names, *more, *unlisted))
            self._state.fetch(listed)
            for name in listed:
                entry = self._state.get(name)
                if entry is not None:
                    self._expire(work, name, group_of(entry), reached)
        return position.with_expired(reached)

    def _expire(self, work: Work, name: str, group: Group, expired: ExpiryWatermark) -> None:
        """Removes what is over. What stays is staged again, and so listed again for what it waits for now."""
        join = work.rules.join
        predictions: list[Held] = []
        for held in group.predictions:
            if bucket_of(_end_of(held, join)) > expired.predictions:
                predictions.append(held)
            elif held.match is None:
                work.tally(held.track).counts["expired"] += 1
        labels: list[KeptLabel] = []
        for label in group.labels:
            if bucket_of(label.append_ms + join.early_horizon) > expired.labels:
                labels.append(label)
            elif not label.used:
                work.refuse_label(label, "expired: no prediction that it belongs to came in time")
                work.counts["expired"] += 1
        if not predictions and not labels:
            self._state.put(name, None)
            if name in self._remainders:
                self._staged_remainders[name] = (None, None)
            return
        remaining = Group(tuple(predictions), tuple(labels))
        self._state.put(name, remaining)
        self._staged_remainders[name] = deadlines(remaining, join)
