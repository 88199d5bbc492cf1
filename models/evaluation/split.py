"""Split rows into those to train on, those that choose among candidates, and the hold-out.

Time runs one way: rows are ordered by (ts, prediction_id), the newest are held out, those just before choose,
and the older ones train. A row newer than the first held-out one is never trained on, and one that the
champion was trained on is never held out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...schemas.runs import Lineage
from ...schemas.spec.model import WindowRules
from ..rows import LabelledRow

VALIDATION = 0.2  # share of the training rows, newest, that chooses among candidates
_SEPARATOR = b"\x1f"


@dataclass(frozen=True, slots=True)
class RowSplit:
    """All oldest first. ``older`` is from before the change, ``training`` and ``holdout`` from after it."""

    older: tuple[LabelledRow, ...]
    training: tuple[LabelledRow, ...]
    holdout: tuple[LabelledRow, ...]

    @property
    def validation_rows(self) -> int:
        return math.ceil(len(self.training) * VALIDATION)

    def before_validation(self) -> tuple[LabelledRow, ...]:
        return self.training[: len(self.training) - self.validation_rows]

    def validation(self) -> tuple[LabelledRow, ...]:
        return self.training[len(self.training) - self.validation_rows :]


def split(
    before: Sequence[LabelledRow],
    after: Sequence[LabelledRow],
    window: WindowRules,
    *,
    champion_saw: frozenset[str] = frozenset(),
) -> RowSplit:
    """The newest ``window.holdout`` of the rows after the change that the champion never saw are held out."""
    ordered = sorted(after, key=_in_time)[-window.max_rows :]
    wanted = math.ceil(len(ordered) * window.holdout)
    fresh = [row for row in ordered if row.prediction_id not in champion_saw]
    holdout = fresh[-wanted:] if wanted else []
    training = [row for row in ordered if _in_time(row) < _in_time(holdout[0])] if holdout else ordered
    old_rows = min(window.old_rows, window.max_rows - len(training))
    older = sorted(before, key=_in_time)[-old_rows:] if old_rows > 0 else []
    return RowSplit(tuple(older), tuple(training), tuple(holdout))


def lineage(parts: RowSplit, *, old_rows: int, validation_rows: int) -> Lineage:
    """Which rows were used, by position in the log and by digest; ``old_rows`` of the older ones were."""
    older = parts.older[len(parts.older) - old_rows :]
    used = (*older, *parts.training, *parts.holdout)
    spans: dict[str, tuple[int, int]] = {}
    for row in used:
        first, last = spans.get(str(row.partition), (row.seq, row.seq))
        spans[str(row.partition)] = (min(first, row.seq), max(last, row.seq))
    return Lineage(
        partitions={partition: spans[partition] for partition in sorted(spans, key=int)},
        rows=len(used),
        train_rows=len(older) + len(parts.training) - validation_rows,
        validation_rows=validation_rows,
        holdout_rows=len(parts.holdout),
        old_rows=old_rows,
        digest=_digest(used),
    )


def _in_time(row: LabelledRow) -> tuple[int, str]:
    return row.ts, row.prediction_id


def _digest(rows: Iterable[LabelledRow]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        for part in (row.prediction_id, str(row.version), repr(row.label)):
            digest.update(part.encode())
            digest.update(_SEPARATOR)
    return digest.hexdigest()
