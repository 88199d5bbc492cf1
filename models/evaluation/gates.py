"""The gates of promotion: each looks at one thing and gives a verdict with the numbers behind it.

A promotion needs all of them; a refusal names those that said no. Thresholds are the spec's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...schemas.errors import SpecError
from ...schemas.runs import GateVerdict
from ...schemas.spec.model import Cost, Fairness, LatencyGate, Significance
from ..formats.fitted import Answer
from .paired_errors import Floats, Judged, costs_of, squared_errors
from .statistics import block_bootstrap, holm, mcnemar

_TINY = 1e-9  # floating point's share in a comparison of costs
_WORTH_COMPARING_MS = 1.0  # below it nobody waits for a model, and a ratio is noise
_SHOWN_SEGMENTS = 20


def significance(rule: Significance, judged: Judged, *, cost: Cost | None, seed: int) -> GateVerdict:
    """Is the candidate better than the champion, beyond chance and by at least ``min_gain``?

    ``auto``: McNemar for classes, the block bootstrap of |y − ŷ| for numbers. ``bootstrap`` on classes: of
    the costs where there is a cost matrix, else of right and wrong. Raises SpecError for McNemar on numbers.
    """
    if rule.test == "mcnemar" and judged.task == "regression":
        raise SpecError(
            "gates.significance.test",
            ('"mcnemar" compares right and wrong, a regression has neither: use "bootstrap"',),
        )
    gains, scale = judged.gains, 1.0
    if judged.task == "regression":
        scale = float(judged.incumbent_errors.mean()) or 1.0
    if rule.test == "bootstrap" and cost is not None:
        incumbent = costs_of(cost, judged.incumbent, judged.labels)
        gains = incumbent - costs_of(cost, judged.candidate, judged.labels)
        scale = abs(float(incumbent.mean())) or 1.0
    gain = float(gains.mean()) / scale
    if judged.task == "classification" and rule.test != "bootstrap":
        wins, losses = _discordant(judged.gains)
        p, how = mcnemar(wins, losses), f"alone right on {wins} rows, the champion on {losses} (McNemar)"
    else:
        p, interval = block_bootstrap(gains, seed=seed)
        how = f"gain {interval.low / scale:+.4f} to {interval.high / scale:+.4f} (block bootstrap)"
    passed = p <= rule.alpha and gain > 0 and gain >= rule.min_gain
    asked = f"asked: p ≤ {rule.alpha:g} and a gain of at least {rule.min_gain:g}"
    return GateVerdict(
        gate="significance",
        passed=passed,
        reason=f"{how}; gain {gain:+.4f}, p = {p:.3g} ({asked})",
        value=p,
        threshold=rule.alpha,
        evidence={"gain": gain, "rows": len(gains)},
    )


def baseline(
    rule: Significance,
    judged: Judged,
    answers: Sequence[Answer],
    shares: dict[str, float],
    *,
    seed: int,
) -> GateVerdict:
    """With no champion: does it know more than the constant answer (majority class, or mean)?

    Classes: right more often than the majority class or, since of a rare class it may only know the odds,
    with better probabilities (Brier) than the class ``shares``. Two ways to pass, each held to half of alpha.
    """
    gains = judged.gains
    if judged.task == "regression":
        p, _ = block_bootstrap(gains, seed=seed)
        ways = {"error smaller than the mean's": p}
    else:
        ways = {"right more often than the majority class": mcnemar(*_discordant(gains))}
        if all(answer.scores is not None for answer in answers):
            constant = Answer("", shares)
            honest = squared_errors([constant] * len(judged.labels), judged.labels)
            p, _ = block_bootstrap(honest - squared_errors(answers, judged.labels), seed=seed)
            ways["probabilities better than the class shares"] = p
    best = min(ways, key=ways.__getitem__)
    corrected = min(1.0, ways[best] * len(ways))
    return GateVerdict(
        gate="baseline",
        passed=corrected <= rule.alpha,
        reason=f"{best}: p = {corrected:.3g} (asked: p ≤ {rule.alpha:g})",
        value=corrected,
        threshold=rule.alpha,
        evidence={"p": ways, "gain": float(gains.mean()), "rows": len(gains)},
    )


def fairness(rule: Fairness, judged: Judged, *, alpha: float, seed: int) -> GateVerdict:
    """Does any segment lose by the change, though the whole may gain?

    A segment is judged from ``min_rows`` on. It stops the candidate when its loss is above ``max_loss`` and
    no accident: of twenty small segments one is 5 points down by chance more often than not, so the paired
    test must say so too, corrected for the number of segments (Holm). The evidence lists the losses.
    """
    losses: list[tuple[float, str, int, float]] = []
    small = 0
    for name, rows in _segments(judged.segments).items():
        if len(rows) < rule.min_rows:
            small += 1
            continue
        gains = judged.gains[rows]
        scale = float(judged.incumbent_errors[rows].mean()) or 1.0 if judged.task == "regression" else 1.0
        losses.append((-float(gains.mean()) / scale, name, len(rows), _p_of_loss(judged, gains, seed)))
    losses.sort(key=lambda loss: (-loss[0], loss[1]))
    corrected = holm([p for _, _, _, p in losses])
    stopping = [
        (loss, name, p)
        for (loss, name, _, _), p in zip(losses, corrected, strict=True)
        if loss > rule.max_loss and p <= alpha
    ]
    if stopping:
        reason = "; ".join(f"{name} loses {loss:.4f} (p = {p:.3g})" for loss, name, p in stopping)
    elif losses:
        reason = f"the worst of {len(losses)} segments, {losses[0][1]}, loses {losses[0][0]:+.4f}"
    else:
        reason = f"no segment has {rule.min_rows} hold-out rows"
    return GateVerdict(
        gate="fairness",
        passed=not stopping,
        reason=f"{reason} (allowed: {rule.max_loss:g}; {small} too small to judge)",
        value=losses[0][0] if losses else None,
        threshold=rule.max_loss,
        evidence={
            "segments": [
                {"segment": name, "loss": loss, "rows": rows, "p": p}
                for (loss, name, rows, _), p in zip(losses, corrected, strict=True)
            ][:_SHOWN_SEGMENTS]
        },
    )


def latency(rule: LatencyGate, candidate_ms: Floats, champion_ms: Floats | None) -> GateVerdict:
    """Is one row answered fast enough, with the loader that servers use? Milliseconds per request."""
    p95 = float(np.quantile(candidate_ms, 0.95))
    allowed, against = rule.max_p95_ms, ""
    if champion_ms is not None:
        champion = float(np.quantile(champion_ms, 0.95))
        against = f", the champion's {champion:.3f} ms"
        allowed = min(allowed, max(champion * rule.max_ratio, _WORTH_COMPARING_MS))
    return GateVerdict(
        gate="latency",
        passed=p95 <= allowed,
        reason=f"p95 {p95:.3f} ms{against} (allowed: {allowed:.3f} ms)",
        value=p95,
        threshold=allowed,
        evidence={"requests": len(candidate_ms), "p50_ms": float(np.quantile(candidate_ms, 0.5))},
    )


def business_cost(rule: Cost, judged: Judged) -> GateVerdict:
    """Does a mean decision cost more than the champion's (or the cheapest constant answer's)?"""
    candidate = float(costs_of(rule, judged.candidate, judged.labels).mean())
    incumbent = float(costs_of(rule, judged.incumbent, judged.labels).mean())
    allowed = incumbent + abs(incumbent) * rule.max_increase
    return GateVerdict(
        gate="cost",
        passed=candidate <= allowed + _TINY,
        reason=f"mean cost {candidate:.4f}, before {incumbent:.4f} (allowed: {allowed:.4f})",
        value=candidate,
        threshold=allowed,
    )


def _discordant(gains: Floats) -> tuple[int, int]:
    return int(np.count_nonzero(gains > 0)), int(np.count_nonzero(gains < 0))


def _p_of_loss(judged: Judged, gains: Floats, seed: int) -> float:
    if judged.task == "classification":
        wins, losses = _discordant(gains)
        return mcnemar(losses, wins)
    return block_bootstrap(-gains, seed=seed)[0]


def _segments(of_rows: Sequence[dict[str, str]]) -> dict[str, list[int]]:
    """``name=value`` → the rows of that segment value."""
    rows: dict[str, list[int]] = {}
    for place, segments in enumerate(of_rows):
        for name, value in segments.items():
            rows.setdefault(f"{name}={value}", []).append(place)
    return rows
