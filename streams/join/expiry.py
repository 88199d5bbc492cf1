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
from .state.state import LABEL_ENDS, PREDICTION_ENDS, Deadlines, JoinState, Position, bucket_of

_EVICTIONS_PER_BATCH = 20_000  # keeps a batch well within the transaction's timeout

Hands = tuple[int, int]  # the last bucket whose predictions have ended, and the last whose labels have


def hands_of(position: Position) -> Hands:
    return position.evicted_predictions, position.evicted_labels


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
        clocks_ms: tuple[int, int],
        oldest_ms: int | None,
        most: Hands | None = None,
    ) -> Position:
        """Ends what the clocks have passed; gives the position with its new hands.

        ``clocks_ms``: of the labels and of the predictions. ``oldest_ms``: of the batch's records. ``most``:
        go no further than these hands.
        """
        join = work.rules.join
        self._staged_remainders.clear()  # those of a batch that was aborted
        shortest = (min(join.horizon, join.correction_window), join.early_horizon)
        done = hands_of(position)
        ends_ms = min(clocks_ms), clocks_ms[1]
        until = [0, 0]
        for clock in (0, 1):
            wanted = bucket_of(ends_ms[clock] - join.clock_skew) - 1
            if most is not None:
                wanted = min(wanted, most[clock])
            # What came since the last flush is not listed yet, so the hands must not pass its first end.
            for since_ms in (self._unlisted_ms, oldest_ms):
                if since_ms is not None and wanted > (last := bucket_of(since_ms + shortest[clock]) - 1):
                    wanted = last
                    self.wants_flush = True
            until[clock] = max(wanted, done[clock])
        position = self.end_listed(work, position, (until[0], until[1]))
        if oldest_ms is not None and any(
            bucket_of(oldest_ms + shortest[clock]) <= hands_of(position)[clock] for clock in (0, 1)
        ):
            # Records that came after their end: from a topic that was read much later than the other.
            for name, entry in self._state.staged():
                self._end(work, name, group_of(entry), hands_of(position))
        return position

    def end_listed(self, work: Work, position: Position, until: Hands) -> Position:
        """Ends what is listed up to these hands, or as much of it as one batch may take."""
        done = hands_of(position)
        names, predictions_hand = self._state.ending(PREDICTION_ENDS, done[0], until[0], _EVICTIONS_PER_BATCH)
        more, labels_hand = self._state.ending(LABEL_ENDS, done[1], until[1], _EVICTIONS_PER_BATCH)
        unlisted = [
            name
            for name, (prediction_ms, label_ms) in self._remainders.items()
            if (prediction_ms is not None and bucket_of(prediction_ms) <= predictions_hand)
            or (label_ms is not None and bucket_of(label_ms) <= labels_hand)
        ]
        if names or more or unlisted:
            listed = dict.fromkeys((*names, *more, *unlisted))
            self._state.fetch(listed)
            for name in listed:
                entry = self._state.get(name)
                if entry is not None:
                    self._end(work, name, group_of(entry), (predictions_hand, labels_hand))
        return position._replace(evicted_predictions=predictions_hand, evicted_labels=labels_hand)

    def _end(self, work: Work, name: str, group: Group, hands: Hands) -> None:
        """Removes what is over. What stays is staged again, and so listed again for what it waits for now."""
        join = work.rules.join
        predictions: list[Held] = []
        for held in group.predictions:
            if bucket_of(_end_of(held, join)) > hands[0]:
                predictions.append(held)
            elif held.match is None:
                work.tally(held.track).counts["expired"] += 1
        labels: list[KeptLabel] = []
        for label in group.labels:
            if bucket_of(label.append_ms + join.early_horizon) > hands[1]:
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
