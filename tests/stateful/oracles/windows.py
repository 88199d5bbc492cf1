"""What the monitor promises of its windows against a reference, from plain lists of what is in them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from driftloop.schemas.serving import CategoryProfile, NumberProfile, Reference
from driftloop.schemas.spec.model import ModelSpec
from scipy.stats import chi2, kstwobign, norm

from tests.stateful.oracles.errors import Alarm, Found, Places, Seen, mean

Window = Literal["data", "prediction", "latency", "served", "segments"]
LATENCIES = [float(np.float32(round(10 ** (k / 80), 6))) for k in range(-160, 481)]


@dataclass
class ExpectedComparison:
    kind: str
    detector: str
    subject: str
    level: float
    threshold: float
    normal: float
    exceeded: bool
    evidence: Found = field(default_factory=dict[str, Any])


class WindowOracle:
    """One (model, version, role) from when its reference was known."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.alarms: dict[str, Alarm] = {}
        self.starts = {"data": 0, "prediction": 0}
        self.held: dict[Window, list[Seen]] = {}
        self.begin(reference)

    def begin(self, reference: Reference) -> None:
        self.reference = reference
        self.held = {"data": [], "prediction": [], "latency": [], "served": [], "segments": []}

    def rows(self, window: Window) -> int:
        held = self.held[window]
        match window:
            case "data":
                return sum(seen.rows for seen in held)
            case "prediction":
                return sum(sum(seen.predicted.values()) for seen in held)
            case "latency":
                return sum(len(seen.latency) for seen in held)
            case "served":
                return sum(seen.predictions for seen in held)
            case "segments":
                return sum(len(seen.errors) for seen in held if seen.segments)

    def add(self, seen: Seen, spec: ModelSpec, places: Places, count: int) -> list[Found]:
        rules, found = spec.detectors, list[Found]()
        for window, size, comparisons in (
            ("data", rules.data.window, self._data),
            ("prediction", rules.data.window, self._prediction),
            ("latency", rules.latency.window, self._slow),
            ("served", rules.failures.window, self._failing),
            ("segments", rules.data.window, self._unfair),
        ):
            self.held[window].append(seen)
            if self.rows(window) < size:
                continue
            for comparison in comparisons(spec, self.held[window]):
                said = self._decide(comparison, count)
                where = places.change(self.starts[window]) if window in self.starts else None
                if said and said["severity"] == "alarm" and where:
                    said["estimated_change"] = where
                found += [said] if said else []
            self.held[window] = []
            if window in self.starts:
                self.starts[window] = count
        return found

    def _decide(self, comparison: ExpectedComparison, count: int) -> Found | None:
        alarm = self.alarms.setdefault(f"{comparison.detector}/{comparison.subject}", Alarm())
        span = comparison.threshold - comparison.normal
        worse = alarm.state == "quiet" or (
            alarm.state == "acknowledged" and comparison.level > alarm.level + span
        )
        evidence = dict(comparison.evidence)
        if comparison.exceeded and worse:
            alarm.level = comparison.level
            alarm.to("alarmed", count)
        elif alarm.state in ("alarmed", "acknowledged"):
            alarm.level = comparison.level if alarm.state == "alarmed" else alarm.level
            if comparison.level > comparison.normal + 0.75 * span:
                return None
            alarm.to("quiet", count)
            evidence["recovered"] = True
        else:
            return None
        return {
            "kind": comparison.kind, "detector": comparison.detector, "subject": comparison.subject,
            "severity": "info" if "recovered" in evidence else "alarm", "value": comparison.level,
            "threshold": comparison.threshold, "evidence": evidence,
        }  # fmt: skip

    def _data(self, spec: ModelSpec, held: list[Seen]) -> list[ExpectedComparison]:
        rule = spec.detectors.data
        if not rule.enabled:
            return []
        profile, countries = self.reference.numbers["amount"], self.reference.categories["country"]
        amounts = [float(np.float32(amount)) for seen in held for amount in seen.amounts]
        rows = sum(seen.rows for seen in held)
        named: Counter[str] = Counter()
        for seen in held:
            for name, n in seen.countries.items():
                named[name if name in countries.counts else "(other)"] += n
        known = {**countries.counts, "(rest)": countries.rest, "(other)": countries.other}
        tests: list[tuple[str, str, float, float, str, int, Found]] = []
        if amounts:
            distance = _ks(list(profile.quantiles), profile.count, amounts)
            tests.append(("ks", "amount", *distance, len(amounts), {}))
        tests.append(("nulls", "amount", *_missing(profile, len(amounts), rows)))
        if named:
            tests.append(("chi2", "country", *_chi2(known, named), sum(named.values()), {}))
        tests.append(("nulls", "country", *_missing(countries, sum(named.values()), rows)))
        corrected = _holm([test[3] for test in tests])
        return [
            ExpectedComparison(
                "data", detector, name, effect, rule.min_effect, 0.0,
                q < rule.alpha and effect > rule.min_effect,
                {
                    "n": n, "reference_n": self.reference.rows, "p": p, "p_holm": q, "alpha": rule.alpha,
                    "tests": len(tests), "largest_at": where, **more,
                },
            )
            for (detector, name, effect, p, where, n, more), q in zip(tests, corrected, strict=True)
        ]  # fmt: skip

    def _prediction(self, spec: ModelSpec, held: list[Seen]) -> list[ExpectedComparison]:
        rule, shares = spec.detectors.data, self.reference.predicted
        if not rule.enabled or not shares:
            return []
        live: Counter[str] = Counter()
        for seen in held:
            for name, n in seen.predicted.items():
                live[name] += n
        rows = max(1, round(self.reference.rows * spec.window.holdout))
        effect, p, _ = _chi2({name: share * rows for name, share in shares.items()}, live)
        n = sum(live.values())
        evidence = {
            "n": n, "reference_n": rows, "p": p, "alpha": rule.alpha, "reference": shares,
            "live": {name: count / n for name, count in live.items()},
        }  # fmt: skip
        exceeded = p < rule.alpha and effect > rule.min_effect
        return [
            ExpectedComparison(
                "prediction", "chi2", "predicted class", effect, rule.min_effect, 0.0, exceeded, evidence
            )
        ]

    def _slow(self, spec: ModelSpec, held: list[Seen]) -> list[ExpectedComparison]:
        rule, normal = spec.detectors.latency, self.reference.latency_p95_ms
        if not rule.enabled or normal is None:
            return []
        values = sorted(float(np.float32(value)) for seen in held for value in seen.latency)
        n = len(values)
        exact = next(value for k, value in enumerate(values, 1) if k / n >= 0.95)
        p95 = next((point for point in LATENCIES if point >= exact), LATENCIES[-1])
        threshold = max(rule.ratio * normal, rule.floor_ms)
        evidence = {"n": n, "reference_p95_ms": normal}
        return [
            ExpectedComparison(
                "latency", "p95", "latency p95", p95, threshold, 0.0, p95 > threshold, evidence
            )
        ]

    def _failing(self, spec: ModelSpec, held: list[Seen]) -> list[ExpectedComparison]:
        rule, normal = spec.detectors.failures, self.reference.failure_rate
        if not rule.enabled:
            return []
        n, failed = sum(seen.predictions for seen in held), sum(seen.failed for seen in held)
        rows = self.reference.rows
        pooled = (failed + normal * rows) / (n + rows)
        p = _above(failed / n - normal, pooled * (1 - pooled) * (1 / n + 1 / rows))
        exceeded = failed / n > normal + rule.increase and p < 0.001
        return [
            ExpectedComparison(
                "failures", "failure-rate", "failed requests", failed / n, normal + rule.increase, normal,
                exceeded, {"n": n, "failed": failed, "reference_rate": normal, "p": p},
            )
        ]  # fmt: skip

    def _unfair(self, spec: ModelSpec, held: list[Seen]) -> list[ExpectedComparison]:
        """One segment, ``region``."""
        counted = [seen for seen in held if seen.segments and seen.errors]
        errors = [error for seen in counted for error in seen.errors]
        sums: dict[str, tuple[int, float]] = {}
        for seen in counted:
            for value, (n, total) in seen.segments.items():
                have = sums.get(value, (0, 0.0))
                sums[value] = (have[0] + n, have[1] + total)
        n_all, all_errors = sum(n for n, _ in sums.values()), math.fsum(total for _, total in sums.values())
        gaps: list[tuple[float, str, float, Found]] = []
        for value, (n, total) in sorted(sums.items()):
            rule, others = spec.gates.fairness, n_all - n
            if min(n, others) < rule.min_rows:
                continue
            own, rest = total / n, (all_errors - total) / others
            unit = 1.0 if counted[-1].bits else max(rest, 1e-12)
            normal = self._normal_gap(value, bits=counted[-1].bits)
            spread = max(mean([error * error for error in errors]) - (all_errors / n_all) ** 2, 0.0)
            excess = (own - rest) / unit - normal
            p = _above(excess * unit, spread * (1 / n + 1 / others))
            evidence = {
                "worst": value, "n": n, "others_n": others, "mean_error": own, "others_mean_error": rest,
                "reference_gap": normal,
            }  # fmt: skip
            gaps.append((excess, value, p, evidence))
        if not gaps:
            return []
        corrected = _holm([p for _, _, p, _ in gaps])
        (excess, _, _, evidence), q = max(zip(gaps, corrected, strict=True), key=lambda pair: pair[0][:2])
        limit = spec.gates.fairness.max_loss
        exceeded = excess > limit and q < spec.detectors.data.alpha
        evidence = evidence | {"p_holm": q}
        return [
            ExpectedComparison("fairness", "segment-gap", "region", excess, limit, 0.0, exceeded, evidence)
        ]

    def _normal_gap(self, value: str, *, bits: bool) -> float:
        reference = self.reference
        of_value = reference.segments.get("region", {}).get(value)
        overall = None if reference.accuracy is None else 1 - reference.accuracy
        overall = overall if bits else reference.mean_error
        if of_value is None or not overall:
            return 0.0
        return of_value - overall if bits else of_value / overall - 1

    def acknowledge(self, count: int) -> None:
        for alarm in self.alarms.values():
            if alarm.state == "alarmed":
                alarm.to("acknowledged", count)

    def alarmed(self) -> list[str]:
        return [name for name, alarm in self.alarms.items() if alarm.state == "alarmed"]


