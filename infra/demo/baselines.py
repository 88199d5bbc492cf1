"""The baselines that the loop is compared with, on the same rows that it answered.

- static: version 1 for ever.
- no_change: the last label that had arrived when the request was made.
- schedule: as many retrainings as the loop promoted, evenly spaced, same learner, same window.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from ...models.formats.features import infer_features
from ...models.formats.fitted import Predictor
from ...models.formats.learners import make_learner
from ...models.formats.loaders import load
from ...schemas.spec.model import ModelSpec
from .flights import NEVER, Flights

WORKERS = 2
_BATCH = 4096


def accuracy(answers: NDArray[np.str_], truth: NDArray[np.str_]) -> float:
    """Share of right answers; shapes (n,) and (n,)."""
    return float((answers == truth).sum()) / len(truth)


def answers_of(predictor: Predictor, flights: Flights, rows: NDArray[np.int64]) -> NDArray[np.str_]:
    """A version's answers to these rows; shape (n,)."""
    said: list[str] = []
    for start in range(0, len(rows), _BATCH):
        batch = [flights.features(row) for row in rows[start : start + _BATCH].tolist()]
        said.extend(str(answer.prediction) for answer in predictor.predict(batch))
    return np.array(said, dtype=np.str_)


def no_change(flights: Flights, rows: NDArray[np.int64]) -> NDArray[np.str_]:
    """The newest label known at each row's scheduled departure; shape (n,)."""
    label_ms: NDArray[np.int64] = flights.label_ms
    landed = np.flatnonzero(label_ms != NEVER)
    order = landed[np.argsort(flights.label_ms[landed], kind="stable")]
    labels = np.where(flights.late[order], "late", "on_time")
    newest = np.searchsorted(flights.label_ms[order], flights.ts[rows], side="right") - 1
    return labels[np.maximum(newest, 0)]


def schedule(
    flights: Flights, rows: NDArray[np.int64], *, first: Predictor, retrainings: int, spec: ModelSpec
) -> NDArray[np.str_]:
    """Answers of models retrained ``retrainings`` times at even distances over the rows' time; shape (n,)."""
    times = flights.ts[rows]
    first_ms, last_ms = int(times.min()), int(times.max()) + 1
    step = (last_ms - first_ms) / (retrainings + 1)
    period = ((times - first_ms) / step).astype(np.int64)
    chosen = [np.flatnonzero(period == index) for index in range(retrainings + 1)]
    answers = np.empty(len(rows), dtype=object)
    # Processes of their own (spawned: librdkafka's threads do not survive a fork): one per core of the demo.
    with ProcessPoolExecutor(
        WORKERS, mp_context=get_context("spawn"), initializer=_prepare, initargs=(flights, spec)
    ) as pool:
        later = [
            pool.submit(_answers_after, first_ms + index * step, rows[chosen[index]])
            for index in range(1, retrainings + 1)
        ]
        answers[chosen[0]] = answers_of(first, flights, rows[chosen[0]])
        for index, future in enumerate(later, start=1):
            answers[chosen[index]] = future.result()
    return answers.astype(np.str_)


_given: tuple[Flights, ModelSpec] | None = None


def _prepare(flights: Flights, spec: ModelSpec) -> None:
    global _given
    _given = (flights, spec)


def _answers_after(now_ms: float, rows: NDArray[np.int64]) -> NDArray[np.str_]:
    assert _given is not None
    flights, spec = _given
    return answers_of(_trained_at(flights, now_ms, spec), flights, rows)


def _trained_at(flights: Flights, now_ms: float, spec: ModelSpec) -> Predictor:
    known = np.flatnonzero((flights.label_ms != NEVER) & (flights.label_ms <= now_ms))
    newest = known[-spec.window.max_rows :].tolist()
    features = [flights.features(row) for row in newest]
    labels = [flights.label(row) or "" for row in newest]
    fitted = make_learner(spec.learner[0]).fit(
        features,
        labels,
        features=infer_features(spec, features),
        classes=spec.classes,
        task=spec.task,
        seed=spec.seed,
    )
    return load(fitted, fitted.data)
