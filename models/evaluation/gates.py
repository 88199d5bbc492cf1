"""The gates of promotion: each checks one thing and returns a result with the numbers behind it.

A promotion needs all of them to pass; a refusal names those that failed. Thresholds are the spec's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...schemas.errors import SpecError
from ...schemas.runs import GateResult
from ...schemas.spec.model import Cost, Fairness, LatencyGate, Significance
from ...schemas.values.classes import Classes
from ..formats.fitted import Answer
from .paired_errors import Floats, PairedErrors, costs_of, squared_errors
from .statistics import block_bootstrap, holm, mcnemar

_TINY = 1e-9  # floating point's share in a comparison of costs
_WORTH_COMPARING_MS = 1.0  # below it a ratio is noise
_SHOWN_SEGMENTS = 20
_SHOWN_CLASSES = 10


def significance(rule: Significance, paired: PairedErrors, *, cost: Cost | None, seed: int) -> GateResult:
    """Check that the candidate beats the champion, beyond chance and by at least ``min_gain``.

    ``auto``: McNemar for classes, the block bootstrap of |y − ŷ| for numbers. ``bootstrap`` on classes: of
    the costs where there is a cost matrix, else of right and wrong. Raises SpecError for McNemar on numbers.
    """
    if rule.test == "mcnemar" and paired.task == "regression":
        raise SpecError(
            "gates.significance.test",
            ('"mcnemar" compares right and wrong, a regression has neither: use "bootstrap"',),
        )
    gains, scale = paired.gains, 1.0
    if paired.task == "regression":
        scale = float(paired.incumbent_errors.mean()) or 1.0
    if rule.test == "bootstrap" and cost is not None:
        incumbent = costs_of(cost, paired.incumbent, paired.labels)
        gains = incumbent - costs_of(cost, paired.candidate, paired.labels)
        scale = abs(float(incumbent.mean())) or 1.0
    gain = float(gains.mean()) / scale
    if paired.task == "classification" and rule.test != "bootstrap":
        rows = _discordant(paired.gains)
        p = mcnemar(rows.wins, rows.losses)
        how = f"alone right on {rows.wins} rows, the champion on {rows.losses} (McNemar)"
    else:
        p, interval = block_bootstrap(gains, seed=seed)
        how = f"gain {interval.low / scale:+.4f} to {interval.high / scale:+.4f} (block bootstrap)"
    passed = p <= rule.alpha and gain > 0 and gain >= rule.min_gain
    asked = f"asked: p ≤ {rule.alpha:g} and a gain of at least {rule.min_gain:g}"
    return GateResult(
        gate="significance",
        passed=passed,
        reason=f"{how}; gain {gain:+.4f}, p = {p:.3g} ({asked})",
        value=p,
        threshold=rule.alpha,
        evidence={"gain": gain, "rows": len(gains)},
    )


def baseline(
    rule: Significance,
    paired: PairedErrors,
    answers: Sequence[Answer],
    shares: dict[str, float],
    *,
    seed: int,
) -> GateResult:
    """Check, without a champion, that the candidate beats the constant answer (majority class, or mean).

    Classes: right more often than the majority class or, since of a rare class it may only know the odds,
    with better probabilities (Brier) than the class ``shares``. Two ways to pass, each held to half of alpha.
    """
    gains = paired.gains
    if paired.task == "regression":
        ways = {"error smaller than the mean's": block_bootstrap(gains, seed=seed).p}
    else:
        ways = {"right more often than the majority class": mcnemar(*_discordant(gains))}
        if all(answer.scores is not None for answer in answers):
            constant = Answer("", shares)
            honest = squared_errors([constant] * len(paired.labels), paired.labels)
            better = honest - squared_errors(answers, paired.labels)
            ways["probabilities better than the class shares"] = block_bootstrap(better, seed=seed).p
    best = min(ways, key=ways.__getitem__)
    corrected = min(1.0, ways[best] * len(ways))
    return GateResult(
        gate="baseline",
        passed=corrected <= rule.alpha,
        reason=f"{best}: p = {corrected:.3g} (asked: p ≤ {rule.alpha:g})",
        value=corrected,
        threshold=rule.alpha,
        evidence={"p": ways, "gain": float(gains.mean()), "rows": len(gains)},
    )


class _SegmentLoss(NamedTuple):
    loss: float
    segment: str
    rows: int
    p: float


def fairness(rule: Fairness, paired: PairedErrors, *, alpha: float, seed: int) -> GateResult:
    """Check that no segment loses by the change, though the whole may gain.

    A segment counts from ``min_rows`` on. It stops the candidate when its loss is above ``max_loss`` and
    not by chance: of twenty small segments one is 5 points down by chance more often than not, so the paired
    test must say so too, corrected for the number of segments (Holm). The evidence lists the losses.
    """
    losses: list[_SegmentLoss] = []
    small = 0
    for name, rows in _segments(paired.segments).items():
        if len(rows) < rule.min_rows:
            small += 1
            continue
        gains = paired.gains[rows]
        scale = float(paired.incumbent_errors[rows].mean()) or 1.0 if paired.task == "regression" else 1.0
        loss = -float(gains.mean()) / scale
        losses.append(_SegmentLoss(loss, name, len(rows), _p_of_loss(paired, gains, seed)))
    losses.sort(key=lambda one: (-one.loss, one.segment))
    corrected = holm([one.p for one in losses])
    losses = [one._replace(p=p) for one, p in zip(losses, corrected, strict=True)]
    stopping = [one for one in losses if one.loss > rule.max_loss and one.p <= alpha]
    if stopping:
        reason = "; ".join(f"{one.segment} loses {one.loss:.4f} (p = {one.p:.3g})" for one in stopping)
    elif losses:
        reason = f"the worst of {len(losses)} segments, {losses[0].segment}, loses {losses[0].loss:+.4f}"
    else:
        reason = f"no segment has {rule.min_rows} hold-out rows"
    return GateResult(
        gate="fairness",
        passed=not stopping,
        reason=f"{reason} (allowed: {rule.max_loss:g}; {small} too small to compare)",
        value=losses[0].loss if losses else None,
        threshold=rule.max_loss,
        evidence={
            "segments": [
                {"segment": one.segment, "loss": one.loss, "rows": one.rows, "p": one.p}
                for one in losses[:_SHOWN_SEGMENTS]
            ]
        },
    )


def classes(
    declared: Classes | None, candidate: tuple[str, ...], champion: tuple[str, ...] | None
) -> GateResult:
    """Check that the candidate can answer every declared class that the champion can.

    A learner leaves out a class that no row of its window has, so the candidate could never answer it. That
    is refused: a class that is gone for good is taken out of the spec. Classes that the spec does not
    declare, and those that the champion cannot answer either, are only named. ``champion``: its classes, None
    before the first one.
    """
    known = declared or Classes.of(tuple(sorted({*candidate, *(champion or ())})))
    can, could = (set(map(known.class_of, of)) for of in (candidate, champion or ()))
    missing = [name for name in known.names if name not in can]
    lost = [name for name in missing if name in could] if declared else []
    if lost:
        reason = (
            f"cannot answer {_named(lost)}, which the champion answers: no row that it was trained on has "
            "that label. Train on more rows (window.max_rows, old_rows), or take it out of the spec's classes"
        )
    elif missing:
        reason = f"answers {len(can)} classes, and never {_named(missing)}, which no row of its window has"
    else:
        reason = f"answers all {len(can)} classes"
    return GateResult(
        gate="classes",
        passed=not lost,
        reason=reason,
        value=float(len(lost)),
        threshold=0.0,
        evidence={"lost": lost, "missing": missing},
    )


def latency(rule: LatencyGate, candidate_ms: Floats, champion_ms: Floats | None) -> GateResult:
    """Check that one row is answered fast enough, with the loader that servers use. In ms per request."""
    p95 = float(np.quantile(candidate_ms, 0.95))
    allowed, against = rule.max_p95_ms, ""
    if champion_ms is not None:
        champion = float(np.quantile(champion_ms, 0.95))
        against = f", the champion's {champion:.3f} ms"
        allowed = min(allowed, max(champion * rule.max_ratio, _WORTH_COMPARING_MS))
    return GateResult(
        gate="latency",
        passed=p95 <= allowed,
        reason=f"p95 {p95:.3f} ms{against} (allowed: {allowed:.3f} ms)",
        value=p95,
        threshold=allowed,
        evidence={"requests": len(candidate_ms), "p50_ms": float(np.quantile(candidate_ms, 0.5))},
    )


def business_cost(rule: Cost, paired: PairedErrors) -> GateResult:
    """Check that the mean decision costs no more than the champion's (or the cheapest constant answer's)."""
    candidate = float(costs_of(rule, paired.candidate, paired.labels).mean())
    incumbent = float(costs_of(rule, paired.incumbent, paired.labels).mean())
    allowed = incumbent + abs(incumbent) * rule.max_increase
    return GateResult(
        gate="cost",
        passed=candidate <= allowed + _TINY,
        reason=f"mean cost {candidate:.4f}, before {incumbent:.4f} (allowed: {allowed:.4f})",
        value=candidate,
        threshold=allowed,
    )


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN_CLASSES])
    return shown if len(names) <= _SHOWN_CLASSES else f"{shown} and {len(names) - _SHOWN_CLASSES} more"


class _Discordant(NamedTuple):
    """Rows on which exactly one of the two is right: the candidate (``wins``) or the champion."""

    wins: int
    losses: int


def _discordant(gains: Floats) -> _Discordant:
    return _Discordant(int(np.count_nonzero(gains > 0)), int(np.count_nonzero(gains < 0)))


def _p_of_loss(paired: PairedErrors, gains: Floats, seed: int) -> float:
    if paired.task == "classification":
        rows = _discordant(gains)
        return mcnemar(rows.losses, rows.wins)
    return block_bootstrap(-gains, seed=seed).p


def _segments(of_rows: Sequence[dict[str, str]]) -> dict[str, list[int]]:
    """``name=value`` → the rows of that segment value."""
    rows: dict[str, list[int]] = {}
    for place, segments in enumerate(of_rows):
        for name, value in segments.items():
            rows.setdefault(f"{name}={value}", []).append(place)
    return rows