def _above(difference: float, variance: float) -> float:
    if variance <= 0:
        return 0.0 if difference > 0 else 1.0
    return float(norm.sf(difference / math.sqrt(variance)))


def _holm(p_values: list[float]) -> list[float]:
    """Of each: the largest of the smaller ones, each times how many were not smaller than it."""
    ranked = sorted(range(len(p_values)), key=lambda i: (p_values[i], i))
    worth = [min(1.0, p_values[i] * (len(p_values) - rank)) for rank, i in enumerate(ranked)]
    return [max(worth[: ranked.index(i) + 1]) for i in range(len(p_values))]


def _ks(quantiles: list[float], count: int, live: list[float]) -> tuple[float, float, str]:
    """(distance, p, where): the nearest distribution with these quantiles; the live sample as it is."""
    if not live:
        return 0.0, 1.0, ""
    values, n, steps = [float(np.float32(q)) for q in quantiles], len(live), len(quantiles) - 1
    worst, where = -1.0, 0.0
    for point in sorted(set(values)):
        first, last = values.index(point), steps - values[::-1].index(point)
        below, upto = sum(v < point for v in live) / n, sum(v <= point for v in live) / n
        gap = max(
            max(first - 1, 0) / steps - below, below - first / steps,
            last / steps - upto, upto - min(last + 1, steps) / steps, 0.0,
        )  # fmt: skip
        if gap > worst:
            worst, where = gap, point
    p = float(kstwobign.sf(math.sqrt(n * count / (n + count)) * worst))
    return worst, p, repr(where)


