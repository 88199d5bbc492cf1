"""``driftloop score``: a file of requests through a model that follows its live version, like any server.

Answers keep the file's order. Each batch is answered by one version; the next batch by what is live then.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ...schemas.errors import Error
from ...streams.serve.client import EventClient
from ...streams.serve.hot.model import LiveModel
from ...streams.serve.hot.requests import Failed
from .csv_values import BadRow
from .requests import FileRequest

BATCH_ROWS = 500
FLUSH_S = 60.0
_MAX_WAITING = 20_000  # far below the client's bounds, so that nothing is dropped


@dataclass(slots=True)
class ScoreReport:
    """What became of the rows; ``versions``: how many rows each version answered (0: the fallback)."""

    answered: int = 0
    failed: int = 0
    versions: Counter[int] = field(default_factory=Counter[int])


class Scorer:
    """Answers rows in batches and emits every prediction."""

    def __init__(self, hot: LiveModel, client: EventClient, *, batch_rows: int = BATCH_ROWS) -> None:
        self._hot = hot
        self._client = client
        self._batch_rows = batch_rows
        self.report = ScoreReport()

    def score(self, rows: Iterable[FileRequest | BadRow]) -> Iterator[dict[str, object]]:
        """One result per row, with its line; a row that fails has ``error``.

        Raises NoModelError without a version or fallback, Error if Kafka does not take the predictions.
        """
        remaining = iter(rows)
        while batch := list(itertools.islice(remaining, self._batch_rows)):
            yield from self._answer(batch)
            if self._client.stats.waiting > _MAX_WAITING:
                self.flush()
        self.flush()

    def flush(self) -> None:
        """Raise Error if a prediction has not arrived."""
        waiting = self._client.flush(FLUSH_S)
        lost = self._client.stats.dropped
        if waiting or lost:
            raise Error(
                f"{waiting} predictions have not arrived within {FLUSH_S:g} s and {lost} will not: is the "
                "cluster reachable?"
            )

    def _answer(self, batch: list[FileRequest | BadRow]) -> Iterator[dict[str, object]]:
        requests = [row.request for row in batch if isinstance(row, FileRequest)]
        answers = iter(
            self._hot.predict_many(
                [request.features for request in requests],
                [request.prediction_id for request in requests],
                segments=[request.segments for request in requests],
                ts=[request.ts for request in requests],
            )
        )
        for row in batch:
            result: dict[str, object] = {"line": row.line}
            answer = Failed("", row.reason) if isinstance(row, BadRow) else next(answers)
            if isinstance(answer, Failed):
                self.report.failed += 1
                result |= {"prediction_id": answer.prediction_id} if answer.prediction_id else {}
                yield result | {"error": answer.error}
                continue
            self.report.answered += 1
            self.report.versions[answer.version] += 1
            result |= {
                "prediction_id": answer.prediction_id,
                "prediction": answer.prediction,
                "version": answer.version,
            }
            yield result if answer.scores is None else result | {"scores": answer.scores}
