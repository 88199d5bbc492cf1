"""What is live against the version's reference: features, predictions, latency, failures and fairness.

Each comparison fills a tumbling window and is made when the window is full. Significance alone alarms
nobody: each has a minimum effect. Of one condition that lasts, one alarm is made (see alerts).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ....models.evaluation.statistics import holm
from ....schemas.decisions import DriftKind
from ....schemas.serving import Reference
from ....schemas.spec.model import ModelSpec
from ..observations import Observation
from .alarm_lifecycle import Alert
from .drift_tests import more_often, rounded
from .error_stream import holdout_rows
from .findings import Finding, condition
from .live_windows import FeatureWindows, ShareWindow
from .positions import Positions
from .service_windows import LatencyWindow, SegmentWindow, ServedWindow

RECOVERED = 0.75  # of the way from normal to the threshold: below it a condition is over
FAILURES_ALPHA = 0.001  # one test per window of some 1,000 requests, for ever


@dataclass(frozen=True, slots=True)
class Verdict:
    """A comparison over one full window. ``exceeded``: its level is above the threshold, not by chance."""

    kind: DriftKind
    detector: str
    subject: str
    level: float
    threshold: float
    normal: float
    exceeded: bool
    evidence: dict[str, Any] = field(default_factory=dict[str, Any])


class Comparisons:
    """Windows and alarms of one (model, version, role) whose reference is known."""

    def __init__(self, reference: Reference) -> None:
        self._alerts: dict[str, Alert] = {}
        self._begin(reference)

    def _begin(self, reference: Reference) -> None:
        self._reference = reference
        self._features = FeatureWindows(reference)
        self._predicted = ShareWindow(reference.predicted or {})
        self._latency = LatencyWindow()
        self._served = ServedWindow()
        self._segments = SegmentWindow()
        self._starts = {"data": 0, "prediction": 0}

    def refer_to(self, reference: Reference) -> None:
        """A refresh brought a new reference: windows begin anew, alarms go on."""
        if reference != self._reference:
            starts = self._starts
            self._begin(reference)
            self._starts = starts

    def update(self, seen: Observation, spec: ModelSpec, positions: Positions, count: int) -> list[Finding]:
        """``count``: outcomes of the stream up to and including these."""
        self._features.add(seen)
        self._predicted.add(seen.predicted)
        self._latency.add(seen.latency)
        self._served.add(seen.counts)
        self._segments.add(seen)
        findings: list[Finding] = []
        data = spec.detectors.data
        if self._features.rows >= data.window:
            findings += self._move_on(self._data(spec) if data.enabled else [], "data", positions, count)
            self._features = FeatureWindows(self._reference)
        if self._predicted.rows >= data.window:
            verdicts = self._prediction(spec) if data.enabled and self._reference.predicted else []
            findings += self._move_on(verdicts, "prediction", positions, count)
            self._predicted = ShareWindow(self._reference.predicted or {})
        for window, size, judge in self._service(spec):
            if window.rows >= size:
                findings += self._move_on(judge(spec), None, positions, count)
                window.clear()
        return findings

    def _service(
        self, spec: ModelSpec
    ) -> list[tuple[LatencyWindow | ServedWindow | SegmentWindow, int, Callable[[ModelSpec], list[Verdict]]]]:
        detectors = spec.detectors
        return [
            (self._latency, detectors.latency.window, self._slow),
            (self._served, detectors.failures.window, self._failing),
            (self._segments, detectors.data.window, self._unfair),
        ]

    def _data(self, spec: ModelSpec) -> list[Verdict]:
        rule = spec.detectors.data
        tests = [
            *(("ks", name, w.distribution(), w.rows) for name, w in self._features.numbers.items()),
            *(("nulls", name, w.nulls(), w.rows) for name, w in self._features.numbers.items()),
            *(("chi2", name, w.distribution(), w.rows) for name, w in self._features.categories.items()),
        ]
        corrected = holm([result.p for _, _, result, _ in tests])
        return [
            Verdict(
                kind="data",
                detector=detector,
                subject=name,
                level=result.effect,
                threshold=rule.min_effect,
                normal=0.0,
                exceeded=p < rule.alpha and result.effect > rule.min_effect,
                evidence={
                    "n": rows,
                    "reference_n": self._reference.rows,
                    "p": rounded(result.p),
                    "p_holm": rounded(p),
                    "alpha": rule.alpha,
                    "tests": len(tests),
                    "largest_at": result.where,
                },
            )
            for (detector, name, result, rows), p in zip(tests, corrected, strict=True)
        ]

    def _prediction(self, spec: ModelSpec) -> list[Verdict]:
        rule, shares = spec.detectors.data, self._reference.predicted or {}
        rows = holdout_rows(spec, self._reference)
        result = self._predicted.distribution(rows)
        return [
            Verdict(
                kind="prediction",
                detector="chi2",
                subject="predicted class",
                level=result.effect,
                threshold=rule.min_effect,
                normal=0.0,
                exceeded=result.p < rule.alpha and result.effect > rule.min_effect,
                evidence={
                    "n": self._predicted.rows,
                    "reference_n": rows,
                    "p": rounded(result.p),
                    "alpha": rule.alpha,
                    "live": {name: rounded(v) for name, v in self._predicted.live_shares().items()},
                    "reference": {name: rounded(share) for name, share in sorted(shares.items())},
                },
            )
        ]

    def _slow(self, spec: ModelSpec) -> list[Verdict]:
        rule, normal = spec.detectors.latency, self._reference.latency_p95_ms
        if not rule.enabled or normal is None:
            return []
        p95, threshold = self._latency.p95(), max(rule.ratio * normal, rule.floor_ms)
        return [
            Verdict(
                kind="latency",
                detector="p95",
                subject="latency p95",
                level=p95,
                threshold=threshold,
                normal=0.0,
                exceeded=p95 > threshold,
                evidence={"n": self._latency.rows, "reference_p95_ms": rounded(normal)},
            )
        ]

    def _failing(self, spec: ModelSpec) -> list[Verdict]:
        rule, normal = spec.detectors.failures, self._reference.failure_rate
        if not rule.enabled:
            return []
        n, failed = self._served.rows, self._served.failed
        p = more_often(failed, n, normal, self._reference.rows)
        return [
            Verdict(
                kind="failures",
                detector="failure-rate",
                subject="failed requests",
                level=failed / n,
                threshold=normal + rule.increase,
                normal=normal,
                exceeded=failed / n > normal + rule.increase and p < FAILURES_ALPHA,
                evidence={"n": n, "failed": failed, "reference_rate": rounded(normal), "p": rounded(p)},
            )
        ]

    def _unfair(self, spec: ModelSpec) -> list[Verdict]:
        rule = spec.gates.fairness
        gaps = self._segments.gaps(self._reference, rule.min_rows)
        corrected = holm([gap.p for gap in gaps])
        verdicts: list[Verdict] = []
        for name in dict.fromkeys(gap.segment for gap in gaps):
            of_name = [(gap, p) for gap, p in zip(gaps, corrected, strict=True) if gap.segment == name]
            worst, p = max(of_name, key=lambda pair: (pair[0].excess, pair[0].value))
            verdicts.append(
                Verdict(
                    kind="fairness",
                    detector="segment-gap",
                    subject=name,
                    level=worst.excess,
                    threshold=rule.max_loss,
                    normal=0.0,
                    exceeded=worst.excess > rule.max_loss and p < spec.detectors.data.alpha,
                    evidence={
                        "worst": worst.value,
                        "n": worst.n,
                        "others_n": worst.others_n,
                        "mean_error": rounded(worst.mean),
                        "others_mean_error": rounded(worst.others_mean),
                        "reference_gap": rounded(worst.normal),
                        "p_holm": rounded(p),
                    },
                )
            )
        return verdicts

    def _move_on(
        self, verdicts: list[Verdict], window: str | None, positions: Positions, count: int
    ) -> list[Finding]:
        """Alarms and recoveries of one full window; the next one starts here."""
        findings: list[Finding] = []
        for verdict in verdicts:
            finding = self._decide(verdict, count)
            if finding is not None and finding.severity == "alarm" and window is not None:
                finding = replace(finding, change=positions.change_at(self._starts[window]))
            if finding is not None:
                findings.append(finding)
        if window is not None:
            self._starts[window] = count
        return findings

    def _decide(self, verdict: Verdict, count: int) -> Finding | None:
        alert = self._alerts.setdefault(condition(verdict.detector, verdict.subject), Alert())
        span = verdict.threshold - verdict.normal
        worse = alert.state == "quiet" or (alert.state == "accepted" and verdict.level > alert.level + span)
        if verdict.exceeded and worse:
            alert.move("confirm", count)
            alert.level = verdict.level
            return _finding(verdict, recovered=False)
        if alert.state == "alarmed":
            alert.level = verdict.level
        if alert.state in ("alarmed", "accepted") and verdict.level <= verdict.normal + RECOVERED * span:
            alert.move("recover", count)
            return _finding(verdict, recovered=True)
        return None

    def alarmed(self) -> list[str]:
        return [name for name, alert in self._alerts.items() if alert.state == "alarmed"]

    def judged(self, count: int) -> None:
        """A candidate was no better: live with what is, until it gets worse."""
        for alert in self._alerts.values():
            if alert.state == "alarmed":
                alert.move("judged", count)

    def dump(self) -> dict[str, Any]:
        return {
            "alerts": {name: alert.dump() for name, alert in self._alerts.items()},
            "features": self._features.dump(),
            "predicted": self._predicted.dump(),
            "latency": self._latency.dump(),
            "served": self._served.dump(),
            "segments": self._segments.dump(),
            "starts": self._starts,
        }

    @classmethod
    def load(cls, state: dict[str, Any], reference: Reference) -> Comparisons:
        comparisons = cls(reference)
        comparisons._alerts = {name: Alert.load(alert) for name, alert in state["alerts"].items()}
        comparisons._features.load(state["features"])
        comparisons._predicted.load(state["predicted"])
        comparisons._latency.load(state["latency"])
        comparisons._served.load(state["served"])
        comparisons._segments.load(state["segments"])
        comparisons._starts = {name: int(start) for name, start in state["starts"].items()}
        return comparisons


def _finding(verdict: Verdict, *, recovered: bool) -> Finding:
    return Finding(
        kind=verdict.kind,
        detector=verdict.detector,
        subject=verdict.subject,
        severity="info" if recovered else "alarm",
        value=rounded(verdict.level),
        threshold=rounded(verdict.threshold),
        evidence={**verdict.evidence, "recovered": True} if recovered else verdict.evidence,
    )