def _missing(
    profile: NumberProfile | CategoryProfile, known: int, rows: int
) -> tuple[float, float, str, int, Found]:
    """How many of the sampled rows have the feature at all: (effect, p, where, rows, evidence)."""
    normal = {"known": profile.count, "(missing)": profile.nulls}
    live = {"known": known, "(missing)": rows - known, "(text)": 0}
    evidence = {
        "live": {name: n / rows for name, n in live.items()},
        "reference": {name: n / sum(normal.values()) for name, n in normal.items()},
        "not_in_reference": [],
    }
    return *_chi2(normal, live), rows, evidence


def _chi2(reference: Mapping[str, float], live: Mapping[str, float]) -> tuple[float, float, str]:
    """(effect less what chance alone has, p, where). Categories expected less than twice are one."""
    sizes = sum(reference.values()), sum(live.values())
    if min(sizes) <= 0:
        return 0.0, 1.0, ""
    columns: dict[str, list[float]] = {}
    for name in sorted({*reference, *live}):
        pair = [reference.get(name, 0), live.get(name, 0)]
        if pair == [0, 0]:
            continue
        rare = sum(pair) * min(sizes) / sum(sizes) < 2
        columns["(rare)" if rare else name] = [
            a + b for a, b in zip(columns.get("(rare)" if rare else name, [0, 0]), pair, strict=True)
        ]
    if len(columns) < 2:
        return 0.0, 1.0, ""
    statistic = sum(
        (n - size * sum(pair) / sum(sizes)) ** 2 / (size * sum(pair) / sum(sizes))
        for pair in columns.values()
        for n, size in zip(pair, sizes, strict=True)
    )
    shares = {name: (a / sizes[0], b / sizes[1]) for name, (a, b) in columns.items()}
    squared = sum((p - q) ** 2 / (p + q) / 2 for p, q in shares.values())
    by_chance = (len(columns) - 1) * (1 / sizes[0] + 1 / sizes[1]) / 4
    effect = math.sqrt(max(0.0, squared - by_chance))
    where = max(shares, key=lambda name: abs(shares[name][0] - shares[name][1]))
    return effect, float(chi2.sf(statistic, len(columns) - 1)), where
