"""How long one row takes, measured the way it will be served: one request at a time, models in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from ..formats.features import Row
from ..formats.fitted import Predictor
from .paired_errors import Floats

REQUESTS = 200
_WARM_UP = 20


def time_single_rows(
    predictors: Sequence[Predictor],
    rows: Sequence[Row],
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> list[Floats]:
    """Milliseconds per request, for each predictor; interleaved, so that a busy moment hits all alike."""
    times: list[list[int]] = [[] for _ in predictors]
    for request in range(_WARM_UP + REQUESTS):
        row = [rows[request % len(rows)]]
        # Turn about, so that none always finds the caches warmed by another.
        first = request % len(predictors)
        for place in (*range(first, len(predictors)), *range(first)):
            started = clock_ns()
            predictors[place].predict(row)
            elapsed = clock_ns() - started
            if request >= _WARM_UP:
                times[place].append(elapsed)
    return [np.array(of_one, dtype=np.float64) / 1e6 for of_one in times]
