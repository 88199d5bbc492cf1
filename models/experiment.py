"""The experiment: candidates against the champion on rows neither was trained on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..schemas.runs import GateVerdict, Interval, Lineage
from ..schemas.serving import Manifest, Reference, SelfTestRow
from ..schemas.spec import ModelSpec
from .fitted import Fitted
from .rows import LabelledRow


@dataclass(frozen=True, slots=True)
class ExperimentInput:
    """``champion_saw``: prediction ids that taught the champion; they are never held out."""

    spec: ModelSpec
    rows_before_change: tuple[LabelledRow, ...]
    rows_after_change: tuple[LabelledRow, ...]
    champion: tuple[Manifest, bytes] | None
    seed: int
    champion_saw: frozenset[str] = frozenset()
    champion_saw_until_ts: int | None = None


@dataclass(frozen=True, slots=True)
class ExperimentResult:
    """``candidate``, ``reference`` and ``lineage`` are absent only when there was too little to learn from."""

    passed: bool
    why: str
    candidate: Fitted | None
    lineage: Lineage | None
    metrics: dict[str, Interval]
    gates: tuple[GateVerdict, ...]
    reference: Reference | None
    self_test: tuple[SelfTestRow, ...]
    learner: str
    parameters: dict[str, Any]
    timings_ms: dict[str, float] = field(default_factory=dict[str, float])


def run_experiment(
    given: ExperimentInput, *, clock_ns: Callable[[], int] = time.perf_counter_ns
) -> ExperimentResult:
    raise NotImplementedError


def package_versions() -> dict[str, str]:
    """Versions of what determines a training run's result, for its record."""
    raise NotImplementedError
